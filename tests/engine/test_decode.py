"""Decoding in worker processes: right pixels, and whatever happens to a worker, the pool heals."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
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

from media import prepare, read
from media.spec import Grid, InputSpec
from service.engine.decode import link, process, staff
from service.engine.decode import worker as decode_worker
from service.engine.decode.link import DecodeError, Worker
from service.engine.decode.pool import DecodePool
from service.engine.decode.process import ENVIRONMENT
from service.engine.decode.wire import LENGTHS, Preparation, head, parse_task
from service.engine.failures import (
    BrokenMedia,
    DeadlinePassed,
    DecodeTimeout,
    Failure,
    MediaTooLarge,
    UnsupportedMedia,
)
from service.engine.schedule import BATCH
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import MEDIA, ROOT, TINY, clip, huge_png, picture, scan

GRID, PATCH = Grid((2, 3)), (4, 4)
GRIDS = {modality: Grid.parse(tiny.grids[0]) for modality, tiny in TINY.items()}
SECONDS = 5.0


def asked(modality: str = "image", views: int = 1, seconds: float = SECONDS) -> Preparation:
    """What is asked for of every file of a modality: its first tiny grid."""
    tiny = TINY[modality]
    return Preparation.make(tiny.input, [Grid.parse(tiny.grids[0])], tiny.patch, views, seconds)


HEADER = asked().header


@pytest.mark.parametrize("modality", TINY)
def test_worker_is_told_what_it_is_asked_for(modality: str) -> None:
    """Every field of an InputSpec arrives as it left, windows and views of clips and scans too."""
    tiny = TINY[modality]
    spec, (grid,), patch, views, seconds, lends = parse_task(asked(modality, 2).header)
    assert (spec, str(grid), patch, views) == (tiny.input, tiny.grids[0], tiny.patch, 2)
    assert not lends
    assert seconds == 2 * SECONDS  # it ends by itself only where the service is gone


#: A stand-in for the worker: it obeys the first byte of an item.
OBEDIENT = """
import os, sys, time, signal
from service.engine.decode.wire import LENGTHS, head
source, sink = open(0, "rb"), open(1, "wb")
def send(header, body=b""):
    sink.write(head(header, len(body)) + body); sink.flush()
send(b'{"status": "hello"}')
while lengths := source.read(LENGTHS.size):
    header, body = LENGTHS.unpack(lengths)
    source.read(header); order = source.read(body)[:1]
    if order == b"s": time.sleep(60)
    if order == b"d": os.kill(os.getpid(), signal.SIGSEGV)
    if order == b"w": time.sleep(0.3)
    if order == b"W":
        time.sleep(0.3)
        seen = b'{"orientation": "SPL", "spacing_mm": null, "size": [1, 2, 3], '
        seen += b'"box": [[0, 1], [-0.5, 2.5], [0, 3]]}'
        send(b'{"status": "ok", "grid": "2x3", "seen": ' + seen + b'}', bytes(288))
        continue
    if order == b"l": sink.write(LENGTHS.pack(20, 2**31)); sink.flush(); continue
    if order == b"j": send(b"\\xff not JSON"); continue
    if order == b"n": send(b'["list"]'); continue
    if order == b"x": send(b'{"status": "System"}'); continue
    if order == b"0": send(b'{"status": "ok", "grid": "2x3", "seen": {}}'); continue
    if order == b"v":
        send(b'{"status": "ok", "grid": "2x3", "seen": {"path": "/etc"}}', bytes(288))
        continue
    if order == b"q": send(b'{"status": "ok", "grid": "2x3"}', bytes(288)); continue
    if order == b"[": send(b"[" * 4000); continue
    if order == b"u": send(b'{"status": ["BrokenMedia"], "message": ""}'); continue
    send(b'{"status": "ok", "grid": "2x3", "seen": {}}', bytes([order[0]]) * 288)
