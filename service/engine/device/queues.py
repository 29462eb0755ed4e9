"""What waits for a device: the rows for one graph, and what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from service.engine.costs import RunCosts
from service.engine.device.replay import Replay
from service.engine.device.session import Session
from service.engine.failures import DeadlinePassed, Failure
from service.engine.schedule import Earliest

Key = Hashable  # of one queue: a grid of an opened bundle
NOTHING = np.empty(0)


@dataclass(frozen=True, slots=True)
class Row:
    """One entry's share of a batch."""

    logits: np.ndarray  # float [classes]
    queue_seconds: float
    inference_seconds: float  # of the whole batch
    cost_seconds: float = 0.0  # its share of what the batch cost
    views: np.ndarray | None = None  # float32 [views, classes], of an item that has several
    embedding: np.ndarray | None = None  # float [width], where it is wanted
    batch_rows: int = 1  # of the whole batch
    device: str = ""  # that ran it
    attention: np.ndarray | None = None  # float32 [views, patches], of a graph that tells it

    @property
    def rows(self) -> np.ndarray:
        """Of every view, float32 ``[views, classes]``."""
        return self.logits[np.newaxis] if self.views is None else self.views

    @classmethod
    def of_views(cls, rows: list[Row]) -> Row:
        """The mean of one item's views; of several batches the times of the last one count."""
        last = max(rows, key=lambda row: row.queue_seconds)
        logits = np.stack([row.logits for row in rows])  # [views, classes]
        mean = logits.mean(axis=0, dtype=np.float64)  # [classes]
        cost = sum(row.cost_seconds for row in rows)
        features = [row.embedding for row in rows if row.embedding is not None]
        embedding = np.stack(features).mean(axis=0, dtype=np.float64) if features else None
        times = last.queue_seconds, last.inference_seconds, cost
        seen = [row.attention for row in rows if row.attention is not None]
        attention = np.concatenate(seen) if seen else None  # [views, patches]
        return cls(mean, *times, logits, embedding, last.batch_rows, last.device, attention)


@dataclass(slots=True, eq=False)
class Entry:
    """One row that waits, or is run."""

    pixels: np.ndarray  # uint8 or float32 [*pixels per axis, channels]
    future: asyncio.Future[Row]
    submitted: float  # seconds, monotonic
    deadline: float
    embed: bool = False  # whether the features are wanted too

    @property
    def gone(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done()

    def fail(self, failure: Failure) -> None:
        if not self.gone:
            self.future.set_exception(failure)

    def let_go(self) -> None:
        """Of its pixels: whoever waited has left."""
        self.pixels = NOTHING


@dataclass(slots=True, eq=False)
class Queue:
    """The rows of one kind for one graph."""

    session: Session
    modality: str
    kind: str  # that, or BATCH
    costs: RunCosts
    golden: Replay | None
    most_rows: int  # of one batch
    entries: Earliest[Entry]

    def first_in_time(self, now: float) -> Entry | None:
        """The next entry that can still be answered; the others are told that they cannot."""
        while (head := self.entries.peek()) is not None:
            if now + self.costs.seconds(1) <= head.deadline:
                return head
            self.entries.pop().fail(DeadlinePassed("the model came to this file too late"))
        return None

    def take(self, now: float, batch_seconds: float) -> list[Entry]:
        """The rows of one batch: at least one, as long as the first of them is still in time."""
        taken = [self.entries.pop()]
        bound = min(batch_seconds, taken[0].deadline - now)
        while len(taken) < self.most_rows and self.costs.seconds(len(taken) + 1) <= bound:
            if self.first_in_time(now) is None:
                break
            taken.append(self.entries.pop())
        return taken


async def all_of(entries: Iterable[Entry]) -> list[Row]:
    """Every row of an item; where one fails, or the client leaves, the others are not run."""
    try:
        return [await entry.future for entry in entries]
    finally:
        for entry in entries:
            if not entry.future.cancel() and not entry.future.cancelled():
                entry.future.exception()  # seen: one failure of the item is enough
