"""One grid of an export: parity with torch, accuracy on the whole split."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from export.freeze import FrozenTransformer
from export.options import Options
from export.parity import accuracy, batch_of, compare, fp16_bound, graph_logits, open_graph
from export.plan import Plan
from export.reference import rounded_logits, torch_logits
from media.dataset import Prepared, prepare_split
from media.sources import SPLITS, Source
from media.spec import Grid
from models.checkpoint import Description
from models.manifest import GridEntry, Parity


class Measurer:
    """Measures the graphs of one bundle on its data."""

    def __init__(
        self,
        options: Options,
        plan: Plan,
        description: Description,
        source: Source,
        console: Console,
    ) -> None:
        self.options, self.plan, self.description = options, plan, description
        self.model, self.source, self.console = plan.model, source, console

    def entry(self, grid: Grid, folder: Path) -> GridEntry:
        """Accuracy on the whole split; parity on rows (views of items) spread over it."""
        options, batch = self.options, batch_of(grid)
        prepared = self._prepare(options.split, grid)
        session = open_graph(folder / "graphs" / f"{grid}.onnx")
        with bar(self.console, f"measuring {grid}", len(prepared.pixels)) as advance:
            logits = graph_logits(session, prepared.pixels, advance, batch)
        measured = accuracy(logits, prepared, options.split)
        pixels = self._parity_pixels(prepared, grid)
        if options.precision == "fp16":
            parity, rounded = self._prove_fp16(grid, prepared.pixels, logits, pixels)
        else:
            del prepared  # a split of scans is large
            expected = torch_logits(self.model, pixels, grid)
            actual = graph_logits(session, pixels, batch=batch)
            parity, rounded = compare(actual, expected), None
        self.console.print(
            f"grid {grid}: top-1 {measured.top1:.4f} on {measured.items} items; as the checkpoint "
            f"on {parity.top1_equal} of {parity.items}, largest difference {parity.max_abs:.2g} "
            f"({parity.worst_ratio:.2f} of the bound)"
        )
        return GridEntry(str(grid), f"graphs/{grid}.onnx", parity, measured, rounded)

    def _prove_fp16(
        self, grid: Grid, split: np.ndarray, logits: np.ndarray, pixels: np.ndarray
    ) -> tuple[Parity, Parity]:
        """The graph's logits of the whole split; torch's of the parity items, all rounded."""
        with bar(self.console, f"the checkpoint at {grid}", len(split)) as advance:
            expected = torch_logits(self.model, split, grid, advance)
        bound = fp16_bound(expected)
        with bar(self.console, f"rounding to fp16 at {grid}", len(pixels)) as advance:
            frozen = FrozenTransformer(self.model, grid, "fp16", self.plan)
            rounded = rounded_logits(frozen, pixels, advance)  # an overflow ends it here
        parity = compare(logits, expected, bound)
        return parity, compare(rounded, torch_logits(self.model, pixels, grid), bound)

    def _prepare(self, split: str, grid: Grid, limit: int | None = None) -> Prepared:
        count = len(self.source.split(split)[:limit])
        with bar(self.console, f"decoding {split} {grid}", count) as advance:
            return prepare_split(
                self.source, split, self.description.input, grid, self.model.spec.patch,
                workers=self.options.workers, advance=advance, limit=limit,
            )  # fmt: skip

    def _parity_pixels(self, prepared: Prepared, grid: Grid) -> np.ndarray:
        """Enough real inputs: spread over the measured split, then from the other splits."""
        wanted = self.options.parity_items
        parts = [prepared.pixels[_spread(len(prepared.pixels), wanted)]]
        present = {item.split for item in self.source.items} - {self.options.split}
        for split in sorted(present, key=SPLITS.index, reverse=True):
            if lacking := wanted - sum(map(len, parts)):
                items = math.ceil(lacking / prepared.views)
                parts.append(self._prepare(split, grid, items).pixels[:lacking])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


@contextlib.contextmanager
def bar(console: Console, text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A live bar for a piece of work, and what advances it; nothing where there is no terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.advance(task, done)


def _spread(count: int, wanted: int) -> np.ndarray:
    """``wanted`` indices spread evenly over ``count`` rows, all of them where there are fewer."""
    return np.unique(np.linspace(0, count - 1, max(0, min(count, wanted))).astype(int))
