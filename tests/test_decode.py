"""Decoding in worker processes: right pixels, and whatever happens to a worker, the pool heals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.inputs import prepare
from models.spec import Grid, InputSpec
from service import decode
from service.decode import DecodePool
from service.decode_link import DecodeError
from service.errors import (
    BrokenMedia,
    DecodeTimeout,
    MediaTooLarge,
    Problem,
    UnsupportedMedia,
)
from service.frames import LENGTHS, task_header
from tests.service_fixtures import ROOT, huge_png, picture

GRID, PATCH, SHAPE = Grid((2, 3)), (4, 4), (8, 12, 3)
HEADER = task_header(InputSpec(), GRID, PATCH, 10.0)

#: A stand-in for the worker: it obeys the first byte of an item.
OBEDIENT = """
import os, sys, time, signal
from service.frames import LENGTHS, pack
source, sink = open(0, "rb"), open(1, "wb")
def send(header, body=b""):
    sink.write(pack(header, body)); sink.flush()
send(b'{"status": "hello"}')
while lengths := source.read(LENGTHS.size):
    header, body = LENGTHS.unpack(lengths)
    source.read(header); order = source.read(body)[:1]
    if order == b"s": time.sleep(60)
    if order == b"d": os.kill(os.getpid(), signal.SIGSEGV)
    if order == b"w": time.sleep(0.3)
    if order == b"l": sink.write(LENGTHS.pack(20, 2**31)); sink.flush(); continue
    if order == b"j": send(b"\\xff not JSON"); continue
    if order == b"n": send(b'["list"]'); continue
    if order == b"x": send(b'{"status": "System"}'); continue
    if order == b"0": send(b'{"status": "ok"}'); continue
    send(b'{"status": "ok"}', bytes([order[0]]) * 288)
"""


def run(
    story: Callable[[DecodePool], Coroutine[Any, Any, None]],
    workers: int = 1,
    seconds: float = 5.0,
    script: str | None = None,
    on_restart: Callable[[], None] = lambda: None,
) -> None:
    """Play a story with a pool, of real workers or of a script."""
    command = {} if script is None else {"command": (sys.executable, "-c", script)}

    async def play() -> None:
        pool = DecodePool(workers, seconds, on_restart, **command)
        await pool.start()
        try:
            await asyncio.wait_for(story(pool), 30)
        finally:
            await pool.close()

    asyncio.run(play())


def ask(pool: DecodePool, media: bytes) -> Coroutine[Any, Any, np.ndarray]:
    return pool.prepare(HEADER, media, SHAPE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_pool_gives_the_pixels_that_training_gets(kind: str) -> None:
    """A worker's pixels equal those of ``models.inputs`` called here."""
    media = picture(1, kind=kind)

    async def story(pool: DecodePool) -> None:
        pixels = await ask(pool, media)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, prepare(media, InputSpec(), GRID, PATCH))

    run(story)


def test_pool_keeps_answers_with_their_questions() -> None:
    """Many items over two workers, small and large, each get their own pixels."""
    media = [picture(seed, (31, 23) if seed % 3 else (300, 200)) for seed in range(40)]
    expected = [prepare(one, InputSpec(), GRID, PATCH) for one in media]

    async def story(pool: DecodePool) -> None:
        answers = await asyncio.gather(*(ask(pool, one) for one in media))
        assert all(np.array_equal(a, b) for a, b in zip(answers, expected, strict=True))

    run(story, workers=2)


@pytest.mark.parametrize(
    ("media", "problem"),
    [
        (b"hello, I am a JPEG", UnsupportedMedia),
        (b"", UnsupportedMedia),
        (b"%PDF-1.7" + bytes(50), UnsupportedMedia),
        (b"GIF89a" + bytes(50), BrokenMedia),
        (b"II*\0\x08\0\0\0" + bytes(50), BrokenMedia),
        (picture(1, kind="JPEG")[:400], BrokenMedia),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), BrokenMedia),
        (huge_png(21_000, 21_000), MediaTooLarge),
        (huge_png(50_001, 2), MediaTooLarge),
    ],
    ids=["text", "nothing", "pdf", "gif", "tiff", "truncated", "corrupt", "bomb", "too-wide"],
)
def test_pool_names_what_is_wrong_with_the_bytes(media: bytes, problem: type[Problem]) -> None:
    """Bad bytes end as their problem, quickly, and the same worker answers the next item."""
    restarts: list[int] = []

    async def story(pool: DecodePool) -> None:
        started = time.monotonic()
        with pytest.raises(problem) as caught:
            await ask(pool, media)
        assert time.monotonic() - started < 2
        assert caught.value.status in (415, 422)
        await ask(pool, picture())

    run(story, on_restart=lambda: restarts.append(1))
    assert not restarts


