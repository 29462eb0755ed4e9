"""Upgrades that are not taken: the request is answered as if nobody had asked for one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service_fixtures import (
    RawConnection,
    RunningServer,
    picture,
    read_answer,
    serving,
    write_tiny_bundle,
)

GOOD = picture(1)
CLOSING = "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LIVE = {"status": "live"}
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAA"
UPGRADES = {
    "h2c": H2C,
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "TLS": "Connection: Upgrade\r\nUpgrade: TLS/1.0",
    "several": "Connection: keep-alive, upgrade\r\nUpgrade: h2c, websocket",
    "several headers": "connection: UPGRADE\r\nupgrade: foo/2\r\nUPGRADE: h2c",
    "Upgrade first": "Upgrade: h2c\r\nConnection: Upgrade",
    "without Connection": "Upgrade: h2c",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    with serving(root) as running:
        yield running


def check_sound(connection: RawConnection) -> None:
    """The next two requests on the connection get their own answers."""
    for path, status in (("/health/live", 200), ("/nothing", 404)):
        connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.answer()[0] == status


def test_upgrade_from_a_report_is_ignored(server: RunningServer, field_dir: Path) -> None:
    """What Java's client and ``curl --http2`` send is answered 200, and the connection goes on."""
    with RawConnection(server.port) as connection:
        connection.send((field_dir / "http_h2c_raw.http").read_bytes())
        status, _, body = connection.answer()
        assert status == 200
        assert len(json.loads(body)["results"][0]["predictions"]) == 1
        check_sound(connection)


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES.keys())
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_of_an_ignored_upgrade_is_read(
    server: RunningServer, upgrade: str, framing: str
) -> None:
    """However the body is framed, in one write and cut behind the head and within it."""
    if framing == "length":
        head, body = f"Content-Length: {len(GOOD)}", GOOD
    else:
        head = "Transfer-Encoding: chunked"
        body = f"{len(GOOD):x}\r\n".encode() + GOOD + b"\r\n0\r\n\r\n"
    start = f"POST /v1/classify/image HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n{head}\r\n\r\n".encode()
    with RawConnection(server.port) as connection:
        for pieces in (
            (start + body,),
            (start, body),
            (start[:99], start[99:] + body[:9], body[9:]),
        ):
            for piece in pieces:
                connection.send(piece)
            status, _, answer = connection.answer()
            assert (status, len(json.loads(answer)["results"])) == (200, 1)
        check_sound(connection)


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES.keys())
def test_requests_behind_an_ignored_upgrade_are_answered(
    server: RunningServer, upgrade: str
) -> None:
    """Sent at once, with and without bodies, each gets its own answer, in order."""
    get = f"GET /health/live HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n"
    post = f"POST /nothing HTTP/1.1\r\nHost: x\r\n{upgrade}\r\nContent-Length: 3\r\n\r\nabc"
    with RawConnection(server.port) as connection:
        connection.send(get, post, get, "GET /v1/bundles HTTP/1.1\r\nHost: x\r\n\r\n")
        stream = connection.socket.makefile("rb")
        answers = [read_answer(stream) for _ in range(4)]
        assert [status for status, _, _ in answers] == [200, 404, 200, 200]
        assert json.loads(answers[0][2]) == json.loads(answers[2][2]) == LIVE


def test_any_number_of_ignored_upgrades_is_answered(server: RunningServer) -> None:
    """However many come at once, each is answered."""
    count = 2000
    with RawConnection(server.port) as connection:
        one = f"HEAD /health/live HTTP/1.1\r\nHost: x\r\n{UPGRADES['TLS']}\r\n\r\n"
        connection.send(one * count, CLOSING)
        answers = connection.socket.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == answers.count(b"HTTP/1.1") == count + 1


def test_noise_in_a_body_costs_no_answer_before_it(server: RunningServer) -> None:
    """A request that breaks off in its body takes no answer from those before it."""
    broken = "POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnoise"
    with RawConnection(server.port) as connection:
        connection.send_head(f"Content-Length: {len(GOOD)}")
        connection.send(GOOD + CLOSING.replace("close", "keep-alive").encode() + broken.encode())
        answers = connection.answers()
    assert [status for status, _, _ in answers] == [200, 200]
    assert answers[-1][1]["connection"] == "close"


def test_upgrade_that_waits_for_100_gets_it(server: RunningServer) -> None:
    """``Expect: 100-continue`` beside an upgrade: the go-ahead, then the answer."""
    with RawConnection(server.port) as connection:
        connection.send_head(
            *H2C.split("\r\n"), f"Content-Length: {len(GOOD)}", "Expect: 100-continue"
        )
        assert connection.answer() == (100, {}, b"")
        connection.send(GOOD)
        assert connection.answer()[0] == 200


def test_connection_of_an_ignored_upgrade_ends_when_asked(server: RunningServer) -> None:
    """``Connection: close`` beside the upgrade counts, and so does HTTP/1.0."""
    for version, connection_header in (("1.1", "close, Upgrade"), ("1.0", "Upgrade")):
        with RawConnection(server.port) as connection:
            connection.send(
                f"GET /health/live HTTP/{version}\r\nHost: x\r\nUpgrade: h2c\r\n"
                f"Connection: {connection_header}\r\n\r\n"
            )
            ((status, headers, _),) = connection.answers()
            assert (status, headers["connection"]) == (200, "close")


@pytest.mark.parametrize(
    "lengths",
    ["Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6",
     "Content-Length: 5\r\nTransfer-Encoding: chunked"],
)  # fmt: skip
def test_lying_lengths_beside_an_upgrade_are_refused(server: RunningServer, lengths: str) -> None:
    """An ignored upgrade is no way around the parser."""
    with RawConnection(server.port) as connection:
        connection.send_head(*H2C.split("\r\n"), lengths)
        connection.send("hello")
        assert connection.answer()[0] == 400
        assert connection.closed()


#: What starts another protocol, or a tunnel.
REFUSED = {
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00" * 9,
    "tunnel": "CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n",
    "tunnel to a path": "CONNECT /v1/bundles HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": "hello\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_request_is_a_problem_and_the_end(
    server: RunningServer, request_bytes: str
) -> None:
    """HTTP/2 without asking, tunnels and noise are 400 with a document, then the end."""
    with RawConnection(server.port) as connection:
        connection.send(request_bytes.encode("latin-1"))
        ((status, headers, body),) = connection.answers()
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    problem = json.loads(body)
    assert (problem["type"], problem["id"]) == ("/problems/bad-request", headers["x-request-id"])
    assert headers["connection"] == "close"


def test_request_before_what_is_none_keeps_its_answer(server: RunningServer) -> None:
    """Noise behind a request costs the connection and not the answer."""
    with RawConnection(server.port) as connection:
        connection.send_head(f"Content-Length: {len(GOOD)}")
        connection.send(GOOD + b"noise\r\n\r\n")
        (status, *_), *rest = connection.answers()
    assert status == 200
    assert [one[0] for one in rest] in ([], [400])
