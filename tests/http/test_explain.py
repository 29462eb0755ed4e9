"""Where the model looked, over HTTP and from the command; and docs/explain.md, line by line."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from service.engine.explain.axes import Axis
from service.engine.explain.masks import LEAST_CELLS, MOST_CELLS, MOST_MASKS, MOST_ROWS
from service.engine.explain.overlay import SIDE
from service.engine.proof import MOST_WEIGHTS
from service.engine.vocabulary import MOST_EXPLAINED
from service.http.examples import examples
from service.http.explain_documents import Explanation
from service.http.openapi import KINDS
from tests.helpers.service_fixtures import (
    CLEAN,
    ENDINGS,
    LABELS,
    MEDIA,
    TINY,
    RawConnection,
    RunningServer,
    complaint,
    picture,
    run,
    serving,
    wait_until,
    write_tiny_bundle,
)

MODALITIES = tuple(TINY)
ADDRESS = "http://127.0.0.1:8000"
ASKED = {"explain": "occlusion"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every modality."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality, embeds=True, looks=True)
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """Their server."""
    with serving(bundles) as running:
        yield running


def post(server: RunningServer, modality: str = "image", **options: Any) -> httpx.Response:
    return server.classify(f"/v1/classify/{modality}", **options)


def form(*files: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{number}", file)) for number, file in enumerate(files, 1)]


def problem(answer: httpx.Response) -> tuple[int, str, str]:
    told = answer.json()
    return answer.status_code, told["type"].removeprefix("/problems/"), told["detail"]


def opened(overlay: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(overlay))
    image.load()
    assert (image.format, image.mode) == ("PNG", "RGBA")
    return image


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("want", ["labels", "probabilities", "logits"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_answer_holds_its_explanation(server: RunningServer, modality: str, want: str) -> None:
    """Beside what is wanted, in the documented form; a row was run for every mask, and measured."""
    stage = {"modality": modality, "bundle": modality, "stage": "explain"}
    before = server.metric("liere_stage_seconds_count", **stage)
    said = ASKED | {"want": want}
    answer = post(server, modality, content=MEDIA[modality](3), params=said)
    assert answer.status_code == 200, answer.text
    KINDS[modality].answer.model_validate(answer.json())
    (result,) = answer.json()["results"]
    plain = post(server, modality, content=MEDIA[modality](3), params={"want": want}).json()
    (without,) = plain["results"]
    assert set(result) == {*without, "explanation"}
    name = "predictions" if want == "labels" else want
    if want == "labels":
        assert result[name] == without[name]
    explanation = result["explanation"]
    values = np.array(explanation["values"])
    cells = [len(axis["cells"]) for axis in explanation["axes"]]
    views = TINY[modality].input.views
    if modality == "video":
        assert [len(view) for view in explanation["axes"][0]["cells"]] == [values.shape[1]] * views
        cells[0] = values.shape[1]
    assert values.shape == ((views, *cells) if modality == "video" else tuple(cells))
    counts = np.array(cells)
    assert explanation["masks"] == views * (np.prod(-(-counts // 2)) + np.prod(counts // 2 + 1))
    assert explanation["peak"]["value"] == values.max()
    assert explanation["label"] == LABELS[explanation["index"]]
    opened(base64.b64decode(explanation["overlay"], validate=True))
    assert server.metric("liere_stage_seconds_count", **stage) == before + 1
    part = {"modality": modality, "part": "explain"}
    assert server.metric("liere_predicted_seconds_total", **part) > 0
    assert server.metric("liere_actual_seconds_total", **part) > 0


def test_other_label_can_be_explained(server: RunningServer) -> None:
    """By its name; its log odds are its own."""
    media = picture(3)
    answers = [
        post(server, content=media, params=ASKED | {"explain_label": label}).json()["results"][0]
        for label in LABELS
    ]
    told = [answer["explanation"] for answer in answers]
    assert [one["label"] for one in told] == list(LABELS)
    best = answers[0]["predictions"][0]["label"]
    assert max(told, key=lambda one: one["log_odds"])["label"] == best
    unsaid = post(server, content=media, params=ASKED).json()["results"][0]["explanation"]
    assert unsaid["label"] == best


@pytest.mark.parametrize(("size", "shown"), [((90, 30), (512, 171)), ((300, 1000), (154, 512))])
def test_overlay_has_the_shape_of_the_upright_original(
    server: RunningServer, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    """What the model saw lies in it where it lies in the picture; the rest is transparent."""
    answer = post(server, content=picture(2, size), params=ASKED).json()["results"][0]
    image = opened(base64.b64decode(answer["explanation"]["overlay"]))
    assert image.size == shown
    assert max(image.size) == SIDE
    (top, bottom), (left, right) = np.array(answer["seen"]["box"]) * SIDE / max(size)
    alpha = np.asarray(image.getchannel("A"))
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    found = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert found == pytest.approx((top, bottom, left, right), abs=1)
    assert alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].min() == 255


def test_overlay_is_warm_where_hiding_costs(server: RunningServer) -> None:
    """At the middle of the strongest cell red is above blue, where it helped blue above red."""
    answer = post(server, content=picture(2), params=ASKED).json()["results"][0]
    explanation = answer["explanation"]
    image = np.asarray(opened(base64.b64decode(explanation["overlay"]))).astype(int)
    values = np.array(explanation["values"])
    scale = SIDE / max(answer["seen"]["size"])
    for place, sign in ((values.argmax(), 1), (values.argmin(), -1)):
        cell = np.unravel_index(place, values.shape)
        row, column = (
            int(np.mean(axis["cells"][one]) * scale)
            for axis, one in zip(explanation["axes"], cell, strict=True)
        )
        red, _, blue, alpha = image[row, column]
        assert np.sign(values.ravel()[place]) == np.sign(red - blue) == sign
        assert alpha == 255


def test_each_file_has_its_own(server: RunningServer) -> None:
    """One that is broken fails alone; strict requests end with it."""
    files = form(picture(1), b"no picture", picture(2))
    first, broken, third = post(server, files=files, params=ASKED).json()["results"]
    assert broken["error"]["status"] == 415
    assert first["explanation"]["values"] != third["explanation"]["values"]
    answer = post(server, files=files, params=ASKED | {"strict": "true"})
    assert (answer.status_code, answer.json()["detail"][:13]) == (415, "file 2 of 3: ")


def test_parameters_may_stand_in_the_form(server: RunningServer) -> None:
    """As all others."""
    (result,) = post(server, files=form(picture(1)), data=ASKED).json()["results"]
    assert result["explanation"]["method"] == "occlusion"


@pytest.mark.parametrize("modality", MODALITIES)
def test_example_of_the_page_has_the_form_of_a_real_one(modality: str) -> None:
    """Its numbers fit one another: shapes, axes, the peak, and the label that is explained."""
    example = examples(modality)["with explain=occlusion"]
    KINDS[modality].answer.model_validate(example)
    (result,) = example["results"]
    explanation = result["explanation"]
    values, index = np.array(explanation["values"]), explanation["peak"]["index"]
    assert values[tuple(index)] == explanation["peak"]["value"] == values.max()
    for axis in explanation["axes"]:
        place = Axis(**axis).at(index)
        assert place == explanation["peak"]["where"][axis["name"]]
    best = result["predictions"][0]
    assert (explanation["label"], explanation["index"]) == (best["label"], best["index"])


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"explain": "gradient"}, "explain: expected occlusion, attention; got 'gradient'"),
        ({"explain": ""}, "explain: expected occlusion, attention; got ''"),
        ({"explain_label": "ant"}, "explain_label: only with explain=occlusion"),
        (ASKED | {"explain_label": "fly"}, "explain_label: bundle image has no label 'fly'; GET /"),
        (ASKED | {"want": "embedding"}, "want=labels, probabilities, logits; got want=embedding"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    server: RunningServer, said: dict[str, str], words: str
) -> None:
    """With what was expected and what came, before anything is decoded."""
    for answer in (
        post(server, params=said, content=b"no picture"),
        post(server, data=said, files=form(b"no picture")),
    ):
        status, name, detail = problem(answer)
        assert (status, name) == (422, "bad-parameter")
        assert words in detail


def test_many_files_are_not_explained_at_once(server: RunningServer) -> None:
    """They are as much work as hundreds."""
    files = form(*(picture(number) for number in range(MOST_EXPLAINED + 1)))
    told = problem(post(server, files=files, params=ASKED))
    assert told == (422, "bad-parameter", "explain: expected at most 4 files, got 5")
    assert post(server, files=files).status_code == 200


def test_time_that_is_too_short_is_told_what_it_takes(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem of its own; the answer alone is in time."""
    engine = server.engine
    (target,) = engine.catalog.select("image", None, None).targets.values()
    monkeypatch.setattr(engine.devices.stations[0].costs(target.key), "row", 0.5)
    due = {"timeout_ms": "9000"}
    told = problem(post(server, content=picture(1), params=ASKED | due))
    assert told[:2] == (422, "explanation-too-long")
    assert "take about 16.0 seconds here, and the answer is due in " in told[2]  # 32 masks
    assert post(server, content=picture(1), params=due).status_code == 200


