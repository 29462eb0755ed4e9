"""Answers jobs: a few at a time, all of their items through ``Engine.submit`` as batch work.

What is written down is the truth, and this only follows it: at start every job that has not ended
goes on with the items that have no line. The database is used by one thread, files by others; the
event loop waits for neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from service.engine.candidates import Candidates
from service.engine.engine import Engine
from service.engine.failures import Failure
from service.jobs.folder import take_folder
from service.jobs.inputs import Inputs
from service.jobs.ledger import Ledger
from service.jobs.pins import Pins, Versions, Written, write_down
from service.jobs.spool import full_disk_told
from service.jobs.store import Item, Job, State
from service.jobs.work import SUSPECT_STARTS, Encode, JobWork

log = logging.getLogger(__name__)

#: Jobs that are worked on at once.
MAX_RUNNING = 4
#: Between two looks at what others have written, and at what has expired.
LOOK_SECONDS = 0.5
#: A job that cannot go on is tried again after so long; one of which nothing can be written.
AGAIN_SECONDS, DISK_AGAIN_SECONDS = 30.0, 1.0
HOUR = 3600.0


class JobRunner:
    """The jobs of a folder, and the work on them.

    Args:
        encode: what became of an item, as the line that clients read.

    Attributes:
        ledger: what is written down of jobs.
        spool: their files.
        pins: versions that may not be retired.

    Raises:
        SettingsError: the folder cannot be used.
    """

    def __init__(self, engine: Engine, encode: Encode) -> None:
        self.engine = engine
        self.settings = engine.settings
        self.pins = Pins()
        self._versions = Versions(engine)
        self._encode = encode
        self._open: dict[str, Job] = {}  # that have not ended, as far as is known here
        self.spool, store, jobs = take_folder(engine.settings)
        self.ledger = Ledger(store)
        for job in jobs:
            self._know(job)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._owners: Counter[str] = Counter()  # of those that run
        self._waits_until: dict[str, float] = {}  # of those that cannot go on, monotonic
        self._news = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        engine.rollout.needed_by = self._needed_by

    def _needed_by(self, name: str, version: str) -> str | None:
        return "a job that has not ended" if self.pins.hold(name, version) else None

    def _know(self, job: Job) -> None:
        self._open[job.id] = job
        self.pins.add(job.candidates)

    def start(self) -> None:
        """Go on where the last process was ended."""
        self._main = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End all work; what has no line gets it from the next process."""
        tasks = [*self._running.values(), *([self._main] if self._main else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.ledger.close()
        self.spool.close()

    # --- what clients ask for ----------------------------------------------------------------

    @contextlib.contextmanager
    def holding(self, candidates: Candidates) -> Iterator[Written]:
        """What may become a job keeps its versions while this is open; gives them written down."""
        written = write_down(candidates)
        self.pins.add(written)
        try:
            yield written
        finally:
            self.pins.drop(written)

    async def add(self, job: Job, items: Sequence[Item]) -> Job:
        """Enter a job whose files are in their place; see ``Store.add``, and JobsFull."""
        with full_disk_told():
            added = await self.ledger.call(self.ledger.store.add, job, items)
        if added.id == job.id:
            self._know(added)
            self._news.set()
        return added

    async def cancel(self, job: Job) -> Job | None:
        """As ``Store.cancel``; what is worked on ends at once."""
        with full_disk_told():
            now = await self.ledger.call(self.ledger.store.cancel, job)
        self._news.set()
        return now

    # --- all jobs ----------------------------------------------------------------------------

    async def _work(self) -> None:
        """Begin what may begin, end what has ended, until ``close``."""
        while True:
            self._news.clear()
            try:
                await self._look()
            except (sqlite3.Error, OSError) as error:
                log.error("the jobs cannot be looked after: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_SECONDS)

    async def _look(self) -> None:
        """Follow what is written down, by whomever."""
        known, store = dict(self._open), self.ledger.store  # jobs that come now are not missed
        jobs = {job.id: job for job in await self.ledger.call(store.open)}
        for job in known.values():
            if job.id not in jobs:
                await self._forget(job)
        expired = time.time() - HOUR * self.settings.jobs_keep_hours
        await self.ledger.call(store.remove_ended, expired)
        await self.ledger.call(store.database.reserve.take)
        self._tell(list(jobs.values()), await self.ledger.call(store.counts))
        if self.engine.catalog.examined and not self.engine.died:
            self._begin(list(jobs.values()))

    def _tell(self, jobs: list[Job], counts: Mapping[State, int]) -> None:
        """The gauges, which a scrape must not wait for a disk for."""
        metrics = self.engine.metrics
        for state in get_args(State):
            metrics.jobs.labels(state).set(counts.get(state, 0))
        metrics.job_items_waiting.set(sum(job.total - job.answered for job in jobs))
        metrics.job_bytes.set(self.spool.used + self.ledger.store.database.size())
        queued = [job.created for job in jobs if job.state == "queued"]
        metrics.job_oldest_seconds.set(time.time() - min(queued) if queued else 0)

    async def _forget(self, job: Job) -> None:
        """A job has ended: its files and versions are needed no more."""
        if (task := self._running.get(job.id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.to_thread(self.spool.remove, job.id, job.bytes)
        self.pins.drop(job.candidates)
        self._waits_until.pop(job.id, None)
        del self._open[job.id]

    def _begin(self, jobs: list[Job]) -> None:
        """Work on the oldest ones; of owners whose jobs run already, after the others.

        One that may have ended the process is begun when nothing else runs: so no other is blamed.
        """
        now = time.monotonic()
        waiting = [
            job
            for job in jobs
            if job.id not in self._running and self._waits_until.get(job.id, 0.0) <= now
        ]
        if any(job.starts > SUSPECT_STARTS for job in jobs if job.id in self._running):
            return  # which runs alone until its first line
        if suspects := [job for job in waiting if job.starts >= SUSPECT_STARTS]:
            waiting = [] if self._running else suspects[:1]
        while waiting and len(self._running) < MAX_RUNNING:
            job = min(waiting, key=lambda one: (self._owners[one.owner], one.number))
            waiting.remove(job)
            self._owners[job.owner] += 1
            task = self._running[job.id] = asyncio.create_task(self._run(job))
            task.add_done_callback(functools.partial(self._on_end, job))

    def _on_end(self, job: Job, task: asyncio.Task[None]) -> None:
        self._owners[job.owner] -= 1
        del self._running[job.id]
        self._news.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s does not go on for now", job.id, exc_info=error)
            of_disk = isinstance(error, (sqlite3.Error, OSError))
            seconds = DISK_AGAIN_SECONDS if of_disk else AGAIN_SECONDS
            self._waits_until[job.id] = time.monotonic() + seconds

    # --- one of them -------------------------------------------------------------------------

    async def _run(self, job: Job) -> None:
        """Answer what has no line yet; where that cannot be, say why and try again later."""
        try:
            if await self.ledger.call(self.ledger.store.begin, job):  # before a version is opened
                candidates = await self._versions.find_again(job)
                inputs = Inputs(self.spool.place(job.id), self.settings.jobs_paths)
                work = JobWork(self.engine, self.ledger, inputs, self._encode)
                await work.finish(job, candidates)
        except Failure as failure:
            log.warning("job %s waits: %s", job.id, failure.detail)
            self._waits_until[job.id] = time.monotonic() + AGAIN_SECONDS
            await self.ledger.call(self.ledger.store.wait, job, failure.detail)
