"""``/v1/prepare``: the pixels that the network gets, to the last byte, under the usual guard."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import AXES, Grid
from service.http import prepare
from service.http.prepare_documents import KNOWN, MODELS
from tests.helpers.service_fixtures import (
    MEDIA,
    TINY,
    RunningServer,
    picture,
    serving,
    wait_until,
    write_tiny_bundle,
)

MODALITIES = tuple(AXES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a tiny bundle of every modality."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality)
    with serving(root) as running:
        yield running


def ask(server: RunningServer, modality: str = "image", **options: Any) -> Any:
    return server.request("POST", f"/v1/prepare/{modality}", **options)


def array_of(answer: dict[str, Any]) -> np.ndarray:
    """As docs/page.md reads it."""
    pixels = answer["pixels"]
    data = base64.b64decode(pixels["data"], validate=True)
    return np.frombuffer(data, pixels["dtype"]).reshape(pixels["shape"])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("modality", MODALITIES)
def test_array_is_what_the_network_gets(
    server: RunningServer, modality: str, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, shape, dtype, axes and what was seen are those of the reader, in several pieces."""
    monkeypatch.setattr(prepare, "PIECE_BYTES", 99)
    media, tiny = MEDIA[modality](4), TINY[modality]
    grid = tiny.grids[which]
    response = ask(server, modality, content=media, params={"grid": grid})
    answer = response.json()
    sample = read(media, tiny.input, Grid.parse(grid), tiny.patch)
    array = array_of(answer)
    assert array.dtype == sample.pixels.dtype
    assert np.array_equal(array, sample.pixels)
    assert answer["pixels"]["axes"] == ["view", *AXES[modality], "channel"]
    assert (answer["bundle"], answer["version"], answer["grid"]) == (modality, "1", grid)
    classified = server.classify(f"/v1/classify/{modality}?grid={grid}", content=media).json()
    assert answer.get("seen") == classified["results"][0].get("seen")
    assert answer["id"] == response.headers["x-request-id"]
    assert int(response.headers["content-length"]) == len(response.content)
    MODELS[modality].model_validate(answer)


@pytest.mark.parametrize("modality", MODALITIES)
def test_example_is_an_answer(server: RunningServer, modality: str) -> None:
    """It fits its model, and has as many bytes as its shape says."""
    operation = server.get("/openapi.json").json()["paths"][f"/v1/prepare/{modality}"]["post"]
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    MODELS[modality].model_validate(example)
    assert array_of(example).tolist()
    assert [one["name"] for one in operation["parameters"]] == list(KNOWN[modality])
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", *KNOWN[modality]}


def test_parameters_may_be_in_a_form(server: RunningServer) -> None:
    """Grid and views, beside one file."""
    form = {"views": "3", "grid": TINY["video"].grids[1], "bundle": "video@1"}
    answer = ask(server, "video", data=form, files={"file": MEDIA["video"](2)}).json()
    assert answer["pixels"]["shape"][0] == len(answer["seen"]["seconds"]) == 3
    assert answer["grid"] == TINY["video"].grids[1]


def test_size_of_the_file_may_choose_the_grid(server: RunningServer) -> None:
    """With auto the answer names the one taken, and the array has its pixels."""
    answer = ask(server, content=picture(1, (8, 64)), params={"grid": "auto"}).json()
    assert answer["pixels"]["shape"][1:3] == list(
        Grid.parse(answer["grid"]).pixels(TINY["image"].patch)
    )


TWO = [("file", picture(1)), ("file", picture(2))]
WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "two files": ({"files": TWO}, 413, "a request may have at most one file"),
    "no file": ({"content": b""}, 400, "expected a file as the body"),
    "no picture": ({"content": b"text"}, 415, "expected JPEG, PNG, WEBP, TIFF, BMP, GIF bytes"),
    "a broken one": ({"content": picture(1)[:60]}, 422, "the image is truncated or corrupt"),
    "no such bundle": ({"content": picture(), "params": {"bundle": "x"}}, 404, "unknown image"),
    "no such grid": ({"content": picture(), "params": {"grid": "9x9"}}, 422, "unknown grid '9x9'"),
    "labels": (
        {"content": picture(), "params": {"top_k": "1"}}, 422,
        "unknown parameter 'top_k'; known parameters: bundle, grid",
    ),
    "views of an image": (
        {"content": picture(), "params": {"views": "2"}}, 422, "unknown parameter 'views'",
    ),
    "twice": (
        {"content": picture(), "params": [("grid", "auto"), ("grid", "auto")]}, 422,
        "grid is given more than once",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "status", "words"), WRONG.values(), ids=WRONG)
def test_wrong_requests_are_told_what_was_expected(
    server: RunningServer, options: dict[str, Any], status: int, words: str
) -> None:
    """As of classifying, but for what means nothing here."""
    response = ask(server, **options)
    assert response.status_code == status
    assert words in response.json()["detail"]


def test_array_beyond_the_bound_is_refused_before_it_is_made(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several grids the largest counts, since any may be taken."""
    size = 288 * TINY["video"].input.views
    for most, status in ((size, 200), (size - 1, 422)):
        monkeypatch.setattr(prepare, "MAX_BYTES", most)
        response = ask(server, "video", content=MEDIA["video"](), params={"grid": "auto"})
        assert response.status_code == status
    told = f"expected an input of at most {size - 1} bytes; it has {size}"
    assert response.json()["detail"] == told


def test_work_is_admitted_and_counted_as_all_other(server: RunningServer) -> None:
    """A full server refuses it by its head, and nothing of it is left inside."""
    admission = server.engine.admission
    with ExitStack() as held:
        while admission.refusal("image") is None:
            admission.enter("image")
            held.callback(admission.leave, "image", 0)
        refused = ask(server, content=picture())
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/overloaded")
    before = server.metric("liere_requests_total", modality="image", code="200")
    assert ask(server, content=picture()).status_code == 200

    def counted() -> bool:
        return server.metric("liere_requests_total", modality="image", code="200") == before + 1

    wait_until(counted, "the request to be counted")
    assert admission.requests == 0
