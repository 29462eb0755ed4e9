"""explain=attention: the rollout that came with the answer, in the file's own coordinates."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.files import sha256_file
from media.spec import Grid
from service.engine.vocabulary import MOST_EXPLAINED
from service.http.openapi import KINDS
from tests.helpers.service_fixtures import (
    LABELS,
    MEDIA,
    TINY,
    RunningServer,
    run,
    serving,
    tiny_rollout,
    tiny_towards,
    wait_until,
    write_tiny_bundle,
)
from tests.helpers.tiny_graph import tiny_graph
from tests.http.test_explain import post, problem

MODALITIES = tuple(TINY)
ASKED = {"explain": "attention"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every modality that looks, and one of images that does not."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, f"a-{modality}", modality, embeds=True, looks=True)
    write_tiny_bundle(root, "plain", embeds=True)
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    with serving(bundles) as running:
        yield running


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("modality", MODALITIES)
def test_answer_holds_the_rollout_of_its_own_run(
    server: RunningServer, modality: str, which: int
) -> None:
    """Multiples of an even share, per patch, where the patches lie; the answer is the plain one."""
    media, grid = MEDIA[modality](3), TINY[modality].grids[which]
    answer = post(server, modality, content=media, params=ASKED | {"grid": grid})
    assert answer.status_code == 200, answer.text
    KINDS[modality].answer.model_validate(answer.json())
    (result,) = answer.json()["results"]
    (plain,) = post(server, modality, content=media, params={"grid": grid}).json()["results"]
    assert set(result) == {*plain, "explanation"}
    assert result["predictions"] == plain["predictions"]
    explanation = result["explanation"]
    assert explanation["method"] == "attention"
    rollout, parsed = tiny_rollout(media, grid, modality), Grid.parse(grid)
    expected = (rollout * parsed.tokens).reshape(-1, *parsed.size)  # [views, *grid]
    expected = expected if modality == "video" else expected[0]
    values = np.array(explanation["values"])
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-6)
    assert explanation["share"] == pytest.approx(1, abs=1e-5)
    cells = [axis["cells"][0] if axis["name"] == "time" else axis["cells"]
             for axis in explanation["axes"]]  # of time for every view
    assert [len(one) for one in cells] == [*parsed.size]
    place = tuple(explanation["peak"]["index"])
    assert values[place] == values.max() == explanation["peak"]["value"]
    if modality != "video":
        assert explanation["peak"]["where"] == {
            axis["name"]: axis["cells"][at]
            for axis, at in zip(explanation["axes"], place, strict=True)
        }
    image = Image.open(io.BytesIO(base64.b64decode(explanation["overlay"])))
    assert (image.format, image.mode) == ("PNG", "RGBA")


def test_cells_of_a_picture_are_those_of_its_patches(server: RunningServer) -> None:
    """In pixels of the upright original, edge to edge of what was seen."""
    (result,) = post(server, content=MEDIA["image"](3), params=ASKED).json()["results"]
    box = result["seen"]["box"]
    for axis, (begin, end) in zip(result["explanation"]["axes"], box, strict=True):
        cells = axis["cells"]
        assert axis["unit"] == "px"
        assert (cells[0][0], cells[-1][1]) == (begin, end)
        lengths = np.diff(cells, axis=1)
        np.testing.assert_allclose(lengths, lengths.mean(), atol=1e-3)


def test_it_is_interactive_work_of_any_number_of_files(server: RunningServer) -> None:
    """One run a row, and not in the stage of explanations: as many files as any request."""
    before = server.metric("liere_stage_seconds_count", stage="explain")
    files = [("file", (str(one), MEDIA["image"](one))) for one in range(MOST_EXPLAINED + 2)]
    results = post(server, files=files, params=ASKED).json()["results"]
    assert [one["explanation"]["method"] for one in results] == ["attention"] * len(files)
    assert server.metric("liere_stage_seconds_count", stage="explain") == before
    seconds = "liere_request_seconds_count"
    assert server.metric(seconds, outcome="ok") > 0 == server.metric(seconds, outcome="explained")


@pytest.mark.parametrize("want", ["probabilities", "logits"])
def test_beside_whatever_an_answer_is(server: RunningServer, want: str) -> None:
    """Rounded as those of the plain graph."""
    params = ASKED | {"want": want}
    (result,) = post(server, content=MEDIA["image"](1), params=params).json()["results"]
    (plain,) = post(server, content=MEDIA["image"](1), params={"want": want}).json()["results"]
    np.testing.assert_allclose(result[want], plain[want], atol=1e-5)
    assert result["explanation"]["method"] == "attention"


@pytest.mark.parametrize(
    ("params", "status", "name", "detail"),
    [
        (
            {"bundle": "plain"}, 422, "no-attention",
            "explain: bundle plain tells no attention at grid 2x3: expected one that was exported "
            "with --explain, or explain=occlusion",
        ),
        (
            {"want": "embedding"}, 422, "bad-parameter",
            "explain: of an answer, so with want=labels, probabilities, logits; got want=embedding",
        ),
        (
            {"explain_label": "cat"}, 422, "bad-parameter",
            "explain_label: only with explain=occlusion",
        ),
        (
            {"explain": "rollout"}, 422, "bad-parameter",
            "explain: expected occlusion, attention; got 'rollout'",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it_is_refused(
    server: RunningServer, params: dict[str, str], status: int, name: str, detail: str
) -> None:
    """Before a file is looked at."""
    found = problem(post(server, content=b"no picture", params=ASKED | params))
    assert found == (status, name, detail)


def test_bundles_say_by_what_they_can_be_explained(server: RunningServer) -> None:
    """Of every grid, so that a page can offer it."""
    shown = {one["name"]: one["grids"] for one in server.get("/v1/bundles").json()["bundles"]}
    assert {tuple(one["explain"]) for one in shown["plain"]} == {("occlusion",)}
    for modality in MODALITIES:
        told = {tuple(one["explain"]) for one in shown[f"a-{modality}"]}
        assert told == {("occlusion", "attention")}


def test_graph_that_differs_is_refused(tmp_path: Path) -> None:
    """Both graphs replay the goldens: a second one that says something else is not served."""
    folder = write_tiny_bundle(tmp_path, "tiny", embeds=True, looks=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    graph = folder / "graphs" / "2x3-attention.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data.replace(np.float32(255).tobytes(), np.float32(200).tobytes()))
    assert graph.read_bytes() != data
    manifest["files"]["graphs/2x3-attention.onnx"] = sha256_file(graph)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with serving(tmp_path, ready=False) as server:
        wait_until(lambda: server.get("/v1/bundles").json()["bundles"], "the bundle to be checked")
        (bundle,) = server.get("/v1/bundles").json()["bundles"]
        assert bundle["state"] == "refused"
        assert "differs from its stored logits" in bundle["reason"]


def spoilt(root: Path, graph: bytes, path: str = "graphs/2x3-attention.onnx") -> None:
    """A bundle with another graph of one grid, which gives the same logits."""
    folder = write_tiny_bundle(root, "tiny", embeds=True, looks=True)
    (folder / path).write_bytes(graph)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path] = sha256_file(folder / path)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("embeds", "patches", "reason"),
    [
        (True, None, "grid 2x3: expected attention [1, 6], got None"),
        (True, 5, "grid 2x3: expected attention [1, 6], got [1, 5]"),
        (False, 6, "the graph of grid 2x3 cannot be run"),
    ],
)
def test_second_graph_that_cannot_explain_is_refused(
    tmp_path: Path, embeds: bool, patches: int | None, reason: str
) -> None:
    """At start, though its logits are right: a request would find it out too late."""
    towards = None if patches is None else tiny_towards("2x3")[:, :patches]
    spoilt(tmp_path, tiny_graph((8, 12, 3), len(LABELS), "uint8", embeds, towards=towards))
    with serving(tmp_path, ready=False) as server:
        wait_until(lambda: server.get("/v1/bundles").json()["bundles"], "the bundle to be checked")
        (bundle,) = server.get("/v1/bundles").json()["bundles"]
        assert (bundle["state"], bundle["reason"]) == ("refused", reason)


def test_nobody_gets_an_explanation_unasked(tmp_path: Path) -> None:
    """Whatever the graph of plain answers tells."""
    graph = tiny_graph((8, 12, 3), len(LABELS), "uint8", True, towards=tiny_towards("2x3"))
    spoilt(tmp_path, graph, "graphs/2x3.onnx")
    with serving(tmp_path) as server:
        (result,) = post(server, content=MEDIA["image"](3)).json()["results"]
        assert "explanation" not in result


def test_command_draws_it(bundles: Path, tmp_path: Path) -> None:
    """--explain-by attention; alone it is refused."""
    (tmp_path / "a.png").write_bytes(MEDIA["image"](3))
    words = ["classify", "--bundles", str(bundles), "--json", str(tmp_path / "a.png")]
    done = run(*words, "--explain", str(tmp_path / "maps"), "--explain-by", "attention")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["explanation"]
    assert told["method"] == "attention"
    assert (tmp_path / "maps" / "a.png.png").read_bytes() == base64.b64decode(told["overlay"])
    alone = run(*words, "--explain-by", "attention")
    assert alone.returncode == 2
    assert "--explain-by says how" in alone.stderr
