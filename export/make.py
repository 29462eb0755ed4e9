"""Checkpoint -> bundle, in order: sizes, graphs, proof, accuracy, goldens, card, manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import Progress

from export.card import model_card
from export.freeze import FrozenTransformer, table_bytes
from export.golden import TOLERANCES, golden_files
from export.graph import OPSET, WEIGHTS, SharedWeights, write_graph
from export.parity import accuracy, compare, graph_logits, open_graph, torch_logits
from models.bundle import Bundle, Golden, GridEntry, write_bundle
from models.checkpoint import Description, load_checkpoint
from models.inputs import prepare
from models.prepared import prepare_split
from models.sources import Source, SourceError, open_source
from models.spec import Grid, SpecError
from models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        checkpoint: folder of the checkpoint.
        data: labelled data whose ``split`` measures parity and accuracy; None takes the path
            that training used.
        about: Markdown for the head of the model card.
        parity_items: real inputs per grid that torch and the graph must agree on.
        goldens: files to replay instead of generated ones; they travel in the bundle.
    """

    checkpoint: Path
    grids: tuple[Grid, ...]
    out: Path
    name: str
    version: str = "1"
    data: Path | None = None
    split: str = "test"
    about: str = ""
    parity_items: int = 256
    max_table_mb: float = 256.0
    goldens: tuple[Path, ...] = ()
    workers: int = 2


def make_bundle(options: Options, console: Console) -> Bundle:
    """Export one bundle, proved; nothing is left behind unless every step succeeds.

    Raises:
        SpecError, SourceError, CheckpointError: bad input.
        ParityError, GraphError: the graphs do not give the checkpoint's answers.
        FileExistsError: the bundle is there already.
    """
    root = options.out / options.name
    if root.exists():
        raise FileExistsError(f"{root} exists; a bundle is never changed: choose another --name")
    model, description = load_checkpoint(options.checkpoint)
    announce_tables(model, options, console)
    source = open_test_data(options, description)
    made = Maker(options, model, description, source, console)
    return write_bundle(root, made.fill)


def announce_tables(model: VisionTransformer, options: Options, console: Console) -> None:
    """Print what the rotations will weigh; SpecError if that is over the limit."""
    total = 0.0
    for grid in options.grids:
        if grid.axes != len(model.spec.patch):
            raise SpecError(f"grid {grid} has {grid.axes} axes, the model {len(model.spec.patch)}")
        size = table_bytes(model, grid) / 1e6
        total += size
        console.print(f"grid {grid}: {grid.tokens} tokens, rotation table {size:.2f} MB")
    console.print(f"rotation tables together: {total:.2f} MB")
    if total > options.max_table_mb:
        raise SpecError(
            f"rotation tables of {total:.2f} MB are over --max-table-mb {options.max_table_mb:g}; "
            "export fewer or smaller grids, a smaller block, or generators shared over layers"
        )


def open_test_data(options: Options, description: Description) -> Source:
    """The data that measure the bundle; its labels must be the checkpoint's."""
    path = options.data or description.notes.get("config", {}).get("data")
    if not path:
        raise SpecError("the checkpoint does not say where its data are: pass --data")
    source = open_source(Path(path))
    if source.labels != description.labels:
        raise SourceError(
            f"labels do not match the checkpoint: expected {list(description.labels)}, "
            f"got {list(source.labels)}"
        )
    return source


