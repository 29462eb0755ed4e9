"""What a person sees while a run goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from rich import progress as bars
from rich.console import Console

from training.history import Change


class Progress:
    """A live bar with items/s, loss and time left; plain lines where there is no terminal.

    Args:
        shown: whether anything is; of several processes one shows it.
    """

    def __init__(self, shown: bool = True) -> None:
        self.console = Console(stderr=True, soft_wrap=True, quiet=not shown)
        self.bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[status]}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
        )

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @contextlib.contextmanager
    def decoding(self, split: str, items: int) -> Iterator[Callable[[int], None]]:
        """A bar for the decoding of one split; yields the function that advances it."""
        task = self.bar.add_task(f"decoding {split}", total=items, status="")
        yield lambda done: self.bar.advance(task, done)
        self.bar.remove_task(task)

    @contextlib.contextmanager
    def reading(self, items: int) -> Iterator[Callable[[int], None]]:
        """A bar for items that are read for their digests, also from another thread."""
        task = self.bar.add_task("reading for digests", total=items, status="")
        yield lambda done: self.bar.advance(task, done)
        self.bar.remove_task(task)

    @contextlib.contextmanager
    def predicting(self, items: int) -> Iterator[Callable[[int], None]]:
        """A bar for items that are answered for."""
        task = self.bar.add_task("predicting", total=items, status="")
        yield lambda done: self.bar.advance(task, done)
        self.bar.remove_task(task)

    @contextlib.contextmanager
    def computing(self, split: str, items: int) -> Iterator[Callable[[int], None]]:
        """A bar for items whose features are computed."""
        task = self.bar.add_task(f"features of {split}", total=items, status="")
        yield lambda done: self.bar.advance(task, done)
        self.bar.remove_task(task)

    @contextlib.contextmanager
    def fitting(self, penalties: int) -> Iterator[Callable[[int], None]]:
        """A bar for the fits of a linear probe."""
        task = self.bar.add_task("fitting", total=penalties, status="")
        yield lambda done: self.bar.advance(task, done)
        self.bar.remove_task(task)

    @contextlib.contextmanager
    def indexing(self, size: int) -> Iterator[Callable[[int], None]]:
        """A bar for bytes of shards that are looked through."""
        task = self.bar.add_task("indexing shards (bytes)", total=size, status="")
        yield lambda done: self.bar.advance(task, done)
        self.bar.remove_task(task)

    def say(self, lines: Iterable[str]) -> None:
        """Lines that stay."""
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def skipped(self, split: str, items: tuple[tuple[str, str], ...]) -> None:
        """Name the items of a split that were left out, one a line."""
        if items:
            self.console.print(f"{split}: {len(items)} unreadable items left out", markup=False)
        for id_, reason in items:
            self.console.print(f"  {id_}: {reason}", markup=False, highlight=False, soft_wrap=True)

    def begins(self, origin: dict[str, Any]) -> None:
        """Say what a fine-tuning took over."""
        step, where = origin["step"], f"{origin['data']} ({origin['labels']} labels)"
        begun = f"step {step} of a run on {where}" if step is not None else f"weights: {where}"
        self.console.print(f"begins from {begun}; head: {origin['head']}", markup=False)

    def goes_on(self, change: Change) -> None:
        """Say what is different from here on."""
        self.console.print(f"goes on from step {change.step}: {change.in_words()}", markup=False)

    def absent(self, split: str, labels: list[str]) -> None:
        """Name the classes that a split has no items of."""
        if labels:
            self.console.print(f"{split}: no items of {', '.join(labels)}", markup=False)

    def start(self, total: int, done: int, batch: int) -> None:
        """Begin the bar of the training steps."""
        self.batch, self.total, self.done, self.since = batch, total, done, time.monotonic()
        self.first, self.loss = done, float("nan")
        self.task = self.bar.add_task("training", total=total, completed=done, status="")

    def step(self, loss: float) -> None:
        """One step was taken."""
        self.done += 1
        # an average over the last steps: one batch says little
        self.loss = loss if self.loss != self.loss else 0.98 * self.loss + 0.02 * loss
        status = f"{self.items_per_second():.0f} items/s, loss {self.loss:.3f}"
        self.bar.update(self.task, completed=self.done, status=status)

    def epoch(self, record: dict[str, Any]) -> None:
        """One epoch ended: a line that stays."""
        self.console.print(
            f"epoch {record['epoch']}: loss {record['loss']:.3f}, "
            f"val top-1 {record['val_top1']:.4f}, val loss {record['val_loss']:.3f}{self._pace()}",
            highlight=False,
        )

    def _pace(self) -> str:
        """Nothing where a run was resumed at the end of an epoch and took no step since."""
        if self.done == self.first:
            return ""
        return f", {self.items_per_second():.0f} items/s, {self.minutes_left():.0f} min left"

    def items_per_second(self) -> float:
        return (self.done - self.first) * self.batch / (time.monotonic() - self.since)

    def minutes_left(self) -> float:
        return (self.total - self.done) * self.batch / self.items_per_second() / 60
