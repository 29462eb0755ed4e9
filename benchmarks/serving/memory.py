"""How much memory does a request leave behind, of 100,000 mixed ones, three in ten hostile?

    python -m benchmarks.serving.memory [--requests 100000] [--data FOLDER] [--leak 256]

Rounds of requests on a timetable, to a server with a bundle of each modality; after each, once the
server is idle, its memory is read: of the server and its decode workers together, the anonymous and
the shared pages of /proc/PID/smaps_rollup, each page that several map divided among them (Pss_Anon,
Pss_Shmem), and what of them was swapped out. Pages of files, like those of libraries, are not in
it: how many of them count depends on who else maps them. The figure is the slope of that over the
requests, by least squares, with its 95 % interval as if the rounds were independent. Before that
come 10,000 requests to warm up: until heaps and the runtime's arena have seen the worst of their
mixtures they grow, in steps, by some kB a request.

--leak plants a mistake that keeps so many bytes of every request: the row finds it where the lower
end of the interval lies above the bound of 64 bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.serving.mixture import (
    Tally,
    add_data_option,
    add_mixture_options,
    all_traffic,
    by_modality,
    sending,
)
from benchmarks.serving.running import Running, add_options, serving

HOSTILE_SHARE = 0.3
ROUNDS = 100
FIELDS = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
BOUND = 64.0  # bytes a request


def main() -> None:
    """Print the slope, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--requests", type=int, default=100_000, help="of which the slope is")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least 5")
    parser.add_argument("--warm", type=int, default=10_000, help="requests that come before")
    parser.add_argument("--leak", type=int, default=0, help="bytes of every request to keep")
    add_mixture_options(parser, 200.0)
    add_data_option(parser)
    add_options(parser)
    options = parser.parse_args()
    if options.rounds < 5:
        parser.error(f"--rounds: expected at least 5, got {options.rounds}")
    bundles = by_modality(options.bundles)
    roots = [bundle.root for bundle in bundles.values()]
    plants = ("--leak", str(options.leak)) if options.leak else ()
    seconds = options.requests * options.scale / options.rounds / options.rate
    warm, tally, points = Tally.of_nothing(), Tally.of_nothing(), []
    with tempfile.TemporaryDirectory() as folder, serving(roots, options, plants=plants) as server:
        traffic = all_traffic(bundles, options.rate, HOSTILE_SHARE, Path(folder), options.data)
        with sending(server, traffic, options.warm * options.scale / options.rate, warm):
            pass
        for _ in range(options.rounds):
            with sending(server, traffic, seconds, tally):
                pass
            server.settle()
            points.append((tally.requests, *memory(server)))
        restarts = server.metric("liere_decode_worker_restarts_total")
    requests, own, workers = (np.array(column, float) for column in zip(*points, strict=True))
    figure, half = slope(requests, own + workers)
    parts = slope(requests, own)[0], slope(requests, workers)[0]
    print(
        f"{figure:.1f} bytes a request, 95 % interval {figure - half:.1f} to {figure + half:.1f}: "
        f"the server {parts[0]:.1f}, its workers {parts[1]:.1f}; {tally.requests} requests"
    )
    first, *_, last = (own + workers) / 1e6
    print(f"{first:.1f} MB at first, {last:.1f} at last; decode workers replaced: {restarts:.0f}")
    print(f"good requests lost {tally.lost} of {tally.good}; ended badly {dict(tally.bad)}")
    line = {"benchmark": "serving.memory", "leak": options.leak, "scale": options.scale}
    figures = {
        "slope": round(figure, 2),
        "low": round(figure - half, 2),
        "high": round(figure + half, 2),
        "slope_server": round(parts[0], 2),
        "slope_workers": round(parts[1], 2),
        "caught": figure - half > BOUND,
        "worker_restarts": restarts,
        "megabytes": [[round(one / 1e6, 2) for one in column] for column in (own, workers)],
    }
    print(json.dumps(line | figures | tally.document()))


def memory(server: Running) -> tuple[int, int]:
    """Bytes of the server and of its workers."""
    return memory_of(server.pid), sum(map(memory_of, server.workers()))


def memory_of(process: int) -> int:
    """Bytes of anonymous and shared memory, resident or swapped out; 0 of one that is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(FIELDS)]
    if len(kilobytes) != len(FIELDS):
        raise SystemExit(f"expected {', '.join(FIELDS)} in smaps_rollup, got {len(kilobytes)}")
    return 1024 * sum(kilobytes)


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Of a line by least squares, and half of its 95 % interval.

    Args:
        x, y: float ``[points]``, at least 3.
    """
    steps = x - x.mean()
    squares = float(steps @ steps)
    found = float(steps @ y) / squares
    rest = y - y.mean() - found * steps
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / squares)
    return found, student(len(x) - 2) * error


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, to 1 % from 3 degrees of freedom on (Cornish-Fisher)."""
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


if __name__ == "__main__":
    main()
