"""How much memory does measuring a model take, beside its table of rotations?

LieRE with one block a head, whose table is the largest of all encodings: by default 4 layers,
6 heads of 64 channels, a 14x14 grid of patches of 16 pixels and a class token, 77 MB in float32.
Three ways, each in a process of its own:

    float64         the table as validation made it once: exponentials in float64, all at once
    validation      ``training.evaluate`` on a few pictures: the table, then the network
    training step   the same pictures, forward and backward, with no optimiser yet

A peak is what the process had resident at most (VmHWM, reset when the model stood and every library
had been used once) above what it had before. Validation goes through as many pictures at a time
as a training step does, so it needs less than that, whatever their number.

    python -m benchmarks.validation_memory
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from media.spec import Grid, InputSpec
from models.encodings import parse_encoding
from models.spec import ModelSpec
from models.vit import VisionTransformer
from training.evaluate import logits_of

THREADS = 2
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def float64(model: VisionTransformer, pixels: np.ndarray) -> None:
    with torch.inference_mode():
        model.encode(model.spec.training_grid, torch.float64)


def validation(model: VisionTransformer, pixels: np.ndarray) -> None:
    logits_of(model.eval(), pixels)


def training_step(model: VisionTransformer, pixels: np.ndarray) -> None:
    logits = model.train()(torch.from_numpy(pixels))
    nn.functional.cross_entropy(logits, torch.zeros(len(pixels), dtype=torch.long)).backward()


WAYS: dict[str, Callable[[VisionTransformer, np.ndarray], None]] = {
    "float64": float64,
    "validation": validation,
    "training step": training_step,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", default="14x14", help="tokens per axis")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--items", type=int, default=8, help="pictures, all in one pass")
    parser.add_argument("--way", choices=WAYS, help="measure this one in this process alone")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options)))
        return
    results = {way: in_a_process(way, sys.argv[1:]) for way in WAYS}
    show(results)
    print(json.dumps({"benchmark": "validation_memory", "threads": THREADS} | results))


def in_a_process(way: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.validation_memory", *arguments, "--way", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(way: str, options: argparse.Namespace) -> dict[str, float]:
    """Peak, table and their ratio; MB are 10^6 bytes."""
    torch.set_num_threads(THREADS)
    grid = Grid.parse(options.grid)
    spec = ModelSpec(
        patch=(16, 16),
        grid=grid.size,
        width=64 * options.heads,
        depth=options.layers,
        heads=options.heads,
        mlp_dim=128 * options.heads,
        pool="class",
        encoding=parse_encoding("liere_64"),
    )
    model, warm = VisionTransformer(spec, InputSpec()), np.zeros((1, 32, 32, 3), np.uint8)
    for use in (training_step, validation) if way != "float64" else (validation,):
        use(model, warm)  # libraries, threads
    model.zero_grad(set_to_none=True)
    sides = grid.pixels(spec.patch)
    pixels = np.random.default_rng(0).integers(0, 256, (options.items, *sides, 3), dtype=np.uint8)
    before = resident("VmRSS")
    RESET.write_text("5")  # VmHWM begins at what is resident now (man 5 proc)
    WAYS[way](model, pixels)
    peak = resident("VmHWM") - before
    table = 4 * 64 * 64 * spec.heads * spec.depth * (grid.tokens + spec.prefix_tokens)
    return {
        "table_mb": round(table / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "peak_over_table": round(peak / table, 2),
    }


def resident(field: str) -> int:
    """Bytes."""
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    return 1024 * int(kilobytes)


def show(results: dict[str, dict[str, float]]) -> None:
    table = Table("way", "table, MB", "peak, MB", "peak over table")
    for way, row in results.items():
        table.add_row(way, *(f"{value:g}" for value in row.values()))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
