"""Large pixels in memory that workers are lent: exact, for good, and gone when nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import large_results
from media import read
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from service.engine.decode import memory, pool
from service.engine.decode.memory import Loan, StillWritable
from service.engine.decode.pool import MOST_AHEAD_BYTES, DecodePool
from service.engine.decode.wire import Preparation
from service.engine.device import runs
from service.engine.failures import BrokenMedia
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import (
    MEDIA,
    TinySession,
    picture,
    poison,
    serving,
    wait_until,
    write_tiny_bundle,
)

SECONDS = 20.0
#: No two sides are equal.
LARGE: dict[str, tuple[InputSpec, Grid, tuple[int, ...], int]] = {
    "image": (InputSpec(), Grid((9, 11)), (32, 32), 1),
    "video": (InputSpec("video", video=VideoSpec(views=2)), Grid((2, 5, 7)), (2, 16, 16), 2),
    "volume": (
        InputSpec("volume", 1, "float32", "stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()),
        Grid((3, 4, 5)),
        (16, 16, 16),
        1,
    ),
}


def asked(modality: str = "image") -> Preparation:
    spec, grid, patch, views = LARGE[modality]
    return Preparation.make(spec, [grid], patch, views, SECONDS)


#: A stand-in for the worker: it obeys the first byte of an item, and tells by its replies.
OBEDIENT = """
import fcntl, mmap, os, sys, time
from service.engine.decode.memory import receive
from service.engine.decode.wire import LENGTHS, head, parse_task
source, sink, channel = open(0, "rb"), open(1, "wb"), int(sys.argv[2])
SIZE = 288 * 352 * 3
def send(header):
    sink.write(head(header, 0)); sink.flush()
def tell(*tries):
    message = " ".join(tries).encode()
    send(b'{"status": "BrokenMedia", "message": "%s"}' % message)
def ok():
    send(b'{"status": "ok", "grid": "9x11", "seen": {}}')
def seal(memory):
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
def refused(call, *arguments):
    try: call(*arguments)
    except OSError as error: return "EPERM" if error.errno == 1 else str(error)
    return "done"
send(b'{"status": "hello"}')
while lengths := source.read(LENGTHS.size):
    header, body = LENGTHS.unpack(lengths)
    lends = parse_task(source.read(header))[-1]
    order, memory = source.read(body)[:1], receive(channel) if lends else None
    if order == b"w": time.sleep(0.3)
    if order == b"s": time.sleep(60)
    if order == b"d": os._exit(1)
    if order == b"t":
        tell(refused(os.ftruncate, memory, 1), refused(os.ftruncate, memory, 2**28))
        os.close(memory)
        continue
    if order == b"u": ok(); continue
    if order == b"n" and lends: sys.exit("nothing should be lent")
    if order == b"n": ok(); continue
    mapped = mmap.mmap(memory, SIZE)
    mapped[:] = order * SIZE
    if order == b"m": ok(); continue
    mapped.close()
    seal(memory)
    if order == b"f":
        tell(refused(os.pwrite, memory, b"x", 0), refused(mmap.mmap, memory, SIZE))
        os.close(memory)
        continue
    os.close(memory)
    ok()
