"""Signals to a server that runs: other keys on SIGHUP; on SIGTERM it tells, serves on, and ends."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from benchmarks.serving.running import AS_PROCESS_1, may_unshare
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    RawConnection,
    TinySession,
    children,
    is_alive,
    picture,
    running,
    serving,
    wait_until,
    write_tiny_bundle,
)

pytestmark = alone

GOOD = picture(1)


@pytest.fixture(params=["child", "process 1"])
def under(request: pytest.FixtureRequest) -> Sequence[str]:
    """How the server is run: a process 1 gets no signal but those that it handles."""
    if request.param == "child":
        return ()
    if not may_unshare():
        pytest.skip("no process may be 1 of its own here: unshare --pid is not permitted")
    return AS_PROCESS_1


def server_in(process: subprocess.Popen[str], under: Sequence[str]) -> int:
    """The server's process, as this test sees it."""
    return children(process.pid)[0] if under else process.pid


def readiness(port: int) -> tuple[int, str]:
    answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5)
    return answer.status_code, answer.json().get("type", "")


def half_send(connection: RawConnection, *headers: str) -> None:
    connection.send_head(f"Content-Length: {len(GOOD)}", *headers)
    connection.send(GOOD[:20])


def test_server_that_shall_end_tells_it_and_serves_on(bundles: Path) -> None:
    """Not ready at once; until the delay is over old and new connections get their answer, as their
    last one. A second signal ends the delay, and what is inside then is answered all the same.
    """
    with running(bundles, "--drain-delay", "600") as (process, port, _):
        workers = children(process.pid)
        assert workers
        with ExitStack() as stack:
            inside, idle, late, last = (stack.enter_context(RawConnection(port)) for _ in range(4))
            half_send(inside)
            idle.send("GET /v1/bundles HTTP/1.1\r\nHost: test\r\n\r\n")
            assert "connection" not in idle.answer()[1]
            process.terminate()
            wait_until(lambda: readiness(port) == (503, "/problems/draining"), "the news", 1)
            half_send(idle)
            half_send(late)
            half_send(last)
            time.sleep(0.2)
            for connection in (inside, idle, late):
                connection.send(GOOD[20:])
                status, headers, _ = connection.answer()
                assert (status, headers["connection"]) == (200, "close")
                assert connection.closed()
            with RawConnection(port) as new:
                half_send(new)
                new.send(GOOD[20:])
                assert new.answer()[0] == 200
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            last.send(GOOD[20:])
            assert last.answer()[0] == 200
        assert process.wait(10) == 0
        wait_until(lambda: not any(map(is_alive, workers)), "the workers to end")


def test_request_that_was_sent_is_never_lost(bundles: Path, under: Sequence[str]) -> None:
    """Under load, while clients come all the time: whoever was let in by the kernel is answered."""
    statuses: list[int] = []

    def ask(port: int) -> None:
        while True:
            try:
                connection = RawConnection(port)
            except OSError:
                return  # nobody listens
            with connection:
                connection.send_head(f"Content-Length: {len(GOOD)}")
                connection.send(GOOD)
                statuses.append(connection.answer()[0])

    with running(bundles, under=under) as (process, port, _), ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(ask, port) for _ in range(8)]
        wait_until(lambda: len(statuses) > 50, "some load")
        server = server_in(process, under)
        left = [server, *children(server)]
        os.kill(server, signal.SIGTERM)
        for one in asking:
            one.result()
        assert process.wait(10) == 0
        wait_until(lambda: not any(map(is_alive, left)), "all processes to end")
    assert set(statuses) == {200}


LATE = """
import sys, time
import service.http.server as server
from service.cli import serve

async def late(listener, hear_out=server.hear_out):
    await hear_out(listener)
    print("late", flush=True)
    time.sleep(0.5)

server.hear_out = late
sys.exit(serve.main(sys.argv[1:]))
"""


