"""What rotations cost in an exported graph: ViT-S/16 at 224 px, each encoding over absolute.

And what fp16 costs on a CPU, which computes most of it in fp32: it is meant for GPUs.

    python -m benchmarks.export_overhead [--encodings axial_rope,liere_8] [--rounds 7]

The graphs are made by the exporter from random weights and run in turn in one process on the
CPU, so that a change of the machine's speed meets all; ratios are medians of the rounds' ratios.
Beside the time by the clock stands processor time, which other programs disturb less. The thread
pools do not spin: an idle session's threads would take the other's processor.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from export.plan import plan_of
from media.spec import Grid, InputSpec
from models.encodings import parse_encoding
from models.manifest import Precision
from models.spec import ModelSpec
from models.vit import VisionTransformer

SPEC = ModelSpec(
    patch=(16, 16), grid=(14, 14), classes=1000, width=384, depth=12, heads=6, mlp_dim=1536,
    pool="class",
)  # fmt: skip
BASE = "absolute"
ENCODINGS = f"{BASE},axial_rope,masa,liere_8,liere_64"
#: Exported in fp16 as well, where it is among the encodings.
HALF = "liere_8"
BATCHES = {1: 10, 8: 2}  # batch -> runs timed together

#: Name of a graph -> milliseconds of each round, by the clock and of the processor.
Times = dict[str, list[tuple[float, float]]]


def main() -> None:
    """Print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--encodings", default=ENCODINGS, help=f"short names, by commas (default: {ENCODINGS})")
    add("--rounds", type=int, default=7, help="rounds, each with every graph")
    add("--threads", type=int, default=2, help="threads of each session")
    options = parser.parse_args()
    names = [BASE, *(name for name in options.encodings.split(",") if name != BASE)]
    graphs: list[tuple[str, str, Precision]] = [(name, name, "fp32") for name in names]
    graphs += [(f"{HALF} fp16", HALF, "fp16")] if HALF in names else []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: make_session(
                Path(folder) / str(index),
                dataclasses.replace(SPEC, encoding=parse_encoding(encoding)),
                precision,
                options.threads,
            )
            for index, (name, encoding, precision) in enumerate(graphs)
        }
        times = {batch: measure(sessions, batch, options.rounds) for batch in BATCHES}
    rows = {name: row(name, times, BASE) for name in sessions}
    show(rows)
    print(json.dumps({"benchmark": "export_overhead", "threads": options.threads, "rows": rows}))


def make_session(
    folder: Path, spec: ModelSpec, precision: Precision, threads: int
) -> onnxruntime.InferenceSession:
    """A session of one exported ViT-S/16; no bias or gain of it is trivial."""
    folder.mkdir()
    torch.manual_seed(0)
    model = VisionTransformer(spec, InputSpec()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("_bias", "_scale")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    plan = plan_of(model)
    print(f"{spec.encoding.name} {precision}: {plan.form}", flush=True)
    frozen = FrozenTransformer(plan.model, Grid((14, 14)), precision, plan)
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
) -> Times:
    """Every session once a round, after one run each that warms up."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    times: Times = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(None, {"pixels": pixels})
    for _ in range(rounds):
        for name, session in sessions.items():
            clock, processor = time.perf_counter(), time.process_time()
            for _ in range(BATCHES[batch]):
                session.run(None, {"pixels": pixels})
            spent = time.perf_counter() - clock, time.process_time() - processor
            times[name].append((spent[0] / BATCHES[batch] * 1e3, spent[1] / BATCHES[batch] * 1e3))
    return times


def row(name: str, times: dict[int, Times], base_name: str) -> dict[str, float]:
    """Medians of one graph and of its ratios to the base, and their geometric means."""
    found: dict[str, float] = {}
    for place, kind in enumerate(("ratio", "processor_ratio")):
        for batch, of_batch in times.items():
            own = [spent[place] for spent in of_batch[name]]
            base = [spent[place] for spent in of_batch[base_name]]
            if kind == "ratio":
                found[f"batch_{batch}_ms"] = statistics.median(own)
            ratios = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
            found[f"batch_{batch}_{kind}"] = statistics.median(ratios)
        means = (found[f"batch_{batch}_{kind}"] for batch in times)
        found[f"mean_{kind}"] = statistics.geometric_mean(means)
    return found


def show(rows: dict[str, dict[str, float]]) -> None:
    """Ratios by the clock, those of processor time in brackets."""
    heads = [f"batch {batch}, ms" for batch in BATCHES] + [f"batch {batch}" for batch in BATCHES]
    print(f"{'':>16}" + "".join(f"{head:>16}" for head in [*heads, "mean"]))
    for name, found in rows.items():
        cells = [f"{found[f'batch_{batch}_ms']:.1f}" for batch in BATCHES]
        cells += [
            f"{found[f'{part}_ratio']:.3f} ({found[f'{part}_processor_ratio']:.3f})"
            for part in (*(f"batch_{batch}" for batch in BATCHES), "mean")
        ]
        print(f"{name:>16}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
