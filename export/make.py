"""Checkpoint -> bundle, in order: sizes, graphs, proof, accuracy, goldens, card, manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
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
from export.freeze import FrozenTransformer, loaded_bytes, table_bytes
from export.golden import TOLERANCES, golden_files
from export.graph import OPSET, WEIGHTS, SharedWeights, write_graph
from export.parity import accuracy, compare, graph_logits, open_graph, torch_logits
from models.bundle import NAME_PATTERN, Bundle, Golden, GridEntry, write_bundle
from models.checkpoint import Description, load_checkpoint
from models.inputs import prepare
from models.prepared import Prepared, prepare_split, split_sha256
from models.sources import SPLITS, Source, SourceError, open_source
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
    for field in ("name", "version"):
        if not re.fullmatch(NAME_PATTERN, getattr(options, field)):
            raise SpecError(f"--{field}: expected {NAME_PATTERN}, got {getattr(options, field)!r}")
    root = options.out / options.name
    if root.exists():
        raise FileExistsError(f"{root} exists; a bundle is never changed: choose another --name")
    model, description = load_checkpoint(options.checkpoint)
    announce_tables(model, options, console)
    source = open_test_data(options, description)
    made = Maker(options, model, description, source, console)
    return write_bundle(root, made.fill)


def announce_tables(model: VisionTransformer, options: Options, console: Console) -> None:
    """Print what the rotations will weigh; SpecError if that is over the limit when loaded."""
    stored = loaded = 0.0
    for grid in options.grids:
        if grid.axes != len(model.spec.patch):
            raise SpecError(f"grid {grid} has {grid.axes} axes, the model {len(model.spec.patch)}")
        table, folded = table_bytes(model, grid) / 1e6, loaded_bytes(model, grid) / 1e6
        stored, loaded = stored + table, loaded + folded
        console.print(
            f"grid {grid}: {grid.tokens} tokens, rotation table {table:.2f} MB, "
            f"{folded:.2f} MB loaded"
        )
    console.print(f"rotation tables together: {stored:.2f} MB, {loaded:.2f} MB loaded")
    if loaded > options.max_table_mb:
        raise SpecError(
            f"rotation tables of {loaded:.2f} MB when loaded are over --max-table-mb "
            f"{options.max_table_mb:g}; export fewer or smaller grids, or raise it knowingly"
        )


def open_test_data(options: Options, description: Description) -> Source:
    """The data that measure the bundle: the checkpoint's labels, and no item it was trained on."""
    trained = description.notes.get("data", {})
    if missing := {"name", "train", "val"} - set(trained):
        raise SpecError(f"the checkpoint does not say its data's {', '.join(sorted(missing))}")
    path = options.data or description.notes.get("config", {}).get("data")
    if not path:
        raise SpecError("the checkpoint does not say where its data are: pass --data")
    source = open_source(Path(path))
    if source.labels != description.labels:
        raise SourceError(
            f"labels do not match the checkpoint: expected {list(description.labels)}, "
            f"got {list(source.labels)}"
        )
    has_train = any(item.split == "train" for item in source.items)
    if has_train and split_sha256(source, "train") != trained["train"]["sha256"]:
        raise SourceError(
            "the data's train split is not the one that the checkpoint was trained on, so its test "
            "items may have been trained on: pass the original data, or test items alone"
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
        goldens = self._write_goldens(folder)
        entries = [self._measure(grid, folder) for grid in self.options.grids]
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
        """Accuracy on the whole split; parity on items spread over it."""
        options = self.options
        prepared = self._prepare(options.split, grid)
        count = len(prepared.ids)
        session = open_graph(folder / "graphs" / f"{grid}.onnx")
        with self._bar(f"measuring {grid}", count) as advance:
            logits = graph_logits(session, prepared.pixels, advance)
        pixels = self._parity_pixels(prepared, grid)
        parity = compare(graph_logits(session, pixels), torch_logits(self.model, pixels, grid))
        entry = GridEntry(
            grid=str(grid),
            graph=f"graphs/{grid}.onnx",
            parity=parity,
            accuracy=accuracy(logits, prepared, options.split),
        )
        self.console.print(
            f"grid {grid}: top-1 {entry.accuracy.top1:.4f} on {count} items, largest difference "
            f"{entry.parity.max_abs:.2g} ({entry.parity.worst_ratio:.2f} of the bound)"
        )
        return entry

    def _prepare(self, split: str, grid: Grid, limit: int | None = None) -> Prepared:
        count = len(self.source.split(split)[:limit])
        with self._bar(f"decoding {split} {grid}", count) as advance:
            return prepare_split(
                self.source, split, self.description.input, grid, self.model.spec.patch,
                workers=self.options.workers, advance=advance, limit=limit,
            )  # fmt: skip

    def _parity_pixels(self, prepared: Prepared, grid: Grid) -> np.ndarray:
        """Enough real inputs: spread over the measured split, then from the other splits."""
        wanted = self.options.parity_items
        parts = [prepared.pixels[_spread(len(prepared.ids), wanted)]]
        present = {item.split for item in self.source.items} - {self.options.split}
        for split in sorted(present, key=SPLITS.index, reverse=True):
            if lacking := wanted - sum(map(len, parts)):
                parts.append(self._prepare(split, grid, lacking).pixels)
        pixels = np.concatenate(parts)
        if not 1 <= wanted <= len(pixels):
            raise SpecError(
                f"parity needs {wanted} items and the data have {len(pixels)}: "
                "lower --parity-items (at least 1) knowingly"
            )
        return pixels

    def _write_goldens(self, folder: Path) -> list[Golden]:
        goldens = []
        modality = self.description.input.modality
        for name, data in golden_files(modality, list(self.options.goldens)).items():
            (folder / "golden" / name).write_bytes(data)
            goldens.append(Golden(f"golden/{name}", self._golden_logits(data, folder)))
        return goldens

    def _golden_logits(self, data: bytes, folder: Path) -> dict[str, tuple[float, ...]]:
        """Torch's logits per grid, which the graph must give too."""
        logits = {}
        for grid in self.options.grids:
            pixels = prepare(data, self.description.input, grid, self.model.spec.patch)
            batch = pixels[np.newaxis].copy()  # [1, *pixels per axis, C]
            rows = torch_logits(self.model, batch, grid)  # [1, classes]
            session = open_graph(folder / "graphs" / f"{grid}.onnx")
            compare(graph_logits(session, batch), rows)
            logits[str(grid)] = tuple(float(value) for value in rows[0])
        return logits

    def _origin(self) -> dict[str, Any]:
        notes = self.description.notes
        return {
            "checkpoint_sha256": self.description.weights_sha256,
            "step": notes.get("step"),
            "data": _public(notes["data"]),
            "measured_on": self.source.name,
            "commit": _commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "goldens": "chosen by its maker" if self.options.goldens else "generated pictures",
        }

    @contextlib.contextmanager
    def _bar(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        with Progress(
            console=self.console, transient=True, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(text, total=total)
            yield lambda done: progress.advance(task, done)


def _public(data: dict[str, Any]) -> dict[str, Any]:
    """Skipped items as a number: their ids may be paths."""
    return data | {"skipped": len(data.get("skipped", ()))}


def _spread(count: int, wanted: int) -> np.ndarray:
    """``wanted`` indices spread evenly over ``count`` items, all of them where there are fewer."""
    return np.unique(np.linspace(0, count - 1, max(0, min(count, wanted))).astype(int))


def _commit() -> str:
    """The commit of this code, ``unknown`` outside a checkout, ``+changes`` where it was edited."""
    root = Path(__file__).parent.parent
    try:
        head = _git(root, "rev-parse", "HEAD")
        edited = _git(root, "status", "--porcelain", "--", "models", "export")
        return head + ("+changes" if edited else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
