"""What a result holds: ranked labels, or an array; over HTTP and from the command."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.job import softmax
from service.engine.parameters import WANTS
from service.http.openapi import KINDS
from tests.helpers.service_fixtures import (
    ENDINGS,
    LABELS,
    MEDIA,
    TINY,
    RunningServer,
    complaint,
    picture,
    run,
    serving,
    tiny_embedding,
    tiny_logits,
    write_tiny_bundle,
)

MODALITIES = tuple(TINY)
ARRAYS = WANTS[1:]
COMMON = {"bundle", "version", "grid", "seen", "timing_ms"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of every modality with an embedding, and one of images from before there were any."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MODALITIES:
        write_tiny_bundle(root, modality, modality, embeds=True)
    write_tiny_bundle(root, "older")
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """Their server."""
    with serving(bundles) as running:
        yield running


def ask(server: RunningServer, media: bytes, modality: str = "image", **said: str) -> Any:
    """The only result."""
    answer = server.classify(f"/v1/classify/{modality}", content=media, params=said)
    assert answer.status_code == 200, answer.text
    KINDS[modality].answer.model_validate(answer.json())
    (result,) = answer.json()["results"]
    return result


def expected(want: str, media: bytes, grid: str, modality: str) -> np.ndarray:
    """What the network gives, of a clip the mean over its views."""
    if want == "embedding":
        return tiny_embedding(media, grid, modality)
    logits = tiny_logits(media, grid, modality)
    return logits if want == "logits" else softmax(logits)


def problem(answer: httpx.Response) -> tuple[int, str, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    return answer.status_code, told["type"].removeprefix("/problems/"), told["detail"]


@pytest.mark.parametrize("want", ARRAYS)
@pytest.mark.parametrize(
    ("modality", "grid"), [(one, grid) for one in MODALITIES for grid in TINY[one].grids]
)
def test_array_is_that_of_the_network(
    server: RunningServer, modality: str, grid: str, want: str
) -> None:
    """In the bundle's order, with its documented shape; and nothing else is there that was not
    wanted.
    """
    media = MEDIA[modality](4)
    result = ask(server, media, modality, grid=grid, want=want)
    told = {"calibrated"} if want == "probabilities" else set()
    assert set(result) == COMMON | told | {want}
    found = np.array(result[want])
    assert found.shape == ((288,) if want == "embedding" else (len(LABELS),))
    np.testing.assert_allclose(found, expected(want, media, grid, modality), atol=1e-4)
    if want == "probabilities":
        ranked = ask(server, media, modality, grid=grid)["predictions"]
        assert found.sum() == pytest.approx(1, abs=1e-6)
        assert [one["index"] for one in ranked] == np.argsort(-found, kind="stable").tolist()


@pytest.mark.parametrize("want", ARRAYS)
def test_both_forms_of_an_array_are_the_same_float32(server: RunningServer, want: str) -> None:
    """Numbers are exact, base64 is little endian and whole."""
    numbers = ask(server, picture(4), want=want, encoding_format="float")[want]
    packed = ask(server, picture(4), want=want, encoding_format="base64")[want]
    found = np.frombuffer(base64.b64decode(packed, validate=True), "<f4")
    np.testing.assert_array_equal(np.array(numbers, np.float32).astype(float), numbers)
    np.testing.assert_array_equal(found, np.array(numbers, np.float32))


def test_labels_are_what_is_wanted_where_nothing_is_said(server: RunningServer) -> None:
    """Saying it changes nothing."""
    said, unsaid = ask(server, picture(1), want="labels", top_k="2"), ask(server, picture(1))
    assert said["predictions"] == unsaid["predictions"][:2]
    assert set(said) == set(unsaid) == COMMON | {"predictions", "calibrated"}


def test_file_takes_its_grid_whatever_is_wanted(server: RunningServer) -> None:
    """grid=auto, and several files of which one is broken."""
    media = picture(4, (13, 30))
    files = [("file", ("a", media)), ("file", ("b", b"text"))]
    said = {"want": "embedding", "grid": "auto"}
    first, second = server.classify(files=files, params=said).json()["results"]
    assert first["grid"] == "3x2"
    expected_one = tiny_embedding(media, "3x2")
    np.testing.assert_allclose(first["embedding"], expected_one, atol=1e-4)
    assert second["error"]["status"] == 415


def test_bundle_without_an_embedding_says_so(server: RunningServer) -> None:
    """One problem for the whole request, before anything is decoded; other wants are answered."""
    asked = {"bundle": "older", "want": "embedding"}
    for content in (picture(1), b"text"):
        status, name, detail = problem(server.classify(content=content, params=asked))
        assert (status, name) == (422, "no-embedding")
        assert "bundle older has no embedding at grid 2x3" in detail
    assert ask(server, picture(1), bundle="older", want="logits")["logits"]
    files = [("file", ("a", picture(1))), ("file", ("b", picture(2)))]
    answer = server.classify(files=files, params=asked)
    assert (problem(answer)[0], "results" in answer.json()) == (422, False)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"want": "nothing"}, "want: expected one of labels, probabilities, logits, embedding; "),
        ({"want": "rows"}, "want: expected one of labels"),
        ({"want": ""}, "got ''"),
        ({"want": "logits", "top_k": "2"}, "top_k: only of want=labels; with want=logits all"),
        ({"encoding_format": "float"}, "encoding_format: only of arrays"),
        ({"want": "labels", "encoding_format": "base64"}, "encoding_format: only of arrays"),
        ({"want": "logits", "encoding_format": "hex"}, "expected one of float, base64; got 'hex'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    server: RunningServer, said: dict[str, str], words: str
) -> None:
    """With what there is; in the address and in a form."""
    for answer in (
        server.classify(content=picture(1), params=said),
        server.classify(files={"file": picture(1)}, data=said),
    ):
        status, name, detail = problem(answer)
        assert (status, name) == (422, "bad-parameter")
        assert words in detail


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_command_gives_what_the_server_gives(
    server: RunningServer, bundles: Path, tmp_path: Path, encoding_format: str
) -> None:
    """Of a broken file too: the members of its problem."""
    paths = [tmp_path / f"1{ENDINGS['image']}", tmp_path / "text"]
    for path, media in zip(paths, (picture(4), b"text"), strict=True):
        path.write_bytes(media)
    said = {"want": "embedding", "encoding_format": encoding_format, "bundle": "image"}
    files = [("file", (path.name, path.read_bytes())) for path in paths]
    results = server.classify(files=files, params=said).json()["results"]
    flags = [word for key, value in said.items() for word in (f"--{key.replace('_', '-')}", value)]
    done = run("classify", "--json", *paths, *flags, "--bundles", bundles)
    assert (done.returncode, done.stderr) == (1, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for path, line, result in zip(paths, lines, results, strict=True):
        assert line.pop("file") == str(path)
        assert result.pop("filename") == path.name
        for one in (line, result):
            one.pop("timing_ms", None)
        assert line == result


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--want", "logits"], "--want logits is an array: it needs --json"),
        (["--want", "rows", "--json"], "invalid choice: 'rows'"),
        (["--want", "logits", "--json", "--encoding-format", "hex"], "invalid choice: 'hex'"),
    ],
)
def test_wrong_arguments_show_the_usage(flags: list[str], words: str) -> None:
    """Before any bundle is opened."""
    done = run("classify", "a.png", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_what_no_file_can_get_is_a_wrong_command(bundles: Path, tmp_path: Path) -> None:
    """Parameters that mean nothing together are one sentence and exit 2."""
    (tmp_path / "a").write_bytes(picture(1))
    asked = ("classify", tmp_path / "a", "--bundles", bundles, "--bundle", "image", "--json")
    assert "top_k: only of want=labels" in complaint(
        run(*asked, "--want", "logits", "--top-k", "2"), 2
    )
    assert "encoding_format: only of arrays" in complaint(
        run(*asked, "--encoding-format", "base64"), 2
    )
