"""What does the exponential of a model's generators cost, and how exact is it?

The rotations of one training step: 12 layers, 6 heads of 64 channels, an 8x8 grid and a class
token, two axes, generators as published (entries from U(0, 2 pi)). Three ways of getting them from
positions and generators, float32, two CPU threads:

    matrix_exp    torch.linalg.matrix_exp of the weighted sums
    exponential   ours, of the same matrices
    on the grid   ours, which knows that positions on one ray are powers of one rotation

All run in turn inside one process, so that whatever else the machine does slows them alike; times
are medians, ratios are of medians. Backward passes end at the generators. Errors are the largest of
any entry, against float64, as drawn and at four times the norm, on some of the matrices.

    python -m benchmarks.exponential --rounds 5
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models.rotations.exponential import exponential, exponentials
from models.rotations.skew import skew

THREADS = 2
BLOCKS = (2, 4, 8, 16, 32, 64)
AXES, LAYERS, HEADS, HEAD_DIM, SIDE = 2, 12, 6, 64, 8
#: Layers whose rotations are compared with float64.
COMPARED = 2
#: Seconds of the forward pass, and of both passes.
Times = tuple[float, float]


def exponents(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, ..., K, K]."""
    return (positions @ generators.flatten(1)).unflatten(1, generators.shape[1:])


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matrix_exp": lambda positions, generators: torch.linalg.matrix_exp(
        exponents(positions, generators)
    ),
    "exponential": lambda positions, generators: exponential(exponents(positions, generators)),
    "on the grid": exponentials,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way and block")
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS, help="sides of a block")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    results = [measure(block, options.rounds) for block in options.blocks]
    show(results)
    print(json.dumps({"benchmark": "exponential", "threads": THREADS, "results": results}))


def make_positions() -> Tensor:
    """[65, 2], the class token at the origin."""
    side = torch.linspace(0, 1, SIDE)
    grid = torch.cartesian_prod(side, side)  # [64, 2]
    return torch.cat([torch.zeros(1, AXES), grid])


def make_generators(block: int) -> Tensor:
    """[A, L, H, N, K, K]."""
    entries = torch.empty(AXES, LAYERS, HEADS, HEAD_DIM // block, block * (block - 1) // 2)
    entries.uniform_(0, 2 * math.pi, generator=torch.Generator().manual_seed(0))
    return skew(entries, block)


def measure(block: int, rounds: int) -> dict[str, Any]:
    """Medians and errors of every way, after one round that warms up."""
    positions, generators = make_positions(), make_generators(block)
    seen = torch.randn(len(positions), *generators.shape[1:])
    times: dict[str, list[Times]] = {name: [] for name in WAYS}
    for count in range(rounds + 1):
        for name, way in WAYS.items():
            taken = one_run(way, positions, generators, seen)
            if count:
                times[name].append(taken)
    medians = {
        name: [statistics.median(part) for part in zip(*taken, strict=True)]
        for name, taken in times.items()
    }
    result: dict[str, Any] = {"block": block, "rounds": rounds, "seconds": medians}
    base = medians["matrix_exp"]
    result["faster"] = {
        name: [whole / own for whole, own in zip(base, medians[name], strict=True)]
        for name in WAYS
        if name != "matrix_exp"
    }
    result["errors"] = {scale: errors(positions, scale * generators) for scale in (1, 4)}
    return result


def one_run(
    way: Callable[[Tensor, Tensor], Tensor], positions: Tensor, generators: Tensor, seen: Tensor
) -> Times:
    leaf = generators.clone().requires_grad_()
    start = time.perf_counter()
    table = way(positions, leaf)
    forward = time.perf_counter() - start
    table.backward(seen)
    return forward, time.perf_counter() - start


def errors(positions: Tensor, generators: Tensor) -> dict[str, float]:
    """Largest difference of any entry from the exponential in float64 of the same matrices."""
    some = generators[:, :COMPARED]
    exact = torch.linalg.matrix_exp(exponents(positions, some).double())
    return {name: (way(positions, some) - exact).abs().max().item() for name, way in WAYS.items()}


def show(results: list[dict[str, Any]]) -> None:
    heads = (f"{name}, ms" for name in WAYS)
    table = Table("block", *heads, "faster", "on the grid", "error", "x4")
    for row in results:
        cells = [" / ".join(f"{1000 * s:.1f}" for s in row["seconds"][name]) for name in WAYS]
        faster = [" / ".join(f"{f:.1f}" for f in ratios) for ratios in row["faster"].values()]
        told = [
            ", ".join(f"{error:.1e}" for error in row["errors"][scale].values()) for scale in (1, 4)
        ]
        table.add_row(str(row["block"]), *cells, *faster, *told)
    Console(width=200).print(table)
    print("Times and factors: forward / forward and backward. Errors: in the order of the times.")


if __name__ == "__main__":
    main()
