"""One grid of an export: parity with torch, figures on the whole split, its temperature."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from rich.console import Console
from rich.progress import Progress

from export.answers import Answers, figures, shared
from export.calibrate import (
    VALIDATION,
    NoTemperature,
    calibrate,
    check_validation,
    in_both,
)
from export.freeze import FrozenTransformer
from export.options import Options
from export.parity import (
    Bound,
    batch_of,
    compare,
    fp16_bound,
    graph_logits,
    graph_rollout,
    open_graph,
)
from export.plan import Plan
from export.reference import rounded_logits, torch_logits, torch_rollout
from media.contents import Contents
from media.dataset import Prepared, prepare_split
from media.index import Dataset, Wanted
from media.sources import SPLITS
from media.spec import Grid
from media.unread import Unread, Views, fits, list_split
from models.checkpoint import Description
from models.coverage import THRESHOLDS
from models.figures import Calibration
from models.manifest import AttentionGraph, GridEntry, Parity


class Measurer:
    """Measures the graphs of one bundle on its data."""

    def __init__(
        self,
        options: Options,
        plan: Plan,
        description: Description,
        dataset: Dataset,
        contents: Mapping[str, Contents],
        console: Console,
    ) -> None:
        self.options, self.plan, self.description = options, plan, description
        self.model, self.dataset, self.console = plan.model, dataset, console
        self.contents = contents

    def entry(self, grid: Grid, folder: Path) -> GridEntry:
        """What is told of one grid: parity, figures on the measured split, and the temperature."""
        path, abstain = graph_path(grid), self.options.abstain
        session = open_graph(folder / path)
        if not self.description.labels:
            return self._of_features(grid, path, session)
        answers, pixels, parity, rounded = self._measure(grid, session)
        calibration = calibrate(partial(self._validation, grid, session), answers)
        thresholds = THRESHOLDS if abstain is None else (*THRESHOLDS, abstain)
        told = figures(answers, calibration.temperature, thresholds)
        entry = GridEntry(
            str(grid), path, parity, answers.accuracy(), rounded, told, calibration, abstain,
            self._attention(grid, folder, pixels, parity) if self.options.explain else None,
        )  # fmt: skip
        for line in _lines(entry):
            self.console.print(f"grid {grid}: {line}")
        return entry

    def _of_features(self, grid: Grid, path: str, session: InferenceSession) -> GridEntry:
        """Without labels: parity of the features, on the items that were chosen for it."""
        prepared = self._prepare(self.options.split, grid)
        pixels = prepared.pixels[: self.options.parity_items]
        actual = graph_logits(session, pixels, batch=batch_of(grid))  # [N, features]
        rounded = None
        if self.options.precision == "fp16":
            parity, rounded = self._prove_fp16(grid, pixels, actual, pixels)
        else:
            expected = torch_logits(self.model, pixels, grid)  # [N, features]
            parity = compare(actual, expected, what=self.description.answers)
        self.console.print(f"grid {grid}: features of {parity.items} items{_apart(parity)}")
        nothing = Calibration(reason="there are no labels")
        return GridEntry(str(grid), path, parity, None, rounded, calibration=nothing)

    def _measure(
        self, grid: Grid, session: InferenceSession
    ) -> tuple[Answers, np.ndarray, Parity, Parity | None]:
        """Answers to the whole split; rows (views of items) spread over it, and parity on them."""
        split = self.options.split
        prepared = self._prepare(split, grid)
        logits = self._logits(grid, session, prepared)
        answers = Answers.of(self.dataset, split, prepared, logits)
        pixels = self._parity_pixels(prepared, grid)
        if self.options.precision == "fp16":
            return answers, pixels, *self._prove_fp16(grid, prepared.pixels, logits, pixels)
        del prepared  # a split of scans is large
        expected = torch_logits(self.model, pixels, grid)
        actual = graph_logits(session, pixels, batch=batch_of(grid))
        return answers, pixels, compare(actual, expected), None

    def _attention(
        self, grid: Grid, folder: Path, pixels: np.ndarray, plain: Parity
    ) -> AttentionGraph:
        """The graph that explains, against torch: its logits by the plain one's bound."""
        path, batch = attention_path(grid), batch_of(grid)
        logits, rollout = graph_rollout(open_graph(folder / path), pixels, batch)
        own = torch_logits(self.model, pixels, grid)  # [N, classes]
        parity = compare(logits, own, Bound(plain.atol, plain.rtol))
        expected = torch_rollout(self.model, pixels, grid) * grid.tokens  # [N, T]
        bound = fp16_bound(expected) if self.options.precision == "fp16" else None
        rolled = compare(rollout * grid.tokens, expected, bound, "rollouts of attention")
        self.console.print(f"grid {grid}: attention as the checkpoint's{_apart(rolled)}")
        return AttentionGraph(path, parity, rolled)

    def _validation(self, grid: Grid, session: InferenceSession) -> Answers:
        """Of the split that temperatures are fitted on; NoTemperature where it is of no use.

        Without the items that training could not read either, where it was told to go on.
        """
        check_validation(self.dataset, self.options.split)
        skip = self.description.notes.get("config", {}).get("skip_unreadable", False)
        prepared = self._prepare(VALIDATION, grid, skip_unreadable=skip)
        self._check_held_out(prepared)
        if prepared.skipped:
            self.console.print(f"left out of {VALIDATION}, unreadable: {len(prepared.skipped)}")
        logits = self._logits(grid, session, prepared)
        return Answers.of(self.dataset, VALIDATION, prepared, logits)

    def _check_held_out(self, validation: Prepared | Unread) -> None:
        """NoTemperature unless it is the run's own, or nothing of it was trained on."""
        own = self.description.notes["data"]["val"].get("sha256")
        if validation.sha256 == own:
            return
        other = f"split {VALIDATION} is not the one that the run held out, and"
        if "train" not in self.contents:
            raise NoTemperature(f"{other} nobody knows whether its items were trained on")
        trained = self.contents["train"].digests  # as the run had it: it was checked
        if count := int(shared(validation.digests, trained).sum()):
            raise NoTemperature(f"{other} {count} of its items were trained on")

    def _logits(
        self, grid: Grid, session: InferenceSession, prepared: Prepared | Unread
    ) -> np.ndarray:
        """[N * V, classes], of every view."""
        with bar(self.console, f"measuring {grid}", len(prepared.pixels)) as advance:
            return graph_logits(session, prepared.pixels, advance, batch_of(grid))

    def _prove_fp16(
        self, grid: Grid, split: np.ndarray | Views, logits: np.ndarray, pixels: np.ndarray
    ) -> tuple[Parity, Parity]:
        """The graph's logits of the whole split; torch's of the parity items, all rounded."""
        with bar(self.console, f"the checkpoint at {grid}", len(split)) as advance:
            expected = torch_logits(self.model, split, grid, advance)
        bound = fp16_bound(expected)
        with bar(self.console, f"rounding to fp16 at {grid}", len(pixels)) as advance:
            frozen = FrozenTransformer(self.model, grid, "fp16", self.plan)
            rounded = rounded_logits(frozen, pixels, advance)  # an overflow ends it here
        own, what = torch_logits(self.model, pixels, grid), self.description.answers
        return compare(logits, expected, bound, what), compare(rounded, own, bound, what)

    def _prepare(
        self, split: str, grid: Grid, limit: int | None = None, skip_unreadable: bool = False
    ) -> Prepared | Unread:
        count = len(self.dataset.split(split)[:limit])
        wanted = Wanted(self.description.input, grid.pixels(self.model.spec.patch))
        if limit is None and not fits(count, wanted):
            return list_split(
                self.dataset, split, wanted, workers=self.options.workers,
                skip_unreadable=skip_unreadable, contents=self.contents.get(split),
            )  # fmt: skip
        with bar(self.console, f"decoding {split} {grid}", count) as advance:
            return prepare_split(
                self.dataset, split, self.description.input, grid, self.model.spec.patch,
                workers=self.options.workers, advance=advance, limit=limit,
                skip_unreadable=skip_unreadable, contents=self.contents.get(split),
            )  # fmt: skip

    def _parity_pixels(self, prepared: Prepared | Unread, grid: Grid) -> np.ndarray:
        """Enough real inputs: spread over the measured split, then from the other splits."""
        wanted = self.options.parity_items
        parts = [prepared.pixels[_spread(len(prepared.pixels), wanted)]]
        others = set(self.dataset.present()) - {self.options.split}
        for split in sorted(others, key=SPLITS.index, reverse=True):
            if lacking := wanted - sum(map(len, parts)):
                items = math.ceil(lacking / prepared.views)
                parts.append(self._prepare(split, grid, items).pixels[:lacking])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def graph_path(grid: Grid) -> str:
    """In a bundle."""
    return f"graphs/{grid}.onnx"