"""


def run(
    story: Callable[[DecodePool], Coroutine[Any, Any, None]],
    script: str | None = None,
    on_restart: Callable[[], None] = lambda: None,
) -> None:
    """Play a story with a pool of one worker, a real one or a script; all memory is back then."""
    command = {} if script is None else {"command": (sys.executable, "-c", script)}

    async def play() -> None:
        pool = DecodePool(1, on_restart, **command)
        await pool.start(("image",))
        try:
            await asyncio.wait_for(story(pool), 30)
            await until(lambda: not lent(os.getpid(), *pool.process_ids))
        finally:
            await pool.close()

    asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.005)


def lent(*process_ids: int) -> list[str]:
    """What these processes hold of memory that was lent: open files, and what is mapped."""
    found = []
    for process_id in process_ids:
        proc = Path(f"/proc/{process_id}")
        found += [str(one) for one in (proc / "fd").iterdir() if "memfd:pixels" in target(one)]
        maps = (proc / "maps").read_text().splitlines()
        found += [line for line in maps if "memfd:pixels" in line]
    return found


def target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def test_large_pixels_arrive_as_training_reads_them() -> None:
    """Every value of shapes with no two equal sides, read-only, from memory that was lent."""

    async def story(pool: DecodePool) -> None:
        for modality, (spec, grid, patch, views) in LARGE.items():
            media = MEDIA[modality](4)
            expected = read(media, spec, grid, patch, views)
            decoded = await pool.prepare(asked(modality), media)
            assert decoded.pixels.dtype == spec.dtype
            assert decoded.evidence == expected.evidence
            # A sum of float32 may end in another bit: the product of matrices looks at addresses.
            close = 1e-6 if spec.dtype == "float32" else 0
            np.testing.assert_allclose(decoded.pixels, expected.pixels, rtol=close)
            assert any(" r--p " in line for line in lent(os.getpid()))
            assert not lent(*pool.process_ids)
            with pytest.raises(ValueError, match="WRITEABLE"):
                decoded.pixels.flags.writeable = True
            del decoded

    run(story)


def test_memory_stays_until_the_last_row_was_read() -> None:
    """A view keeps what it looks at, however the others went."""

    async def story(pool: DecodePool) -> None:
        decoded = await pool.prepare(asked(), picture())
        copied, row = decoded.pixels[0, 5:].copy(), decoded.pixels[0, 5:]
        del decoded
        await asyncio.sleep(0.05)
        assert lent(os.getpid())
        assert np.array_equal(row, copied)

    run(story)


def test_memory_comes_back_whatever_becomes_of_an_item() -> None:
    """Answered, refused, left while it is decoded and while it waits, or with its worker gone."""

    async def story(pool: DecodePool) -> None:
        async def take(media: bytes, *expected: type[BaseException]) -> None:
            if not expected:
                assert (await pool.prepare(asked(), media)).pixels[0, 5, 7, 1] == media[0]
                return
            with pytest.raises(expected):
                await pool.prepare(asked(), media)

        await take(b"a")
        await take(b"t", BrokenMedia)
        leaving = [asyncio.create_task(pool.prepare(asked(), b"w")) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert len(lent(os.getpid())) == 2  # a worker holds two small files
        for one in leaving:
            one.cancel()
        await take(b"b")
        await take(b"d", BrokenMedia)
        assert len(restarts) == 2

    restarts: list[None] = []
    run(story, OBEDIENT, lambda: restarts.append(None))


@alone
def test_item_of_a_killed_worker_gets_new_memory() -> None:
    """What the dead one was lent is gone with it; its successor is lent other memory."""

    async def story(pool: DecodePool) -> None:
        asking = asyncio.create_task(pool.prepare(asked(), b"w"))
        await asyncio.sleep(0.1)
        os.kill(pool.process_ids[0], 9)
        assert ((await asking).pixels == ord("w")).all()

    run(story, OBEDIENT)


def test_worker_changes_no_size_and_nothing_that_it_has_handed_over() -> None:
    """The kernel refuses to shrink and to grow memory, and to write where that was sealed."""

    async def story(pool: DecodePool) -> None:
        with pytest.raises(BrokenMedia, match="^EPERM EPERM$"):
            await pool.prepare(asked(), b"t")
        with pytest.raises(BrokenMedia, match="^EPERM EPERM$"):
            await pool.prepare(asked(), b"f")

    run(story, OBEDIENT)


@pytest.mark.parametrize("order", [b"u", b"m"], ids=["never written", "still mapped"])
def test_worker_that_could_still_write_is_killed(order: bytes) -> None:
    """Its item fails, no byte of it is read, and a new worker answers the next."""
    restarts: list[None] = []

    async def story(pool: DecodePool) -> None:
        with pytest.raises(BrokenMedia, match="breaks its decoder"):
            await pool.prepare(asked(), order)
        assert ((await pool.prepare(asked(), b"a")).pixels == ord("a")).all()
        assert len(restarts) == 1

    run(story, OBEDIENT, lambda: restarts.append(None))


def test_worker_that_was_lent_nothing_cannot_say_that_it_wrote() -> None:
    """Pixels that are neither in the pipe nor in memory are no answer."""

    async def story(pool: DecodePool) -> None:
        small = dataclasses.replace(asked(), lending_header=b"")
        with pytest.raises(BrokenMedia, match="cannot be decoded"):
            await pool.prepare(small, b"n")

    run(story, OBEDIENT)


def test_pixels_come_through_the_pipe_where_nothing_can_be_lent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without memfds, and where the kernel gives none just now, which the log says."""
    spec, grid, patch, _ = LARGE["image"]
    expected = read(picture(), spec, grid, patch, 1).pixels

    async def story(pool: DecodePool) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(memory, "IS_THERE", False)
            without = asked()
        assert not without.lending_header
        assert np.array_equal((await pool.prepare(without, picture())).pixels, expected)
        with monkeypatch.context() as patched:
            patched.setattr(os, "memfd_create", no_file)
            assert np.array_equal((await pool.prepare(asked(), picture())).pixels, expected)
        assert "the pipe serves: no file descriptor" in caplog.text
        with monkeypatch.context() as patched:
            patched.setattr(mmap, "mmap", no_file)
            assert np.array_equal((await pool.prepare(asked(), picture())).pixels, expected)
        assert "pixels are copied" in caplog.text

    run(story)