def test_request_that_a_late_loop_has_not_read_is_not_lost(bundles: Path) -> None:
    """Sent on a kept connection just before the listener closes, while the loop stands still."""
    words = [sys.executable, "-c", LATE, "--bundles", str(bundles), "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split()[0])
            process.stdout.readline()
            with RawConnection(port) as kept:
                kept.send("GET /v1/bundles HTTP/1.1\r\nHost: test\r\n\r\n")
                assert kept.answer()[0] == 200
                process.terminate()
                assert process.stdout.readline() == "late\n"
                kept.send_head(f"Content-Length: {len(GOOD)}")
                kept.send(GOOD)
                status, headers, _ = kept.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_last_of_several_requests_in_a_row_says_close(bundles: Path) -> None:
    """On one connection, sent without waiting for answers: every one is answered."""
    with serving(bundles, lambda *_: TinySession()) as server:
        server.engine.leaving = True
        with RawConnection(server.port) as connection:
            one = b"GET /v1/bundles HTTP/1.1\r\nHost: test\r\n\r\n"
            connection.send(one * 4)
            answers = connection.answers()
        assert [status for status, _, _ in answers] == [200] * 4
        assert ["connection" in headers for _, headers, _ in answers] == [False] * 3 + [True]


def test_ready_of_all_waits_for_every_bundle(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one refused it is not ready, says which, and answers all the same; a stray folder is no
    bundle.
    """
    for name in ("good", "spoilt"):
        write_tiny_bundle(tmp_path, name)
    (tmp_path / "stray").mkdir()
    with (tmp_path / "spoilt/graphs/weights.bin").open("ab") as weights:
        weights.write(b"x")
    monkeypatch.setenv("LIERE_READY", "all")
    with serving(tmp_path) as server:
        answer = server.get("/health/ready")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
        told = "these bundles are not ready: spoilt; GET /v1/bundles says why"
        assert answer.json()["detail"] == told
        assert server.classify(content=GOOD).status_code == 200
    with serving(bundles) as server:
        assert server.get("/health/ready").json() == {"status": "ready"}


def test_hangup_brings_other_keys(bundles: Path, tmp_path: Path, under: Sequence[str]) -> None:
    """A bad file leaves the old keys and is one line of the log, in the words of a start; a good
    one takes over for new requests, and those inside finish. So does the server, after its delay.
    """
    keys, log = tmp_path / "keys", tmp_path / "log"
    old, new = (secrets.token_urlsafe(32) for _ in range(2))
    keys.write_text(sha256(old.encode()).hexdigest())
    options = ("--keys-file", str(keys), "--drain-delay", "0.5")
    with (
        log.open("w") as stderr,
        running(bundles, *options, stderr=stderr, under=under) as (process, port, _),
    ):
        server = server_in(process, under)

        def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.get(f"http://127.0.0.1:{port}/v1/bundles", headers=headers).status_code

        assert (status(old), status(new)) == (200, 401)
        keys.write_text(f"# new\n{new}\n")
        os.kill(server, signal.SIGHUP)
        wait_until(lambda: "the keys stay" in log.read_text(), "the refusal")
        assert (status(old), status(new)) == (200, 401)
        with RawConnection(port) as inside:
            half_send(inside, f"Authorization: Bearer {old}")
            keys.write_text(f"{sha256(new.encode()).hexdigest()} phone scopes=classify")
            os.kill(server, signal.SIGHUP)
            wait_until(lambda: status(new) == 200, "the new key")
            assert status(old) == 401
            inside.send(GOOD[20:])
            code, _, body = inside.answer()
            assert (code, json.loads(body)["results"][0]["bundle"]) == (200, "tiny")
        os.kill(server, signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: readiness(port)[0] == 503, "the server to tell that it ends", 1)
        assert process.wait(10) == 0
        assert time.monotonic() - began >= 0.5
        wait_until(lambda: not is_alive(server), "the server to end")
    (line,) = [line for line in log.read_text().splitlines() if " ERROR " in line]
    told = f"keys_file {keys}: line 2: expected a SHA-256 as 64 characters of 0-9 and a-f"
    assert line.endswith(f"{told}; the keys stay as they were")
    assert "the keys were read again; there are 1" in log.read_text()