class Maker:
    """Fills the folder of one bundle."""

    def __init__(
        self,
        options: Options,
        model: VisionTransformer,
        description: Description,
        source: Source,
        console: Console,
    ) -> None:
        self.options, self.model, self.description = options, model, description
        self.source, self.console = source, console

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write every file but the manifest; returns the manifest's fields."""
        (folder / "graphs").mkdir()
        (folder / "golden").mkdir()
        with SharedWeights(folder / "graphs" / WEIGHTS) as weights:
            for grid in self.options.grids:
                self._write_graph(grid, folder / "graphs" / f"{grid}.onnx", weights)
        entries = [self._measure(grid, folder) for grid in self.options.grids]
        goldens = self._write_goldens(folder)
        origin = self._origin()
        options, description = self.options, self.description
        card = model_card(options.name, description, entries, origin, options.about)
        (folder / "README.md").write_text(card, encoding="utf-8")
        return {
            "name": options.name,
            "version": options.version,
            "modality": description.input.modality,
            "input": description.input,
            "patch": self.model.spec.patch,
            "encoding": self.model.spec.encoding,
            "labels": description.labels,
            "precision": "fp32",
            "opset": OPSET,
            "grids": tuple(entries),
            "goldens": tuple(goldens),
            "tolerances": TOLERANCES,
            "source": origin,
        }

    def _write_graph(self, grid: Grid, path: Path, weights: SharedWeights) -> None:
        with self._bar(f"graph {grid}", 1) as advance:
            frozen = FrozenTransformer(self.model, grid)
            sides = grid.pixels(self.model.spec.patch)
            example = torch.zeros(3, *sides, self.model.spec.channels, dtype=torch.uint8)
            write_graph(frozen, example, path, weights)
            advance(1)

    def _measure(self, grid: Grid, folder: Path) -> GridEntry:
        """Parity on the first items of the split, accuracy on all of it."""
        options, spec = self.options, self.model.spec
        count = len(self.source.split(options.split))
        with self._bar(f"decoding {grid}", count) as advance:
            prepared = prepare_split(
                self.source, options.split, self.description.input, grid, spec.patch,
                workers=options.workers, advance=advance,
            )  # fmt: skip
        session = open_graph(folder / "graphs" / f"{grid}.onnx")
        with self._bar(f"measuring {grid}", count) as advance:
            logits = graph_logits(session, prepared.pixels, advance)
        some = _spread(count, options.parity_items)
        expected = torch_logits(self.model, prepared.pixels[some], grid)
        entry = GridEntry(
            grid=str(grid),
            graph=f"graphs/{grid}.onnx",
            parity=compare(logits[some], expected),
            accuracy=accuracy(logits, prepared, options.split),
        )
        self.console.print(
            f"grid {grid}: top-1 {entry.accuracy.top1:.4f} on {count} items, largest difference "
            f"{entry.parity.max_abs:.2g} ({entry.parity.worst_ratio:.2f} of the bound)"
        )
        return entry

    def _write_goldens(self, folder: Path) -> list[Golden]:
        goldens = []
        modality = self.description.input.modality
        for name, data in golden_files(modality, list(self.options.goldens)).items():
            (folder / "golden" / name).write_bytes(data)
            goldens.append(Golden(f"golden/{name}", self._golden_logits(data)))
        return goldens

    def _golden_logits(self, data: bytes) -> dict[str, tuple[float, ...]]:
        logits = {}
        for grid in self.options.grids:
            pixels = prepare(data, self.description.input, grid, self.model.spec.patch)
            row = torch_logits(self.model, pixels[np.newaxis].copy(), grid)[0]  # [classes]
            logits[str(grid)] = tuple(float(value) for value in row)
        return logits

    def _origin(self) -> dict[str, Any]:
        notes = self.description.notes
        return {
            "checkpoint_sha256": self.description.weights_sha256,
            "step": notes.get("step"),
            "data": notes.get("data", {}),
            "commit": _commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "goldens": "files chosen by its maker" if self.options.goldens else "generated pictures",
        }

    @contextlib.contextmanager
    def _bar(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        with Progress(
            console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(text, total=total)
            yield lambda done: progress.advance(task, done)


def _spread(count: int, wanted: int) -> np.ndarray:
    """``wanted`` indices spread evenly over ``count`` items, all of them where there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(int))


def _commit() -> str:
    """The commit of this code, ``unknown`` outside a checkout, ``+changes`` where it was edited."""
    root = Path(__file__).parent.parent
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