def no_file(*arguments: object, **options: object) -> int:
    raise OSError(24, "no file descriptor")


def test_worker_that_cannot_seal_sends_its_pixels() -> None:
    """What goes wrong with memory costs an item nothing but time."""
    script = (
        "import service.engine.decode.worker as w, sys\n"
        "def fill(memory, pixels): raise OSError('busy')\n"
        "w.fill = fill\n"
        "w.main(*sys.argv[1:])\n"
    )
    spec, grid, patch, _ = LARGE["image"]

    async def story(pool: DecodePool) -> None:
        decoded = await pool.prepare(asked(), picture())
        assert np.array_equal(decoded.pixels, read(picture(), spec, grid, patch, 1).pixels)

    run(story, script)


def test_loan_is_read_once_it_is_sealed() -> None:
    """Both ends in one process: what was filled is what is read, also of a part of the memory."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loan = Loan(1000, ours)
        received = memory.receive(theirs.fileno())
        with pytest.raises(StillWritable):
            loan.read(np.dtype(np.uint8), (3, 5))
        pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)[:, ::2].T  # not contiguous
        memory.fill(received, pixels)
        assert np.array_equal(loan.read(np.dtype(np.uint8), (3, 5)), pixels)
        os.close(received)
        loan.close()


# --- how much of it --------------------------------------------------------------------------


def test_large_items_wait_while_much_is_decoded_and_small_ones_do_not() -> None:
    """Bytes that wait for the device bound what else is decoded; with none one always goes."""

    async def story(pool: DecodePool) -> None:
        waiting = MOST_AHEAD_BYTES + 1
        pool.bytes_ahead = lambda: waiting
        large = asyncio.create_task(pool.prepare(asked(), picture()))
        await asyncio.sleep(0.02)
        assert (pool.depth, large.done()) == (1, False)
        waiting = 0
        pool.begin_next()
        assert pool.depth == 0
        await large
        waiting = MOST_AHEAD_BYTES + 1
        small = Preparation.make(InputSpec(), [Grid((2, 3))], (4, 4), 1, SECONDS)
        await pool.prepare(small, picture())

    run(story)


def test_server_lets_go_of_memory_with_its_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Right answers, broken files and runs that fail: no help of the collector is needed."""
    monkeypatch.setattr(memory, "LEAST_BYTES", 1)
    write_tiny_bundle(tmp_path)
    monkeypatch.setattr(runs.log, "disabled", True)  # pytest would keep tracebacks, and they rows
    session = TinySession()
    with serving(tmp_path, lambda *_: session) as server:
        processes = [os.getpid(), *server.engine.pool.process_ids]
        wait_until(lambda: not lent(*processes), "memory of the goldens")
        with collector_off():
            for media, status in ((picture(), 200), (poison(), 500), (b"GIF89a" + bytes(9), 422)):
                assert server.classify(content=media).status_code == status
                wait_until(lambda: not lent(*processes), "memory to come back")
        assert len(session.batches) > 2


def test_server_decodes_no_more_than_the_device_has_room_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While a row runs and a large one waits the third stays encoded; all are answered."""
    monkeypatch.setattr(memory, "LEAST_BYTES", 1)
    monkeypatch.setattr(pool, "MOST_AHEAD_BYTES", 0)
    write_tiny_bundle(tmp_path)
    session = TinySession()
    with (
        ThreadPoolExecutor(3) as clients,
        serving(tmp_path, lambda *_: session, max_wait=60) as server,
    ):
        engine, before, answers = server.engine, len(session.batches), []

        def is_at(*expected: int) -> bool:
            ran = len(session.batches) - before
            return (ran, engine.devices.depth, engine.pool.depth) == expected

        session.gate.clear()
        try:
            for expected in ((1, 0, 0), (1, 1, 0), (1, 1, 1)):
                answers.append(clients.submit(server.classify, content=picture()))
                wait_until(functools.partial(is_at, *expected), "the next one to arrive")
        finally:
            session.gate.set()
        assert [one.result().status_code for one in answers] == [200] * 3


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


WAYS = "pipe", "memory"


def test_benchmark_measures_both_ways() -> None:
    """A line for each size, with the bytes that were moved."""
    rows = asyncio.run(large_results.measure(1, (320,), (64,), 2**20))
    assert [row["bytes"] for row in rows] == [320 * 320 * 3, 64**3 * 4, 2**20]
    assert [tuple(row["ways"]) for row in rows] == [WAYS, WAYS, ("at once", "in slices")]
    for row in rows:
        for figures in row["ways"].values():
            assert figures["late_ms"] >= 0
            assert 0 < figures["loop_cpu_ms"] < figures["all_cpu_ms"]
