"""``grid=auto``: every file gets the grid that fits its size; answers and the log name it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.service_fixtures import (
    TINY,
    RunningServer,
    access_lines,
    clip,
    picture,
    run,
    scan,
    serving,
    write_tiny_bundle,
)
from tests.http.test_modalities import check_answer

LYING, STANDING = picture(1, (31, 23)), picture(1, (9, 23))
FILES: dict[str, list[tuple[bytes, str]]] = {
    "image": [(LYING, "2x3"), (STANDING, "3x2"), (picture(2, (3, 2)), "2x3")],
    "video": [(clip(1, 10), "4x1x4"), (clip(1, 16, (8, 17)), "16x1x1")],
    "volume": [(scan(1, (9, 11, 14)), "3x4x3"), (scan(1, (5, 6, 12)), "2x3x6")],
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny bundle of every modality, named after it."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in TINY:
        write_tiny_bundle(root, modality, modality)
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """A server of all three."""
    with serving(bundles) as running_one:
        yield running_one


@pytest.mark.parametrize("where", ["params", "data"])
@pytest.mark.parametrize("modality", TINY)
def test_every_file_gets_the_grid_that_fits_it(
    server: RunningServer, modality: str, where: str
) -> None:
    """Of one request each its own, with the answers of the graph of that grid."""
    files = [("file", ("a.bin", media)) for media, _ in FILES[modality]]
    sent: dict[str, Any] = {"files": files, where: {"grid": "auto"}}
    response = server.classify(f"/v1/classify/{modality}", **sent)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    for result, (media, grid) in zip(results, FILES[modality], strict=True):
        check_answer(result, modality, media, grid)


def test_photo_of_a_turned_camera_gets_the_grid_of_what_is_seen(server: RunningServer) -> None:
    """It is stored lying and shown standing."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture(1, (23, 9)))).save(stream, "JPEG", exif=exif)
    response = server.classify(content=stream.getvalue(), params={"grid": "auto"})
    check_answer(response.json()["results"][0], "image", stream.getvalue(), "3x2")


def test_views_of_a_clip_are_as_many_as_asked_for(server: RunningServer) -> None:
    """And no more than every grid could take."""
    media, asked = FILES["video"][1][0], {"grid": "auto", "views": "4"}
    response = server.classify("/v1/classify/video", content=media, params=asked)
    check_answer(response.json()["results"][0], "video", media, "16x1x1", 4)
    refused = server.classify("/v1/classify/video", content=media, params=asked | {"views": "5"})
    assert refused.json()["type"] == "/problems/bad-parameter"


def test_log_names_the_grids_that_were_taken(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each once, in the order of the files; auto where no file came so far."""
    ids = []
    with caplog.at_level(logging.INFO, "service.access"):
        for files in ([LYING], [STANDING, LYING, STANDING], [b"text"]):
            sent = [("file", ("a.png", one)) for one in files]
            answer = server.classify(files=sent, params={"grid": "auto"})
            ids.append(answer.headers["x-request-id"])
        lines = access_lines(caplog, *ids)
    assert [line["grid"] for line in lines] == ["2x3", "3x2,2x3", "auto"]


def test_command_line_chooses_as_the_server_does(bundles: Path, tmp_path: Path) -> None:
    """Of every modality at once."""
    expected = []
    for modality, files in FILES.items():
        for number, (media, grid) in enumerate(files):
            path = tmp_path / f"{modality}-{number}"
            path.write_bytes(media)
            expected.append((path, modality, media, grid))
    # a GIF would be an image: clips are asked for by the name of their bundle
    images = [one for one in expected if one[1] != "video"]
    for chosen, bundle in ((images, []), (expected[3:5], ["--bundle", "video"])):
        done = run(
            "classify", "--json", "--grid", "auto", *bundle, "--bundles", bundles,
            *(one[0] for one in chosen),
            LIERE_DECODE_WORKERS="1", LIERE_THREADS="1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        for line, (_, modality, media, grid) in zip(lines, chosen, strict=True):
            check_answer(line, modality, media, grid)