"""


def run(
    story: Callable[[DecodePool], Coroutine[Any, Any, None]],
    workers: int = 1,
    script: str | None = None,
    on_restart: Callable[[], None] = lambda: None,
    modalities: tuple[str, ...] = ("image",),
    has_batch: bool = False,
) -> None:
    """Play a story with a pool, of real workers or of a script."""
    command = {} if script is None else {"command": (sys.executable, "-c", script)}

    async def play() -> None:
        pool = DecodePool(workers, on_restart, **command, has_batch=has_batch)
        await pool.start(modalities)
        try:
            await asyncio.wait_for(story(pool), 30)
        finally:
            await pool.close()

    asyncio.run(play())


async def ask(pool: DecodePool, media: bytes, seconds: float = SECONDS) -> np.ndarray:
    """The pixels of a picture, [height, width, channels]."""
    decoded = await pool.prepare(asked(seconds=seconds), media)
    return decoded.pixels[0]


def test_worn_workers_are_replaced_and_no_item_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many items each, one after another: there are never fewer, and none is a restart."""
    monkeypatch.setattr(link, "MOST_ITEMS", 6)
    restarts: list[None] = []
    fewest = []

    async def story(pool: DecodePool) -> None:
        first = set(pool.process_ids)
        assert len(first) == 2
        while first & set(pool.process_ids):
            numbers = range(1, 4)
            found = await asyncio.gather(*(ask(pool, bytes([number])) for number in numbers))
            assert [int(pixels[0, 0, 0]) for pixels in found] == [*numbers]
            fewest.append(pool.ready)
        assert pool.ready == 2

    run(story, 2, OBEDIENT, lambda: restarts.append(None))
    assert restarts == []
    assert min(fewest) == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_pool_gives_the_pixels_that_training_gets(kind: str) -> None:
    """A worker's pixels equal those of ``media`` called here."""
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


@pytest.mark.parametrize("modality", TINY)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_pool_reads_every_modality_as_training_does(modality: str, kind: type) -> None:
    """Pixels of every view in the dtype of the InputSpec, and what the reader says it saw."""
    tiny, views = TINY[modality], 3 if modality == "video" else 1
    media = MEDIA[modality](4)
    expected = read(media, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch, views)

    async def story(pool: DecodePool) -> None:
        decoded = await pool.prepare(asked(modality, views), kind(media))
        assert decoded.pixels.dtype == tiny.input.dtype
        # A sum of float32 may end in another bit: the product of matrices looks at addresses.
        close = 1e-6 if tiny.input.dtype == "float32" else 0
        np.testing.assert_allclose(decoded.pixels, expected.pixels, rtol=close)
        assert decoded.evidence == expected.evidence

    run(story, modalities=(modality,))


def test_pool_reads_a_modality_that_it_was_not_warmed_for() -> None:
    """Warmth is speed alone."""

    async def story(pool: DecodePool) -> None:
        assert (await pool.prepare(asked("volume"), scan())).pixels.shape == (1, 4, 6, 12, 1)
        assert (await pool.prepare(asked("video", 2), clip())).pixels.shape == (2, 4, 2, 12, 3)

    run(story)


@pytest.mark.parametrize("modality", TINY)
def test_pool_names_the_types_that_a_modality_reads(modality: str) -> None:
    """A file of another modality is unsupported here, and the worker lives on."""

    async def story(pool: DecodePool) -> None:
        other = MEDIA["image" if modality == "volume" else "volume"]()
        with pytest.raises(UnsupportedMedia, match="^expected .* these are none of them$"):
            await pool.prepare(asked(modality), other)
        await pool.prepare(asked(modality), MEDIA[modality]())

    run(story, modalities=(modality,))