def test_client_that_leaves_ends_its_explanation(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of it is dropped, counted in its stage, and its charge is given back."""
    left = {"modality": "volume", "stage": "explain", "reason": "left"}
    before = server.metric("liere_dropped_total", **left)
    submit, asked = server.engine.devices.submit, list[Any]()

    async def held(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) > 3:  # the item itself and two masked rows
            await asyncio.sleep(60)
        return await submit(*arguments)

    monkeypatch.setattr(server.engine.devices, "submit", held)
    media, path = MEDIA["volume"](1), "/v1/classify/volume?explain=occlusion"
    with RawConnection(server.port) as connection:
        connection.send_head(f"Content-Length: {len(media)}", path=path)
        connection.send(media)
        wait_until(lambda: len(asked) > 3, "masked rows")
    wait_until(lambda: server.metric("liere_dropped_total", **left) > before, "it to be dropped")
    wait_until(lambda: not server.engine.backlog.inside.total(), "its charge")
    assert server.engine.devices.depth == 0


# --- the guide -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guide(repo_root: Path) -> str:
    """docs/explain.md."""
    return (repo_root / "docs" / "explain.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its reader stands; types are told by the bytes, not by the names."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photo.jpg").write_bytes(picture(1, (64, 48), "JPEG"))
    (folder / "clip.mp4").write_bytes(MEDIA["video"](1))
    (folder / "scan.nii.gz").write_bytes(MEDIA["volume"](1))
    return folder


def test_requests_of_the_guide_are_answered(
    guide: str, folder: Path, server: RunningServer, tmp_path: Path
) -> None:
    """Each line of curl gives what the example shows; the line of Python writes the picture."""
    *lines, by_attention = [line for line in guide.splitlines() if line.startswith("curl")]
    assert [line.rpartition("/")[2] for line in lines] == list(MODALITIES)
    examples = map(json.loads, re.findall(r"```json\n(.*?)```", guide, re.DOTALL))
    shown = {one["method"]: TypeAdapter(Explanation).validate_python(one) for one in examples}
    (written,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    for line in (*lines, by_attention):
        words = shlex.split(line.replace(ADDRESS, server.url))
        done = subprocess.run(
            [words[0], "-sS", *words[1:]], cwd=folder, env=CLEAN, capture_output=True, check=True
        )
        (result,) = json.loads(done.stdout)["results"]
        method = "attention" if line == by_attention else "occlusion"
        assert set(result["explanation"]) == set(shown[method])
        exec(written.replace('"overlay.png"', repr(str(tmp_path / "o.png"))), {"result": result})
        opened((tmp_path / "o.png").read_bytes())


def test_numbers_of_the_guide_are_those_of_the_code(guide: str) -> None:
    """Bounds are said once there and once here."""
    assert f"at most {MOST_CELLS} along an axis" in guide
    assert f"at most {MOST_MASKS} masks of one view, {MOST_ROWS} rows of one file" in guide
    assert f"An image has from 25 (6x6 cells) to {MOST_MASKS} (8x8)" in guide
    assert f"At most {MOST_EXPLAINED} files of a request" in guide
    assert f"{SIDE} pixels on the long side" in guide
    assert f"has {MOST_WEIGHTS:,} numbers ({4 * MOST_WEIGHTS >> 20} MiB)" in guide
    few = "(fewer than {} in an image, {} in a clip or scan)".format(*LEAST_CELLS.values())
    assert few in guide


def test_command_writes_overlays(guide: str, folder: Path, bundles: Path, tmp_path: Path) -> None:
    """The line of the guide, and a second file of a name; with --json the values too."""
    (line,) = [one for one in guide.splitlines() if one.startswith("python -m service")]
    words = shlex.split(line)[3:]
    files = [str(folder / word) if "." in word else word for word in words]
    files[files.index("overlays")] = str(tmp_path / "overlays")
    again = tmp_path / "photo.jpg"
    again.write_bytes(picture(9))
    done = run(*files, again, "--bundles", bundles, "--json", "--explain-label", "cow")
    assert (done.returncode, done.stderr) == (0, "")
    told = [json.loads(one)["explanation"] for one in done.stdout.splitlines()]
    written = ["photo.jpg.png", "clip.mp4.png", "scan.nii.gz.png", "photo.jpg-2.png"]
    assert {path.name for path in (tmp_path / "overlays").iterdir()} == set(written)
    for name, one in zip(written, told, strict=True):
        overlay = (tmp_path / "overlays" / name).read_bytes()
        assert overlay == base64.b64decode(one["overlay"])
        assert one["label"] == "cow"
        opened(overlay)


def test_command_says_what_cannot_be_explained(bundles: Path, tmp_path: Path) -> None:
    """Before a file is read: a folder that is none, a label that nobody has."""
    media = tmp_path / f"photo{ENDINGS['image']}"
    media.write_bytes(picture(1))
    asked = ("classify", media, "--bundles", bundles, "--bundle", "image")
    line = complaint(run(*asked, "--explain", media), 2)
    assert line.endswith("File exists")
    line = complaint(run(*asked, "--explain", tmp_path / "o", "--explain-label", "fly"), 2)
    assert "has no label 'fly'" in line
    line = complaint(run(*asked, "--explain-label", "ant"), 2)
    assert "explain_label: only with explain" in line
