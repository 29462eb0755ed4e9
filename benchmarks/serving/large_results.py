"""How long does the event loop stand still for a large file, and for the large pixels of one?

    python -m benchmarks.serving.large_results [--rounds 20]

One decode worker of the server's own pool, one item after another, and a thread that copies its
pixels as a lane does. Each size comes by both ways, in turns: through the pipe, and in memory that
the worker is lent. Printed are medians over the rounds, in milliseconds: the worst delay of a clock
that ticks every millisecond on the loop (what else the machine does is in it); without the clock,
processor time of the loop's thread, and of the server and the worker together. Where the last ones
meet is what ``memory.LEAST_BYTES`` should be. In the same way a file of 99 MB goes to the worker,
which refuses it: written at once, and in slices.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import io
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from media.spec import Grid, InputSpec, VolumeSpec
from service.engine.decode import link
from service.engine.decode.pool import DecodePool
from service.engine.decode.wire import Preparation
from service.engine.failures import UnsupportedMedia

TICK_SECONDS = 0.001
#: For memory to be given back, which another thread does.
FREE_SECONDS = 0.03
IMAGE_SIDES = (64, 128, 192, 224, 256, 288, 320, 384, 512)
SCAN_SIDES = (128, 256)
SCAN = InputSpec("volume", 1, "float32", "stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec())
UPLOAD_BYTES = 99 * 10**6
DECODE_SECONDS = 60.0
#: Way -> of every round: seconds late, of the loop's thread, of all.
Taken = dict[str, list[tuple[float, float, float]]]


def main() -> None:
    """Print a line for each size, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rounds", type=int, default=20, help="of each size and way")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.rounds, IMAGE_SIDES, SCAN_SIDES, UPLOAD_BYTES))
    for row in rows:
        ways = ", ".join(f"{way}: {figures}" for way, figures in row["ways"].items())
        print(f"{row['what']:>20} {row['bytes']:>10} bytes, {ways}")
    print(
        json.dumps({"benchmark": "serving.large_results", "rounds": options.rounds, "rows": rows})
    )


async def measure(
    rounds: int, image_sides: tuple[int, ...], scan_sides: tuple[int, ...], upload_bytes: int
) -> list[dict[str, Any]]:
    """A row for every size, with figures of both ways."""
    pool = DecodePool(1)
    await pool.start(("image", "volume"))
    try:
        rows = [
            await _compare(pool, InputSpec(), (one, one), picture(), rounds) for one in image_sides
        ]
        rows += [await _compare(pool, SCAN, (one,) * 3, scan(), rounds) for one in scan_sides]
        return [*rows, await _upload(pool, bytes(upload_bytes), rounds)]
    finally:
        await pool.close()


async def _compare(
    pool: DecodePool, spec: InputSpec, pixels: tuple[int, ...], media: bytes, rounds: int
) -> dict[str, Any]:
    patch = (16,) * len(pixels)
    grid = Grid(tuple(side // 16 for side in pixels))
    asked = Preparation.make(spec, [grid], patch, 1, DECODE_SECONDS)
    lending = asked.header.replace(b'"lends": false', b'"lends": true')
    ways = {"pipe": b"", "memory": lending}  # of small pixels too
    taken: Taken = {way: [] for way in ways}
    for _ in range(rounds):  # in turns: what else the machine does meets both
        for way, header in ways.items():
            one = dataclasses.replace(asked, lending_header=header)
            taken[way].append(await _take_twice(pool, one, media))
    what = f"{spec.modality} {'x'.join(map(str, pixels))}"
    return {"what": what, "bytes": asked.most_bytes, "ways": _medians(taken)}


async def _upload(pool: DecodePool, media: bytes, rounds: int) -> dict[str, Any]:
    asked = Preparation.make(SCAN, [Grid((1, 1, 1))], (16, 16, 16), 1, DECODE_SECONDS)
    ways = {"at once": len(media), "in slices": link.SLICE_BYTES}
    taken: Taken = {way: [] for way in ways}
    for _ in range(rounds):
        for way, slice_bytes in ways.items():
            link.SLICE_BYTES = slice_bytes
            taken[way].append(await _take_twice(pool, asked, media))
    return {"what": "upload", "bytes": len(media), "ways": _medians(taken)}


def _medians(taken: Taken) -> dict[str, dict[str, float]]:
    names = "late_ms", "loop_cpu_ms", "all_cpu_ms"
    medians = {}
    for way, rows in taken.items():
        figures = (round(1000 * statistics.median(of), 3) for of in zip(*rows, strict=True))
        medians[way] = dict(zip(names, figures, strict=True))
    return medians


async def _take_twice(
    pool: DecodePool, asked: Preparation, media: bytes
) -> tuple[float, float, float]:
    """With the clock and without it."""
    late = await _late(pool, asked, media)
    return late, *await _cpu(pool, asked, media)


async def _late(pool: DecodePool, asked: Preparation, media: bytes) -> float:
    """The worst delay of the clock while one item comes and is let go of, in seconds."""
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            worst = max(worst, time.monotonic() - due)

    clock = asyncio.create_task(tick())
    await _take(pool, asked, media)
    await asyncio.sleep(2 * TICK_SECONDS)
    clock.cancel()
    return worst


async def _cpu(pool: DecodePool, asked: Preparation, media: bytes) -> tuple[float, float]:
    """Processor seconds for one item: of this thread, and of this process and the worker."""
    before, all_before = time.thread_time(), _all_seconds(pool)
    await _take(pool, asked, media)
    spent = time.thread_time() - before
    await asyncio.sleep(FREE_SECONDS)
    return spent, _all_seconds(pool) - all_before


def _all_seconds(pool: DecodePool) -> float:
    """Processor seconds of this process and its worker so far."""
    nanoseconds = (
        int(Path(f"/proc/{process_id}/schedstat").read_text().split()[0])
        for process_id in pool.process_ids
    )
    return time.process_time() + sum(nanoseconds) / 1e9


async def _take(pool: DecodePool, asked: Preparation, media: bytes) -> None:
    with contextlib.suppress(UnsupportedMedia):  # zeros
        decoded = await pool.prepare(asked, media)
        await asyncio.to_thread(np.stack, list(decoded.pixels))


def picture() -> bytes:
    """A PNG of 64 x 64."""
    encoded = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(encoded, "PNG")
    return encoded.getvalue()


def scan() -> bytes:
    """A NumPy file of 16 x 16 x 16 voxels: the upload costs nothing here."""
    encoded = io.BytesIO()
    np.save(encoded, np.arange(16**3, dtype=np.int16).reshape(16, 16, 16))
    return encoded.getvalue()


if __name__ == "__main__":
    main()
