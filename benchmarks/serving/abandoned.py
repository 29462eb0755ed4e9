"""How much work is done for clients that have left?

    python -m benchmarks.serving.abandoned [--rounds 5]

All leave: 48 requests at once, whose clients close their connections after 0.3 s. The figure is the
processor time of the server's process tree from then until it is idle, over what the 48 would have
cost less what was spent before.

A third leaves: an open loop of 3 times the capacity, every third client leaves after 0.2 s, the
others after 5 s. The figure is the share of the processor time, from the first request until the
server is idle, that did not go into right answers; refusals are in it.

What a right answer costs is measured by a closed loop of 8 connections before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.bare import Bare
from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.figures import summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import (
    Capacity,
    Running,
    add_options,
    measure_capacity,
    read_result,
    run_load,
    serving,
    start_load,
)

CONNECTIONS = 8
CLIENTS, PATIENCE = 48, 0.3
FACTOR, LEAVING = 3.0, "3x0.2"


def main() -> None:
    """Print both figures, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "vit_s-absolute")
    parser.add_argument("--rounds", type=int, default=5, help="in which all leave")
    add_options(parser)
    options = parser.parse_args()
    bundle = chosen_bundle(options)
    with tempfile.TemporaryDirectory() as folder, serving([bundle.root], options) as server:
        files = photographs(Path(folder))
        expect = Bare(bundle, 1).best_labels(files)
        measure_capacity(server, files, CONNECTIONS, 3 * options.scale, expect)  # warms up
        alone = measure_capacity(server, files, CONNECTIONS, 10 * options.scale, expect)
        rounds = [all_leave(server, files, alone.cpu_ms) for _ in range(options.rounds)]
        third = third_leaves(server, files, expect, alone, 20 * options.scale)
    share = statistics.median(one["of_what_was_left"] for one in rounds)
    print(f"all leave: {share:.1%} of what was left to do, {len(rounds)} rounds: {rounds}")
    print(f"a third leaves: {third['not_for_answers']:.1%} not for right answers: {third}")
    line = {"benchmark": "serving.abandoned", "bundle": bundle.manifest.name}
    figures: dict[str, Any] = {"cpu_ms_per_answer": round(alone.cpu_ms, 3), "all_leave": share}
    figures |= {"rounds": rounds, "third_leaves": third}
    print(json.dumps(line | {"scale": options.scale} | figures))


def all_leave(server: Running, files: Sequence[Path], cpu_ms: float) -> dict[str, Any]:
    """One burst; shares of the work, and what became of the requests."""
    server.settle()
    begin = server.cpu_seconds()
    burst = ("--burst", str(CLIENTS), "--patience", str(PATIENCE))
    with start_load(server.url(), files, *burst) as process:
        result = read_result(process)
        left = server.cpu_seconds()
    server.settle()
    after, whole = server.cpu_seconds() - left, CLIENTS * cpu_ms / 1000
    return {
        "of_what_was_left": round(after / (whole - (left - begin)), 4),
        "of_all": round(after / whole, 4),
        "cpu_s_before_after": [round(left - begin, 3), round(after, 3)],
        "outcomes": summary(result.records, PATIENCE)["outcomes"],
    }


def third_leaves(
    server: Running, files: Sequence[Path], expect: Sequence[str], alone: Capacity, seconds: float
) -> dict[str, Any]:
    """One overload; the share of the work that was for nobody, or for saying no."""
    server.settle()
    begin = server.cpu_seconds()
    phases = f"{FACTOR * alone.per_second}x{seconds}"
    leaving = ("--phases", phases, "--leaving", LEAVING)
    result = run_load(server.url(), files, *leaving, expect=expect)
    server.settle()
    spent = server.cpu_seconds() - begin
    right = sum(one.outcome == "200" for one in result.records)
    return {
        "not_for_answers": round(1 - right * alone.cpu_ms / 1000 / spent, 4),
        "cpu_s": round(spent, 2),
        **summary(result.records, seconds),
    }


if __name__ == "__main__":
    main()
