"""The work on one job: its items in their order, each begun when there is room; lines as they come.

An item that was answered has its line only once that is written down; until then it is begun again
by whoever goes on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from service.engine.bulk import Answer, File, begin_each
from service.engine.candidates import Candidates
from service.engine.engine import NO_ANSWER, Engine
from service.engine.failures import (
    DeadlinePassed,
    Draining,
    Failure,
    InferenceFailed,
    InternalError,
    NotReady,
    Overloaded,
)
from service.engine.job import EncodingFormat
from service.engine.parameters import Asked
from service.jobs.inputs import LISTING, Inputs
from service.jobs.ledger import Ledger
from service.jobs.store import Job, Line

log = logging.getLogger(__name__)

#: Items of one job that were begun and have no line yet; that are looked up together.
MAX_BEGUN, PAGE = 256, 512
#: Starts that ended with the process and without a line: after so many of them items are begun one
#: at a time, after so many in all the item whose turn it was is at fault.
SUSPECT_STARTS, FAULT_STARTS = 3, 5
#: What cannot be written is tried again after so long.
AGAIN_SECONDS = 1.0
#: Not the item's own: it is answered later, maybe by another process.
NOT_ITS_OWN = (NotReady, Draining, Overloaded, DeadlinePassed)
#: Number and name of an item, what became of it, and how arrays are told -> its line, JSON;
#: ValueError where that is none.
Encode = Callable[[int, str, Answer, EncodingFormat], str]


class JobWork:
    """Answers what has no line yet; for one call of ``finish``."""

    def __init__(self, engine: Engine, ledger: Ledger, inputs: Inputs, encode: Encode) -> None:
        self._engine = engine
        self._ledger = ledger
        self._inputs = inputs
        self._encode = encode
        self._room = asyncio.Semaphore(MAX_BEGUN)
        self._begun: set[asyncio.Task[Answer]] = set()
        self._answered: asyncio.Queue[tuple[File, Answer]] = asyncio.Queue()

    async def finish(self, job: Job, candidates: Candidates) -> None:
        """Until every item has its line, or the job was ended by somebody.

        Raises:
            Failure: nothing can be answered for now.
        """
        starts = await self._ledger.call(self._ledger.store.start, job)
        try:
            if starts > FAULT_STARTS:
                await self._blame(job)
            await self._finish(job, candidates, starts > SUSPECT_STARTS)
        finally:
            if not self._engine.died:
                await self._ledger.call(self._ledger.store.settle, job)

    async def _blame(self, job: Job) -> None:
        """Let the first item without a line have one: alone, it has ended the process each time."""
        for item in await self._ledger.call(self._ledger.store.unanswered, job, 0, 1):
            log.error("job %s: item %d has ended the process, again and again", job.id, item.number)
            file = File(item.number, item.name, 0, functools.partial(self._inputs.read, item))
            failure = InferenceFailed("the server has ended each time that it answered this file")
            self._count(job, await self._write(job, [(file, failure)], "float"))

    async def _finish(self, job: Job, candidates: Candidates, singly: bool) -> None:
        now = await self._ledger.call(self._ledger.store.get, job.id)
        if now is None or now.has_ended:
            return
        job, self._room = now, asyncio.Semaphore(1 if singly else MAX_BEGUN)
        beginning = asyncio.create_task(self._begin_all(job, candidates, singly))
        recording = asyncio.create_task(self._record_all(job))
        try:
            await asyncio.wait((beginning, recording), return_when=asyncio.FIRST_COMPLETED)
            if not recording.done():
                beginning.result()
            await recording
        finally:
            tasks = [beginning, recording, *self._begun]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin_all(self, job: Job, candidates: Candidates, singly: bool) -> None:
        count = 0
        async with aclosing(self._files(job)) as files:
            async for file, task in begin_each(self._engine, files, candidates):
                self._begun.add(task)
                task.add_done_callback(functools.partial(self._on_answer, file))
                count += 1
                if singly and count > MAX_BEGUN:  # of those that had been begun none is left
                    singly = False
                    for _ in range(MAX_BEGUN - 1):
                        self._room.release()

    async def _files(self, job: Job) -> AsyncGenerator[File, None]:
        """What has no line yet, each when there is room for one more."""
        after, store, loop = 0, self._ledger.store, asyncio.get_running_loop()
        while items := await self._ledger.call(store.unanswered, job, after, PAGE):
            for item in items:
                await self._room.acquire()
                size = await loop.run_in_executor(LISTING, self._inputs.size, item)
                read = functools.partial(self._inputs.read, item)
                yield File(item.number, item.name, size, read)
            after = items[-1].number

    def _on_answer(self, file: File, task: asyncio.Task[Answer]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            self._answered.put_nowait((file, task.result()))

    async def _record_all(self, job: Job) -> None:
        """Write down together what has come since the last time, until the job has ended."""
        now: Job | None = job
        encoding_format = Asked.parse(job.parameters).encoding_format
        while now is not None and not now.has_ended:
            answers = [await self._answered.get()]
            while not self._answered.empty():
                answers.append(self._answered.get_nowait())
            for _, answer in answers:
                await self._check_own(answer)
            before = now
            now = await self._write(job, answers, encoding_format)
            self._count(before, now)
            for _ in answers:
                self._room.release()

    async def _check_own(self, answer: Answer) -> None:
        """The failure of an answer again, unless it is the item's own."""
        if isinstance(answer, NOT_ITS_OWN):
            raise answer
        if isinstance(answer, InferenceFailed):
            await self._engine.vitals.settle()
            if self._engine.died:
                raise NotReady(NO_ANSWER)

    def _count(self, before: Job, now: Job | None) -> None:
        if now is not None:
            metrics, failed = self._engine.metrics, now.failed - before.failed
            metrics.job_items_answered.inc(now.answered - before.answered - failed)
            metrics.job_items_failed.inc(failed)

    def _line(
        self, job: Job, file: File, answer: Answer, encoding_format: EncodingFormat
    ) -> Line:
        try:
            text = self._encode(file.number, file.name, answer, encoding_format)
        except ValueError as error:
            told = job.id, file.number
            log.error("job %s: the answer to item %d is no line", *told, exc_info=error)
            answer = InternalError("an unexpected error; the log says more")
            text = self._encode(file.number, file.name, answer, encoding_format)
        return Line(file.number, text, isinstance(answer, Failure))

    def _lines(
        self, job: Job, answers: list[tuple[File, Answer]], encoding_format: EncodingFormat
    ) -> list[Line]:
        return [self._line(job, file, answer, encoding_format) for file, answer in answers]

    async def _write(
        self, job: Job, answers: list[tuple[File, Answer]], encoding_format: EncodingFormat
    ) -> Job | None:
        """Until it is done: a disk may be full for a while. Arrays are encoded beside the loop."""
        lines = await self._ledger.call(self._lines, job, answers, encoding_format)
        while True:
            try:
                return await self._ledger.call(self._ledger.store.record, job, lines)
            except (sqlite3.Error, OSError) as error:
                log.error("answers of job %s cannot be written: %s", job.id, error)
                await asyncio.sleep(AGAIN_SECONDS)
