"""What is left of a server's capacity when several times as much is asked of it?

    python -m benchmarks.serving.goodput [--model tiny-absolute] [--factors 3 10]

Capacity is what a closed loop of 16 connections gets out of the server, the mean of one before and
one after. Then an open loop of JPEGs of 640x427 (100 kB), on the same machine: 10 s at 0.3 of
the capacity, 20 s at each factor of it, 20 s at 0.3 again; clients wait 5 s. Counted are right
answers that came within the second half of the 20 s. It has recovered once at most one in a hundred
takes longer than 1.5 times the 99th percentile from before, or is no right answer.

Where other programs use the processors, the capacity is not the same for long, and goodput by the
clock means little. The share of the server's processor time that went into right answers, at
what one costs in the closed loops, does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.bare import Bare
from benchmarks.serving.bundles import add_bundle_options, chosen_bundle
from benchmarks.serving.figures import due_between, ended_between, recovery_seconds, summary
from benchmarks.serving.media import photographs
from benchmarks.serving.running import (
    CpuCurve,
    Running,
    add_options,
    measure_capacity,
    run_load,
    serving,
)

CONNECTIONS = 16
LIGHT = 0.3  # of the capacity, before and after
BEFORE, OVERLOAD, AFTER = 10.0, 20.0, 20.0  # seconds


def main() -> None:
    """Print the figures of each factor, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add_bundle_options(parser, "tiny-absolute")
    parser.add_argument("--factors", type=float, nargs="+", default=[3.0, 10.0])
    add_options(parser)
    options = parser.parse_args()
    bundle = chosen_bundle(options)
    with tempfile.TemporaryDirectory() as folder, serving([bundle.root], options) as server:
        files = photographs(Path(folder))
        expect = Bare(bundle, 1).best_labels(files)
        scale = options.scale
        measure_capacity(server, files, CONNECTIONS, 3 * scale, expect)  # warms up
        rows = [overload(server, files, expect, factor, scale) for factor in options.factors]
    for row in rows:
        print(
            f"{row['factor']:g} times {row['capacity']:.1f}/s: goodput {row['goodput']:.1%} "
            f"({row['right_per_second']:.1f}/s), {row['cpu_for_answers']:.1%} of the processor "
            f"time for answers; p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms; "
            f"refusals' p99 {row['refusal_p99_ms']} ms; as before after {row['recovery_s']} s; "
            f"{row['outcomes']}"
        )
    line = {"benchmark": "serving.goodput", "bundle": bundle.manifest.name, "scale": options.scale}
    print(json.dumps(line | {"rows": rows}))


def overload(
    server: Running, files: Sequence[Path], expect: Sequence[str], factor: float, scale: float
) -> dict[str, Any]:
    """One factor, between two measurements of what the server can do."""
    before, span, after = BEFORE * scale, OVERLOAD * scale, AFTER * scale
    first = measure_capacity(server, files, CONNECTIONS, before, expect)
    light, heavy = f"{LIGHT * first.per_second}x", f"{factor * first.per_second}x"
    phases = f"{light}{before},{heavy}{span},{light}{after}"
    with CpuCurve(server) as curve:
        result = run_load(server.url(), files, "--phases", phases, expect=expect)
    last = measure_capacity(server, files, CONNECTIONS, before, expect)
    end, middle = before + span, before + span / 2
    spent_ms = 1000 * curve.between(result.begin + middle, result.begin + end)
    quiet = summary(due_between(result.records, 0, before), before)
    counted = summary(ended_between(result.records, middle, end), span / 2)
    limit = 1.5 * (quiet["p99_ms"] or 0.0) / 1000
    capacity = (first.per_second + last.per_second) / 2
    cpu_ms = (first.cpu_ms + last.cpu_ms) / 2
    return {
        "factor": factor,
        "capacity": round(capacity, 2),
        "capacity_before_after": [round(one.per_second, 2) for one in (first, last)],
        "goodput": round(counted["right_per_second"] / capacity, 4),
        "cpu_for_answers": round(counted["outcomes"].get("200", 0) * cpu_ms / spent_ms, 4),
        "cpu_ms_per_answer": round(cpu_ms, 3),
        **counted,
        "before_p99_ms": quiet["p99_ms"],
        "recovery_s": recovery_seconds(result.records, end, limit),
        "requests": len(result.records),
        "client_cpu_ms": round(result.client_cpu_ms, 4),
        "lag_p99_ms": result.lag_p99_ms,
    }


if __name__ == "__main__":
    main()
