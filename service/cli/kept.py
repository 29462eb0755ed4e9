"""``python -m service classify --resume``: the files of the command are a job, kept in a folder.

Folder, tables and work are those of ``service.jobs``. An answer is printed once it is written down,
so the same command goes on after whatever end: it prints the lines that are there and answers the
files that have none. The same is: these files as they lie on the disk, asked for the same of the
same versions; anything else is another job.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from service.engine.candidates import Candidates
from service.engine.engine import Engine
from service.http.job_lines import encode_line
from service.jobs.folder import take_folder
from service.jobs.inputs import Collected, Inputs
from service.jobs.ledger import Ledger
from service.jobs.pins import Versions, write_down
from service.jobs.store import Item, Job
from service.jobs.work import JobWork
from service.settings import SettingsError

#: No key has a name with blanks: no client sees these jobs.
OWNER = "classify --resume"
#: Lines that are read from the disk together; between two looks at what has come, in seconds.
PAGE, LOOK_SECONDS = 500, 0.1
HOUR = 3600.0


def items_of(files: Sequence[str]) -> list[Item]:
    """The files of a command as the items of a job.

    Raises:
        Failure: they cannot be one.
    """
    found = Collected()
    for file in files:
        found.add_local(file)
    return found.items


async def kept_answers(
    engine: Engine, items: Sequence[Item], parameters: Mapping[str, str], candidates: Candidates
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Name and document of every file's answer, in the order of the answers, those of old first.

    Raises:
        SettingsError: the folder cannot be used.
        Failure: there can be no answers now, or no other job.
    """
    async with _job(engine, items, parameters, candidates) as (ledger, job, working):
        after, ended = 0, False
        while not ended:
            ended = working.done()
            while lines := await ledger.call(ledger.store.lines, job, after, PAGE):
                after += len(lines)
                for line in map(json.loads, lines):
                    del line["filename"]
                    yield items[line.pop("item") - 1].name, line
            await asyncio.wait([working], timeout=LOOK_SECONDS)
        working.result()
        if after < job.total:
            raise SettingsError(f"job {job.id} was cancelled; with another --jobs it begins anew")


@asynccontextmanager
async def _job(
    engine: Engine, items: Sequence[Item], parameters: Mapping[str, str], candidates: Candidates
) -> AsyncIterator[tuple[Ledger, Job, asyncio.Task[None]]]:
    """The job of these files, new or gone on with, and the work on it."""
    spool, store, _ = take_folder(engine.settings)
    ledger = Ledger(store)
    try:
        expired = time.time() - HOUR * engine.settings.jobs_keep_hours
        await ledger.call(store.remove_ended, expired)
        job = await ledger.call(store.add, _new_job(items, parameters, candidates), items)
        inputs = Inputs(spool.place(job.id), engine.settings.jobs_paths)
        working = asyncio.create_task(_finish(engine, ledger, inputs, job))
        try:
            yield ledger, job, working
        finally:
            working.cancel()
            await asyncio.wait([working])
    finally:
        await ledger.close()
        spool.close()


async def _finish(engine: Engine, ledger: Ledger, inputs: Inputs, job: Job) -> None:
    if not job.has_ended:
        candidates = await Versions(engine).find_again(job)
        await JobWork(engine, ledger, inputs, encode_line).finish(job, candidates)


def _new_job(
    items: Sequence[Item], parameters: Mapping[str, str], candidates: Candidates
) -> Job:
    """What is entered unless it is there: its key of idempotency says all that it depends on."""
    written = write_down(candidates)
    files = [[item.member, *_state(item.member)] for item in items]
    asked = json.dumps([files, sorted(parameters.items()), written])
    key = hashlib.sha256(asked.encode()).hexdigest()
    return Job(
        number=0, id=secrets.token_hex(12), owner=OWNER, state="queued", reason=None,
        created=time.time(), ended=None, key=key, fingerprint=key, parameters=dict(parameters),
        candidates=written, bytes=0, total=len(items), answered=0, failed=0,
    )  # fmt: skip


def _state(path: str) -> tuple[int, int]:
    """What another content would change: size in bytes, time in ns; of what is not there zeros."""
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
