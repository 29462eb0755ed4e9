"""Bytes -> pixels in worker processes that can be killed: a small pool over asyncio subprocesses.

Why not ``concurrent.futures`` or pebble: both unpickle what the worker sends, and the worker has
touched untrusted bytes. Here a reply is one JSON sentence and raw pixels of a size known before.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from service.engine import failures
from service.engine.costs import DecodeCosts
from service.engine.decode.link import Place, Worker
from service.engine.decode.process import COMMAND
from service.engine.decode.staff import Staff
from service.engine.decode.task import Decoded, Encoded, Task
from service.engine.decode.wire import Preparation
from service.engine.schedule import BATCH, Earliest, Turns

#: Predicted seconds up to which a file counts as small: one worker is kept for those.
SMALL_SECONDS = 0.02
#: Of predicted seconds on a device, of one kind: with so much decoded nobody decodes more of it.
MOST_AHEAD_SECONDS = 0.1
#: Of rows that wait for a device, of all kinds: with so many nobody decodes a large item. Four
#: scans of 256 x 256 x 256 are as many; what the workers are at comes on top.
MOST_AHEAD_BYTES = 2**28
#: A worker whose client left is killed where its item needs longer than a new one takes to start.
RESTART_SECONDS = 0.3
#: A kind of which nothing came for so long has no worker kept for it.
FORGET_SECONDS = 2.0

Queue = tuple[str, bool]  # kind, and whether its items are small by prediction
#: Bytes may kill this many workers before they are blamed; a worker killed from outside costs
#: its request nothing.
ATTEMPTS = 2


class DecodePool:
    """``workers`` processes, each with one item (or two small ones); the rest wait.

    Whose turn it is says ``service.engine.schedule``: modalities take turns by the processor
    seconds that they used, the earliest deadline first within each. Where several are served, or
    batch work beside images, one worker takes small files alone, and while others come no modality
    but images may hold all of the rest. Batch work is a kind of its own, whatever its
    modality: it is never small, and nothing is kept for it.

    Args:
        on_restart: called whenever a worker is replaced.
        has_batch: whether batch work may come.

    Attributes:
        costs: by modality, learnt from every file.
        ahead: kind -> predicted seconds of its decoded items that wait for a device.
        bytes_ahead: of all decoded items that wait for a device.
    """

    def __init__(
        self,
        workers: int,
        on_restart: Callable[[], None] = lambda: None,
        command: tuple[str, ...] = COMMAND,
        has_batch: bool = False,
    ) -> None:
        self.costs: defaultdict[str, DecodeCosts] = defaultdict(DecodeCosts)
        self.ahead: Callable[[str], float] = lambda kind: 0.0
        self.bytes_ahead: Callable[[], int] = lambda: 0
        self.staff = Staff(
            workers, self._make_worker, command, self.begin_next, on_restart, has_batch
        )
        self._waiting: defaultdict[Queue, Earliest[Task]] = defaultdict(Earliest)
        self._turns = Turns()
        self._came: dict[str, float] = {}  # kind -> when the newest item came

    async def start(self, modalities: Iterable[str]) -> None:
        """Start every worker, warm for some modalities; DecodeError if one cannot start."""
        await self.staff.start(modalities)

    def expect_batch(self) -> None:
        """Batch work may come from now on."""
        self.staff.expect_batch()

    def serve(self, modalities: Iterable[str]) -> None:
        """Be warm for further modalities."""
        self.staff.serve(modalities)

    async def close(self) -> None:
        """End every worker."""
        await self.staff.close()

    async def prepare(
        self,
        preparation: Preparation,
        media: Encoded,
        deadline: float = math.inf,
        run_seconds: float = 0.0,
        kind: str | None = None,
    ) -> Decoded:
        """Decode one item; cancel the call to leave, also in the middle of a long one.

        Args:
            media: the encoded file; may not change before this is done.
            deadline: of its answer, seconds, monotonic.
            run_seconds: predicted, of what follows.
            kind: ``BATCH`` to let others go first; else it is the modality.

        Raises:
            Failure: the bytes are at fault, or there is no time left for them.
        """
        future: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
        modality = preparation.modality
        predicted = self.costs[modality].mean(len(media))
        own = predicted + run_seconds
        task = Task(preparation, media, future, deadline, predicted, own, kind=kind)
        if task.kind != BATCH:
            self._came[task.kind] = time.monotonic()
        self._waiting[_queue(task)].push(task)
        self.begin_next()
        try:
            return await future
        except asyncio.CancelledError:
            task.media = b""  # the upload, whose bytes are given back now
            self._waiting[_queue(task)].drop_gone()
            self._abandon(task)
            raise
        finally:
            del task, future  # a failure knows this frame, and would keep itself, and the file

    @property
    def ready(self) -> int:
        """Workers that can be given items."""
        return len(self.staff.ready)

    @property
    def depth(self) -> int:
        """Items that wait for a worker."""
        return sum(len(waiting) for waiting in self._waiting.values())

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.get_pid() for worker in self.staff.alive]

    def begin_next(self) -> None:
        """Hand out what waits, to the workers that hold least."""
        self.staff.let_go()
        while (heads := self._heads()) and any(
            self._give_one(worker, heads)
            for worker in sorted(self.staff.ready, key=lambda one: len(one.tasks))
        ):
            pass

    def _heads(self) -> dict[Queue, Task]:
        """The first item of every queue that may be decoded now."""
        return {
            queue: head
            for queue in self._waiting
            if (head := self._first_in_time(queue)) is not None and self._has_room(head)
        }

    def _give_one(self, worker: Worker, heads: dict[Queue, Task]) -> bool:
        """Give a worker the first item of the kind whose turn it is; False if it takes none."""
        fitting = [queue for queue, head in heads.items() if self._may_take(worker, queue, head)]
        if not fitting:
            return False
        kind = self._turns.next(name for name, _ in fitting)
        queue = min((one for one in fitting if one[0] == kind), key=lambda one: heads[one].deadline)
        self._turns.use(kind, heads[queue].predicted, {name for name, _ in heads})
        worker.give(self._waiting[queue].pop())
        return True

    def _has_room(self, task: Task) -> bool:
        """Whether the device is so little behind that an item may be decoded."""
        if self.ahead(task.kind) > MOST_AHEAD_SECONDS:
            return False
        return not task.preparation.is_large or self.bytes_ahead() <= MOST_AHEAD_BYTES

    def _first_in_time(self, queue: Queue) -> Task | None:
        """The next item that can still be answered; the others are told that they cannot.

        Where none of its kind is being decoded nobody is refused by a guess, or a wrong one
        would never be corrected.
        """
        waiting, now = self._waiting[queue], time.monotonic()
        while (head := waiting.peek()) is not None:
            held = (one.tasks[0].kind for one in self.staff.alive if one.tasks)
            guessed = head.own if queue[0] in held else 0.0
            if now + guessed < head.deadline:
                return head
            late = failures.DeadlinePassed("the file would not have been answered in time")
            waiting.pop().future.set_exception(late)
        return None

    def _may_take(self, worker: Worker, queue: Queue, task: Task) -> bool:
        kind, is_small = queue
        if not worker.takes(task):
            return False
        if worker.place.small_only:
            return is_small
        others_came = any(
            time.monotonic() - came < FORGET_SECONDS
            for other, came in self._came.items()
            if other != kind
        )
        if kind == "image" or not others_came:
            return True
        others = sum(not one.place.small_only for one in self.staff.ready)
        return self._holding()[kind] < max(1, others - 1)

    def _holding(self) -> Counter[str]:
        """Kind -> workers that take everything and hold such an item."""
        takers = (one for one in self.staff.ready if one.tasks and not one.place.small_only)
        return Counter(one.tasks[0].kind for one in takers)

    def _abandon(self, task: Task) -> None:
        """Nobody waits for an item any more: end a worker that has decoded it for long, and will.

        A guess alone ends none, or clients could hold the pool down by leaving.
        """
        for worker in self.staff.alive:  # also one that has been replaced
            if worker.tasks and worker.tasks[0] is task:
                spent = time.monotonic() - task.began
                if spent > RESTART_SECONDS and task.predicted - spent > 2 * RESTART_SECONDS:
                    worker.kill()

    def _make_worker(self, channel: socket.socket, place: Place) -> Worker:
        return Worker(
            channel,
            place,
            on_start=self.staff.alive.add,
            on_decoded=self._learn,
            on_free=self.begin_next,
            on_death=self._died,
        )

    def _learn(self, task: Task, seconds: float) -> None:
        self.costs[task.preparation.modality].learn(task.size, seconds)

    def _died(self, worker: Worker) -> None:
        """Decide what becomes of the items that a worker held."""
        if not self.staff.lose(worker):
            return
        held = list(worker.tasks)
        for task in reversed(held[1:]):  # they never began
            self._wait_first(task)
        if held:
            self._bereave(held[0])
        self.begin_next()

    def _bereave(self, task: Task) -> None:
        if task.gone:
            return
        if task.attempts >= ATTEMPTS or self.staff.closing:
            task.future.set_exception(failures.BrokenMedia("the file breaks its decoder"))
        else:
            self._wait_first(task)

    def _wait_first(self, task: Task) -> None:
        self._waiting[_queue(task)].push(task, first=True)


def _queue(task: Task) -> Queue:
    return task.kind, task.kind != BATCH and task.predicted <= SMALL_SECONDS
