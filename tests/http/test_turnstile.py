"""Refusals below the framework say what those of the guard do, and keep the connection."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from service.engine.schedule import CPU, Charge
from service.http import discard
from service.http.protocol import HttpProtocol
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    TinySession,
    picture,
    read_answer,
    serving,
    wait_until,
)

GOOD = picture(1)
KEY, OTHER_KEY = "a key that this server knows", "another one"
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


def connections(server: RunningServer) -> int:
    return len(server._server.server_state.connections)


def goes_by(monkeypatch: pytest.MonkeyPatch, server: RunningServer) -> list[str]:
    """The paths that reach the application from now on."""
    seen: list[str] = []
    check = type(server.engine.admission).enter

    def enter(admission: Any, kind: str, *others: Any) -> None:
        seen.append(kind)
        check(admission, kind, *others)

    monkeypatch.setattr(type(server.engine.admission), "enter", enter)
    return seen


@contextmanager
def crowded(bundles: Path, **settings: Any) -> Iterator[RunningServer]:
    """A server of its own, with more work inside than may stand before a newcomer."""
    with serving(bundles, **settings) as server:
        server.engine.backlog.charge(Charge("image", 1e9, {"run": {CPU: 1e3}}))
        yield server


def told(
    answer: tuple[int, dict[str, str], bytes], most_seconds: int = 30
) -> tuple[int, dict[str, Any], set[str]]:
    """Status, document without its id and its words, names of the headers."""
    status, headers, body = answer
    document = json.loads(body)
    assert document.pop("id") == headers["x-request-id"]
    assert 1 <= int(headers["retry-after"]) <= most_seconds
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


def test_modality_that_nobody_serves_is_404_however_much_there_is_to_do(
    server: RunningServer,
) -> None:
    """Waiting would not help, so nobody is told to."""
    charge = Charge("volume", 1e9, {"run": {CPU: 1e3}})
    server.engine.backlog.charge(charge)
    try:
        assert server.engine.admission.refusal("volume") is not None
        with RawConnection(server.port) as connection:
            connection.send(post(path="/v1/classify/volume"))
            assert connection.answer()[0] == 404
    finally:
        server.engine.backlog.leave(charge)


def test_requests_behind_one_another_are_each_refused(
    server: RunningServer, busy: Charge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes in one piece is answered in order, each request once, with its own id."""
    asked = goes_by(monkeypatch, server)
    with RawConnection(server.port) as connection:
        connection.send(b"".join(post(f"X-Request-ID: {n}", body=b"p" * n) for n in range(9)))
        connection.send("GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = connection.answers()
    assert [one[0] for one in answers] == [429] * 9 + [200]
    assert [one[1]["x-request-id"] for one in answers[:9]] == [str(n) for n in range(9)]
    assert asked == []


def test_refusal_does_not_overtake(bundles: Path) -> None:
    """Behind a request that is inside, the answers come in the order of the requests."""
    session = TinySession()
    session.gate.clear()
    with (
        serving(bundles, lambda *_: session, ready=False) as server,
        RawConnection(server.port) as connection,
    ):
        session.gate.set()
        wait_until(lambda: server.engine.catalog.examined, "the bundles to be examined")
        session.gate.clear()
        session.batches.clear()
        connection.send(post())
        wait_until(lambda: session.batches, "the batch to run")
        server.engine.backlog.charge(Charge("image", 1e9, {"run": {CPU: 1e3}}))
        connection.send(post("X-Request-ID: second"), post("X-Request-ID: third"))
        session.gate.set()
        stream = connection.socket.makefile("rb")
        answers = [read_answer(stream) for _ in range(3)]
    assert [one[0] for one in answers] == [200, 429, 429]
    assert [one[1]["x-request-id"] for one in answers[1:]] == ["second", "third"]


def test_who_does_not_read_is_not_answered_without_end(
    server: RunningServer, busy: Charge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where answers pile up the guard refuses, which waits until they are taken."""
    asked = goes_by(monkeypatch, server)
    with RawConnection(server.port) as connection:
        connection.send(LIVE)
        assert connection.answer()[0] == 200
        (protocol,) = cast(set[HttpProtocol], server._server.server_state.connections)
        protocol.loop.call_soon_threadsafe(protocol.pause_writing)
        wait_until(lambda: protocol.flow.write_paused, "the loop")
        connection.send(post())
        wait_until(lambda: asked == ["image"], "the guard to be asked")
        protocol.loop.call_soon_threadsafe(protocol.resume_writing)
        assert connection.answer()[0] == 429


def test_large_body_is_answered_and_never_read(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client reads the answer behind all that it sent, and then the end of the connection."""
    with crowded(bundles) as server, RawConnection(server.port) as connection:
        asked = goes_by(monkeypatch, server)
        connection.send(post(body=bytes(8 * 2**20)))
        ((status, headers, _),) = connection.answers()
        assert (status, headers["connection"], asked) == (429, "close", [])
        wait_until(lambda: not connections(server), "the connection to end")


def test_client_that_stops_sending_a_refused_body_is_let_go(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it leaves or says nothing more, with its answer read or not."""
    monkeypatch.setattr(discard, "DISCARD_SECONDS", 0.2)
    with crowded(bundles, head_seconds=0.2) as server:
        for size in (2**16, 2**22):
            for end in ("closed", "reset", "stands still"):
                with RawConnection(server.port) as connection:
                    connection.send(post(body=bytes(size))[: size // 2])
                    if end == "reset":
                        linger = struct.pack("ii", 1, 0)
                        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    elif end == "stands still":
                        assert [one[0] for one in connection.answers()] == [429]
                wait_until(lambda: not connections(server), "the connection to end")


def test_who_has_no_key_is_told_that_and_not_that_there_is_no_room(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger is 401, a key that may not classify 403; one that may is refused by its head."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    other = hashlib.sha256(OTHER_KEY.encode()).hexdigest()
    lines = (digest, f"{other} scopes=metrics")
    with crowded(bundles, key_sha256=lines) as server:
        asked = goes_by(monkeypatch, server)
        for headers, status in (
            ((), 401),
            ((f"Authorization: Bearer {OTHER_KEY}",), 403),
            ((f"Authorization: Bearer {KEY}",), 429),
        ):
            with RawConnection(server.port) as connection:
                connection.send(post(*headers))
                assert connection.answer()[0] == status
        assert asked == []


@pytest.mark.parametrize("guard_first", [False, True])
def test_what_a_key_takes_counts_here_as_in_the_guard(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, guard_first: bool
) -> None:
    """Who is refused for want of room has used its rate; then the key itself has to wait."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    here, by_guard = (), ("Origin: https://app.example",)
    with crowded(bundles, key_sha256=(f"{digest} rate=0.001/s concurrency=1",)) as server:
        asked, kinds = goes_by(monkeypatch, server), []
        for headers in (by_guard, here, here) if guard_first else (here, by_guard, here):
            with RawConnection(server.port) as connection:
                connection.send(post(f"Authorization: Bearer {KEY}", *headers))
                status, document, _ = told(connection.answer(), most_seconds=1000)
                assert status == 429
                kinds.append(document["type"].removeprefix("/problems/"))
        assert kinds == ["overloaded", "key-limited", "key-limited"]
        assert asked == (["image"] if guard_first else [])
        assert server.metric("liere_refused_total", modality="image", reason="wait") == 1
        assert server.metric("liere_requests_total", modality="image", code="429") == 3
        (account,) = server.app.state.keys._accounts
        assert account.inside == 0


def test_key_is_not_counted_twice_where_there_is_room(bundles: Path) -> None:
    """Looking at the head of a request that may enter takes nothing of its key's rate."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with serving(bundles, key_sha256=(f"{digest} rate=0.001/s",)) as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert server.classify(content=GOOD, headers=headers).status_code == 200
