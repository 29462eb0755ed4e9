"""The log tells what happened and nothing that was sent, one record a line, whoever writes it."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import JsonLines, TextLines, printable
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    RawConnection,
    TinySession,
    command,
    picture,
    running,
    serving,
    wait_until,
)

GOOD = picture(1)
FIELDS = {"id", "method", "path", "status", "modality", "bundle", "grid", "bytes", "ms"}
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)  # surrogates too


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of the access log so far, without those that have no value."""
    records = [vars(record) for record in caplog.records if record.name == "service.access"]
    return [{k: v for k, v in one["fields"].items() if v is not None} for one in records]


# --- the access log --------------------------------------------------------------------------


def test_access_line_tells_the_request_in_numbers_and_names(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Work tells who answered it; every other request what is known of it."""
    with caplog.at_level(logging.INFO, "service.access"), serving(bundles) as server:
        chosen = {"grid": "3x2", "top_k": "1"}
        answer = server.classify(content=GOOD, params=chosen, headers={"X-Request-ID": "mine"})
        assert answer.status_code == 200
        server.get("/nothing/at all?a=b")
        server.classify(content=b"text")
        server.classify(content=GOOD, params={"bundle": "nope"})
    work, nothing, text, unknown = access_lines(caplog)
    assert set(work) == FIELDS
    assert 0 < work.pop("ms") < 30_000
    assert work == {
        "id": "mine",
        "method": "POST",
        "path": "/v1/classify/image",
        "status": 200,
        "modality": "image",
        "bundle": "tiny",
        "grid": "3x2",
        "bytes": len(GOOD),
    }
    assert set(nothing) == {"id", "method", "path", "status", "bytes", "ms"}
    assert (nothing["method"], nothing["path"], nothing["status"]) == (
        ("GET", "/nothing/at%20all", 404)
    )
    assert (text["status"], text["bundle"], text["bytes"]) == (415, "tiny", 4)
    assert unknown["status"] == 404
    assert "bundle" not in unknown


def test_access_line_tells_how_requests_without_an_answer_ended(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that left is 499 and a body that never came 408, with the bytes that came."""
    level = caplog.at_level(logging.INFO, "service.access")
    with level, serving(bundles, upload_seconds=0.3) as server:
        with RawConnection(server.port) as leaving:
            leaving.send_head("Content-Length: 1000")
            leaving.send(b"half")
            wait_until(lambda: server.engine.admission.bytes == 1000, "the room to be taken")
        wait_until(lambda: len(access_lines(caplog)) == 1, "the first line")
        with RawConnection(server.port) as slow:
            slow.send_head("Content-Length: 1000")
            slow.send(b"slow")
            assert slow.answer()[0] == 408
        wait_until(lambda: len(access_lines(caplog)) == 2, "the second line")
    told = [(line["status"], line["bytes"]) for line in access_lines(caplog)]
    assert told == [(499, 4), (408, 4)]


def test_access_log_is_off_unless_asked_for(bundles: Path, tmp_path: Path) -> None:
    """Without --access-log a served request leaves no line, in neither format."""
    told = tmp_path / "stderr"
    with told.open("w") as stderr, running(bundles, stderr=stderr) as (_, port, _):
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    assert "/health/live" not in told.read_text()
    assert "is ready on cpu" in told.read_text()


def test_access_log_is_text_for_people(bundles: Path, tmp_path: Path) -> None:
    """With --access-log alone each request is one line of names and values, at any level."""
    told = tmp_path / "stderr"
    options = ("--access-log", "--log-level", "error")
    with told.open("w") as stderr, running(bundles, *options, stderr=stderr) as (_, port, _):
        url = f"http://127.0.0.1:{port}/v1/classify/image?top_k=1"
        assert httpx.post(url, content=GOOD).status_code == 200
        wait_until(lambda: "service.access" in told.read_text(), "the line")
    (line,) = told.read_text().splitlines()
    head, *fields = line.split(" INFO service.access: request ")[1].split(" ")
    assert head.startswith("id=")
    assert fields[:-1] == [
        "method=POST",
        "path=/v1/classify/image",
        "status=200",
        "modality=image",
        "bundle=tiny",
        "grid=2x3",
        f"bytes={len(GOOD)}",
    ]
    assert fields[-1].startswith("ms=")


# --- JSON, from a real process ---------------------------------------------------------------


@contextmanager
def logging_json(bundles: Path, log: Path, *arguments: str) -> Iterator[int]:
    """A ready server that writes its log as JSON: its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--bundles", str(bundles), "--port", str(port), "--decode-workers", "1")
    asked = command(*options, "--log-format", "json", "--access-log", *arguments)
    with (
        log.open("w") as stream,
        subprocess.Popen(asked, cwd=ROOT, env=CLEAN, stdout=stream, stderr=stream) as process,
    ):
        try:
            wait_until(lambda: "Serving" in log.read_text(), "the server to be ready")
            yield port
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


SECRETS = ("tell-no-one", "holiday", "top_k", "boundary", "image/png", "curl", "Host", "127.0.0.1")


def test_json_log_is_json_to_the_last_line_and_holds_no_payload(
    bundles: Path, tmp_path: Path
) -> None:
    """Both streams of a server hold JSON objects alone; what clients send beside the path is not
    in them, and uvicorn's own lines look like all others.
    """
    log = tmp_path / "log"
    with logging_json(bundles, log, "--log-level", "debug") as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            files = [("file", ("holiday\x1b[2J\n.png", GOOD, "image/png"))]
            headers = {"Cookie": "tell-no-one", "Authorization": "Bearer tell-no-one"}
            answer = client.post("/v1/classify/image?top_k=1", headers=headers, files=files)
            assert answer.status_code == 200
            assert client.get("/nothing?tell-no-one=tell-no-one").status_code == 404
        with RawConnection(port) as connection:
            connection.send("tell-no-one\r\n\r\n")
            assert connection.socket.recv(12) == b"HTTP/1.1 400"
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert set(line) >= {"time", "level", "logger", "message"}
        age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
        assert timedelta(0) <= age < timedelta(minutes=5)
    by_logger = {name: [one for one in lines if one["logger"] == name] for name in LOGGERS}
    assert all(by_logger.values()), by_logger
    work, nothing = by_logger["service.access"]
    assert set(work) - {"time", "level", "logger", "message"} == FIELDS
    assert (work["status"], nothing["status"], nothing["path"]) == (200, 404, "/nothing")
    rest = [one for one in lines if one["logger"] not in ("service.http.server", "uvicorn.error")]
    assert [secret for secret in SECRETS if secret in json.dumps(rest)] == []
    assert "tell-no-one" not in text


LOGGERS = ("service.access", "service.http.server", "service.engine.catalog", "uvicorn.error")


# --- nobody forges a line --------------------------------------------------------------------


PATHS = (
    b"/a%0a2026-01-01%2000:00:00%20INFO%20forged",
    b"/%0d%0aforged",
    b"/%1b%5b2Jforged",
    b"/%e2%80%a8forged",
    b"/%00forged",
    b"/" + b"x" * 5000 + b"forged",
)


@pytest.mark.parametrize("line_format", [TextLines, JsonLines])
def test_clients_cannot_forge_lines(
    bundles: Path, caplog: pytest.LogCaptureFixture, line_format: Callable[[], logging.Formatter]
) -> None:
    """Line breaks and controls in paths and ids come out as text, within one line per request."""
    with caplog.at_level(logging.INFO, "service.access"), serving(bundles) as server:
        for path in PATHS:
            with RawConnection(server.port) as connection:
                connection.send(b"GET ", path, b" HTTP/1.1\r\nHost: x\r\n")
                connection.send(b"X-Request-ID: a\tforged\r\n\r\n")
                assert connection.answer()[0] == 404
    records = [record for record in caplog.records if record.name == "service.access"]
    assert len(records) == len(PATHS)
    for record in records:
        line = line_format().format(record)
        assert line.isprintable()
        assert "\tforged" not in line
        assert len(line) < 600


@given(message=ANYTHING, value=ANYTHING, raised=ANYTHING)
def test_every_record_is_one_line_whatever_it_says(message: str, value: str, raised: str) -> None:
    """JSON: one line, ASCII, and it says what was said. Text: one line, and what an exception adds
    is set in, so that no line of it looks like a record.
    """
    record = logging.LogRecord("name", logging.ERROR, "", 0, message, None, None)
    record.fields = {"key": value, "nothing": None}
    line = JsonLines().format(record)
    assert line.isascii()
    assert line.isprintable()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "error", "logger": "name", "message": message, "key": value}
    assert TextLines().format(record).isprintable()
    try:
        raise ValueError(raised)
    except ValueError:
        record.exc_info = sys.exc_info()
    exception = json.loads(JsonLines().format(record))["exception"]
    assert exception.startswith("Traceback")
    assert raised.rstrip("\n") in exception
    first, *others = TextLines().format(record).split("\n")
    assert " ERROR name: " in first
    assert all(one.startswith("    ") and one.isprintable() for one in others)


@given(ANYTHING)
def test_printable_text_says_the_same(text: str) -> None:
    """Only what is not printable changes, and nothing is lost."""
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text
    assert len(shown) >= len(text)


def test_exception_of_a_request_is_one_json_line(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of the server has its trace in one member, under the id of the request."""
    with serving(bundles, lambda *_: TinySession()) as server:

        def broken(*_: object) -> None:
            raise KeyError("line one\nline two")

        server.engine.catalog.select = broken
        server.classify(content=GOOD, headers={"X-Request-ID": "find-me"})
    (record,) = [one for one in caplog.records if "find-me" in one.getMessage()]
    told = json.loads(JsonLines().format(record))
    assert (told["level"], told["message"]) == ("error", "request find-me failed")
    assert "in broken" in told["exception"]