def test_modalities_share_the_workers() -> None:
    """A picture does not wait for every scan that came before it."""
    done: list[str] = []

    async def story(pool: DecodePool) -> None:
        async def one(modality: str, name: str) -> None:
            order = b"W" if modality == "volume" else b"w"
            await pool.prepare(dataclasses.replace(asked(), modality=modality), order)
            done.append(name)

        flood = [asyncio.create_task(one("volume", f"scan{n}")) for n in range(6)]
        await asyncio.sleep(0)  # two of them are decoded, four wait
        late = [asyncio.create_task(one("image", f"picture{n}")) for n in range(2)]
        await asyncio.gather(*flood, *late)

    run(story, workers=2, script=OBEDIENT)
    assert set(done[6:]) <= {"scan2", "scan3", "scan4", "scan5"}


def test_large_item_whose_worker_dies_while_it_is_sent_is_tried_again() -> None:
    """A pipe that breaks half way costs a worker and is no error of its own."""
    script = (
        "import os, sys\n"
        "from service.engine.decode.wire import LENGTHS, head\n"
        "sys.stdout.buffer.write(head(b'{}', 0)); sys.stdout.flush()\n"
        "os.read(0, 1000); os._exit(1)\n"
    )

    async def story(pool: DecodePool) -> None:
        with pytest.raises(BrokenMedia):
            await pool.prepare(asked("volume"), bytes(2**23))
        assert restarts == [1, 1]

    restarts: list[int] = []
    run(story, script=script, on_restart=lambda: restarts.append(1))


def test_large_file_goes_piece_by_piece_and_whole() -> None:
    """Nothing copies all of it at once; what follows one whose client left is what was asked."""
    media = scan(3, (31, 257, 263))  # 4 MB
    expected = read(media, TINY["volume"].input, GRIDS["volume"], TINY["volume"].patch, 1)

    async def story(pool: DecodePool) -> None:
        (worker,) = pool.staff.alive
        for leaves in (True, False):
            asking = asyncio.create_task(pool.prepare(asked("volume"), bytearray(media)))
            await asyncio.sleep(0)
            assert len(worker.tasks) == 1
            assert worker.stdin.get_write_buffer_size() < len(media) / 8
            if leaves:
                asking.cancel()
        np.testing.assert_allclose((await asking).pixels, expected.pixels, rtol=1e-6)
        assert pool.staff.alive == {worker}

    run(story, modalities=("volume",))