def test_pool_kills_a_worker_that_takes_too_long() -> None:
    """After the wall limit the item ends as DecodeTimeout, and a new worker answers the next."""
    restarts: list[int] = []

    async def story(pool: DecodePool) -> None:
        (before,) = pool.process_ids
        started = time.monotonic()
        with pytest.raises(DecodeTimeout):
            await ask(pool, b"sleep")
        assert 0.3 <= time.monotonic() - started < 1.3
        assert (await ask(pool, b"a"))[0, 0, 0] == ord("a")
        assert pool.process_ids != [before]

    run(story, seconds=0.3, script=OBEDIENT, on_restart=lambda: restarts.append(1))
    assert len(restarts) == 1


def test_pool_does_not_blame_the_item_behind_a_slow_one() -> None:
    """A second item held by a killed worker is decoded by its successor."""

    async def story(pool: DecodePool) -> None:
        slow, next_one = asyncio.gather(ask(pool, b"s"), return_exceptions=True), ask(pool, b"b")
        assert (await next_one)[0, 0, 0] == ord("b")
        assert isinstance((await slow)[0], DecodeTimeout)

    run(story, seconds=0.3, script=OBEDIENT)


def test_pool_blames_the_slow_item_though_its_reply_is_on_the_way() -> None:
    """The item whose time was up ends as DecodeTimeout, not the one that began after it."""

    async def story(pool: DecodePool) -> None:
        slow, behind = (asyncio.create_task(ask(pool, media)) for media in (b"w1", b"w2"))
        await asyncio.sleep(0.1)
        time.sleep(0.4)  # the first reply comes, and nobody reads it yet
        (worker,) = pool.alive
        worker._time_out()
        with pytest.raises(DecodeTimeout):
            await slow
        assert (await behind)[0, 0, 0] == ord("w")

    run(story, script=OBEDIENT)


def test_pool_blames_bytes_that_kill_two_workers() -> None:
    """Bytes that crash their decoder are tried twice, then 422; the pool serves on."""
    restarts: list[int] = []

    async def story(pool: DecodePool) -> None:
        with pytest.raises(BrokenMedia):
            await ask(pool, b"die")
        await ask(pool, b"a")

    run(story, script=OBEDIENT, on_restart=lambda: restarts.append(1))
    assert len(restarts) == 2


def test_pool_loses_nothing_when_a_worker_is_killed_from_outside() -> None:
    """SIGKILL to a busy worker costs its request time, not its answer."""

    async def story(pool: DecodePool) -> None:
        for _ in range(3):
            asked = asyncio.create_task(ask(pool, b"w"))
            await asyncio.sleep(0.1)
            os.kill(pool.process_ids[0], signal.SIGKILL)
            assert (await asked)[0, 0, 0] == ord("w")

    run(story, script=OBEDIENT)


@pytest.mark.parametrize("order", ["l", "j", "n", "x", "0"])
def test_pool_believes_no_reply_that_is_not_its_own(order: str) -> None:
    """A reply of another length, or that is not our JSON, fails its item and no other."""

    async def story(pool: DecodePool) -> None:
        with pytest.raises(BrokenMedia):
            await ask(pool, order.encode())
        assert (await ask(pool, b"a"))[0, 0, 0] == ord("a")

    run(story, script=OBEDIENT)


