"""Checkpoint -> bundle, in order: sizes, goldens, graphs, accuracy, proof, card, manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from export.card import model_card
from export.check import OPSET, WEIGHTS
from export.freeze import FrozenTransformer, FrozenWithRollout
from export.golden import golden_files, tolerances
from export.graph import SharedWeights, write_graph
from export.measure import Measurer, attention_path, bar, graph_path
from export.options import Options
from export.origin import origin
from export.parity import Bound, batch_of, compare, graph_logits, open_graph
from export.place import ONLY, find_place, write
from export.plan import Plan, plan_of
from export.reference import torch_logits
from media import read
from media.contents import Contents
from media.duplicates import Duplicates, find_duplicates, let_through
from media.index import Dataset, Digests, open_dataset, open_media
from media.index.columns import NONE
from media.index.digests import digests_beside
from media.sources import FIRST, SPLITS, SourceError
from media.spec import Grid, SpecError
from models.bundle import Bundle
from models.checkpoint import Description, load_checkpoint
from models.manifest import Golden, GridEntry


def make_bundle(options: Options, console: Console) -> Bundle:
    """Export one bundle, proved; nothing is left behind unless every step succeeds.

    Raises:
        SpecError, SourceError, CheckpointError: bad input.
        ParityError, GraphError: the graphs do not give the checkpoint's answers.
        FileExistsError: the bundle is there already.
        BundleError: one is there that cannot be moved into a version's folder.
    """
    home = find_place(options.out, options.name, options.version)
    model, description = load_checkpoint(options.checkpoint)
    if options.explain and not description.labels:
        raise SpecError("--explain is for answers with labels, and the checkpoint has no head")
    plan = plan_of(model)
    announce_tables(plan, options, console)
    data = open_data(options, description, console)
    if data.duplicates.across:
        console.print(f"same bytes in two of train, val and test: {data.duplicates.across}")
    made = Maker(options, plan, description, data, console)
    return write(home, options.version, made.fill)


def announce_tables(plan: Plan, options: Options, console: Console) -> None:
    """Print what the rotations become and weigh; SpecError if that is over the limit."""
    stored, loaded, axes = 0.0, 0.0, len(plan.model.spec.patch)
    console.print(f"rotations: {plan.form}")
    for grid in options.grids:
        if grid.axes != axes:
            raise SpecError(f"grid {grid} has {grid.axes} axes, the model {axes}")
        table, folded = plan.table_bytes(grid) / 1e6, plan.loaded_bytes(grid) / 1e6
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


class TestData(NamedTuple):
    """Data that measure a bundle, what every split holds, and what splits have in common."""

    dataset: Dataset
    contents: dict[str, Contents]
    duplicates: Duplicates


def open_data(options: Options, description: Description, console: Console) -> TestData:
    """What the bundle is measured on; without labels there is parity alone to measure."""
    if description.labels:
        return open_test_data(options, description, console)
    if options.abstain is not None:
        raise SpecError("--abstain needs probabilities, and the checkpoint has no head")
    return open_items(options, description)


def open_items(options: Options, description: Description) -> TestData:
    """As many items as parity needs, from all over the data, whatever their labels and splits."""
    path = options.data or description.notes.get("config", {}).get("data")
    if not path:
        raise SpecError("the checkpoint does not say where data of its kind are: pass --data")
    dataset, views = open_media(Path(path)), description.input.views
    wanted, inputs = options.parity_items, len(dataset) * views
    if not 1 <= wanted <= inputs:
        raise SpecError(
            f"parity needs {wanted} items and the data have {inputs}: "
            "lower --parity-items (at least 1) knowingly"
        )
    splits = np.full(len(dataset), NONE, np.int8)
    count = -(-wanted // views)  # items, the last one's views perhaps not all
    splits[np.linspace(0, len(dataset) - 1, count).astype(int)] = SPLITS.index(options.split)
    columns = dataclasses.replace(dataset.columns, splits=splits)
    chosen = dataclasses.replace(dataset, columns=columns)
    return TestData(chosen, {}, Duplicates(0, (), {}))


def open_test_data(
    options: Options, description: Description, console: Console | None = None
) -> TestData:
    """The data that measure the bundle: labels as trained, no item trained on, and enough.

    Split by the rule of the training. What the run has read of them is not read again.
    """
    trained = description.notes.get("data", {})
    if missing := {"name", "train", "val"} - set(trained):
        raise SpecError(f"the checkpoint does not say its data's {', '.join(sorted(missing))}")
    if "fingerprint" in description.notes and trained["train"]["sha256"] is None:
        raise SpecError(
            "the checkpoint was written before the run had read all of its data: expected one of "
            "the end of an epoch, such as RUN/best"
        )
    path = options.data or description.notes.get("config", {}).get("data")
    if not path:
        raise SpecError("the checkpoint does not say where its data are: pass --data")
    dataset = open_dataset(Path(path), trained.get("rule", FIRST))
    if dataset.labels != description.labels:
        raise SourceError(
            f"labels do not match the checkpoint: expected {list(description.labels)}, "
            f"got {list(dataset.labels)}"
        )
    dataset.split(options.split)  # which is an error where there is none
    contents = _contents(dataset, options, description, console or Console(quiet=True))
    if "train" in contents and contents["train"].sha256 != trained["train"]["sha256"]:
        raise SourceError(
            "the data's train split is not the one that the checkpoint was trained on, so its test "
            "items may have been trained on: pass the original data, or test items alone"
        )
    wanted, inputs = options.parity_items, len(dataset) * description.input.views
    if not 1 <= wanted <= inputs:
        raise SpecError(
            f"parity needs {wanted} items and the data have {inputs}: "
            "lower --parity-items (at least 1) knowingly"
        )
    duplicates = find_duplicates(contents)
    if not (options.allow_duplicates or let_through(description.notes)):
        duplicates.check(dataset)
    return TestData(dataset, contents, duplicates)


def _contents(
    dataset: Dataset, options: Options, description: Description, console: Console
) -> dict[str, Contents]:
    """What every split holds; kept where the run keeps it, if that lies around the checkpoint."""
    cache = description.notes.get("config", {}).get("cache")
    kept = digests_beside(options.checkpoint.absolute().parent, cache)
    digests = Digests(dataset, kept if kept.is_dir() else None)
    if len(missing := digests.missing()):
        with bar(console, "reading for digests", len(missing)) as advance:
            digests.complete(advance, workers=options.workers)
    return digests.contents()


class Maker:
    """Fills the folder of one bundle."""

    def __init__(
        self,
        options: Options,
        plan: Plan,
        description: Description,
        data: TestData,
        console: Console,
    ) -> None:
        self.options, self.plan, self.description = options, plan, description
        self.model, self.data, self.console = plan.model, data, console

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write every file but the manifest; returns the manifest's fields."""
        (folder / "graphs").mkdir()
        (folder / "golden").mkdir()
        names = self._write_goldens(folder)  # before the long part: they may be unreadable
        with SharedWeights(folder / "graphs" / WEIGHTS) as weights:
            for grid in self.options.grids:
                self._write_graphs(grid, folder, weights)
        measurer = Measurer(
            self.options,
            self.plan,
            self.description,
            self.data.dataset,
            self.data.contents,
            self.console,
        )
        entries = [measurer.entry(grid, folder) for grid in self.options.grids]
        goldens = [self._golden(name, folder, entries) for name in names]
        options, description = self.options, self.description
        source = origin(
            description,
            self.data.dataset.name,
            self.data.duplicates.public(),
            bool(options.goldens),
        )
        card = model_card(options.name, description, self.plan.form, entries, source, options.about)
        (folder / "README.md").write_text(card, encoding="utf-8")
        return {
            "name": options.name,
            "version": options.version or ONLY,
            "modality": description.input.modality,
            "input": description.input,
            "patch": self.model.spec.patch,
            "encoding": self.model.spec.encoding,
            "labels": description.labels,
            "precision": options.precision,
            "opset": OPSET,
            "grids": tuple(entries),
            "goldens": tuple(goldens),
            "tolerances": tolerances(options.precision, entries),
            "source": source,
            "rotations": self.plan.form,
        }

    def _write_graphs(self, grid: Grid, folder: Path, weights: SharedWeights) -> None:
        """The plain one, and the one that explains where it is wanted."""
        precision, head = self.options.precision, bool(self.model.spec.classes)
        sides = grid.pixels(self.model.spec.patch)
        dtype = getattr(torch, self.description.input.dtype)
        example = torch.zeros(3, *sides, self.model.spec.channels, dtype=dtype)
        with bar(self.console, f"graph {grid}", 1 + self.options.explain) as advance:
            frozen = FrozenTransformer(self.model, grid, precision, self.plan)
            write_graph(frozen, example, folder / graph_path(grid), weights, precision, head)
            advance(1)
            if self.options.explain:
                both = FrozenWithRollout(self.model, grid, precision, self.plan)
                path = folder / attention_path(grid)
                write_graph(both, example, path, weights, precision, attention=True)
                advance(1)

    def _write_goldens(self, folder: Path) -> list[str]:
        """Their names in the bundle; MediaError if one cannot be decoded."""
        names = []
        files = golden_files(self.description.input, list(self.options.goldens))
        for name, data in files.items():
            (folder / "golden" / name).write_bytes(data)
            names.append(f"golden/{name}")
            self._golden_pixels(folder / names[-1], self.options.grids[0])
        return names

    def _golden_pixels(self, path: Path, grid: Grid) -> np.ndarray:
        """[V, *pixels per axis, C]."""
        spec, patch = self.description.input, self.model.spec.patch
        return read(path.read_bytes(), spec, grid, patch).pixels.copy()  # torch wants to write

    def _golden(self, name: str, folder: Path, entries: list[GridEntry]) -> Golden:
        """Torch's answers per grid, means over the views; the graph must give those of each."""
        logits = {}
        for entry in entries:
            grid, parity = Grid.parse(entry.grid), entry.parity
            pixels = self._golden_pixels(folder / name, grid)
            rows = torch_logits(self.model, pixels, grid)  # [V, classes]
            for graph in entry.graphs:
                session = open_graph(folder / graph)
                actual = graph_logits(session, pixels, batch=batch_of(grid))  # [V, classes]
                compare(actual, rows, Bound(parity.atol, parity.rtol), self.description.answers)
            logits[entry.grid] = tuple(float(value) for value in rows.mean(axis=0))
        return Golden(name, logits)