def attention_path(grid: Grid) -> str:
    """Of the graph that explains, in a bundle."""
    return f"graphs/{grid}-attention.onnx"


@contextlib.contextmanager
def bar(console: Console, text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A live bar for a piece of work, and what advances it; nothing where there is no terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.advance(task, done)


def _apart(parity: Parity) -> str:
    return (
        f", largest difference {parity.max_abs:.2g} ({parity.worst_ratio:.2f} of the bound)"
    )


def _lines(entry: GridEntry) -> Iterator[str]:
    """What a person wants to know of a grid with labels while it is exported."""
    measured, parity, calibration = entry.accuracy, entry.parity, entry.calibration
    assert measured is not None
    yield (
        f"top-1 {measured.top1:.4f} on {measured.items} items; as the checkpoint "
        f"on {parity.top1_equal} of {parity.items}{_apart(parity)}"
    )
    before, after, fitted_on = calibration.before, calibration.after, calibration.fitted_on
    if before and after and fitted_on:
        yield (
            f"temperature {calibration.temperature:.4g} from {fitted_on.items} items of "
            f"{fitted_on.split}{in_both(fitted_on.left_out)}; "
            f"calibration error {before.ece:.4f} before, {after.ece:.4f} after"
        )
    else:
        yield f"no temperature was fitted: {calibration.reason}"


def _spread(count: int, wanted: int) -> np.ndarray:
    """``wanted`` indices spread evenly over ``count`` rows, all of them where there are fewer."""
    return np.unique(np.linspace(0, count - 1, max(0, min(count, wanted))).astype(int))
