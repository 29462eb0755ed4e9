"""How many more rows a second do lanes of one thread run than one lane of all threads?

    python -m benchmarks.serving.lanes [--batches 1 8] [--rounds 8] [--seconds 1.5]

No server, no file: prepared rows of noise go through the station (``service.engine.device``) with
the graph in ONNX Runtime, once with one lane of as many threads as CPUs, once with as many lanes of
one thread. As many rows are inside as twice the batches that all lanes hold, so that a lane that
becomes free always finds a whole one. Beside it the same sessions are run bare, by threads that do
nothing else, which is the most that lanes could give. All four take turns, round after round; the
figures are the medians of the rounds' ratios with their ranges, and the cost of the station: the
processor time of a row through it over that of a bare one, with the lanes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import uvloop

from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from media.spec import Grid
from service.cpus import usable_cpus
from service.engine.costs import RunCosts
from service.engine.device.lanes import Lanes, rate
from service.engine.device.session import Session, open_session
from service.engine.device.station import DeviceStation

QUEUE = "rows"


class Speed(NamedTuple):
    """Of one way in one round."""

    per_second: float  # rows
    cpu_ms: float  # of this process, a row
    batch: float  # mean size


def main() -> None:
    """Print the figures of every batch size, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "tiny-absolute")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="rows of one run")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each way in each round")
    options = parser.parse_args()
    if (cpus := usable_cpus()) < 2:
        parser.error("one CPU has one lane: expected at least two")
    bundle = chosen_bundle(options)
    entry, patch = bundle.manifest.grids[0], bundle.manifest.patch
    shape = (*Grid.parse(entry.grid).pixels(patch), bundle.manifest.input.channels)
    row = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    sessions = {
        lanes: open_session(bundle.path(entry.graph), "cpu", lanes.threads)
        for lanes in (Lanes(1, cpus), Lanes(cpus, 1))
    }
    rows = [
        measure(sessions, np.repeat(row, batch, axis=0), options.rounds, options.seconds)
        for batch in options.batches
    ]
    line = {"benchmark": "serving.lanes", "bundle": bundle.manifest.name, "cpus": cpus}
    print(json.dumps(line | {"seconds": options.seconds, "rows": rows}))


def measure(
    sessions: dict[Lanes, Session], pixels: np.ndarray, rounds: int, seconds: float
) -> dict[str, object]:
    """One batch size: both ways, through the station and bare, in turn."""
    ways: dict[str, Callable[[Session, Lanes, np.ndarray, float], Speed]] = {
        "station": through_station, "bare": bare
    }  # fmt: skip
    found: dict[str, list[list[Speed]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            speeds = [run(session, lanes, pixels, seconds) for lanes, session in sessions.items()]
            found[way].append(speeds)  # of one lane, of several
    ratios = {
        way: [several.per_second / one.per_second for one, several in speeds]
        for way, speeds in found.items()
    }
    cost = [
        station.cpu_ms / alone.cpu_ms
        for (_, station), (_, alone) in zip(found["station"], found["bare"], strict=True)
    ]
    line: dict[str, object] = {"batch": len(pixels), "rounds": rounds}
    for name, values in (*ratios.items(), ("cpu_over_bare", cost)):
        middle, least, most = statistics.median(values), min(values), max(values)
        line[name] = [round(value, 3) for value in (middle, least, most)]
        print(f"batch {len(pixels)}, {name}: {middle:.2f} ({least:.2f} to {most:.2f})")
    medians = {
        way: [[round(statistics.median(one), 3) for one in zip(*speeds, strict=True)]
              for speeds in zip(*of_way, strict=True)]
        for way, of_way in found.items()
    }  # fmt: skip
    return line | {"per_second_cpu_ms_batch": medians}


def through_station(session: Session, lanes: Lanes, pixels: np.ndarray, seconds: float) -> Speed:
    """Rows one by one, each sent again when it is answered."""

    async def send_again(station: DeviceStation, row: np.ndarray, end: float) -> int:
        answered = 0
        while time.monotonic() < end:
            await station.submit(QUEUE, row)
            answered += 1
        return answered

    async def send() -> int:
        station = DeviceStation(
            executor, len(pixels), lanes=lanes.lanes,
            on_batch=lambda modality, size, seconds: sizes.append(size),
        )  # fmt: skip
        station.threads = lanes.threads
        station.add_queue(QUEUE, session, "image", RunCosts())
        end, inside = time.monotonic() + seconds, 2 * usable_cpus() * len(pixels)
        senders = [send_again(station, pixels[:1], end) for _ in range(inside)]
        return sum(await asyncio.gather(*senders))

    sizes: list[int] = []
    with ThreadPoolExecutor(lanes.lanes) as executor:
        started, spent = time.monotonic(), time.process_time()
        rows = uvloop.run(send())
        spent, elapsed = time.process_time() - spent, time.monotonic() - started
    return Speed(rows / elapsed, 1000 * spent / rows, statistics.fmean(sizes))


def bare(session: Session, lanes: Lanes, pixels: np.ndarray, seconds: float) -> Speed:
    """Whole batches, from as many threads as lanes."""
    spent, started = time.process_time(), time.monotonic()
    per_second = len(pixels) * rate(session, lanes, pixels, seconds)
    spent, elapsed = time.process_time() - spent, time.monotonic() - started
    return Speed(per_second, 1000 * spent / (per_second * elapsed), len(pixels))


if __name__ == "__main__":
    main()
