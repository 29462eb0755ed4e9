"""Dynamic batching: run at once when the device is idle, gather while it is busy.

There is no timer. A batch is whatever has gathered in one queue while the device was busy with
the one before, so an idle server answers without delay and a busy one fills its batches by itself.
``next_batch`` is the whole policy; ``Batcher`` carries it out.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from service.engine.device.session import Session
from service.engine.failures import Draining, InferenceFailed

log = logging.getLogger(__name__)

Key = Hashable  # of one queue: (bundle, grid)


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the policy sees of one queue."""

    key: Key
    depth: int  # entries that wait
    oldest: float  # when the first of them was submitted, seconds


def next_batch(busy: bool, queues: Iterable[QueueState], max_batch: int) -> tuple[Key, int] | None:
    """Which queue runs now and how many of its entries; None to wait.

    The queue whose head has waited longest goes first, so no queue can starve another.
    """
    filled = [queue for queue in queues if queue.depth > 0]
    if busy or not filled:
        return None
    chosen = min(filled, key=lambda queue: queue.oldest)
    return chosen.key, min(chosen.depth, max_batch)


@dataclass(frozen=True, slots=True)
class Row:
    """One entry's share of a batch."""

    logits: np.ndarray  # float [classes]
    queue_seconds: float
    inference_seconds: float  # of the whole batch

    @classmethod
    def of_views(cls, rows: list[Row]) -> Row:
        """The mean of one item's views; of several batches the times of the last one count."""
        last = max(rows, key=lambda row: row.queue_seconds)
        logits = np.stack([row.logits for row in rows])  # [views, classes]
        mean = logits.mean(axis=0, dtype=np.float64)  # [classes]
        return cls(mean, last.queue_seconds, last.inference_seconds)


@dataclass(slots=True, eq=False)
class _Entry:
    pixels: np.ndarray  # uint8 or float32 [*pixels per axis, channels]
    future: asyncio.Future[Row]
    submitted: float  # seconds, monotonic


@dataclass(slots=True, eq=False)
class _Queue:
    session: Session
    modality: str
    entries: deque[_Entry]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the executor's thread brings back."""

    rows: list[np.ndarray | Exception]
    started: float
    seconds: float


