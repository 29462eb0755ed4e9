"""Requests that people's own bug reports describe, as raw bytes, each by its kind of fault.

The files of ``../shared/field`` are one instance of each kind; the others are written here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.engine.vocabulary import PARAMETERS
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    picture,
    serving,
    write_tiny_bundle,
)

GOOD = picture(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    with serving(root) as running:
        yield running


def ask(server: RunningServer, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """One raw request and its answer."""
    with RawConnection(server.port) as connection:
        connection.send(request)
        return connection.answer()


def check_ranked(answer: tuple[int, dict[str, str], bytes]) -> None:
    status, _, body = answer
    assert status == 200, body
    assert len(json.loads(body)["results"][0]["predictions"]) == 1


# --- forms -----------------------------------------------------------------------------------


def test_form_with_a_preamble_is_read(server: RunningServer, field_dir: Path) -> None:
    """A line of text before the first boundary is passed over."""
    check_ranked(ask(server, (field_dir / "http_form_preamble.http").read_bytes()))


FORM = (
    b"Some words.\r\n\r\n--a b \t\r\nCONTENT-DISPOSITION : form-data;\r\n\tname=top_k\r\n\r\n1\r\n"
    b"--a b\r\nContent-Type: image/png\r\nContent-Disposition: form-data;\r\n"
    b' filename="C:\\x\\";\r\n'
    b" name = file\r\nContent-Transfer-Encoding: Binary\r\n\r\n"
    + GOOD
    + b"\r\n--a b--  \r\nBye.\r\n"
)
FORM_TYPE = 'multipart/form-data; charset=utf-8; boundary="a b"'


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_form_in_an_unusual_spelling_is_read(server: RunningServer, size: int) -> None:
    """Preamble, epilogue, padding, folds, capitals, order and quotes, all at once, in chunks."""
    chunks = (FORM[at : at + size] for at in range(0, len(FORM), size))
    response = server.classify(content=chunks, headers={"Content-Type": FORM_TYPE})
    check_ranked((response.status_code, {}, response.content))


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x-gzip"])
def test_part_in_a_transfer_encoding_is_refused_by_its_name(
    server: RunningServer, encoding: str
) -> None:
    """What would have to be decoded first is told so, and not that its picture is broken."""
    head = f"Content-Disposition: form-data; name=file\r\nContent-Transfer-Encoding: {encoding}"
    response = server.classify(
        content=f"--b\r\n{head}\r\n\r\nAAAA\r\n--b--\r\n".encode(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert (response.status_code, response.json()["type"]) == (400, "/problems/broken-form")
    assert f"'{encoding}'" in response.json()["detail"]
    assert "binary" in response.json()["detail"]


def test_file_part_under_another_name_is_told_its_name(
    server: RunningServer, field_dir: Path
) -> None:
    """A file that is called image is told that it must be called file."""
    status, headers, body = ask(server, (field_dir / "http_part_named_image.http").read_bytes())
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert json.loads(body)["detail"] == (
        "the part 'image' of the form is no parameter: a file must be a part called file; "
        f"known parameters: {', '.join(PARAMETERS['image'])}"
    )


def test_unknown_parameter_of_the_address_is_no_part(server: RunningServer) -> None:
    """Nobody who mistyped one there is told about forms."""
    response = server.classify(content=picture(), params={"topk": "1"})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/unknown-parameter")
    known = ", ".join(PARAMETERS["image"])
    assert response.json()["detail"] == f"unknown parameter 'topk'; known parameters: {known}"


def bmp(size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size).save(encoded, "BMP")
    return encoded.getvalue()


@pytest.mark.parametrize(
    "files",
    [
        {"image": bmp((1, 1))},
        {"image": bmp((640, 480))},
        {"image": (None, bmp((640, 480)))},
        {"upload[]": ("a.jpg", GOOD, "image/jpeg")},
        {"File": GOOD},
        {"files": b""},
        {"": GOOD},
        {"top_k": ("a.jpg", bmp((640, 480)))},
        {"top_k": (None, "1"), "f": GOOD},
        {"ü" * 500: GOOD},
    ],
)
def test_file_under_any_other_name_is_told_the_right_one(
    server: RunningServer, files: dict[str, Any]
) -> None:
    """Whatever it is called and however large it is; names are told in ASCII and cut short."""
    response = server.classify(files=files)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    detail = response.json()["detail"]
    assert "called file" in detail
    assert detail.isascii()
    assert len(detail) < 400
    assert server.classify(files={"file": GOOD}).status_code == 200


def test_part_without_a_name_is_told_the_right_one(server: RunningServer) -> None:
    """The same for a part that has a filename alone, or no headers at all."""
    for head in (b'Content-Disposition: form-data; filename="a.png"\r\n', b""):
        response = server.classify(
            content=b"--b\r\n" + head + b"\r\n" + GOOD + b"\r\n--b--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert (response.status_code, response.json()["type"]) == (400, "/problems/broken-form")
        assert "must be file" in response.json()["detail"]


def test_parameters_of_a_form_are_read_as_before(server: RunningServer) -> None:
    """Text parts are parameters, before and after the file, with or without a type."""
    parts: list[Any] = [
        ("top_k", (None, "1", "text/plain; charset=utf-8")),
        ("file", ("a.png", GOOD)),
        ("grid", (None, "3x2")),
    ]
    response = httpx.post(f"{server.url}/v1/classify/image", files=parts)
    check_ranked((response.status_code, {}, response.content))
    assert response.json()["results"][0]["grid"] == "3x2"
