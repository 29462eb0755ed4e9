"""Refusals below the framework say what those of the guard do, and keep the connection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine.schedule import CPU, Charge
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    picture,
    read_answer,
    serving,
)

GOOD = picture(1)
KEY = "a key that this server knows"
LIVE = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    with serving(bundles, max_body_mib=1) as running:
        yield running


@pytest.fixture
def busy(server: RunningServer) -> Iterator[Charge]:
    """More work is inside than may stand before a newcomer."""
    charge = Charge("image", 1e9, {"run": {CPU: 1e3}})
    server.engine.backlog.charge(charge)
    yield charge
    server.engine.backlog.leave(charge)


def post(*headers: str, body: bytes = GOOD, path: str = "/v1/classify/image") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def goes_by(monkeypatch: pytest.MonkeyPatch, server: RunningServer) -> list[str]:
    """The paths that reach the application from now on."""
    seen: list[str] = []
    check = type(server.engine.admission).enter

    def enter(admission: Any, kind: str) -> None:
        seen.append(kind)
        check(admission, kind)

    monkeypatch.setattr(type(server.engine.admission), "enter", enter)
    return seen


def told(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, Any], set[str]]:
    """Status, document without its id and its words, names of the headers."""
    status, headers, body = answer
    document = json.loads(body)
    assert document.pop("id") == headers["x-request-id"]
    assert 1 <= int(headers["retry-after"]) <= 30
    assert len(body) == int(headers["content-length"])
    assert "detail" in document
    return status, document, set(headers)


def test_refusal_is_the_one_that_the_guard_would_give(
    server: RunningServer, busy: Charge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Document, headers and counts are the same; only the guard's passed the application."""
    asked = goes_by(monkeypatch, server)
    counted = {"modality": "image", "code": "429"}
    answers = []
    for headers in ((), ("Origin: https://app.example",)):
        before = server.metric("liere_requests_total", **counted)
        refused = server.metric("liere_refused_total", modality="image", reason="wait")
        with RawConnection(server.port) as connection:
            connection.send(post(*headers))
            answers.append(told(connection.answer()))
        assert server.metric("liere_requests_total", **counted) == before + 1
        reason = {"modality": "image", "reason": "wait"}
        assert server.metric("liere_refused_total", **reason) == refused + 1
    assert answers[0] == answers[1]
    assert answers[0][0] == 429
    assert answers[0][1]["type"] == "/problems/overloaded"
    assert asked == ["image"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_connection_goes_on_after_a_body_that_nobody_read(
    server: RunningServer, busy: Charge, pieces: int
) -> None:
    """However the body comes, the next request on the connection is answered, and one behind it."""
    with RawConnection(server.port) as connection, connection.socket.makefile("rb") as stream:
        for _ in range(3):
            sent = post("X-Request-ID: mine", body=bytes(range(256)) * 700) + LIVE.encode()
            step = -(-len(sent) // pieces)
            for start in range(0, len(sent), step):
                connection.send(sent[start : start + step])
            status, headers, _ = read_answer(stream)
            assert (status, headers["x-request-id"]) == (429, "mine")
            assert read_answer(stream)[0] == 200
    server.engine.backlog.leave(busy)
    assert server.classify(content=GOOD).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post("Content-Encoding: gzip"), 415),
        (post("Expect: 100-continue", body=b""), 429),
        (post(body=bytes(2**20 + 1)), 413),
        (post(path="/v1/classify/nothing"), 404),
        (post("Connection: close"), 429),
        (post(path="/v1/classify/image?top_k=1"), 429),
    ],
)
def test_what_needs_a_second_look_gets_it(
    server: RunningServer, busy: Charge, sent: bytes, status: int
) -> None:
    """What is wrong with a request is said before that there is no room."""
    with RawConnection(server.port) as connection:
        connection.send(sent)
        assert connection.answer()[0] == status


def test_who_has_no_key_is_told_that_and_not_that_there_is_no_room(bundles: Path) -> None:
    """A stranger is 401; a key that may not classify 403; one with a rate is counted."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with serving(bundles, key_sha256=(digest,)) as server:
        server.engine.backlog.charge(Charge("image", 1e9, {"run": {CPU: 1e3}}))
        for headers, status in (((), 401), ((f"Authorization: Bearer {KEY}",), 429)):
            with RawConnection(server.port) as connection:
                connection.send(post(*headers))
                assert connection.answer()[0] == status
