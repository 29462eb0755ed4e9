"""Bytes -> pixels in worker processes that can be killed: a small pool over asyncio subprocesses.

Why not ``concurrent.futures`` or pebble: both unpickle what the worker sends, and the worker has
touched untrusted bytes. Here a reply is one JSON sentence and raw pixels of a size known before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from service.engine import failures
from service.engine.decode.link import Decoded, DecodeError, Encoded, Task, Worker
from service.engine.decode.wire import Preparation

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "service.engine.decode.worker")
#: glibc gives big blocks back to the kernel at once, and every image then pays for fresh pages;
#: these keep the heap (the worker trims it itself after a large image). One thread per worker.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE")
START_SECONDS = 30.0
RESPAWN_SECONDS = 1.0
#: Bytes may kill this many workers before they are blamed; a worker killed from outside costs
#: its request nothing.
ATTEMPTS = 2


class DecodePool:
    """``workers`` processes, each with one item (or two small ones); the rest wait.

    Modalities share the workers evenly: a free one takes the first item of the modality that holds
    the fewest, so that images do not wait for every scan before them. The wait is bounded by the
    permits that let requests in and by each request's deadline.

    Args:
        on_restart: called whenever a worker is replaced.
    """

    def __init__(
        self,
        workers: int,
        on_restart: Callable[[], None] = lambda: None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self.workers = workers
        self._on_restart = on_restart
        self._command = command
        self._waiting: defaultdict[str, deque[Task]] = defaultdict(deque)  # by modality
        self.alive: set[Worker] = set()
        self._ready: list[Worker] = []
        self._spawning: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self, modalities: Iterable[str]) -> None:
        """Start every worker, warm for some modalities; DecodeError if one cannot start."""
        self._command = (*self._command, *sorted(modalities))
        await asyncio.gather(*(self._spawn() for _ in range(self.workers)))

    async def prepare(self, preparation: Preparation, media: Encoded) -> Decoded:
        """Decode one item.

        Args:
            media: the encoded file; may not change before this is done.

        Raises:
            Failure: the bytes are at fault.
        """
        future: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
        task = Task(preparation, media, future)
        waiting = self._waiting[preparation.modality]
        waiting.append(task)
        self._begin_next()
        try:
            return await future
        except asyncio.CancelledError:
            if task in waiting:  # it holds the upload, whose bytes are given back now
                waiting.remove(task)
            raise

    @property
    def ready(self) -> bool:
        """At least one worker can be given items."""
        return bool(self._ready)

    @property
    def depth(self) -> int:
        """Items that wait for a worker."""
        return sum(len(waiting) for waiting in self._waiting.values())

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.get_pid() for worker in self.alive]

    def _begin_next(self) -> None:
        """Hand out what waits, to the workers that hold least."""
        while self._ready and (waiting := self._next_queue()):
            worker = min(self._ready, key=lambda one: len(one.tasks))
            if not worker.takes(waiting[0]):
                return
            worker.give(waiting.popleft())

    def _next_queue(self) -> deque[Task] | None:
        """The modality whose turn it is: it holds the fewest workers, or came first."""
        for waiting in self._waiting.values():
            while waiting and waiting[0].future.done():  # the client has left
                waiting.popleft()
        held = Counter(one.tasks[0].preparation.modality for one in self._ready if one.tasks)
        filled = (item for item in self._waiting.items() if item[1])
        first = min(filled, key=lambda one: (held[one[0]], one[1][0].submitted), default=None)
        return first[1] if first else None

    def _died(self, worker: Worker) -> None:
        """Replace a worker; decide what becomes of the items that it held."""
        self.alive.discard(worker)
        if worker not in self._ready:
            return  # whoever started it sees that it never came up
        self._ready.remove(worker)
        held = list(worker.tasks)
        for task in reversed(held[1:]):  # they never began
            self._wait_first(task)
        if held:
            self._bereave(held[0])
        if not self._closing:
            self._on_restart()
            log.warning("decode worker %d ended and is replaced", worker.process.get_pid())
            respawn = asyncio.get_running_loop().create_task(self._respawn())
            self._spawning.add(respawn)
            respawn.add_done_callback(self._spawning.discard)
        self._begin_next()

    def _bereave(self, task: Task) -> None:
        if task.future.done():
            return
        if task.attempts >= ATTEMPTS or self._closing:
            task.future.set_exception(failures.BrokenMedia("the file breaks its decoder"))
        else:
            self._wait_first(task)

    def _wait_first(self, task: Task) -> None:
        self._waiting[task.preparation.modality].appendleft(task)

    def _new_worker(self) -> Worker:
        return Worker(
            on_start=self.alive.add,
            on_free=self._begin_next,
            on_death=self._died,
        )

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        _, worker = await loop.subprocess_exec(
            self._new_worker,
            *self._command,
            cwd=ROOT,
            env=kept | ENVIRONMENT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None,  # until it is warm, what it says is ours
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await worker.ready
        except TimeoutError:
            worker.kill()
            raise DecodeError("a decode worker does not come up") from None
        self._ready.append(worker)
        self._begin_next()

    async def _respawn(self) -> None:
        """Keep trying, slowly: the pool must not turn into a fork bomb."""
        while not self._closing:
            try:
                await self._spawn()
                return
            except (DecodeError, OSError) as error:
                log.error("a decode worker cannot be replaced, trying again: %s", error)
                await asyncio.sleep(RESPAWN_SECONDS)

    async def close(self) -> None:
        """End every worker."""
        self._closing = True
        for respawn in self._spawning:
            respawn.cancel()
        await asyncio.gather(*self._spawning, return_exceptions=True)
        for worker in list(self.alive):
            worker.kill()
        for _ in range(100):  # at most a second; the kernel needs a moment
            if not self.alive:
                return
            await asyncio.sleep(0.01)
