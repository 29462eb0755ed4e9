"""Is anything lost when a server is told to end under load?

    python -m benchmarks.serving.sigterm [--times 50]

A server with one bundle, and three loads: 8 connections that are kept and send again as soon as
they have their answer, 8 clients that open a connection for every request, and 100 requests a
second over a hundred kept connections, most of which are idle. After a random part of a second
under them comes SIGTERM, to the server as a child and, as often again, to one that is process 1 of
its own (``unshare -pf --mount-proc``; said, where that is not permitted). When the listener has
closed is read from /proc/net/tcp every millisecond. The figures are the requests sent before that
which got no whole answer, of how many; the processes that were left; and other exit statuses than
0.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.killed_workers import state
from benchmarks.serving.lag import Looks, loop_lag
from benchmarks.serving.media import photographs
from benchmarks.serving.running import (
    AS_PROCESS_1,
    ROOT,
    Running,
    add_options,
    may_unshare,
    read_result,
    serving,
    start_load,
)

CONNECTIONS = 8
#: A burst opens the connections that later requests find idle.
RATE, BURST = 100, "2000x0.05"
#: Of load; the signal comes between these after most of its first connections.
LOAD_SECONDS, SIGNAL_SECONDS = 3.0, (0.2, 1.0)
END_SECONDS, BURIAL_SECONDS = 60.0, 5.0
#: In /proc/net/tcp.
ESTABLISHED, LISTEN = "01", "0A"
ENOUGH = 50


@dataclass
class Stops:
    """What came of all of them."""

    times: int = 0
    answered: int = 0
    lost: int = 0
    left: int = 0
    bad_ends: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    looks: Looks = field(default_factory=Looks)
    idle: Looks = field(default_factory=Looks)

    def document(self) -> dict[str, Any]:
        names = ("times", "answered", "lost", "left", "bad_ends")
        return {name: getattr(self, name) for name in names} | {"outcomes": dict(self.outcomes)}


def main() -> None:
    """Print the figures of each way to run it, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--times", type=int, default=50, help="in each of the two ways")
    bundle = ROOT / "bundles" / "cifar10-liere8"
    parser.add_argument("--bundle", type=Path, default=bundle, help="folder of a bundle of images")
    add_options(parser)
    options = parser.parse_args()
    times = max(1, round(options.times * options.scale))
    ways: dict[str, Sequence[str]] = {"child": ()}
    if may_unshare():
        ways["process_1"] = AS_PROCESS_1
    else:
        print("not as process 1: unshare --pid is not permitted here")
    stops = {way: Stops() for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder))
        for way, under in ways.items():
            for _ in range(times):
                with serving([options.bundle], options, under=under) as server:
                    stop(server, files, stops[way])
                stops[way].idle += server.idle
    for way, one in stops.items():
        print(
            f"{way}: {one.lost} lost and {one.answered} answered of those sent before the listener "
            f"closed; {one.left} processes left, {one.bad_ends} bad ends, {one.times} times"
        )
    looks = sum((one.looks for one in stops.values()), Looks())
    print(loop_lag(looks, sum((one.idle for one in stops.values()), Looks())))
    line = {"benchmark": "serving.sigterm", "bundle": options.bundle.name, "scale": options.scale}
    print(json.dumps(line | {"ways": {way: one.document() for way, one in stops.items()}}))


def stop(server: Running, files: Sequence[Path], stops: Stops) -> None:
    """Load, SIGTERM, and what was lost and left."""
    processes = [server.process.pid, server.pid, *server.workers()]
    patience = ("--patience", str(END_SECONDS))
    closed = ("--closed", f"{CONNECTIONS}x{LOAD_SECONDS}", *patience)
    idle = ("--phases", f"{BURST},{RATE}x{LOAD_SECONDS}", *patience)
    with (
        start_load(server.url(), files, *closed) as kept,
        start_load(server.url(), files, *closed, "--one-each") as single,
        start_load(server.url(), files, *idle) as many,
    ):
        while sockets(server.port)[ESTABLISHED] < ENOUGH:
            time.sleep(0.01)
        time.sleep(random.uniform(*SIGNAL_SECONDS))
        stops.looks += server.looks()
        os.kill(server.pid, signal.SIGTERM)
        listened, look = 0.0, time.monotonic()
        while sockets(server.port)[LISTEN]:
            listened = look  # it was still there after that
            time.sleep(0.001)
            look = time.monotonic()
        stops.bad_ends += server.process.wait(END_SECONDS) != 0
        for load in (kept, single, many):
            result = read_result(load)
            sent = [one for one in result.records if one.outcome != "unreached"]
            sent = [one for one in sent if result.begin + one.due < listened]
            stops.outcomes.update(one.outcome for one in sent)
    stops.times += 1
    stops.left += count_left(processes)
    stops.lost = stops.outcomes["lost"] + stops.outcomes["timeout"]
    stops.answered = stops.outcomes.total() - stops.lost


def sockets(port: int) -> Counter[str]:
    """Those of a port of this machine, by state."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return Counter(one[3] for one in fields if one[1].endswith(f":{port:04X}"))


def count_left(processes: Sequence[int]) -> int:
    """Those that still live after some time to end in."""
    end = time.monotonic() + BURIAL_SECONDS
    while (left := sum(state(one) not in "XZ" for one in processes)) and time.monotonic() < end:
        time.sleep(0.01)
    return left


if __name__ == "__main__":
    main()
