"""A server lives, starts and is ready, each for itself; a dead device ends it, bad input never."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.device.session import Stop
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    RawConnection,
    RunningServer,
    TinySession,
    children,
    clip,
    is_alive,
    picture,
    poison,
    serving,
    wait_until,
    write_tiny_bundle,
)

GOOD = picture(1)
DEAD = "the device does not answer"


class Mortal(TinySession):
    """The tiny network until it is dead; then every run raises."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = False

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        logits = super().run(pixels, stop)
        if self.dead:
            raise RuntimeError("CUDA error 700 at 0xdeadbeef")
        return logits


@contextmanager
def mortal(bundles: Path, **settings: Any) -> Iterator[tuple[RunningServer, Mortal]]:
    """A server whose only session may die."""
    session = Mortal()
    with serving(bundles, lambda *_: session, **settings) as server:
        yield server, session


def problem(response: httpx.Response) -> tuple[int, str]:
    """Status and detail of a problem."""
    return response.status_code, response.json()["detail"]


# --- death -----------------------------------------------------------------------------------


def test_device_that_dies_under_load_is_told_at_every_address(bundles: Path) -> None:
    """Whoever waits is answered; then health says it, and work is refused before its body."""
    with mortal(bundles) as (server, session), ExitStack() as stack:
        session.gate.clear()
        clients = [stack.enter_context(RawConnection(server.port)) for _ in range(12)]
        for client in clients:
            client.send_head(f"Content-Length: {len(GOOD)}")
            client.send(GOOD)
        wait_until(lambda: server.engine.devices.depth >= 8, "the rows to wait")
        session.dead = True
        session.gate.set()
        assert {client.answer()[0] for client in clients} <= {500, 503}
        wait_until(lambda: server.get("/health/ready").status_code == 503, "the death")
        for path in ("ready", "live", "startup"):
            assert problem(server.get(f"/health/{path}")) == (503, DEAD)
        with RawConnection(server.port) as late:
            late.send_head("Content-Length: 1000")  # and no body
            status, _, body = late.answer()
        assert (status, DEAD in body.decode()) == (503, True)
        assert server.get("/metrics").status_code == 200


def test_poisoned_inputs_never_end_the_server(bundles: Path) -> None:
    """Each is 500 for itself, with a good one between them; the server stays alive and ready."""
    with mortal(bundles) as (server, session):
        session.batches.clear()
        for _ in range(8):
            assert server.classify(content=poison()).status_code == 500
            assert server.classify(content=GOOD).status_code == 200
        vitals = server.engine.vitals
        wait_until(lambda: not vitals.in_doubt, "the golden")
        assert len(session.batches) > 16  # at least one was a golden
        for path in ("ready", "live", "startup"):
            assert server.get(f"/health/{path}").status_code == 200


def test_model_that_fails_on_full_batches_serves_on(bundles: Path) -> None:
    """Its rows are answered in halves of the batch, and nobody doubts the device."""

    class NarrowSession(TinySession):
        most = 1000

        def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
            logits = super().run(pixels, stop)
            if len(pixels) > self.most:
                raise RuntimeError("no memory for a batch of this size")
            return logits

    session = NarrowSession()
    with serving(bundles, lambda *_: session) as server, ExitStack() as stack:
        session.batches.clear()
        session.most = 3  # from now on: at start it would be refused
        session.gate.clear()
        clients = [stack.enter_context(RawConnection(server.port)) for _ in range(9)]
        for client in clients:
            client.send_head(f"Content-Length: {len(GOOD)}")
            client.send(GOOD)
        wait_until(lambda: server.engine.devices.depth >= 6, "the rows to wait")
        session.gate.set()
        assert {client.answer()[0] for client in clients} == {200}
        assert max(session.batches) >= 4
        assert not server.engine.vitals.in_doubt
        assert server.get("/health/ready").status_code == 200


#: A command of the service whose graphs are dead, or hang, as soon as a file is there.
MORTAL = """
import functools, os, sys, time
from service.cli import offline, serve
from service.engine.device import station
from service.engine.engine import Engine
from service.http.app import create_app
from tests.helpers.service_fixtures import TinySession

flag, how, command, *arguments = sys.argv[1:]
station.HUNG_SECONDS, station.HUNG_TIMES = 0.5, 1.0

class Mortal(TinySession):
    def run(self, pixels, stop=None):
        if os.path.exists(flag):
            if how == "hangs":
                time.sleep(600)
            raise RuntimeError("CUDA error 700")
        return super().run(pixels, stop)

session = Mortal()
def opener(graph, device, threads):
    return session
serve.create_app = lambda settings: create_app(settings, opener)

class Dying(Engine):
    async def start(self, folders):
        await super().start(folders)
        open(flag, "w").close()
offline.Engine = functools.partial(Dying, opener=opener)
sys.exit({"serve": serve, "classify": offline}[command].main(arguments))
"""


