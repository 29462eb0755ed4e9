"""The decode workers of a pool: as many as there are places, and whoever ends is replaced."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from service.engine.decode.link import DecodeError, Place, Worker
from service.engine.decode.process import start_worker

log = logging.getLogger(__name__)

RESPAWN_SECONDS = 1.0


class Staff:
    """``workers`` processes, one of them for small files where there are images and others.

    Args:
        make: a worker of its socket and its place, which enters itself in ``alive`` as soon as it
            has a process, and calls ``lose`` when that has ended.
        on_ready: called when one more can be given items.
        on_restart: called whenever a worker that ended is replaced.
        has_batch: whether batch work may come, which counts as others.

    Attributes:
        alive: all that have a process.
        ready: those that can be given items.
        leaving: have been replaced, and are at their last items.
        closing: nobody is replaced any more.
    """

    def __init__(
        self,
        workers: int,
        make: Callable[[socket.socket, Place], Worker],
        command: tuple[str, ...],
        on_ready: Callable[[], None],
        on_restart: Callable[[], None],
        has_batch: bool = False,
    ) -> None:
        self.workers = workers
        self._has_batch = has_batch
        self._make = make
        self._command = command
        self._on_ready = on_ready
        self._on_restart = on_restart
        self._modalities: tuple[str, ...] = ()
        self.alive: set[Worker] = set()
        self.ready: list[Worker] = []
        self.leaving: set[Worker] = set()
        self.closing = False
        self._starting: list[Place] = []  # of workers that are not ready yet
        self._spawning: set[asyncio.Task[None]] = set()
        self._replacing: asyncio.Task[None] | None = None

    async def start(self, modalities: Iterable[str]) -> None:
        """Start every worker, warm for some modalities; DecodeError if one cannot start."""
        self._modalities = tuple(sorted(modalities))
        await asyncio.gather(*(self._in_background(self._spawn()) for _ in range(self.workers)))

    def serve(self, modalities: Iterable[str]) -> None:
        """Be warm for further modalities: workers that are not are replaced, one by one."""
        self._modalities = tuple(sorted({*self._modalities, *modalities}))
        self.renew()

    def expect_batch(self) -> None:
        """Keep a worker for small files, if none is kept yet."""
        self._has_batch = True
        self.renew()

    def renew(self) -> None:
        """Replace workers that are not as they should be, and those that are worn, one by one."""
        is_idle = self._replacing is None or self._replacing.done()
        if is_idle and self._missing() and not self.closing:
            self._replacing = self._in_background(self._replace_all())

    async def _replace_all(self) -> None:
        """By new ones, which come first; also where more is served, or one dies, meanwhile."""
        while self._missing() and not self.closing:
            await self._respawn()

    def _places(self) -> list[Place]:
        """Of every worker, as it should be."""
        has_large = self._has_batch or len(self._modalities) > 1
        kept = self.workers > 1 and "image" in self._modalities and has_large
        return [Place(self._modalities, kept and not number) for number in range(self.workers)]

    def _missing(self) -> list[Place]:
        """Those for which no worker that is not worn is ready or starting."""
        fresh = (one.place for one in self.ready if not one.is_worn)
        taken = Counter((*fresh, *self._starting))
        return list((Counter(self._places()) - taken).elements())

    def lose(self, worker: Worker) -> bool:
        """One has ended, and is replaced if it should be there; whether it could hold items."""
        self.alive.discard(worker)
        if worker in self.leaving:
            self.leaving.remove(worker)
            return True
        if worker not in self.ready:
            return False  # whoever started it sees that it never came up
        self.ready.remove(worker)
        if not self.closing:
            self._on_restart()
            log.warning("decode worker %d ended and is replaced", worker.process.get_pid())
            self._in_background(self._respawn())
        return True

    def let_go(self) -> None:
        """End those that were replaced and have nothing left to do; replace those that are worn."""
        if any(one.is_worn for one in self.ready):
            self.renew()
        for worker in self.leaving:
            if not worker.tasks:
                worker.kill()

    def _in_background(self, starting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(starting)
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        return task

    async def _spawn(self) -> None:
        """Start a worker for the first place that has none."""
        place = self._missing()[0]
        self._starting.append(place)
        try:
            worker = await start_worker(self._make, self._command, place)
        finally:
            self._starting.remove(place)
        if worker not in self.alive:  # ``lose`` did not know it yet
            raise DecodeError("a decode worker ended as soon as it was ready")
        self.ready.append(worker)
        self._retire(worker)
        self._on_ready()

    def _retire(self, newest: Worker) -> None:
        """Let the worker go whose place another took, once its items are done."""
        wanted = self._places()
        old = [one for one in self.ready if one.is_worn or one.place not in wanted]
        if old and len(self.ready) > self.workers:
            # Of the same sort where there is one: else a moment may have no worker for large files.
            is_other = {one: one.place.small_only != newest.place.small_only for one in old}
            retired = min(old, key=is_other.__getitem__)
            self.ready.remove(retired)
            self.leaving.add(retired)

    async def _respawn(self) -> None:
        """Keep trying, slowly: the pool must not turn into a fork bomb."""
        while self._missing() and not self.closing:
            try:
                await self._spawn()
                return
            except Exception as error:  # whatever it is, the next one may come up
                told = isinstance(error, (DecodeError, OSError))
                what = "a decode worker cannot be replaced, trying again: %s"
                log.error(what, error, exc_info=not told)
                await asyncio.sleep(RESPAWN_SECONDS)

    async def close(self) -> None:
        """End every worker."""
        self.closing = True
        for respawn in self._spawning:
            respawn.cancel()
        await asyncio.gather(*self._spawning, return_exceptions=True)
        for _ in range(100):  # at most a second; the kernel needs a moment
            for worker in self.alive:  # also one that was just being started
                worker.kill()
            if not self.alive:
                return
            await asyncio.sleep(0.01)
