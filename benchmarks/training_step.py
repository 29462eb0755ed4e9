"""What does it cost to learn rotations? One training step, LieRE over absolute positions.

The network is fixed: width 384, depth 12, 6 heads, MLP 768, 32x32 pixels, patch 4, a class token,
float32, two CPU threads. A step is the forward and the backward pass, generators and exponential
included; the optimiser's update, which is the same small cost for both, is left out. LieRE turns
queries and keys in blocks of 8, with generators of its own for every layer and head.

Both models run in turn inside one process, step by step, so that whatever else the machine does
slows both alike. Batch 32 is where the rotations, computed once a step, weigh most; by batch 128
they are spread over four times the items. The ratio is that of the medians.

    python -m benchmarks.training_step --rounds 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from models.spec import EncodingSpec, InputSpec, ModelSpec
from models.vit import VisionTransformer

THREADS = 2
BATCHES = (32, 128)
ENCODINGS = {"absolute": EncodingSpec("absolute", None), "liere_8": EncodingSpec("liere", 8)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="steps of each model and batch")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    models = {name: make_model(encoding) for name, encoding in ENCODINGS.items()}
    results = [measure(models, batch, options.rounds) for batch in BATCHES]
    show(results)
    print(json.dumps({"benchmark": "training_step", "threads": THREADS, "results": results}))


def make_model(encoding: EncodingSpec) -> VisionTransformer:
    torch.manual_seed(0)
    spec = ModelSpec(
        patch=(4, 4),
        grid=(8, 8),
        width=384,
        depth=12,
        heads=6,
        mlp_dim=768,
        pool="class",
        encoding=encoding,
    )
    return VisionTransformer(spec, InputSpec()).train()


def measure(models: dict[str, VisionTransformer], batch: int, rounds: int) -> dict[str, float]:
    """Median seconds of one step per model, after one step each that warms up."""
    pixels = torch.randint(256, (batch, 32, 32, 3), dtype=torch.uint8)
    targets = torch.randint(10, (batch,))
    times: dict[str, list[float]] = {name: [] for name in models}
    for count in range(rounds + 1):
        for name, model in models.items():
            seconds = step(model, pixels, targets)
            if count:
                times[name].append(seconds)
    medians = {f"{name}_seconds": statistics.median(values) for name, values in times.items()}
    ratio = medians["liere_8_seconds"] / medians["absolute_seconds"]
    return {"batch": batch, "rounds": rounds, **medians, "ratio": ratio}


def step(model: VisionTransformer, pixels: Tensor, targets: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    logits = model(pixels, model.encode(model.spec.training_grid))
    functional.cross_entropy(logits, targets).backward()
    return time.perf_counter() - start


def show(results: list[dict[str, float]]) -> None:
    table = Table("batch", *(f"{name}, ms" for name in ENCODINGS), "ratio")
    for row in results:
        milliseconds = (f"{1000 * row[f'{name}_seconds']:.0f}" for name in ENCODINGS)
        table.add_row(f"{row['batch']:.0f}", *milliseconds, f"{row['ratio']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
