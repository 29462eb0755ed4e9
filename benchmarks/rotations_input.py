"""Rotations as constants, one graph per grid, against one graph that takes them as an input.

    python -m benchmarks.rotations_input [--rounds 7] [--threads 2]

ViT-S/16 with LieRE block 8 at three grids. Times: both ways in turn in one process. Memory: a
fresh process each, which opens all three grids and runs each once. The input of the second way
is computed beforehand and stays in memory, as a server would keep it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from export.freeze import FrozenTransformer
from export.graph import OPSET, SharedWeights, write_graph
from export.layout import joined
from media.spec import Grid, InputSpec
from models.spec import EncodingSpec, ModelSpec
from models.vit import Encoded, VisionTransformer

GRIDS = ("10x10", "14x14", "18x14")
PATCH = (16, 16)
BATCHES = {1: 8, 8: 1}  # batch -> runs timed together


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=["constant", "input"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.folder, options.memory, options.threads)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_both(folder)
        result = {
            "benchmark": "rotations_input",
            "threads": options.threads,
            "memory": {way: in_fresh_process(folder, way) for way in ("constant", "input")},
            "times": measure(folder, options.rounds, options.threads),
            "file_mb": {way: file_mb(folder, way) for way in ("constant", "input")},
        }
    print(f"{'grid':>6} {'batch':>5} {'constant ms':>12} {'input ms':>9} {'input/constant':>14}")
    for row in result["times"]:
        print(
            f"{row['grid']:>6} {row['batch']:>5} {row['constant']:>12.1f} {row['input']:>9.1f} "
            f"{row['ratio']:>14.3f}"
        )
    print(json.dumps(result))


# --- the two ways -------------------------------------------------------------------------------


class InputTransformer(nn.Module):
    """Patches [B, T, values] and tables [L, T, M, side, side] -> logits, any grid."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = FrozenTransformer(model, model.spec.training_grid).model
        self.model.patches = lambda pixels: pixels  # type: ignore[method-assign]

    def forward(self, patches: Tensor, tables: Tensor) -> Tensor:
        return self.model(patches, Encoded(None, tables))


def make_model() -> VisionTransformer:
    torch.manual_seed(0)
    spec = ModelSpec(
        patch=PATCH, grid=(14, 14), classes=1000, width=384, depth=12, heads=6, mlp_dim=1536,
        pool="mean", encoding=EncodingSpec("liere", block=8),
    )  # fmt: skip
    return VisionTransformer(spec, InputSpec()).eval()


def write_both(folder: Path) -> None:
    """constant/GRID.onnx with weights.bin; input/any.onnx with any.onnx.data and GRID.npy."""
    model = make_model()
    (folder / "constant").mkdir()
    (folder / "input").mkdir()
    with SharedWeights(folder / "constant" / "weights.bin") as weights:
        for text in GRIDS:
            grid = Grid.parse(text)
            frozen = FrozenTransformer(model, grid)
            example = torch.zeros(3, *grid.pixels(PATCH), 3, dtype=torch.uint8)
            write_graph(frozen, example, folder / "constant" / f"{text}.onnx", weights)
            np.save(folder / "input" / f"{text}.npy", joined_tables(model, grid).numpy())
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", min=2)
    tables = torch.from_numpy(np.load(folder / "input" / f"{GRIDS[0]}.npy"))
    program = torch.onnx.export(
        InputTransformer(model).eval(),
        (torch.zeros(3, tables.shape[1], 768), tables),
        dynamo=True,
        opset_version=OPSET,
        input_names=["patches", "tables"],
        output_names=["logits"],
        dynamic_shapes=({0: batch, 1: tokens}, {1: tokens}),
        verbose=False,
    )
    assert program is not None
    onnx.save(program.model_proto, folder / "input" / "any.onnx", save_as_external_data=True,
              location="any.onnx.data")  # fmt: skip


def joined_tables(model: VisionTransformer, grid: Grid) -> Tensor:
    """[L, T, M, side, side]."""
    return torch.stack([joined(table) for table in FrozenTransformer(model, grid).tables])


# --- measuring ----------------------------------------------------------------------------------


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(folder: Path, text: str, batch: int) -> tuple[dict, dict]:
    grid = Grid.parse(text)
    pixels = np.zeros((batch, *grid.pixels(PATCH), 3), dtype=np.uint8)
    patches = np.zeros((batch, grid.tokens, 768), dtype=np.float32)
    tables = np.load(folder / "input" / f"{text}.npy")
    return {"pixels": pixels}, {"patches": patches, "tables": tables}


def measure(folder: Path, rounds: int, threads: int) -> list[dict]:
    """Median ms per run, and the median ratio, for every grid and batch."""
    whole = open_session(folder / "input" / "any.onnx", threads)
    rows = []
    for text in GRIDS:
        one = open_session(folder / "constant" / f"{text}.onnx", threads)
        for batch, runs in BATCHES.items():
            pixels, patches = feeds(folder, text, batch)
            ways = {"constant": (one, pixels), "input": (whole, patches)}
            rows.append({"grid": text, "batch": batch} | compare(ways, rounds, runs))
    return rows


def compare(ways: dict, rounds: int, runs: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for session, feed in ways.values():
        session.run(None, feed)
    for _ in range(rounds):
        for name, (session, feed) in ways.items():
            start = time.perf_counter()
            for _ in range(runs):
                session.run(None, feed)
            times[name].append((time.perf_counter() - start) / runs * 1e3)
    pairs = zip(times["input"], times["constant"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return {name: statistics.median(values) for name, values in times.items()} | {"ratio": ratio}


def in_fresh_process(folder: Path, way: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.rotations_input", "--memory", way]
    done = subprocess.run(
        [*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def memory(folder: Path, way: str, threads: int) -> dict[str, float]:
    """Seconds to open and MB of resident memory with all grids open, each run once."""
    before, start = resident_mb(), time.perf_counter()
    whole = open_session(folder / "input" / "any.onnx", threads) if way == "input" else None
    held = []
    for text in GRIDS:
        pixels, patches = feeds(folder, text, 1) if way == "input" else (
            {"pixels": np.zeros((1, *Grid.parse(text).pixels(PATCH), 3), dtype=np.uint8)}, {}
        )
        session = whole or open_session(folder / "constant" / f"{text}.onnx", threads)
        session.run(None, patches if way == "input" else pixels)
        held.append((session, patches))
    return {"open_s": time.perf_counter() - start, "resident_mb": resident_mb() - before}


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 1e6


def file_mb(folder: Path, way: str) -> float:
    files = [path for path in (folder / way).iterdir() if path.suffix != ".npy"]
    return sum(path.stat().st_size for path in files) / 1e6


if __name__ == "__main__":
    main()
