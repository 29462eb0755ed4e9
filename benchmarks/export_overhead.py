"""What LieRE costs in an exported graph: ViT-S/16 at 224 px, block 8 over absolute positions.

And what fp16 costs on a CPU, which computes most of it in fp32: it is meant for GPUs.

    python -m benchmarks.export_overhead [--rounds 7] [--threads 2]

The graphs are made by the exporter from random weights and run in turn in one process on the
CPU, so that a change of the machine's speed meets all. The thread pools do not spin: an idle
session's threads would take the other's processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from export.freeze import FrozenTransformer
from export.graph import SharedWeights, write_graph
from models.bundle import Precision
from models.spec import EncodingSpec, Grid, InputSpec, ModelSpec
from models.vit import VisionTransformer

GRAPHS: dict[str, tuple[EncodingSpec, Precision]] = {
    "absolute": (EncodingSpec("absolute", None), "fp32"),
    "liere_8": (EncodingSpec("liere", 8), "fp32"),
    "liere_8_fp16": (EncodingSpec("liere", 8), "fp16"),
}
RATIOS = {"ratio": ("liere_8", "absolute"), "fp16_ratio": ("liere_8_fp16", "liere_8")}
BATCHES = {1: 10, 8: 2}  # batch -> runs timed together


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each with both graphs")
    parser.add_argument("--threads", type=int, default=2, help="threads of each session")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: make_session(Path(folder) / name, encoding, precision, options.threads)
            for name, (encoding, precision) in GRAPHS.items()
        }
        results = {batch: measure(sessions, batch, options.rounds) for batch in BATCHES}
    print(f"{'batch':>5}" + "".join(f" {name + ' ms':>15}" for name in GRAPHS) + "".join(
        f" {name:>10}" for name in RATIOS))
    for batch, row in results.items():
        print(f"{batch:>5}" + "".join(f" {row[name]:>15.1f}" for name in GRAPHS) + "".join(
            f" {row[name]:>10.3f}" for name in RATIOS))
    print(json.dumps({"benchmark": "export_overhead", "threads": options.threads} | {
        f"batch_{batch}": row for batch, row in results.items()
    }))


def make_session(
    folder: Path, encoding: EncodingSpec, precision: Precision, threads: int
) -> onnxruntime.InferenceSession:
    """A session of one exported ViT-S/16."""
    folder.mkdir()
    torch.manual_seed(0)
    spec = ModelSpec(
        patch=(16, 16), grid=(14, 14), classes=1000, width=384, depth=12, heads=6, mlp_dim=1536,
        pool="class", encoding=encoding,
    )  # fmt: skip
    frozen = FrozenTransformer(VisionTransformer(spec, InputSpec()), Grid((14, 14)), precision)
    example = torch.zeros(3, 224, 224, 3, dtype=torch.uint8)
    with SharedWeights(folder / "weights.bin") as weights:
        write_graph(frozen, example, folder / "14x14.onnx", weights, precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = str(folder / "14x14.onnx")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(
    sessions: dict[str, onnxruntime.InferenceSession], batch: int, rounds: int
) -> dict[str, float]:
    """Median ms per run of each session, and the medians of the ratios round by round."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(None, {"pixels": pixels})
    for _ in range(rounds):
        for name, session in sessions.items():
            start = time.perf_counter()
            for _ in range(BATCHES[batch]):
                session.run(None, {"pixels": pixels})
            times[name].append((time.perf_counter() - start) / BATCHES[batch] * 1e3)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
        for name, (over, under) in RATIOS.items()
    }
    return {name: statistics.median(values) for name, values in times.items()} | ratios


if __name__ == "__main__":
    main()