class Greedy(asyncio.WriteTransport):
    """Takes whatever is written, at once."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def write(self, data: object) -> None:
        self.taken.append(len(memoryview(data)))  # type: ignore[arg-type]

    def is_closing(self) -> bool:
        return False


def test_worker_that_reads_as_fast_as_is_written_does_not_hold_up_the_loop() -> None:
    """A slice of a large file goes in each turn of the loop; a small one goes with its header."""
    media = bytes(5 * link.SLICE_BYTES)

    async def story(pool: DecodePool) -> None:
        (worker,) = pool.staff.alive
        process, worker.stdin = worker.stdin, Greedy()
        asking = asyncio.create_task(pool.prepare(asked("volume"), media))
        await asyncio.sleep(0)  # it is given to the worker
        for turn in range(1, 7):
            assert sum(worker.stdin.taken) <= turn * link.SLICE_BYTES
            await asyncio.sleep(0)
        assert sum(worker.stdin.taken) > len(media)
        assert max(worker.stdin.taken) <= link.SLICE_BYTES
        asking.cancel()
        worker.stdin = process

    run(story, modalities=("volume",))


@pytest.mark.parametrize(
    ("media", "failure"),
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
def test_pool_names_what_is_wrong_with_the_bytes(media: bytes, failure: type[Failure]) -> None:
    """Bad bytes end as their failure, quickly, and the same worker answers the next item."""
    restarts: list[int] = []

    async def story(pool: DecodePool) -> None:
        started = time.monotonic()
        with pytest.raises(failure) as caught:
            await ask(pool, media)
        assert time.monotonic() - started < 2
        assert type(caught.value) is failure
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
            await ask(pool, b"sleep", 0.3)
        assert 0.3 <= time.monotonic() - started < 1.3
        assert (await ask(pool, b"a"))[0, 0, 0] == ord("a")
        assert pool.process_ids != [before]

    run(story, script=OBEDIENT, on_restart=lambda: restarts.append(1))
    assert len(restarts) == 1


def test_pool_does_not_blame_the_item_behind_a_slow_one() -> None:
    """A second item held by a killed worker is decoded by its successor."""

    async def story(pool: DecodePool) -> None:
        slow = asyncio.gather(ask(pool, b"s", 0.3), return_exceptions=True)
        next_one = ask(pool, b"b")
        assert (await next_one)[0, 0, 0] == ord("b")
        assert isinstance((await slow)[0], DecodeTimeout)

    run(story, script=OBEDIENT)


def test_pool_blames_the_slow_item_though_its_reply_is_on_the_way() -> None:
    """The item whose time was up ends as DecodeTimeout, not the one that began after it."""

    async def story(pool: DecodePool) -> None:
        slow, behind = (asyncio.create_task(ask(pool, media)) for media in (b"w1", b"w2"))
        await asyncio.sleep(0.1)
        time.sleep(0.4)  # the first reply comes, and nobody reads it yet
        (worker,) = pool.staff.alive
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


@alone
def test_pool_loses_nothing_when_a_worker_is_killed_from_outside() -> None:
    """SIGKILL to a busy worker costs its request time, not its answer."""

    async def story(pool: DecodePool) -> None:
        for _ in range(3):
            asked = asyncio.create_task(ask(pool, b"w"))
            await asyncio.sleep(0.1)
            os.kill(pool.process_ids[0], signal.SIGKILL)
            assert (await asked)[0, 0, 0] == ord("w")

    run(story, script=OBEDIENT)


@pytest.mark.parametrize("order", ["l", "j", "n", "x", "0", "v", "q", "[", "u"])
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

    run(story, script=OBEDIENT, on_restart=lambda: restarts.append(1))
    assert not restarts


def test_pool_refuses_to_start_without_workers_that_start() -> None:
    """A worker that ends before it says hello is an error at start, not a hang."""

    async def play() -> None:
        pool = DecodePool(1, command=(sys.executable, "-c", "raise SystemExit(3)"))
        try:
            with pytest.raises(DecodeError):
                await pool.start(["image"])
        finally:
            await pool.close()

    asyncio.run(play())


@alone
def test_pool_replaces_a_worker_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When new workers cannot start, the pool tries again slowly and never multiplies them."""
    monkeypatch.setattr(staff, "RESPAWN_SECONDS", 0.15)
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


def start_worker(*modalities: str, **options: Any) -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "service.engine.decode.worker", "0", "-1", *modalities],
        cwd=ROOT,
        **options,
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
            "Max processes             0                    0 ",
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
        worker.stdin.write(head(HEADER, len(media)) + media)
        worker.stdin.flush()
        status, body = read_reply(worker)
        assert 0 < status.pop("cpu") < SECONDS
        assert status.pop("seen").keys() == {"size", "turn", "box"}
        assert status == {"status": "ok", "grid": "2x3"}
        assert len(body) == 288
        worker.stdin.close()


def status_of(code: str) -> int:
    """How a worker with this code ends that is sent one item, to decode within 0.1 s."""
    item = head(asked(seconds=0.1).header, 1) + b"x"
    worker = [sys.executable, "-c", code]
    done = subprocess.run(
        worker, cwd=ROOT, input=item, stdout=subprocess.PIPE, timeout=50, check=False
    )
    return done.returncode


def test_worker_ends_itself_when_nobody_kills_it() -> None:
    """Its own alarm ends a decode that outlives the service."""
    code = (
        "import service.engine.decode.worker as w, time\n"
        "w.read_fitting = lambda *a: time.sleep(60)\n"
        "w.main('0', '-1')\n"
    )
    assert status_of(code) == -signal.SIGALRM


