"""Who is at the other end: clients that stop sending, that leave, that never begin."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from service.http.protocol import HttpProtocol
from tests.http.conftest import Start
from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    TinySession,
    picture,
    serving,
    wait_until,
)

GOOD = picture(1)
LEFT = {"modality": "image", "code": "499"}
READ = (
    "/health/live", "/health/ready", "/health/startup", "/metrics", "/v1/bundles", "/openapi.json",
    "/docs",
)  # fmt: skip
LIVE = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def ask(connection: RawConnection, version: str = "1.1", body: bytes = GOOD) -> None:
    connection.send(f"POST /v1/classify/image HTTP/{version}\r\nHost: x\r\n")
    connection.send(f"Content-Length: {len(GOOD)}\r\n\r\n", body)


def stop_sending(connection: RawConnection) -> None:
    connection.socket.shutdown(socket.SHUT_WR)


def connections(server: RunningServer) -> int:
    return len(server._server.server_state.connections)


def stand_still(loop: Any, seconds: float) -> None:
    """Let a loop be busy with one socket while others become readable and timers due."""
    reader, writer = socket.socketpair()
    begun = threading.Event()

    def be_busy() -> None:
        begun.set()
        loop.remove_reader(reader)
        time.sleep(seconds)
        reader.close()

    loop.call_soon_threadsafe(loop.add_reader, reader, be_busy)
    writer.send(b"x")
    writer.close()
    assert begun.wait(10)


def waiting(server: RunningServer) -> int:
    """Requests that came while the one before them was being answered."""
    connections = cast(set[HttpProtocol], server._server.server_state.connections)
    return sum(len(one.pipeline) for one in connections)


def statuses(connection: RawConnection) -> list[int]:
    """Of the final answers until the connection ends."""
    return [status for status, _, _ in connection.answers() if status >= 200]


# --- stopped sending -------------------------------------------------------------------------


def test_half_closed_request_from_a_report_is_answered(start: Start, field_dir: Path) -> None:
    """``nc -N``: a whole request and the end of sending get 200, and then the end."""
    server, _ = start()
    with RawConnection(server.port) as connection:
        connection.send((field_dir / "http_half_close.http").read_bytes())
        stop_sending(connection)
        assert statuses(connection) == [200]
    wait_until(lambda: connections(server) == 0, "the connection to end")


def test_client_that_stopped_sending_waits_for_its_answer(start: Start) -> None:
    """While its work is queued the server finds out that it listens, and does the work."""
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection)
        wait_until(lambda: session.batches, "the batch to run")
        stop_sending(connection)
        assert connection.answer() == (100, {}, b"")  # so the end of sending was seen
        session.gate.set()
        ((status, headers, _),) = connection.answers()
        assert (status, headers["connection"]) == (200, "close")
        wait_until(lambda: connections(server) == 0, "the connection to end")
    assert server.metric("liere_requests_total", **LEFT) == 0


def test_client_that_left_is_cancelled(start: Start) -> None:
    """The same end of sending, but nobody listens: what waits for it is never run."""
    server, session = start()
    session.gate.clear()
    with ExitStack() as stack:
        first, stopped, left = (stack.enter_context(RawConnection(server.port)) for _ in range(3))
        ask(first)
        wait_until(lambda: session.batches, "the first batch to run")
        for connection in (stopped, left):
            ask(connection)
        wait_until(lambda: server.engine.devices.depth == 2, "the others to be queued")
        stop_sending(stopped)
        left.socket.close()
        wait_until(lambda: server.metric("liere_requests_total", **LEFT) == 1, "the 499")
        session.gate.set()
        assert first.answer()[0] == 200
        assert statuses(stopped) == [200]
    assert sum(session.batches) == 2
    wait_until(lambda: connections(server) == 0, "the connections to end")


def test_client_that_stopped_sending_and_left_later_is_cancelled(start: Start) -> None:
    """Who listened at first and then leaves is found by the next interim answer."""
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection)
        wait_until(lambda: session.batches, "the batch to run")
        stop_sending(connection)
        assert connection.answer()[0] == 100
    wait_until(lambda: server.metric("liere_requests_total", **LEFT) == 1, "the 499")


def test_end_of_sending_of_http_1_0_counts_as_having_left(start: Start) -> None:
    """An interim answer is not allowed there, so nothing can be found out."""
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection, "1.0")
        wait_until(lambda: session.batches, "the batch to run")
        stop_sending(connection)
        assert connection.answers() == []
    wait_until(lambda: server.metric("liere_requests_total", **LEFT) == 1, "the 499")


@pytest.mark.parametrize("head", [f"Content-Length: {len(GOOD)}", "Transfer-Encoding: chunked"])
def test_end_of_sending_within_a_body_is_a_client_that_left(start: Start, head: str) -> None:
    """Nobody waits for the answer to half a body."""
    server, _ = start()
    with RawConnection(server.port) as connection:
        connection.send_head(head)
        connection.send("5\r\nhello\r\n")
        wait_until(lambda: server.engine.admission.bytes > 0, "the half to come")
        stop_sending(connection)
        assert connection.answers() == []
    wait_until(lambda: server.metric("liere_requests_total", **LEFT) == 1, "the 499")
    assert server.engine.admission.bytes == server.engine.admission.requests == 0


def test_chunked_request_may_be_the_last_word(start: Start) -> None:
    """The last chunk ends the body, and then the client may stop sending."""
    server, _ = start()
    with RawConnection(server.port) as connection:
        connection.send_head("Transfer-Encoding: chunked")
        connection.send(f"{len(GOOD):x}\r\n", GOOD, "\r\n0\r\n\r\n")
        stop_sending(connection)
        assert statuses(connection) == [200]


def test_requests_before_the_end_of_sending_are_all_answered(start: Start) -> None:
    """Pipelined ones too, in order; half a head behind them is nothing."""
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection)
        ask(connection)
        connection.send(LIVE, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "GET /he")
        stop_sending(connection)
        wait_until(lambda: session.batches, "the first batch to run")
        session.gate.set()
        assert statuses(connection) == [200, 200, 200, 404]
    wait_until(lambda: connections(server) == 0, "the connection to end")


@pytest.mark.parametrize("late", [False, True], ids=["at once", "while the first one runs"])
def test_pipelining_client_that_left_is_cancelled(start: Start, late: bool) -> None:
    """The request that is being answered is told, and the one behind it is never begun.

    Nobody reads from the connection once the second head is here, so its end is looked for.
    """
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection)
        if not late:
            ask(connection)
        wait_until(lambda: session.batches, "the first batch to run")
        if late:
            ask(connection)
            wait_until(lambda: waiting(server) == 1, "the second head to be here")
    wait_until(lambda: server.metric("liere_requests_total", **LEFT) == 1, "the 499")
    wait_until(lambda: connections(server) == 0, "the connection to end")
    session.gate.set()
    wait_until(lambda: server.engine.admission.requests == 0, "the permits to come back")
    assert sum(session.batches) == 1


@pytest.mark.parametrize("what", ["kept", "new"])
def test_request_that_a_late_loop_has_not_read_came_in_time(start: Start, what: str) -> None:
    """Its connection is not closed as idle: that would reset it, and the client has done right."""
    server, _ = start(head_seconds=0.3 if what == "new" else 10)
    with RawConnection(server.port) as connection:
        wait_until(lambda: connections(server) == 1, "the connection")
        (protocol,) = cast(set[HttpProtocol], server._server.server_state.connections)
        protocol.timeout_keep_alive = 1
        if what == "kept":
            connection.send(LIVE)
            assert connection.answer()[0] == 200
        stand_still(protocol.loop, 1.5)
        connection.send(LIVE)
        assert connection.answer()[0] == 200


@pytest.mark.parametrize("before", ["", LIVE, "GET /he"], ids=["nothing", "answered", "half"])
def test_connection_without_a_request_ends_with_the_end_of_sending(
    start: Start, before: str
) -> None:
    """Nothing is due, so nothing stays open."""
    server, _ = start()
    with RawConnection(server.port) as connection:
        connection.send(before)
        if before == LIVE:
            assert connection.answer()[0] == 200
        stop_sending(connection)
        assert connection.closed()
    wait_until(lambda: connections(server) == 0, "the connection to end")


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """One for all that only read."""
    with serving(bundles, lambda *_: TinySession()) as server:
        yield server


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/nothing", "/v1/bundles"])
def test_every_address_answers_who_stopped_sending(server: RunningServer, path: str) -> None:
    """Long answers arrive whole."""
    with RawConnection(server.port) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
        stop_sending(connection)
        ((status, headers, body),) = (one for one in connection.answers() if one[0] >= 200)
    assert status == (404 if path == "/nothing" else 200)
    assert len(body) == int(headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        *((method, path, 200) for method in ("HEAD", "GET") for path in READ),
        *((method, "/nothing", 404) for method in ("HEAD", "GET", "OPTIONS")),
        *((method, "/health/ready", 405) for method in ("DELETE", "OPTIONS")),
        *((method, "/v1/classify/image", 405) for method in ("HEAD", "GET")),
    ],
)
def test_end_of_sending_right_behind_a_request_costs_no_answer(
    server: RunningServer, method: str, path: str, expected: int
) -> None:
    """However short it is, on a connection of its own or behind others; every time."""
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"
    for before in ["", LIVE] * 10:
        with RawConnection(server.port) as connection:
            connection.send(before + request)
            stop_sending(connection)
            text = connection.socket.makefile("rb").read().decode()
        found = re.findall(r"HTTP/1.1 (?!100)(\d+)", text)
        assert found == ["200"] * bool(before) + [str(expected)], text
        assert method != "HEAD" or text.endswith("\r\n\r\n")


HALF_BODIES = {
    "length": "Content-Length: 99\r\n\r\nhalf",
    "chunks": "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf",
}


@pytest.mark.parametrize("half", HALF_BODIES.values(), ids=HALF_BODIES.keys())
def test_half_a_body_behind_a_request_costs_no_answer(start: Start, half: str) -> None:
    """Who stops sending there waits for those before it; it is itself nothing."""
    server, session = start()
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection)
        connection.send(LIVE, f"POST /v1/classify/image HTTP/1.1\r\nHost: x\r\n{half}")
        stop_sending(connection)
        wait_until(lambda: session.batches, "the batch to run")
        session.gate.set()
        assert statuses(connection) == [200, 200]
    wait_until(lambda: connections(server) == 0, "the connection to end")
    assert server.metric("liere_requests_total", **LEFT) == 0


def test_refusal_before_the_end_of_a_body_is_told(start: Start) -> None:
    """The answer was there before the client stopped sending, in the middle of its body."""
    server, _ = start()
    for _ in range(20):
        with RawConnection(server.port) as connection:
            connection.send_head("Content-Length: 9999", "Content-Encoding: gzip")
            stop_sending(connection)
            assert statuses(connection) == [415]


def test_python_reads_its_answer_behind_the_interim_one(start: Start) -> None:
    """Clients pass over the interim answer, as HTTP/1.1 wants."""
    server, session = start()
    session.gate.clear()
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(client), ThreadPoolExecutor(1) as threads:
        client.request("POST", "/v1/classify/image", GOOD)
        wait_until(lambda: session.batches, "the batch to run")
        client.sock.shutdown(socket.SHUT_WR)
        answer = threads.submit(client.getresponse)
        session.gate.set()
        response = answer.result()
        assert response.status == 200
        assert json.loads(response.read())["results"]


# --- heads that do not come ------------------------------------------------------------------


def test_half_sent_heads_end_as_408_and_harm_nobody(start: Start) -> None:
    """Many at once are each told so and closed; meanwhile others are answered."""
    server, _ = start(head_seconds=0.4)
    with ExitStack() as stack:
        slow = [stack.enter_context(RawConnection(server.port)) for _ in range(20)]
        for connection in slow:
            connection.send("POST /v1/classify/image HTTP/1.1\r\nHost: x\r\nContent-Le")
        assert server.classify(content=GOOD).status_code == 200
        for connection in slow:
            ((status, headers, body),) = connection.answers()
            assert (status, headers["content-type"]) == (408, "application/problem+json")
            assert headers["connection"] == "close"
            problem = json.loads(body)
            assert problem["type"] == "/problems/head-timeout"
            assert problem["detail"].endswith("within 0.4 seconds")
        wait_until(lambda: connections(server) == 0, "the connections to end")


def trickle(connection: RawConnection, piece: bytes) -> int:
    """A piece now and then until the connection is closed; how many went out."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for sent in range(600):  # noqa: B007 (its last value is the answer)
            connection.send(piece)
            time.sleep(0.02)
    assert sent < 599, "the connection was not closed"
    return sent