def test_pool_forgets_an_item_whose_client_left() -> None:
    """A cancelled item that still waits lets go of its bytes and never reaches a worker."""
    restarts: list[int] = []

    async def story(pool: DecodePool) -> None:
        first = [asyncio.create_task(ask(pool, b"w")) for _ in range(2)]  # one worker holds two
        await asyncio.sleep(0.05)
        gone = asyncio.create_task(ask(pool, b"s"))
        await asyncio.sleep(0.05)
        assert pool.depth == 1
        gone.cancel()
        await asyncio.sleep(0)
        assert pool.depth == 0
        last = await ask(pool, b"z")
        assert last[0, 0, 0] == ord("z")
        await asyncio.gather(*first)

    run(story, seconds=2.0, script=OBEDIENT, on_restart=lambda: restarts.append(1))
    assert not restarts


def test_pool_refuses_to_start_without_workers_that_start() -> None:
    """A worker that ends before it says hello is an error at start, not a hang."""

    async def play() -> None:
        pool = DecodePool(1, 1.0, command=(sys.executable, "-c", "raise SystemExit(3)"))
        try:
            with pytest.raises(DecodeError):
                await pool.start()
        finally:
            await pool.close()

    asyncio.run(play())


def test_pool_replaces_a_worker_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When new workers cannot start, the pool tries again slowly and never multiplies them."""
    monkeypatch.setattr(decode, "RESPAWN_SECONDS", 0.15)
    starts = tmp_path / "starts"
    script = f"open({str(starts)!r}, 'a').write('x')\n" + (
        f"import sys; len(open({str(starts)!r}).read()) in (2, 3, 4) and sys.exit(1)\n" + OBEDIENT
    )

    async def story(pool: DecodePool) -> None:
        os.kill(pool.process_ids[0], signal.SIGKILL)
        assert (await ask(pool, b"a"))[0, 0, 0] == ord("a")
        await asyncio.sleep(0.3)
        assert len(pool.process_ids) == 1

    run(story, script=script)
    assert len(starts.read_text()) == 5


# --- the worker itself -----------------------------------------------------------------------


def start_worker() -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "service.decode_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    read_reply(worker)  # hello
    return worker


def read_reply(worker: subprocess.Popen[bytes]) -> tuple[dict[str, Any], bytes]:
    assert worker.stdout is not None
    header, body = LENGTHS.unpack(worker.stdout.read(LENGTHS.size))
    return json.loads(worker.stdout.read(header)), worker.stdout.read(body)


def test_worker_ends_when_the_service_is_gone() -> None:
    """Closing its stdin ends it, so that no orphan stays behind."""
    worker = start_worker()
    with worker:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(5) == 0


def test_worker_is_limited_and_deaf_to_the_services_signals() -> None:
    """The kernel holds its memory, files and cores; SIGINT and SIGTERM are not for it."""
    worker = start_worker()
    with worker:
        limits = Path(f"/proc/{worker.pid}/limits").read_text()
        for line in (
            f"Max address space         {1536 * 2**20}",
            "Max open files            64",
            "Max file size             0",
            "Max core file size        0",
        ):
            assert line in limits
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
        assert worker.stdin is not None
        media = picture()
        worker.stdin.write(LENGTHS.pack(len(HEADER), len(media)) + HEADER + media)
        worker.stdin.flush()
        status, body = read_reply(worker)
        assert status == {"status": "ok"}
        assert len(body) == 288
        worker.stdin.close()


def test_worker_ends_itself_when_nobody_kills_it() -> None:
    """Its own alarm ends a decode that outlives the service."""
    code = (
        "import service.decode_worker as w, time\n"
        "w.prepare = lambda *a: time.sleep(60)\n"
        "w._warm_up = lambda: None\n"
        "w.main()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with worker:
        assert worker.stdin is not None
        header = task_header(InputSpec(), GRID, PATCH, 0.2)
        worker.stdin.write(LENGTHS.pack(len(header), 1) + header + b"x")
        worker.stdin.close()
        assert worker.wait(5) == -signal.SIGALRM


def test_worker_imports_neither_server_nor_engine() -> None:
    """The process that touches untrusted bytes knows nothing of HTTP or of the model."""
    code = (
        "import sys, service.decode_worker\n"
        "print([m for m in ('fastapi', 'onnxruntime', 'uvicorn', 'pydantic', 'torch')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_service_imports_no_decoder_and_no_pickle_of_the_worker() -> None:
    """The server's own process never loads Pillow, so it cannot decode by accident."""
    code = "import sys, service.app\nprint('PIL' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False False"
