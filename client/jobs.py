"""Jobs: many files, or long ones, that a server takes at once and answers behind all else.

A job outlives connections, clients and the server's process. It is known by its id, and its answers
are lines that can be read while they come.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack
from urllib.parse import parse_qsl, quote, urlsplit

from client.answers import FileProblem, Result, whole
from client.calls import Call, File, text_of
from client.errors import NoAnswer, Problem, is_passing
from client.forms import Form
from client.reading import read_json

JOBS = "/v1/jobs"
#: Jobs and lines that are asked for together.
LISTED, PAGE = 100, 1000
#: Between two looks at a job, doubled each time.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.1, 5.0
#: That a server may be away whose job was seen: a restart, another version.
AWAY_SECONDS = 600.0

T = TypeVar("T")


class JobOptions(TypedDict, total=False):
    """What a job may say beside its files: what ``classify`` may, for all of them."""

    bundle: str
    grid: str
    top_k: int
    views: int  # of the clips among them
    want: str
    encoding_format: str
    raw: bool
    abstain: float


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is by now; times are texts of RFC 3339."""

    id: str
    state: str  # queued, running, done or cancelled
    created: str
    total: int  # files
    answered: int  # of them those that have a line
    failed: int  # of these those whose line is a problem
    bundles: tuple[str, ...]  # who answers: NAME@VERSION
    reason: str | None = None  # why it does not go on for now
    ended: str | None = None
    expires: str | None = None  # until then its answers can be read
    document: dict[str, Any] = whole()

    @property
    def has_ended(self) -> bool:
        """Whether no line will be added any more."""
        return self.state in ("done", "cancelled")


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first, and the address of those before them."""

    jobs: tuple[Job, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class LineHead:
    """What every line has."""

    item: int
    filename: str
    error: FileProblem | None = None


@dataclass(frozen=True, slots=True)
class JobLine:
    """What became of one file; ``item`` counts those of the job from 1, in the order given."""

    item: int
    filename: str  # as the server knows it: without folders
    outcome: Result | Problem
    document: dict[str, Any]


class AsyncJobs:
    """The jobs of a server, as far as its key sees them.

    Every call ends, and is tried again, as those of ``AsyncClient``, whose ``jobs`` this is.
    """

    def __init__(self, send: Callable[[Call], Awaitable[bytes]]) -> None:
        self._send = send

    async def submit(
        self,
        files: Iterable[File] = (),
        *,
        archives: Iterable[File] = (),
        paths: Sequence[str] = (),
        key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Have files answered. It is taken once, however often the call is tried.

        Args:
            files: each is one item, whatever its name.
            archives: zips and tars, whose files are items, after all of ``files``.
            paths: files and folders that the server reads itself, below what its operator allows;
                instead of the others.
            key: of idempotency: a later call with the same key and files finds the same job. A new
                one where it is not given.

        Raises:
            ValueError: nothing is given, or both.
            ClientError: as ``classify``.
            OSError: a file cannot be read.
        """
        parameters = {name: text_of(value) for name, value in options.items()}
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        form = await asyncio.to_thread(Form.of, {"file": files, "archive": archives})
        if bool(form.parts) == bool(paths):
            raise ValueError("a job: expected files and archives, or paths of the server")
        if paths:
            body = json.dumps({"paths": list(paths)}).encode()
            headers["Content-Type"] = "application/json"
            call = Call("POST", JOBS, parameters, body, len(body), headers)
        else:
            headers["Content-Type"] = form.content_type
            call = Call("POST", JOBS, parameters, form.pieces, form.length, headers, True)
        return read_json(Job, await self._send(call))

    async def show(self, id: str) -> Job:
        """How far a job is; ClientError as for ``classify``."""
        return read_json(Job, await self._send(Call("GET", _address(id), {})))

    async def cancel(self, id: str) -> Job:
        """Let a job have no more answers; those that are there can still be read."""
        return read_json(Job, await self._send(Call("DELETE", _address(id), {})))

    async def list(self) -> AsyncGenerator[Job, None]:
        """All jobs, newest first."""
        parameters = {"limit": str(LISTED)}
        while True:
            page = read_json(JobPage, await self._send(Call("GET", JOBS, parameters)))
            for job in page.jobs:
                yield job
            if page.next is None:
                return
            parameters = dict(parse_qsl(urlsplit(page.next).query))

    async def results(
        self, id: str, *, after: int = 0, follow: bool = False
    ) -> AsyncGenerator[JobLine, None]:
        """The lines of a job, in the order in which they came.

        Args:
            after: lines to pass over.
            follow: whether to wait for those that are still to come, until the job has ended, also
                while the server is away, as ``wait``.
        """
        ended = not follow or (await self.show(id)).has_ended
        for seconds in _looks():
            while lines := await self._patiently(partial(self._lines, id, after), follow):
                after += len(lines)
                for line in lines:
                    yield line
            if ended:
                return
            await asyncio.sleep(seconds)
            ended = (await self._patiently(partial(self.show, id))).has_ended

    async def wait(self, id: str, on_look: Callable[[Job], object] | None = None) -> Job:
        """The job once it has ended, however long that takes.

        A server that has shown it may be away for ``AWAY_SECONDS`` at a time.

        Args:
            on_look: called with the job as it is, now and then.
        """
        job = await self.show(id)
        for seconds in _looks():
            if on_look is not None:
                on_look(job)
            if job.has_ended:
                return job
            await asyncio.sleep(seconds)
            job = await self._patiently(partial(self.show, id))
        raise AssertionError("there is always another look")

    async def _patiently(self, ask: Callable[[], Awaitable[T]], patient: bool = True) -> T:
        """What is asked for, once the server is there again; its last error if that is too long."""
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return await ask()
            except (Problem, NoAnswer) as error:
                if not patient or not is_passing(error) or time.monotonic() > end:
                    raise
            await asyncio.sleep(LAST_LOOK_SECONDS)

    async def _lines(self, id: str, after: int) -> Sequence[JobLine]:
        parameters = {"after": str(after), "limit": str(PAGE)}
        body = await self._send(Call("GET", f"{_address(id)}/results", parameters))
        return [_line(line) for line in body.splitlines()]


def _line(line: bytes) -> JobLine:
    head = read_json(LineHead, line)
    outcome: Result | Problem
    if (error := head.error) is None:
        outcome = read_json(Result, line)
    else:
        outcome = Problem(
            status=error.status, type=error.type, title=error.title, detail=error.detail
        )
    return JobLine(head.item, head.filename, outcome, json.loads(line))


def _looks() -> Iterator[float]:
    """Seconds from one look to the next."""
    seconds = FIRST_LOOK_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, LAST_LOOK_SECONDS)


def _address(id: str) -> str:
    return f"{JOBS}/{quote(id, safe='')}"