def mortal_command(flag: Path, how: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", MORTAL, str(flag), how, *map(str, arguments)]


def errors(log: str) -> list[str]:
    """Lines that tell of an error, but for those of single rows."""
    return [line for line in log.splitlines() if "ERROR" in line and "on one input" not in line]


@alone
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_process_ends_with_its_device(bundles: Path, tmp_path: Path, how: str) -> None:
    """Exit status 3, one line that says why, no worker left, and it does not start itself again."""
    flag, log = tmp_path / "dead", tmp_path / "log"
    settings = ("--decode-workers", "1", "--lanes", "1", "--port", "0", "--retry-start")
    words = mortal_command(flag, how, "serve", "--bundles", bundles, *settings)
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            words, cwd=ROOT, env=CLEAN, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            port = process.stdout.readline().split("http://127.0.0.1:")[1].split()[0]
            workers = children(process.pid)
            flag.touch()
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/classify/image", content=GOOD)
            assert answer.status_code == (500 if how == "fails" else 503)
            wait_until(lambda: is_dead(port), "the server to be unready")
            assert process.wait(20) == 3
            wait_until(lambda: not any(map(is_alive, workers)), "the workers to end")
        finally:
            process.kill()
    (line,) = errors(log.read_text())
    assert DEAD in line


def is_dead(port: str) -> bool:
    """Whether the server says so; once it has said it there may be none to ask."""
    try:
        return problem(httpx.get(f"http://127.0.0.1:{port}/health/ready")) == (503, DEAD)
    except httpx.TransportError:
        return True
    except KeyError:
        return False


@alone
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_command_line_ends_with_its_device(bundles: Path, tmp_path: Path, how: str) -> None:
    """``classify`` says it and ends with exit status 3, also after the only file was answered."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(GOOD)
    arguments = ("classify", "--bundles", bundles, photo)
    done = subprocess.run(
        mortal_command(tmp_path / "dead", how, *arguments),
        cwd=ROOT,
        env=CLEAN | {"LIERE_DECODE_WORKERS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    (line,) = errors(done.stderr)
    assert DEAD in line


# --- one by one ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of images and one of clips, which comes last."""
    root = tmp_path_factory.mktemp("several")
    for name in ("a", "b"):
        write_tiny_bundle(root, name)
    write_tiny_bundle(root, "c", "video")
    return root


@contextmanager
def held(bundles: Path, name: str, **settings: Any) -> Iterator[tuple[RunningServer, Any]]:
    """A server that examines the bundles up to ``name``, and what lets it go on."""
    gate = threading.Event()

    def opener(graph: Path, device: str, threads: int) -> TinySession:
        if graph.parts[-3] == name:
            assert gate.wait(30)
        return TinySession()

    with serving(bundles, opener, ready=False, **settings) as server:
        try:
            before = "abc".index(name)
            wait_until(lambda: len(server.engine.catalog.bundles) == before, "those before it")
            yield server, gate
        finally:
            gate.set()


def test_bundle_answers_while_others_are_examined(several: Path) -> None:
    """What is certain is answered: a bundle by its name, and as the default that it will stay."""
    with held(several, "b") as (server, gate):
        for params in ({"bundle": "a"}, {"bundle": "a@1"}, {}):
            answer = server.classify(content=GOOD, params=params)
            assert answer.json()["results"][0]["bundle"] == "a"
        for params in ({"bundle": "b"}, {"bundle": "nope"}):
            assert problem(server.classify(content=GOOD, params=params))[0] == 503
        unknown = server.classify("/v1/classify/video", content=clip())
        assert unknown.json()["type"] == "/problems/not-ready"
        for path in ("ready", "startup"):
            assert server.get(f"/health/{path}").json()["type"] == "/problems/not-ready"
        assert server.get("/health/live").status_code == 200
        gate.set()
        wait_until(lambda: server.engine.catalog.examined, "the bundles to be examined")
        assert server.get("/health/startup").json() == {"status": "started"}
        assert server.get("/health/ready").status_code == 200
        assert server.classify(content=GOOD, params={"bundle": "nope"}).status_code == 404
        assert server.classify(content=GOOD).json()["results"][0]["bundle"] == "a"


def test_named_default_is_waited_for(several: Path) -> None:
    """Nobody steps in for the operator's choice because it is ready sooner."""
    with held(several, "b", default_bundle=("b",)) as (server, gate):
        assert server.classify(content=GOOD, params={"bundle": "a"}).status_code == 200
        assert server.classify(content=GOOD).json()["type"] == "/problems/not-ready"
        gate.set()
        wait_until(lambda: server.engine.catalog.examined, "the bundles to be examined")
        assert server.classify(content=GOOD).json()["results"][0]["bundle"] == "b"


def test_named_default_of_another_modality_is_waited_for(several: Path) -> None:
    """Until it was examined nobody knows for which it is; one that is certain does not wait."""
    with held(several, "c", default_bundle=("b", "c")) as (server, _):
        assert server.classify(content=GOOD).json()["results"][0]["bundle"] == "b"
    with held(several, "c", default_bundle=("c",)) as (server, _):
        assert server.classify(content=GOOD).json()["type"] == "/problems/not-ready"


# --- ready -----------------------------------------------------------------------------------


def test_server_is_not_ready_while_its_device_is_unproven(bundles: Path) -> None:
    """One that was idle, and does not answer its golden in time, gets no requests until it does."""
    with mortal(bundles, probe_seconds=0.3) as (server, session):
        wait_until(lambda: server.get("/health/ready").status_code == 200, "the first proof")
        session.gate.clear()
        wait_until(lambda: server.get("/health/ready").status_code == 503, "the proof to age")
        assert "a golden is replayed" in server.get("/health/ready").json()["detail"]
        assert server.get("/health/live").status_code == 200
        session.gate.set()
        wait_until(lambda: server.get("/health/ready").status_code == 200, "another proof")


def test_lag_of_the_loop_is_in_the_metrics(bundles: Path) -> None:
    """As a histogram, from the start."""
    with mortal(bundles) as (server, _):
        wait_until(lambda: server.metric("liere_loop_lag_seconds_count") > 0, "a look")
        assert 'liere_loop_lag_seconds_bucket{le="0.025"}' in server.get("/metrics").text

