"""The client without asyncio: the other one, whose event loop runs in a thread of its own.

So both have the same deadlines and tries, also where the caller has a running loop (a notebook).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Sequence
from types import AsyncGeneratorType
from typing import Any, Protocol, TypeVar, Unpack

from client.answers import Bundles, Prepared, Result
from client.asking import DEFAULT_URL, AsyncClient, Outcome, Settings
from client.calls import File, Options, PrepareOptions
from client.jobs import AsyncJobs, Job, JobLine, JobOptions

T = TypeVar("T")
F = TypeVar("F", bound=File)


class Run(Protocol):
    """What a coroutine comes to, in a thread without a loop."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


class Client:
    """A server, asked with blocking calls; one client may be used by many threads at once.

    Arguments, answers and errors are those of ``AsyncClient``; ``jobs`` is ``Jobs``.
    """

    def __init__(self, url: str = DEFAULT_URL, **settings: Unpack[Settings]) -> None:
        self._client = AsyncClient(url, **settings)
        self.jobs = Jobs(self._client.jobs, self._run)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections and the thread; a second time does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def classify(self, file: File, **options: Unpack[Options]) -> Result:
        """Rank the labels of one file; see ``AsyncClient.classify``."""
        return self._run(self._client.classify(file, **options))

    def classify_many(
        self, files: Iterable[F], *, concurrency: int = 8, **options: Unpack[Options]
    ) -> Generator[tuple[F, Outcome], None, None]:
        """Rank the labels of every file; see ``AsyncClient.classify_many``.

        ``files`` is iterated in the client's thread.
        """
        return _each(
            self._run, self._client.classify_many(files, concurrency=concurrency, **options)
        )

    def prepare(self, file: File, **options: Unpack[PrepareOptions]) -> Prepared:
        """A file as the network would get it; see ``AsyncClient.prepare``."""
        return self._run(self._client.prepare(file, **options))

    def bundles(self) -> Bundles:
        """What the server has."""
        return self._run(self._client.bundles())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it comes to; it ends if the caller is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


class Jobs:
    """The jobs of a server, with blocking calls; see ``AsyncJobs``."""

    def __init__(self, jobs: AsyncJobs, run: Run) -> None:
        self._jobs = jobs
        self._run = run

    def submit(
        self,
        files: Iterable[File] = (),
        *,
        archives: Iterable[File] = (),
        paths: Sequence[str] = (),
        key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Have files answered; see ``AsyncJobs.submit``."""
        return self._run(
            self._jobs.submit(files, archives=archives, paths=paths, key=key, **options)
        )

    def show(self, id: str) -> Job:
        """How far a job is."""
        return self._run(self._jobs.show(id))

    def cancel(self, id: str) -> Job:
        """Let a job have no more answers."""
        return self._run(self._jobs.cancel(id))

    def list(self) -> Generator[Job, None, None]:
        """All jobs, newest first."""
        return _each(self._run, self._jobs.list())

    def results(
        self, id: str, *, after: int = 0, follow: bool = False
    ) -> Generator[JobLine, None, None]:
        """The lines of a job; see ``AsyncJobs.results``."""
        return _each(self._run, self._jobs.results(id, after=after, follow=follow))

    def wait(self, id: str, on_look: Callable[[Job], object] | None = None) -> Job:
        """The job once it has ended; ``on_look`` is called in the client's thread."""
        return self._run(self._jobs.wait(id, on_look))


def _each(run: Run, outcomes: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    try:
        while (one := run(_next(outcomes))) is not None:
            yield one
    finally:
        run(_end(outcomes))


async def _next(outcomes: AsyncGenerator[T, None]) -> T | None:
    return await anext(outcomes, None)


async def _end(outcomes: AsyncGenerator[Any, None]) -> None:
    assert isinstance(outcomes, AsyncGeneratorType)
    # After an interruption the step before is cancelled and still on its way out.
    while outcomes.ag_running:
        await asyncio.sleep(0)
    await outcomes.aclose()
