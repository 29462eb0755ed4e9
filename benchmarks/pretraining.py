"""What do pretrained weights give, and what do larger blocks that grow out of them?

A small RoPE-Mixed model (width 128, depth 4, pictures of 32 px) learns Tiny-ImageNet. Then, of
CIFAR-10, 500, 5,000 and all 50,000 pictures, each by five ways, three seeds:

    scratch rope_mixed, scratch liere_8    from random weights
    tuned rope_mixed                       all layers of the pretrained model
    grown liere_8                          the same, its blocks grown to 8 before (models.grow)
    probe                                  a linear head on its features

500 and 5,000 pictures are drawn anew for every seed, as many of each class; a twentieth of the
pictures is set apart for validation, by which only the probe chooses. Every model is asked the
10,000 test pictures once, at its last epoch. From scratch the peak rate is 1e-3, from weights 5e-4
and a fifth less with every layer away from the head; all else is the same. There is one
pretraining, and the probe of all pictures draws nothing: it is one figure.

    python -m benchmarks.pretraining --tiny tinyimagenet32.npz --cifar cifar10_jpeg.npz \
        --out runs/pretraining

goes on where it was stopped, and shares its work when started twice on one folder. One thread
computes. Hours: --seeds 1 --sizes 500 is a look at it, in minutes once the pretraining is done.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from media.files import atomic_file, write_atomic
from models.checkpoint import checkpoint_folder, load_checkpoint
from training import data
from training.compare.comparison import claimed, held
from training.compare.rows import SeedMean, over_seeds
from training.evaluate import evaluate
from training.presets import cifar10_liere8
from training.progress import Progress

SIZES = {500: (40, 32), 5_000: (10, 64), 50_000: (5, 128)}  # pictures: epochs, batch
PRETRAINING = (6, 128)
ENCODINGS = {
    "rope_mixed": ["model.encoding.name=rope_mixed", "model.encoding.block=null"],
    "liere_8": ["model.encoding.name=liere", "model.encoding.block=8"],
}
SMALL = ["model.width=128", "model.depth=4", "model.heads=2", "model.mlp_dim=256"]
FROM_WEIGHTS = ["learning_rate=5e-4", "layer_decay=0.8"]
WAYS = ("scratch rope_mixed", "scratch liere_8", "tuned rope_mixed", "grown liere_8", "probe")
#: Of each way, the one whose figures of the same seed are taken off.
AGAINST = {
    "tuned rope_mixed": "scratch rope_mixed",
    "grown liere_8": "tuned rope_mixed",
    "scratch liere_8": "scratch rope_mixed",
}
MEASURED = "measured.json"


def main() -> None:
    """Train what is missing, then print the table and one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--tiny", type=Path, required=True, help="Tiny-ImageNet at 32 px, an .npz")
    add("--cifar", type=Path, required=True, help="CIFAR-10, an .npz with SPLIT_jpeg")
    add("--out", type=Path, required=True, help="folder of runs and figures")
    add("--seeds", type=int, default=3)
    add("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    study = Study(options.tiny.absolute(), options.cifar.absolute(), options.out.absolute())
    one = list(study.entries(options.sizes, options.seeds))
    study.complete(one)
    show(one, options.sizes)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One way of one size and seed."""

    root: Path
    way: str
    size: int
    seed: int

    @property
    def figures(self) -> dict[str, float] | None:
        """``top1`` of the test split and ``core_seconds``; None until both are known."""
        path = self.root / MEASURED
        return json.loads(path.read_text()) if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Study:
    """The data and the folder in which everything lies."""

    tiny: Path
    cifar: Path
    out: Path

    @property
    def pretrained(self) -> Entry:
        return Entry(self.out / "pretrained", "pretraining", 100_000, 0)

    def entries(self, sizes: Sequence[int], seeds: int) -> Iterator[Entry]:
        """In the order of the work: what is finished first is a whole, smaller study."""
        yield self.pretrained
        for seed in range(seeds):
            for size in sizes:
                for way in WAYS:
                    if way != "probe" or size < max(SIZES) or seed == 0:
                        name = f"{way.replace(' ', '-')}-{size}-seed{seed}"
                        yield Entry(self.out / name, way, size, seed)

    def complete(self, entries: Sequence[Entry]) -> None:
        """Everything that nobody else is at; waits for the pretraining where it has to."""
        while missing := [one for one in entries if one.figures is None]:
            taken = False
            for one in missing:
                if "scratch" not in one.way and one != self.pretrained and not self._ready():
                    continue
                with claimed(self.out, one.root.name) as ours:
                    if ours and one.figures is None:
                        taken = True
                        self._run(one)
            if not taken:
                time.sleep(20)  # others are at the rest

    def _ready(self) -> bool:
        return self.pretrained.figures is not None

    def _run(self, one: Entry) -> None:
        """Train it, or go on; processor time of every stop and start is added up."""
        began, told = _processor_seconds(), one.root / "core-seconds"
        one.root.mkdir(parents=True, exist_ok=True)
        try:
            root = one.root / "run"
            _python("training", *self._command(one), "--out", root, "--no-report")
            top1 = self._top1(root, "val" if one == self.pretrained else "test")
        finally:
            spent = float(told.read_text()) if told.exists() else 0.0
            spent += _processor_seconds() - began
            write_atomic(told, str(spent).encode())
        figures = {"top1": top1, "core_seconds": round(spent, 1)}
        write_atomic(one.root / MEASURED, json.dumps(figures).encode())
        print(one.root.name, figures, flush=True)

    def _command(self, one: Entry) -> list[object]:
        """Of ``python -m training``, without what all share."""
        pretrained = self.out / "pretrained" / "run"
        if one.way == "probe":
            shutil.rmtree(one.root / "run", ignore_errors=True)  # of a stop: seconds are lost
            return ["linear-probe", "--init-from", pretrained, "--data", self._pictures(one),
                    "--workers", 0]  # fmt: skip
        pictures = self.tiny if one == self.pretrained else self._pictures(one)
        common = ["cifar10-liere8", "--data", pictures, "--allow-duplicates", "--resume", "auto"]
        epochs, batch = PRETRAINING if one == self.pretrained else SIZES[one.size]
        shared = ["precision=bf16", "choose=last", "workers=1", f"epochs={epochs}",
                  f"batch={batch}", f"seed={one.seed}"]  # fmt: skip
        begin, _, encoding = one.way.partition(" ")
        if begin == "tuned":
            return [*common, "--init-from", pretrained, *_set(*shared, *FROM_WEIGHTS)]
        if begin == "grown":
            return [*common, "--init-from", self._grown(), *_set(*shared, *FROM_WEIGHTS)]
        return [*common, *_set(*shared, *SMALL, *ENCODINGS[encoding or "rope_mixed"])]

    def _grown(self) -> Path:
        """The pretrained model with larger blocks, made once."""
        grown = self.out / "grown"
        with held(self.out, "growing"):
            if not grown.exists():
                _python("models.grow", self.out / "pretrained" / "run", "--encoding", "liere",
                        "--block", 8, "--out", grown)  # fmt: skip
        return grown

    def _pictures(self, one: Entry) -> Path:
        """All of CIFAR-10, or as many of each class drawn by the seed, with all of the test."""
        if one.size == max(SIZES):
            return self.cifar
        path = self.out / f"cifar-{one.size}-seed{one.seed}.npz"
        if not path.exists():
            with atomic_file(path) as stream:
                np.savez(stream, allow_pickle=False, **_drawn(self.cifar, one))
        return path

    def _top1(self, root: Path, split: str) -> float:
        model, description = load_checkpoint(checkpoint_folder(root))
        judged = self.tiny if split == "val" else self.cifar
        config = dataclasses.replace(
            cifar10_liere8(str(judged)), model=description.model, input=description.input
        )
        dataset = data.open_data(config)
        if dataset.labels != description.labels:
            raise SystemExit(f"{root}: the labels are not those of {judged.name}")
        prepared = data.prepare(dataset, split, config, Progress(shown=False), self.out / "cache")
        return evaluate(model, prepared)["top1"]


def _drawn(cifar: Path, one: Entry) -> dict[str, np.ndarray]:
    """Some of the training pictures, as many of each class, in the layout of the whole file."""
    with np.load(cifar) as whole:
        arrays = {name: whole[name] for name in whole.files}
    rng, labels = np.random.default_rng(one.seed), arrays["train_labels"]
    each = one.size // len(arrays["classes"])
    of_class = [np.flatnonzero(labels == label) for label in range(len(arrays["classes"]))]
    chosen = np.sort(np.concatenate([rng.choice(places, each, False) for places in of_class]))
    offsets = arrays["train_offsets"]
    files = [arrays["train_jpeg"][offsets[at] : offsets[at + 1]] for at in chosen]
    ends = np.cumsum([0, *map(len, files)])
    return arrays | {
        "train_jpeg": np.concatenate(files),
        "train_offsets": ends,
        "train_labels": labels[chosen],
        "train_names": arrays["train_names"][chosen],
    }


def _set(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _python(*words: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True, stdout=sys.stderr)


def _processor_seconds() -> float:
    """Of this process and those it has waited for."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    times = [resource.getrusage(one) for one in who]
    return sum(one.ru_utime + one.ru_stime for one in times)


def show(entries: Sequence[Entry], sizes: Sequence[int]) -> None:
    """The table, and one JSON line."""
    points = {(one.way, one.size, one.seed): one.figures for one in entries}
    known = {key: figures["top1"] for key, figures in points.items() if figures}
    table = Table("", *(f"{size:,} pictures" for size in sizes))
    told: dict[str, dict[str, object]] = {}
    for way in WAYS:
        rows = {size: _of(known, way, size) for size in sizes}
        table.add_row(way, *(_percent(over_seeds(list(row.values()))) for row in rows.values()))
        told[way] = {str(size): list(row.values()) for size, row in rows.items()}
    for way, against in AGAINST.items():
        cells = []
        for size in sizes:
            row, base = _of(known, way, size), _of(known, against, size)
            cells.append(_percent(over_seeds([row[s] - base[s] for s in row if s in base]), "+"))
        table.add_row(f"{way} - {against}", *cells)
    Console().print(table)
    hours = sum(figures["core_seconds"] for figures in points.values() if figures) / 3600
    result = {"benchmark": "pretraining", "core_hours": round(hours, 2), "test_top1": told}
    pretrained = next(iter(points.values()))
    print(json.dumps(result | {"pretraining_val_top1": pretrained and pretrained["top1"]}))


def _of(known: dict[tuple[str, int, int], float], way: str, size: int) -> dict[int, float]:
    """By seed."""
    return {seed: top1 for (one, items, seed), top1 in known.items() if (one, items) == (way, size)}


def _percent(figure: SeedMean | None, sign: str = "") -> str:
    if figure is None:
        return "missing"
    half = "" if figure.half is None else f" ± {100 * figure.half:.1f}"
    return f"{100 * figure.mean:{sign}.1f}{half}"


if __name__ == "__main__":
    main()
