"""What does it cost to learn positions? One training step of each encoding, over absolute.

The network is fixed: width 384, depth 12, 6 heads, MLP 768, 32x32 pixels, patch 4, a class token,
float32, two CPU threads. A step is the forward and the backward pass, generators and exponential
included; the optimiser's update, which is the same small cost for all, is left out. Layers and
heads have generators of their own.

All models run in turn inside one process, step by step, so that whatever else the machine does
slows all alike. Batch 32 is where the rotations, computed once a step, weigh most; by batch 128
they are spread over four times the items. The ratio is the median of the rounds', to the first.

With --memory every encoding takes a few steps in a process of its own, whose peak resident memory
is told: over the first encoding's, in bytes and in rotation tables (S L H D K float32 numbers).

    python -m benchmarks.training_step --rounds 7
    python -m benchmarks.training_step --memory --encodings absolute,liere_64
"""

from __future__ import annotations

import argparse
import json
import operator
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from media.spec import InputSpec
from models.encodings import parse_encoding
from models.spec import ModelSpec
from models.vit import VisionTransformer

THREADS = 2
BATCHES = (32, 128)
ENCODINGS = (
    "absolute,liere_8,liere_64,"  # and every commuting one
    "rope_1d,axial_rope,dinov3_rope,rope_mixed,liere_2,masa,string_cayley,string_circulant,"
    "comrope_ap,comrope_ld"
)
MEMORY_BATCH = 32
#: Steps before a peak is read: the second one reuses what the first one left.
MEMORY_STEPS = 3
#: ru_maxrss is in KiB on Linux.
KIB = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encodings", default=ENCODINGS, help="as the command line writes them")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each model and batch")
    parser.add_argument("--memory", action="store_true", help="peak memory in place of times")
    parser.add_argument("--peak", metavar="ENCODING", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    names = options.encodings.split(",")
    if options.peak:
        print(peak_bytes(options.peak))
    elif options.memory:
        report("training_memory", measure_memory(names))
    else:
        models = {name: make_model(name) for name in names}
        report(
            "training_step",
            [row for batch in options.batches for row in measure(models, batch, options.rounds)],
        )


def make_model(encoding: str) -> VisionTransformer:
    torch.manual_seed(0)
    spec = ModelSpec(
        patch=(4, 4),
        grid=(8, 8),
        width=384,
        depth=12,
        heads=6,
        mlp_dim=768,
        pool="class",
        encoding=parse_encoding(encoding),
    )
    return VisionTransformer(spec, InputSpec()).train()


def measure(models: dict[str, VisionTransformer], batch: int, rounds: int) -> list[dict[str, Any]]:
    """Median over rounds of each model's step and of its ratio to the first one's.

    Every model takes a step in every round, so that a slow minute slows them all; a round before
    them warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for count in range(rounds + 1):
        for name, model in models.items():
            seconds = step(model, *make_batch(batch))
            model.zero_grad(set_to_none=True)
            if count:
                times[name].append(seconds)
    first = next(iter(times.values()))
    return [
        {
            "encoding": name,
            "batch": batch,
            "milliseconds": 1000 * statistics.median(values),
            "ratio": statistics.median(map(operator.truediv, values, first)),
        }
        for name, values in times.items()
    ]


def make_batch(batch: int) -> tuple[Tensor, Tensor]:
    return torch.randint(256, (batch, 32, 32, 3), dtype=torch.uint8), torch.randint(10, (batch,))


def step(model: VisionTransformer, pixels: Tensor, targets: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    logits = model(pixels, model.encode(model.spec.training_grid))
    functional.cross_entropy(logits, targets).backward()
    return time.perf_counter() - start


def measure_memory(names: list[str]) -> list[dict[str, Any]]:
    """Peaks of fresh processes, over the first encoding's."""
    peaks = {name: peak_in_new_process(name) for name in names}
    first = next(iter(peaks.values()))
    rows = []
    for name, peak in peaks.items():
        model = make_model(name)
        encoded = model.encode(model.spec.training_grid)
        blocks = 0 if encoded.blocks is None else 4 * encoded.blocks.numel()
        more = peak - first
        row = {"encoding": name, "batch": MEMORY_BATCH, "peak_mb": peak / 1e6}
        rows.append(row | {"more_mb": more / 1e6, "tables": more / blocks if blocks else None})
    return rows


def peak_in_new_process(name: str) -> int:
    command = [sys.executable, "-m", "benchmarks.training_step", "--peak", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_bytes(name: str) -> int:
    """Of this process, after some steps."""
    model = make_model(name)
    for _ in range(MEMORY_STEPS):
        step(model, *make_batch(MEMORY_BATCH))
        model.zero_grad(set_to_none=True)
    return KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(benchmark: str, rows: list[dict[str, Any]]) -> None:
    """A table for people and one line of JSON."""
    table = Table(*rows[0])
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row.values())
        table.add_row(*cells)
    Console(width=120).print(table)
    print(json.dumps({"benchmark": benchmark, "threads": THREADS, "results": rows}))


if __name__ == "__main__":
    main()
