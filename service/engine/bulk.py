"""Many files through one engine: read in order, each once there is room for its bytes."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from service.engine.candidates import Candidates, first_answer, largest
from service.engine.engine import Engine
from service.engine.failures import Failure, InternalError
from service.engine.job import Outcome

log = logging.getLogger(__name__)

Answer = Outcome | Failure


class File(NamedTuple):
    """A file that shall be answered.

    Attributes:
        number: from 1, among those of its work.
        name: as whoever sent it calls it.
        size: bytes that reading it may take.
        read: its bytes, at most one more than it is told; a Failure where that cannot be.
    """

    number: int
    name: str
    size: int
    read: Callable[[int], bytes | Failure]


async def begin_each(
    engine: Engine, files: AsyncIterator[File], candidates: Candidates
) -> AsyncIterator[tuple[File, asyncio.Task[Answer]]]:
    """Every file with its answer, a task that has begun, in the order of the files.

    Batch work: it waits where interactive work leaves no room. Files are read in a thread. What
    goes wrong with a file is its own answer.
    """
    most = largest(candidates)
    async for file in files:
        size = min(file.size, most)
        await engine.room.enter(size)
        try:
            media = await asyncio.to_thread(file.read, most)
        except BaseException:
            engine.room.leave(size)
            raise
        task = asyncio.create_task(_answer(engine, media, candidates))
        del media  # it may be large, and the next file is waited for
        task.add_done_callback(functools.partial(_leave, engine, size))
        yield file, task
        await asyncio.sleep(0)  # the new task begins: workers decode while the next file is read


def _leave(engine: Engine, size: int, task: asyncio.Task[Answer]) -> None:
    engine.room.leave(size)


async def _answer(engine: Engine, media: bytes | Failure, candidates: Candidates) -> Answer:
    if isinstance(media, Failure):
        return media
    try:
        return await first_answer(engine, media, candidates)
    except Failure as failure:
        return failure
    except Exception as error:
        log.error("a file could not be answered", exc_info=error)
        return InternalError("an unexpected error; the log says more")