def test_worker_may_start_no_process() -> None:
    """Where the service is not root, a decoder that was taken over can neither fork nor thread."""
    code = (
        "import os, threading, service.engine.decode.worker as w\n"
        "os.getuid() or os.setuid(65534)\n"
        "w._forbid_processes()\n"
        "for start in (os.fork, threading.Thread(target=print).start):\n"
        "    try: start(); print('started')\n"
        "    except (OSError, RuntimeError) as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["BlockingIOError", "RuntimeError"]


def test_worker_ends_itself_when_threads_burn_the_time_of_an_item() -> None:
    """CPU time counts too, over all threads, and not only the time on the wall."""
    code = (
        "import hashlib, threading, time, service.engine.decode.worker as w\n"
        "data = bytes(2**26)\n"  # hashing it leaves the interpreter to the others
        "def burn(*a):\n"
        "    w.signal.setitimer(w.signal.ITIMER_REAL, 0)\n"
        "    spin = lambda: [hashlib.sha256(data) for _ in range(999)]\n"
        "    for _ in range(3): threading.Thread(target=spin, daemon=True).start()\n"
        "    time.sleep(600)\n"
        "w.read_fitting, w._forbid_processes = burn, lambda: None\n"
        "w.main('0', '-1')\n"
    )
    assert status_of(code) == -signal.SIGXCPU


@pytest.mark.parametrize(
    ("modalities", "loaded"),
    [
        (["image"], []),
        (["video"], ["av"]),
        (["volume"], ["nibabel", "pydicom"]),
        (["image", "video", "volume"], ["av", "nibabel", "pydicom"]),
    ],
)
def test_worker_loads_the_decoders_of_what_is_served(
    modalities: list[str], loaded: list[str]
) -> None:
    """Nobody who serves images alone pays for FFmpeg or readers of scans; all fit the limit."""
    code = (
        "import sys, service.engine.decode.worker as w\n"
        "w._limit_resources(); w.warm_up(sys.argv[1:])\n"
        "print(*(name for name in ('av', 'nibabel', 'pydicom') if name in sys.modules))\n"
        "print(open('/proc/self/status').read().split('VmPeak:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *modalities],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    )
    *names, peak_kib = done.stdout.split()
    assert names == loaded
    assert int(peak_kib) * 1024 < decode_worker.ADDRESS_SPACE_BYTES / 3


def test_worker_gives_a_large_heap_back() -> None:
    """After a scan of many bytes, also one that is refused at once, it is small again."""

    def resident(worker: subprocess.Popen[bytes]) -> int:
        return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * 4096

    worker = start_worker("volume", env=os.environ | ENVIRONMENT)
    with worker:
        assert worker.stdin is not None
        small = resident(worker)
        for media in (bytes(2**26), scan()):  # the second: the heap is trimmed after the reply
            worker.stdin.write(head(asked("volume").header, len(media)) + media)
            worker.stdin.flush()
            read_reply(worker)
        assert resident(worker) < small + 2**24
        worker.stdin.close()


def test_worker_imports_neither_server_nor_engine() -> None:
    """The process that touches untrusted bytes knows nothing of HTTP or of the model."""
    code = (
        "import sys, service.engine.decode.worker\n"
        "print([m for m in ('fastapi', 'starlette', 'onnxruntime', 'uvicorn', 'pydantic_settings',"
        " 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_service_imports_no_decoder_and_no_pickle_of_the_worker() -> None:
    """The server's own process never loads Pillow, so it cannot decode by accident."""
    code = "import sys, service.http.app\nprint('PIL' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "False False"


# --- whose turn it is ------------------------------------------------------------------------


def test_scans_leave_a_worker_for_images_and_are_ended_with_their_clients() -> None:
    """The kept worker takes no scan although it is free; a scan that nobody waits for is killed."""
    restarts: list[None] = []

    async def story(pool: DecodePool) -> None:
        pool.costs["volume"].learn(1, 3.0)
        waiting = [
            asyncio.create_task(pool.prepare(asked("volume", seconds=60), b"s")) for _ in range(2)
        ]
        await asyncio.sleep(0)
        assert pool.depth == 1
        with pytest.raises(BrokenMedia):
            await ask(pool, b"x")  # it answers
        assert (pool.depth, restarts) == (1, [])
        await asyncio.sleep(0.35)  # what has just begun is not worth a new process
        for task in reversed(waiting):
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        while not restarts:
            await asyncio.sleep(0.01)
        assert pool.depth == 0

    run(
        story, workers=2, script=OBEDIENT, on_restart=lambda: restarts.append(None),
        modalities=("image", "volume"),
    )  # fmt: skip


def test_workers_become_warm_for_what_is_served_later() -> None:
    """One by one, when they are idle; one is kept for images then, and nobody loses anything."""
    restarts: list[None] = []

    async def story(pool: DecodePool) -> None:
        before = set(pool.staff.alive)
        long = asyncio.create_task(pool.prepare(asked(seconds=60), b"w" + bytes(2**15)))
        await asyncio.sleep(0)
        pool.serve(["volume"])
        pool.serve(["volume"])  # once is enough
        while before & pool.staff.alive or pool.ready < 2:
            await asyncio.sleep(0.01)
        assert (await long).grid == "2x3"
        assert len(pool.staff.alive) == 2
        assert sorted(one.place.small_only for one in pool.staff.alive) == [False, True]
        assert restarts == []

    run(
        story, workers=2, script=OBEDIENT, on_restart=lambda: restarts.append(None),
        modalities=("image",),
    )  # fmt: skip


def settled(pool: DecodePool) -> bool:
    """Whether no worker is starting, and none is left over."""
    return len(pool.staff.alive) == pool.ready == pool.staff.workers and not pool.staff._spawning


def test_one_worker_is_kept_where_batch_work_may_come_beside_images() -> None:
    """It takes none of it: the files of a job go to workers that stand below it for the kernel."""

    async def story(pool: DecodePool) -> None:
        assert sorted(one.place.small_only for one in pool.staff.ready) == [False, True]
        kept = next(one for one in pool.staff.ready if one.place.small_only)
        batch = [pool.prepare(asked(seconds=60), b"w", kind=BATCH) for _ in range(2)]
        working = [asyncio.create_task(one) for one in batch]
        await asyncio.sleep(0)
        assert not kept.tasks  # one works and one waits
        assert [(await one).grid for one in working] == ["2x3", "2x3"]

    run(story, workers=2, script=OBEDIENT, has_batch=True)


@alone
@pytest.mark.parametrize("dies", [0, 1, 2, None])
def test_one_worker_is_kept_whoever_dies_while_others_are_replaced(dies: int | None) -> None:
    """Also where still more is served meanwhile: all are warm for it then, and one by one they were
    replaced; for one that died another comes beside that.
    """

    async def story(pool: DecodePool) -> None:
        most = 0
        before = list(pool.staff.ready)
        pool.serve(["volume"])
        await asyncio.sleep(0)
        pool.serve(["video"])
        while not settled(pool):
            if dies is not None and before[dies] in pool.staff.ready:
                before[dies].kill()
            most = max(most, len(pool.staff.alive - pool.staff.leaving))
            await asyncio.sleep(0.005)
        assert {one.place.modalities for one in pool.staff.alive} == {("image", "video", "volume")}
        assert sorted(one.place.small_only for one in pool.staff.alive) == [False, False, True]
        assert most <= 4 + (dies is not None)

    run(story, workers=3, script=OBEDIENT)


@alone
def test_worker_that_ends_as_soon_as_it_is_ready_is_given_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end comes before whoever waited for it goes on: another one is started in its place."""
    monkeypatch.setattr(staff, "RESPAWN_SECONDS", 0.05)
    ended: list[Worker] = []

    async def story(pool: DecodePool) -> None:
        async def ends_once(*arguments: Any) -> Worker:
            worker = await process.start_worker(*arguments)
            if not ended:
                ended.append(worker)
                worker.kill()
                while worker in pool.staff.alive:
                    await asyncio.sleep(0.005)
            return worker

        monkeypatch.setattr(staff, "start_worker", ends_once)
        os.kill(pool.process_ids[0], signal.SIGKILL)
        assert (await ask(pool, b"a"))[0, 0, 0] == ord("a")
        assert ended and set(pool.staff.ready) == pool.staff.alive

    run(story, script=OBEDIENT)


def test_replaced_worker_is_still_seen_at_its_last_item() -> None:
    """What its kind waits is no guess, and it is ended with the client that it worked for."""

    async def story(pool: DecodePool) -> None:
        pool.costs["image"].learn(2**15, 60.0)
        (worker,) = pool.staff.alive
        long = asyncio.create_task(pool.prepare(asked(seconds=60), b"s" + bytes(2**15)))
        await asyncio.sleep(0.35)
        pool.serve(["volume"])
        while worker in pool.staff.ready:
            await asyncio.sleep(0.005)
        with pytest.raises(DeadlinePassed):
            soon = time.monotonic() + 1
            await pool.prepare(asked(), b"x" + bytes(2**15), soon)
        long.cancel()
        while worker in pool.staff.alive:
            await asyncio.sleep(0.005)

    run(story, script=OBEDIENT)


def test_kept_worker_takes_no_batch_work() -> None:
    """Not even a thumbnail, though it is free; one that somebody waits for is decoded at once."""

    async def story(pool: DecodePool) -> None:
        pool.costs["image"].learn(1, 0.001)
        batch = [
            asyncio.create_task(pool.prepare(asked(seconds=60), media, kind=BATCH))
            for media in (b"s" + bytes(2**15), b"x")  # none stands behind a large one
        ]
        await asyncio.sleep(0)
        assert pool.depth == 1
        with pytest.raises(BrokenMedia):
            await ask(pool, b"x")  # it answers
        assert pool.depth == 1
        assert [one.tasks[0].kind for one in pool.staff.alive if one.tasks] == [BATCH]
        for task in batch:
            task.cancel()
        await asyncio.gather(*batch, return_exceptions=True)

    run(story, workers=2, script=OBEDIENT, modalities=("image", "volume"))


def test_batch_work_leaves_a_worker_while_others_come() -> None:
    """Of images alone, for which none is kept: the second of two stays free for whom one waits."""

    async def story(pool: DecodePool) -> None:
        pool.costs["image"].learn(1, 0.5)
        with pytest.raises(BrokenMedia):
            await ask(pool, b"x")
        batch = [asyncio.create_task(pool.prepare(asked(), b"s", kind=BATCH)) for _ in range(2)]
        await asyncio.sleep(0)
        assert pool.depth == 1
        with pytest.raises(BrokenMedia):
            await ask(pool, b"x")
        assert pool.depth == 1
        for task in batch:
            task.cancel()
        await asyncio.gather(*batch, return_exceptions=True)

    run(story, workers=2, script=OBEDIENT)


def test_batch_work_takes_no_worker_from_scans() -> None:
    """It counts for no kind that comes: where scans alone do they have every worker."""

    async def story(pool: DecodePool) -> None:
        pool.costs["volume"].learn(1, 3.0)
        with pytest.raises(BrokenMedia):
            await pool.prepare(asked(), b"x", kind=BATCH)
        scans = [
            asyncio.create_task(pool.prepare(asked("volume", seconds=60), b"s")) for _ in range(2)
        ]
        await asyncio.sleep(0)
        assert pool.depth == 0
        for task in scans:
            task.cancel()
        await asyncio.gather(*scans, return_exceptions=True)

    run(story, workers=2, script=OBEDIENT, modalities=("volume",))


def test_small_files_do_not_wait_behind_large_ones_of_their_kind() -> None:
    """Scans hold the workers that take everything, a photograph waits for them, a thumbnail does
    not, though it came later.
    """
    done: list[str] = []

    async def story(pool: DecodePool) -> None:
        pool.costs["volume"].learn(1, 3.0)
        pool.costs["image"].learn(2**15 + 1, 0.06)
        pool.costs["image"].learn(1, 0.002)

        async def one(name: str, modality: str, media: bytes) -> None:
            with contextlib.suppress(BrokenMedia):
                await pool.prepare(dataclasses.replace(asked(), modality=modality), media)
            done.append(name)

        tasks = [
            asyncio.create_task(one(name, modality, media))
            for name, modality, media in (
                ("scan", "volume", b"W"), ("photo", "image", b"x" + bytes(2**15)),
                ("thumbnail", "image", b"x"),
            )
        ]  # fmt: skip
        await asyncio.gather(*tasks)

    run(story, workers=2, script=OBEDIENT, modalities=("image", "volume"))
    assert done == ["thumbnail", "scan", "photo"]


@pytest.mark.parametrize("told", [0, 0.0, 1e-9, -1.0, 1e9, math.nan, None, "0.1"])
def test_lying_worker_teaches_nothing(told: object) -> None:
    """Processor seconds that cannot be are replaced by the time that went by."""
    cpu = json.dumps(told)
    script = OBEDIENT.replace("{}}', bytes", "{}, \"cpu\": " + cpu + "}', bytes")

    async def story(pool: DecodePool) -> None:
        await ask(pool, b"w")  # takes 0.3 s
        assert 0.25 < pool.costs["image"].mean(1) < 5

    run(story, script=script)


def test_earliest_deadline_is_decoded_first_and_what_is_late_is_not() -> None:
    """An item that cannot be answered in time is refused undecoded."""
    done: list[str] = []

    async def story(pool: DecodePool) -> None:
        async def one(name: str, seconds: float) -> None:
            deadline = time.monotonic() + seconds
            try:
                await pool.prepare(asked(), b"w" + bytes(2**15), deadline, run_seconds=0.1)
                done.append(name)
            except DeadlinePassed:
                done.append(f"{name} late")

        async with asyncio.TaskGroup() as tasks:
            for name, seconds in (("a", 9), ("b", 8), ("c", 7), ("d", 0.05), ("e", 6)):
                tasks.create_task(one(name, seconds))
        assert done == ["d late", "a", "e", "c", "b"]

    run(story, script=OBEDIENT)


def test_large_file_stays_large_when_its_client_leaves() -> None:
    """Its bytes are let go of; a small one is not put behind it in the same worker."""

    async def story(pool: DecodePool) -> None:
        large = b"w" + bytes(2**15)  # takes 0.3 s
        leaving = asyncio.create_task(pool.prepare(asked(), large))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        waiting = asyncio.create_task(ask(pool, b"a"))
        await asyncio.sleep(0)
        assert pool.depth == 1
        await waiting
        assert pool.costs["image"].mean(len(large)) > 0.25

    run(story, script=OBEDIENT)


def test_decoding_waits_for_a_device_that_is_behind() -> None:
    """With a tenth of a second of decoded rows of a kind before it nothing more is decoded."""

    async def story(pool: DecodePool) -> None:
        behind = 0.2
        pool.ahead = lambda modality: behind
        asking = asyncio.create_task(ask(pool, picture()))
        await asyncio.sleep(0.05)
        assert (pool.depth, asking.done()) == (1, False)
        behind = 0.05
        pool.begin_next()
        await asking

    run(story)


def test_what_decoding_takes_is_learnt_from_workers() -> None:
    """Processor seconds of a real file, by its bytes."""

    async def story(pool: DecodePool) -> None:
        media = picture(1, (2000, 1500))
        await ask(pool, media)
        learnt = pool.costs["image"]
        assert 1e-4 < learnt.mean(len(media)) < 5
        assert learnt.mean(len(media)) == learnt.high(len(media))

    run(story)
