"""What a public family's architecture costs in a graph: DINOv3-S/16 over an own ViT-S/16, 224 px.

Both have rotations of axes; DINOv3 has biases of queries and values, layer scale and four registers
besides, random here, of which the exporter folds what it can.

    python -m benchmarks.family_overhead [--rounds 7] [--threads 2]

Graphs run in turn in one process on the CPU; ratios are medians of the rounds' ratios, by the clock
and, in brackets, of processor time (``export_overhead``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from benchmarks.export_overhead import BATCHES, SPEC, make_session, measure, row, show
from models.spec import EncodingSpec

OWN, FAMILY = "axial_rope", "DINOv3-S/16"
SPECS = {
    OWN: dataclasses.replace(SPEC, encoding=EncodingSpec("axial_rope")),
    FAMILY: dataclasses.replace(
        SPEC, query_bias=True, value_bias=True, layer_scale=1.0, registers=4,
        encoding=EncodingSpec("dinov3_rope"),
    ),
}  # fmt: skip


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="rounds, each with both graphs")
    add("--threads", type=int, default=2, help="threads of each session")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: make_session(Path(folder) / str(index), spec, "fp32", options.threads)
            for index, (name, spec) in enumerate(SPECS.items())
        }
        times = {batch: measure(sessions, batch, options.rounds) for batch in BATCHES}
    rows = {name: row(name, times, OWN) for name in sessions}
    show(rows)
    print(json.dumps({"benchmark": "family_overhead", "threads": options.threads, "rows": rows}))


if __name__ == "__main__":
    main()