@pytest.mark.parametrize(
    ("start_with", "piece"),
    [
        (b"GET /health/live HTTP/1.1\r\nX-Slow: ", b"x"),
        (b"GET /", b"x"),
        (b"", b"\r\n"),
        (LIVE.encode() + b"GET / HTTP/1.1\r\nX-Slow: ", b"x"),
        (LIVE.encode(), b"\r\n"),
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b"x"),
    ],
    ids=["header", "path", "line breaks", "second", "line breaks behind", "body of nobody"],
)
def test_bytes_that_trickle_buy_no_time(start: Start, start_with: bytes, piece: bytes) -> None:
    """Whatever it is that never becomes a request, it ends; also on a connection that was used."""
    server, _ = start(head_seconds=0.2)
    with RawConnection(server.port) as connection:
        connection.send(start_with)
        trickle(connection, piece)
    wait_until(lambda: connections(server) == 0, "the connection to end")


def test_connection_that_says_nothing_ends_without_a_word(start: Start) -> None:
    """A browser that connects ahead of time is not told about a request that it never made."""
    server, _ = start(head_seconds=0.1)
    with RawConnection(server.port) as connection:
        assert connection.answers() == []


def test_time_of_a_head_begins_with_its_first_byte(start: Start) -> None:
    """A pause between two requests, and a slow body, may be longer than a head."""
    server, _ = start(head_seconds=0.2)
    with RawConnection(server.port) as connection:
        connection.send(LIVE)
        assert connection.answer()[0] == 200
        time.sleep(0.4)
        connection.send(LIVE)
        assert connection.answer()[0] == 200
        ask(connection, body=GOOD[:9])
        time.sleep(0.4)
        connection.send(GOOD[9:])
        assert connection.answer()[0] == 200


def test_answer_that_is_due_comes_before_the_end_of_a_slow_head(start: Start) -> None:
    """Half a head behind a request costs the connection and not the answer."""
    server, session = start(head_seconds=0.1)
    session.gate.clear()
    with RawConnection(server.port) as connection:
        ask(connection)
        connection.send("GET /health")
        wait_until(lambda: session.batches, "the batch to run")
        time.sleep(0.3)
        session.gate.set()
        ((status, headers, _),) = connection.answers()
        assert (status, headers["connection"]) == (200, "close")
