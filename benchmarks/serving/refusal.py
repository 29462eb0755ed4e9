"""What does a refusal cost, of a request with a body of 100 kB?

    python -m benchmarks.serving.refusal [--rate 400] [--seconds 8]

ViT-S/16 is asked for far more than it can do, so that nearly all is refused: in turn at a quarter
of the rate and at the rate. What gets in is the same in both, so that the difference is refusals.
Counted is the processor time of the thread that runs the event loop, which has no part in decoding
and running; in that of the whole process tree the runs of the graph would drown it. The time
over all refusals at the full rate, requests that get in included, is printed beside it: no less
than the cost, whatever the requests that get in do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.figures import REFUSALS, summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import Running, add_options, run_load, serving


def main() -> None:
    """Print the cost of each round, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "vit_s-absolute")
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=8.0, help="at each rate")
    parser.add_argument("--rounds", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    seconds = options.seconds * options.scale
    bundle = chosen_bundle(options)
    costs, bounds, refusals = [], [], 0
    with tempfile.TemporaryDirectory() as folder, serving([bundle.root], options) as server:
        files = photographs(Path(folder))
        overload(server, files, options.rate, seconds / 2)  # warms up
        for _ in range(options.rounds):
            few, few_ms = overload(server, files, options.rate / 4, seconds)
            many, many_ms = overload(server, files, options.rate, seconds)
            costs.append((many_ms - few_ms) / (many - few))
            bounds.append(many_ms / many)
            refusals += few + many
            print(f"{costs[-1]:.3f} CPU-ms, at most {bounds[-1]:.3f} ({many} and {few} refusals)")
    cost, bound = statistics.median(costs), statistics.median(bounds)
    print(f"median {cost:.3f} CPU-ms of the event loop's thread, {refusals} refusals in all")
    line = {"benchmark": "serving.refusal", "bundle": bundle.manifest.name, "scale": options.scale}
    figures = {"cpu_ms": round(cost, 4), "at_most": round(bound, 4), "refusals": refusals}
    print(json.dumps(line | figures | {"rounds": [round(one, 4) for one in costs]}))


def overload(
    server: Running, files: Sequence[Path], rate: float, seconds: float
) -> tuple[int, float]:
    """Refusals, and milliseconds of the event loop's thread until the server is idle again."""
    before = server.loop_seconds()
    result = run_load(server.url(), files, "--phases", f"{rate}x{seconds}")
    server.settle()
    refused = sum(one.outcome in REFUSALS for one in result.records)
    if not refused:
        raise SystemExit(f"nothing was refused: {summary(result.records, seconds)}")
    return refused, 1000 * (server.loop_seconds() - before)


if __name__ == "__main__":
    main()
