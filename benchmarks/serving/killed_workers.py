"""Does a decode worker that is killed cost anybody an answer?

    python -m benchmarks.serving.killed_workers [--kills 200]

Good files of every modality that is served, nine in ten of them images, come on a timetable; every
second a decode worker is killed by SIGKILL, one that is at work where one is, and as many must be
there again before the next one is. The item that a killed worker had is decoded once more by
another. The figure is the requests without their right answer, of how many. Whoever is told 429 was
not lost; where those are many, the rate is too high for the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.serving.mixture import (
    Tally,
    Traffic,
    add_mixture_options,
    by_modality,
    good_items,
    rates,
    sending,
)
from benchmarks.serving.running import Running, add_options, serving

#: Between two kills; of one load; until a new worker has come up.
PAUSE_SECONDS, SPAN_SECONDS, START_SECONDS = 1.0, 20.0, 60.0
#: For so long somebody looks for a worker that is at work before an idle one is killed.
LOOK_SECONDS = 0.5


def main() -> None:
    """Print the figure, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--kills", type=int, default=200)
    add_mixture_options(parser, 40.0)
    add_options(parser)
    options = parser.parse_args()
    bundles = by_modality(options.bundles)
    roots = [bundle.root for bundle in bundles.values()]
    tally, kills = Tally.of_nothing(), max(1, round(options.kills * options.scale))
    killed: list[bool] = []  # whether it was at work
    with tempfile.TemporaryDirectory() as folder, serving(roots, options) as server:
        traffic = {}
        for modality, rate in rates(bundles, options.rate).items():
            place = Path(folder) / modality
            place.mkdir()
            traffic[modality] = Traffic(good_items(bundles[modality], place), rate)
        workers = len(server.workers())
        while len(killed) < kills:
            seconds = min(SPAN_SECONDS, (kills - len(killed) + 1) * PAUSE_SECONDS)
            end = time.monotonic() + seconds
            with sending(server, traffic, seconds, tally):
                while len(killed) < kills and time.monotonic() < end:
                    time.sleep(PAUSE_SECONDS)
                    killed.append(kill_one(server, workers))
    print(f"requests lost: {tally.lost} of {tally.good}; told to come later: {tally.refused}")
    busy = sum(killed)
    print(f"{kills} workers killed, {busy} of them at work; {dict(tally.bad)}")
    line = {"benchmark": "serving.killed_workers", "rate": options.rate, "scale": options.scale}
    print(json.dumps(line | {"kills": kills, "at_work": busy} | tally.document()))


def kill_one(server: Running, count: int) -> bool:
    """Wait until ``count`` workers are there, kill one; whether it was at work.

    Raises:
        SystemExit: a killed one was not replaced.
    """
    begin = time.monotonic()
    while sum(map(is_up, server.workers())) < count:
        if time.monotonic() > begin + START_SECONDS:
            raise SystemExit(f"a decode worker was not replaced in {START_SECONDS:.0f} s")
        time.sleep(0.05)
    workers = list(filter(is_up, server.workers()))
    busy: list[int] = []
    end = time.monotonic() + LOOK_SECONDS
    while not busy and time.monotonic() < end:
        busy = [worker for worker in workers if state(worker) == "R"]
        time.sleep(0.001)
    os.kill(random.choice(busy or workers), signal.SIGKILL)
    return bool(busy)


def is_up(worker: int) -> bool:
    """Whether it has said that it is ready: from then on what it writes to stderr goes nowhere."""
    try:
        return Path(f"/proc/{worker}/fd/2").readlink() == Path(os.devnull)
    except FileNotFoundError:
        return False


def state(process: int) -> str:
    """The letter of ps: R for running, S for waiting, Z for dead and not buried; X if gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "X"


if __name__ == "__main__":
    main()
