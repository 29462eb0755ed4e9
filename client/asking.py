"""The client for asyncio: connections, deadlines, tries; one file or many."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import ssl
import time
from collections.abc import AsyncGenerator, Iterable
from typing import TypedDict, TypeVar, Unpack

import httpx

from client.answers import Answer, Bundles, FailedFile, Prepared, Result
from client.calls import (
    Call,
    File,
    Options,
    PrepareOptions,
    file_call,
    problem_of,
    problem_of_file,
)
from client.errors import BadAnswer, ClientError, NoAnswer, Problem, is_passing
from client.jobs import AsyncJobs
from client.reading import read_json

DEFAULT_URL = "http://127.0.0.1:8000"
DEADLINE_SECONDS = 120.0
RETRIES = 5
#: The wait before a further try is random up to this, doubled each time, on top of Retry-After.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 30.0
CONNECT_SECONDS = 10.0
KEEP_SECONDS = 4.0  # a server closes idle connections after 5

F = TypeVar("F", bound=File)
#: What became of one file of many.
Outcome = Result | ClientError | OSError


class Settings(TypedDict, total=False):
    """How a server is asked.

    ``deadline`` are seconds for a whole call with all its tries and waits, None is no end; where it
    is not given, the files of a job have no end, and all else has ``DEADLINE_SECONDS``.
    ``retries`` counts tries after the first. ``verify`` is whom TLS trusts; ``transport`` takes the
    place of the network.
    """

    key: str | None
    deadline: float | None
    retries: int
    verify: ssl.SSLContext | bool
    transport: httpx.AsyncBaseTransport | None


class AsyncClient:
    """A server, asked from asyncio; one client may be used by many tasks at once.

    Every call is tried again where that may help: after 429, 502 and 503, at the earliest when the
    server says, after a 500 of something before the service, and where the connection fails. A call
    whose next try would come after its deadline ends at once, with the error of the last one.

    Attributes:
        jobs: what is long or many; see ``AsyncJobs``.

    Args:
        url: scheme, host and port, also a path where the service lies below one.
        settings: see ``Settings``.

    Raises:
        ValueError: the address or the key cannot be one.
    """

    def __init__(self, url: str = DEFAULT_URL, **settings: Unpack[Settings]) -> None:
        key = settings.get("key")
        self.deadline = settings.get("deadline", DEADLINE_SECONDS)
        self._of_bodies = settings.get("deadline")  # as long as their files are
        self.retries = settings.get("retries", RETRIES)
        self._http = httpx.AsyncClient(
            base_url=_check_url(url),
            headers={"Authorization": f"Bearer {_check_key(key)}"} if key is not None else {},
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=KEEP_SECONDS),
            verify=settings.get("verify", True),
            transport=settings.get("transport"),
        )
        self.jobs = AsyncJobs(self._send)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def classify(self, file: File, **options: Unpack[Options]) -> Result:
        """Rank the labels of one file.

        Raises:
            ClientError: Problem, NoAnswer, BadAnswer or UnknownModality.
            OSError: the file cannot be read.
        """
        body = await self._send(await file_call("classify", file, dict(options)))
        results = read_json(Answer, body).results
        if len(results) != 1:
            raise BadAnswer(f"answer.results: expected one, got {len(results)}")
        (result,) = results
        if isinstance(result, FailedFile):
            raise problem_of_file(result.error)
        return result

    async def classify_many(
        self, files: Iterable[F], *, concurrency: int = 8, **options: Unpack[Options]
    ) -> AsyncGenerator[tuple[F, Outcome], None]:
        """Rank the labels of every file, each in a request of its own.

        Files are taken as there is room, and no answer is kept: ``files`` may be endless. What goes
        wrong with one is its own outcome. Close the generator if you leave it early.

        Args:
            concurrency: files under way at once.

        Yields:
            file and outcome, in the order of the answers.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency: expected at least 1, got {concurrency}")
        coming, under_way = iter(files), set[asyncio.Task[tuple[F, Outcome]]]()
        try:
            while True:
                for file in itertools.islice(coming, concurrency - len(under_way)):
                    under_way.add(asyncio.create_task(self._outcome(file, options)))
                if not under_way:
                    return
                done, under_way = await asyncio.wait(under_way, return_when="FIRST_COMPLETED")
                for task in done:
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _outcome(self, file: F, options: Options) -> tuple[F, Outcome]:
        try:
            return file, await self.classify(file, **options)
        except (ClientError, OSError) as error:
            return file, error

    async def prepare(self, file: File, **options: Unpack[PrepareOptions]) -> Prepared:
        """A file as the network would get it; errors as for ``classify``."""
        body = await self._send(await file_call("prepare", file, dict(options)))
        return read_json(Prepared, body)

    async def bundles(self) -> Bundles:
        """What the server has; ClientError as for ``classify``."""
        return read_json(Bundles, await self._send(Call("GET", "/v1/bundles", {})))

    # --- tries -----------------------------------------------------------------------------------

    async def _send(self, call: Call) -> bytes:
        """The body of an answer that is none of a failure."""
        deadline = self._of_bodies if call.is_long else self.deadline
        end = math.inf if deadline is None else time.monotonic() + deadline
        for retry in itertools.count():
            try:
                return await self._try(call, end)
            except (Problem, NoAnswer) as error:
                wait = _wait(error, retry)
                if not is_passing(error) or retry >= self.retries:
                    raise
                if time.monotonic() + wait >= end:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("there is always another try")

    async def _try(self, call: Call, end: float) -> bytes:
        left = None if end == math.inf else end - time.monotonic()
        try:
            async with asyncio.timeout(left):
                response = await self._http.send(call.request(self._http, left))
        except TimeoutError:
            raise NoAnswer(f"no answer within {self.deadline} s") from None
        except httpx.RequestError as error:
            raise NoAnswer(f"no answer: {error or type(error).__name__}") from error
        if not response.is_success:
            raise problem_of(response)
        return response.content


def _wait(error: Problem | NoAnswer, retry: int) -> float:
    """Seconds until the next try: as told, and longer at random each further time."""
    told = error.retry_after if isinstance(error, Problem) else None
    most = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**retry)
    return (told or 0.0) + random.random() * most


def _check_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"expected an address like {DEFAULT_URL}, got {url!a}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query:
        raise ValueError(f"expected an address like {DEFAULT_URL}, got {url!a}")
    return parsed


def _check_key(key: str) -> str:
    """The key; what is wrong with another is said without showing it."""
    if not key or any(not "!" <= one <= "~" for one in key):
        raise ValueError("expected a key of printable ASCII characters without blanks")
    return key
