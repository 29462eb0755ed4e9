"""What does a refusal cost, of a request with a body of 100 kB?

    python -m benchmarks.serving.refusal [--rate 400] [--seconds 10]

ViT-S/16 is asked for far more than it can do, so that nearly all is refused. Counted is the
processor time of the thread that runs the event loop, which has no part in decoding and running;
less what that thread spends on a request that gets in, measured under four connections that are
never refused. Of the whole process tree the runs of the graph would drown it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.serving.bare import Bare
from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.figures import REFUSALS, summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import add_options, measure_capacity, run_load, serving

CONNECTIONS = 4


def main() -> None:
    """Print the cost of each round, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "vit_s-absolute")
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    seconds = options.seconds * options.scale
    bundle = chosen_bundle(options)
    costs, refusals = [], 0
    with tempfile.TemporaryDirectory() as folder, serving([bundle.root], options) as server:
        files = photographs(Path(folder))
        expect = Bare(bundle, 1).best_labels(files)
        for _ in range(options.rounds):
            inside_ms = measure_capacity(server, files, CONNECTIONS, seconds / 2, expect).loop_ms
            before = server.loop_seconds()
            result = run_load(
                server.url(), files, "--phases", f"{options.rate}x{seconds}", expect=expect
            )
            server.settle()
            spent_ms = 1000 * (server.loop_seconds() - before)
            refused = sum(one.outcome in REFUSALS for one in result.records)
            if not refused:
                raise SystemExit(f"nothing was refused: {summary(result.records, seconds)}")
            others = len(result.records) - refused
            costs.append((spent_ms - others * inside_ms) / refused)
            refusals += refused
            print(f"{costs[-1]:.3f} CPU-ms ({refused} refused, {others} others of {inside_ms:.2f})")
    cost = statistics.median(costs)
    print(f"median {cost:.3f} CPU-ms of the event loop's thread, {refusals} refusals in all")
    line = {"benchmark": "serving.refusal", "bundle": bundle.manifest.name, "scale": options.scale}
    print(json.dumps(line | {"cpu_ms": round(cost, 4), "rounds": costs, "refusals": refusals}))


if __name__ == "__main__":
    main()
