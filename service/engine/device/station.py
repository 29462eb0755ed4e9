"""One device: its lanes take batches while there is work; what arrives meanwhile waits for them.

There is no timer. A batch is whatever has gathered in one queue while all lanes were busy, so an
idle server answers without delay and a busy one fills its batches by itself. A batch is bounded in
predicted seconds: they are what a cancelled client, a shorter item or a swap waits for. Kinds take
turns by the seconds that they used; within a kind the earliest deadline goes first. Of several
lanes one is left for short rows while such come, so that an image does not wait for a clip to end.
Rows of batch work have queues of their own and share no run with others.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from service.engine.costs import RunCosts
from service.engine.device.queues import Entry, Key, Queue, Row, all_of
from service.engine.device.replay import Replay
from service.engine.device.runs import TimedRun, run_timed
from service.engine.device.session import Embedder, Session, Stop, make_stop
from service.engine.failures import Draining, Failure, InferenceFailed, NotReady
from service.engine.schedule import BATCH, Earliest, Turns

log = logging.getLogger(__name__)

#: A run that nobody waits for is ended where so much of it is left.
WORTH_ENDING_SECONDS = 0.02
#: A run that takes so long, and so many times its predicted seconds, never returns. Predicted are
#: processor seconds: a machine that is busy with other things may well take ten times as long.
HUNG_SECONDS, HUNG_TIMES = 30.0, 100.0
#: With no short row for so long, no lane is left for them.
FORGET_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class Run:
    """A batch on a lane."""

    queue: Queue
    entries: list[Entry]
    predicted: float
    is_short: bool
    stop: Stop
    began: float

    def end_if_unwanted(self) -> None:
        left = self.began + self.predicted - time.monotonic()
        if left > WORTH_ENDING_SECONDS and all(entry.gone for entry in self.entries):
            self.stop.terminate = True


class DeviceStation:
    """One queue per (bundle, grid), the lanes of one device, one batch at a time on each.

    Args:
        executor: at least as many threads as lanes; everything that touches the device runs there.
        batch_seconds: bound of a batch, predicted; one row always goes.
        on_batch: called with the modality, the size and the seconds of every batch.
        on_begin: called whenever rows may have been taken off a queue.

    Attributes:
        executor: as above.
        lanes: batches that run at the same time.
        threads: of one lane.
        beside: queues that batch work alone is sent to, though they have others' too.
        succeeded: when a run last gave logits for any of its rows, monotonic.
        on_failed: called with the golden of a queue whose run failed for every row, which may be
            the fault of the rows or of the device.
    """

    def __init__(
        self,
        executor: Executor,
        max_batch: int,
        *,
        lanes: int = 1,
        batch_seconds: float = math.inf,
        on_batch: Callable[[str, int, float], None] = lambda modality, size, seconds: None,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.lanes = lanes
        self.threads = 1
        self.executor = executor
        self._max_batch = max_batch
        self._batch_seconds = batch_seconds
        self._on_batch = on_batch
        self._on_begin = on_begin
        self._queues: dict[Key, Queue] = {}
        self._batch_queues: dict[Key, Queue] = {}
        self.beside: set[Key] = set()
        self._turns = Turns()
        self._running: set[Run] = set()
        self._short_came = -math.inf  # when the newest short row came
        self._scheduled = False
        self._closed: tuple[type[Failure], str] | None = None
        self.succeeded = -math.inf
        self.on_failed: Callable[[Replay], None] = lambda golden: None

    def add_queue(
        self,
        key: Key,
        session: Session,
        modality: str,
        costs: RunCosts,
        golden: Replay | None = None,
        most_rows: int | None = None,
    ) -> None:
        """Open a queue.

        Args:
            golden: tells a failing session from failing rows.
            most_rows: of one batch, where that is less than those of the station.
        """
        most = min(self._max_batch, most_rows or self._max_batch)
        for queues, kind in ((self._queues, modality), (self._batch_queues, BATCH)):
            queues[key] = Queue(session, modality, kind, costs, golden, most, Earliest())

    @property
    def _all_queues(self) -> Iterable[Queue]:
        return itertools.chain(self._queues.values(), self._batch_queues.values())

    def close_queue(self, key: Key) -> None:
        """Nobody submits to it any more, nor waits for what is in it."""
        del self._queues[key], self._batch_queues[key]
        self.beside.discard(key)

    @property
    def goldens(self) -> list[Replay]:
        """Of every queue that has one."""
        return [queue.golden for queue in self._queues.values() if queue.golden is not None]

    def hangs(self, since: float = -math.inf) -> bool:
        """Whether a run is not going to return; ``since`` is when counting may begin, monotonic."""
        now = time.monotonic()
        return any(
            is_hung(now - max(run.began, since), run.predicted) for run in self._running
        )

    def costs(self, key: Key) -> RunCosts:
        """What the runs of a queue cost."""
        return self._queues[key].costs

    def embeds(self, key: Key) -> bool:
        """Whether the graph of a queue has features to give."""
        return isinstance(self._queues[key].session, Embedder)

    @property
    def depth(self) -> int:
        """Entries that wait for the device."""
        return sum(len(queue.entries) for queue in self._all_queues)

    def ahead(self, kind: str) -> float:
        """Predicted seconds until all that waits of a kind is taken by a lane."""
        waiting = (queue for queue in self._all_queues if queue.kind == kind)
        return sum(len(queue.entries) * queue.costs.row for queue in waiting) / self.lanes

    def until_done(self, key: Key, rows: int, kind: str | None = None) -> float:
        """Predicted seconds until so many further rows are answered, whatever their modality.

        What is batch stands before nothing else. A run that is overdue takes as long again as it is
        overdue: a device that hangs must not seem to be free.
        """
        queues = self._all_queues if kind == BATCH else self._queues.values()
        before = sum(len(queue.entries) * queue.costs.row for queue in queues)
        now = time.monotonic()
        running = sum(abs(run.began + run.predicted - now) for run in self._running)
        return (before + running + rows * self._queues[key].costs.row) / self.lanes

    def bytes_ahead(self) -> int:
        """Of the pixels of all that waits for a lane."""
        heads = ((queue, queue.entries.peek()) for queue in self._all_queues)
        return sum(len(queue.entries) * head.pixels.nbytes for queue, head in heads if head)

    async def submit(
        self, key: Key, pixels: np.ndarray, deadline: float = math.inf, kind: str | None = None,
        embed: bool = False,
    ) -> Row:
        """Run one item in the next batches of its queue; cancel the call to leave the queue.

        Its views are rows like all others: they fill batches together with other items' rows.

        Args:
            pixels: ``[views, *pixels per axis, channels]`` of the graph's dtype.
            deadline: of the answer, seconds, monotonic.
            kind: ``BATCH`` to let others go first; else it is the queue's modality.
            embed: whether the features are wanted too, where the graph ``embeds``.

        Returns:
            The mean over the views.

        Raises:
            InferenceFailed: the session failed on this item, or gave logits that are no numbers.
            DeadlinePassed: the device came to it too late.
            Draining, NotReady: the station was closed first.
        """
        if self._closed is not None:
            failure, detail = self._closed
            raise failure(detail)
        loop = asyncio.get_running_loop()
        queue = (self._batch_queues if kind == BATCH else self._queues)[key]
        now = time.monotonic()
        entries = [Entry(view, loop.create_future(), now, deadline, embed) for view in pixels]
        for entry in entries:
            queue.entries.push(entry)
        if self._is_short(queue):
            self._short_came = now
        if len(self._running) < self.lanes and not self._scheduled:
            # At the end of this turn of the loop: what arrived together runs together.
            self._scheduled = True
            loop.call_soon(self._dispatch)
        try:
            if len(entries) == 1:
                return await entries[0].future
            return Row.of_views(await all_of(entries))
        except (asyncio.CancelledError, Failure) as error:  # a failed view ends the others
            self._leave(queue, entries)
            # Its traceback knows the entries, and they know it: a circle that would keep the item
            # until the collector of garbage comes.
            del entry
            raise error.with_traceback(None)  # noqa: B904 (it is the same one)

    def _leave(self, queue: Queue, entries: list[Entry]) -> None:
        """Nobody waits for these any more: let go of their pixels and of a run of theirs alone."""
        for entry in entries:
            entry.let_go()
            queue.entries.drop_gone()
        entries.clear()
        for run in self._running:
            run.end_if_unwanted()
        self._on_begin()

    def close(
        self, kind: type[Failure] = Draining, detail: str = "the server is shutting down"
    ) -> None:
        """Let the running batches finish and refuse everything else."""
        self._closed = kind, detail
        for queue in self._all_queues:
            while queue.entries.peek() is not None:
                queue.entries.pop().fail(kind(detail))

    def give_up(self, detail: str) -> None:
        """Refuse everything, what is running too: nothing comes back from there."""
        self.close(NotReady, detail)
        for run in self._running:
            for entry in run.entries:
                entry.fail(NotReady(detail))

    def _dispatch(self) -> None:
        self._scheduled = False
        while len(self._running) < self.lanes and (run := self._next_run()) is not None:
            self._begin(run)
        self._on_begin()

    def _next_run(self) -> Run | None:
        """The batch that a free lane takes now; None where nothing waits that it may take."""
        now = time.monotonic()
        heads = {
            queue: head
            for queue in self._all_queues
            if (head := queue.first_in_time(now)) is not None
        }
        long_runs = sum(not run.is_short for run in self._running)
        expected = now - self._short_came < FORGET_SECONDS
        short_only = self.lanes > 1 and long_runs == self.lanes - 1 and expected
        fitting = [queue for queue in heads if not short_only or self._is_short(queue)]
        if not fitting:
            return None
        kind = self._turns.next(queue.kind for queue in fitting)
        queue = min(
            (one for one in fitting if one.kind == kind),
            key=lambda one: (heads[one].deadline, heads[one].submitted),
        )
        entries = queue.take(now, self._batch_seconds)
        predicted = queue.costs.seconds(len(entries))
        self._turns.use(kind, predicted, {one.kind for one in heads})
        short = self._is_short(queue)
        return Run(queue, entries, predicted, short, make_stop(), now)

    def _is_short(self, queue: Queue) -> bool:
        """Whether a row is short work here: where all models are slow, the fastest one's is.

        Batch work never is: no lane is left for it.
        """
        if queue.kind == BATCH:
            return False
        asked = (one for key, one in self._queues.items() if key not in self.beside)
        least = min((one.costs.row for one in asked), default=math.inf)
        return queue.costs.row <= max(self._batch_seconds / 2, 2 * least)

    def _begin(self, run: Run) -> None:
        self._running.add(run)
        rows = [entry.pixels for entry in run.entries]
        embed = any(entry.embed for entry in run.entries)
        running = asyncio.get_running_loop().run_in_executor(
            self.executor, run_timed, run.queue.session, rows, self.threads, run.stop, embed
        )
        running.add_done_callback(functools.partial(self._deliver, run))

    def _deliver(self, run: Run, running: asyncio.Future[TimedRun]) -> None:
        self._running.discard(run)
        self._dispatch()  # first: the device should not wait while answers are written
        if error := running.exception():  # not the graph's: those come as rows
            log.error("a device's thread failed", exc_info=error)
            for entry in run.entries:
                entry.fail(InferenceFailed("the model could not be run"))
            self._doubt(run.queue)
            return
        if run.stop.terminate:
            return  # nobody waits for any of it, and its time says nothing
        outcome = running.result()
        if not any(isinstance(row, Exception) for row in outcome.rows):  # nothing was run twice
            run.queue.costs.learn(len(run.entries), outcome.cost)
        self._on_batch(run.queue.modality, len(run.entries), outcome.seconds)
        for entry, row in zip(run.entries, outcome.rows, strict=True):
            if isinstance(row, Exception):
                entry.fail(InferenceFailed("the model gave no finite answer for this input"))
            elif not entry.gone:
                waited = outcome.started - entry.submitted
                share = outcome.cost / len(run.entries)
                features = row.embedding if entry.embed else None
                seen = None if row.attention is None else row.attention[np.newaxis]
                entry.future.set_result(
                    Row(
                        row.logits, waited, outcome.seconds, share, embedding=features,
                        batch_rows=len(run.entries), device=run.queue.session.device,
                        attention=seen,
                    )  # fmt: skip
                )
        if all(isinstance(row, Exception) for row in outcome.rows):
            self._doubt(run.queue)
        else:
            self.succeeded = time.monotonic()

    def _doubt(self, queue: Queue) -> None:
        if queue.golden is not None:
            self.on_failed(queue.golden)


def is_hung(seconds: float, predicted: float) -> bool:
    """Whether a run that is under way for so long never returns."""
    return seconds > max(HUNG_SECONDS, HUNG_TIMES * predicted)