class Batcher:
    """One queue per (bundle, grid), one device, one batch at a time.

    Args:
        executor: a single thread; everything that touches the device runs there.
        on_batch: called with the modality, the size and the seconds of every batch.
    """

    def __init__(
        self,
        executor: Executor,
        max_batch: int,
        on_batch: Callable[[str, int, float], None] = lambda modality, size, seconds: None,
    ) -> None:
        self._executor = executor
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._queues: dict[Key, _Queue] = {}
        self._busy = False
        self._scheduled = False
        self._closed = False

    def add_queue(self, key: Key, session: Session, modality: str) -> None:
        self._queues[key] = _Queue(session, modality, deque())

    @property
    def depth(self) -> int:
        """Entries that wait for the device."""
        return sum(len(queue.entries) for queue in self._queues.values())

    async def submit(self, key: Key, pixels: np.ndarray) -> Row:
        """Run one item in the next batches of its queue; cancel the call to leave the queue.

        Its views are rows like all others: they fill batches together with other items' rows.

        Args:
            pixels: ``[views, *pixels per axis, channels]`` of the graph's dtype.

        Returns:
            The mean over the views.

        Raises:
            InferenceFailed: the session failed on this item, or gave logits that are no numbers.
            Draining: the batcher was closed first.
        """
        if self._closed:
            raise Draining("the server is shutting down")
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        entries = [_Entry(view, loop.create_future(), now) for view in pixels]
        self._queues[key].entries.extend(entries)
        if not (self._busy or self._scheduled):
            # At the end of this turn of the loop: what arrived together runs together.
            self._scheduled = True
            loop.call_soon(self._dispatch)
        if len(entries) == 1:
            return await entries[0].future
        return Row.of_views(await _all_of(entries))

    def close(self) -> None:
        """Let the running batch finish and refuse everything else."""
        self._closed = True
        for queue in self._queues.values():
            for entry in queue.entries:
                _fail(entry, Draining("the server is shutting down"))
            queue.entries.clear()

    def _dispatch(self) -> None:
        self._scheduled = False
        for queue in self._queues.values():
            _drop_departed(queue.entries)
        states = [
            QueueState(key, len(queue.entries), queue.entries[0].submitted)
            for key, queue in self._queues.items()
            if queue.entries
        ]
        if (choice := next_batch(self._busy, states, self._max_batch)) is None:
            return
        key, size = choice
        queue = self._queues[key]
        self._run(queue, [queue.entries.popleft() for _ in range(size)])

    def _run(self, queue: _Queue, entries: list[_Entry]) -> None:
        self._busy = True
        rows = [entry.pixels for entry in entries]
        running = asyncio.get_running_loop().run_in_executor(
            self._executor, _run_timed, queue.session, rows
        )
        running.add_done_callback(functools.partial(self._deliver, queue.modality, entries))

    def _deliver(
        self, modality: str, entries: list[_Entry], running: asyncio.Future[_Outcome]
    ) -> None:
        self._busy = False
        self._dispatch()  # first: the device should not wait while answers are written
        if error := running.exception():  # not the graph's: those come as rows
            log.error("the device thread failed", exc_info=error)
            for entry in entries:
                _fail(entry, InferenceFailed("the model could not be run"))
            return
        outcome = running.result()
        self._on_batch(modality, len(entries), outcome.seconds)
        for entry, row in zip(entries, outcome.rows, strict=True):
            if isinstance(row, Exception):
                _fail(entry, InferenceFailed("the model gave no finite answer for this input"))
            elif not entry.future.done():
                waited = outcome.started - entry.submitted
                entry.future.set_result(Row(row, waited, outcome.seconds))


async def _all_of(entries: list[_Entry]) -> list[Row]:
    """Every row of an item; where one fails, or the client leaves, the others are not run."""
    try:
        return [await entry.future for entry in entries]
    finally:
        for entry in entries:
            if not entry.future.cancel() and not entry.future.cancelled():
                entry.future.exception()  # seen: one failure of the item is enough


def _drop_departed(entries: deque[_Entry]) -> None:
    """Forget entries that were cancelled: their client left, or their deadline passed."""
    if any(entry.future.done() for entry in entries):
        kept = [entry for entry in entries if not entry.future.done()]
        entries.clear()
        entries.extend(kept)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)


def _run_timed(session: Session, rows: list[np.ndarray]) -> _Outcome:
    started = time.monotonic()
    answers = run_isolated(session, rows)
    return _Outcome(answers, started, time.monotonic() - started)


def run_isolated(session: Session, rows: list[np.ndarray]) -> list[np.ndarray | Exception]:
    """Run a batch; if it fails, halve it until only the guilty rows fail.

    Args:
        rows: ``[*pixels per axis, channels]`` each, of the graph's dtype.

    Returns:
        float32 ``[classes]`` or an exception, for every row.
    """
    try:
        logits = session.run(np.stack(rows))  # [batch, classes]
        if logits.ndim != 2 or len(logits) != len(rows):
            raise ValueError(f"expected {len(rows)} rows of logits, got {list(logits.shape)}")
    except Exception as error:
        if len(rows) == 1:
            log.exception("a graph failed on one input")
            return [error]
        middle = len(rows) // 2
        return run_isolated(session, rows[:middle]) + run_isolated(session, rows[middle:])
    finite = np.isfinite(logits).all(axis=1)  # [batch]
    if not finite.all():
        log.error("a graph gave logits that are not finite for %d input(s)", (~finite).sum())
    return [
        row if good else ValueError("logits are not finite")
        for row, good in zip(logits, finite, strict=True)
    ]
