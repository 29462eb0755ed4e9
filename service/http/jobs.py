"""The addresses under /v1/jobs: made, looked at, read and cancelled by the key that made them.

They exist where ``--jobs`` names a folder. Of another key's job nobody is told that it is there.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from service.engine.candidates import find_candidates
from service.engine.failures import Draining, NotReady
from service.http.exchange import Exchange
from service.http.job_body import JobBody, JobParameters, request_key
from service.http.job_documents import (
    LISTED,
    JobDocument,
    body_extra,
    listed_extra,
    listed_responses,
    made_responses,
    results_extra,
    results_responses,
    seen_responses,
)
from service.http.job_query import cursor_of, parse_count, parse_cursor, parse_limit
from service.jobs.failures import UnknownJob
from service.jobs.inputs import MAX_ITEMS
from service.jobs.pins import pinned
from service.jobs.runner import JobRunner
from service.jobs.spool import Incoming
from service.jobs.store import Item, Job

JOBS = "/v1/jobs"
JOB = JOBS + "/{id}"
RESULTS = JOB + "/results"
JSON_LINES = "application/jsonl"
#: Lines that are read from the disk together; jobs that are listed where nobody says how many.
PAGE = 500


def add_jobs(app: FastAPI, runner: JobRunner) -> None:
    """Put the routes on the application."""
    jobs = Jobs(runner)
    def about(operation: str, summary: str, **more: Any) -> dict[str, Any]:
        named = {"operation_id": operation, "summary": summary, "tags": ["jobs"]}
        return named | {"response_model": None} | more

    app.post(
        JOBS,
        **about(
            "makeJob", "Have many or long files answered",
            responses=made_responses(), openapi_extra=body_extra(),
        ),
    )(jobs.make)  # fmt: skip
    app.get(
        JOBS,
        **about(
            "listJobs", "List your jobs, newest first",
            responses=listed_responses(), openapi_extra=listed_extra(),
        ),
    )(jobs.list)  # fmt: skip
    app.get(JOB, **about("showJob", "How far a job is", responses=seen_responses()))(jobs.show)
    app.get(
        RESULTS,
        **about(
            "readResults", "Read the answers that are there by now, a JSON object a line",
            responses=results_responses(JSON_LINES), openapi_extra=results_extra(),
        ),
    )(jobs.results)  # fmt: skip
    app.delete(JOB, **about("cancelJob", "Cancel a job", responses=seen_responses()))(jobs.cancel)


class Jobs:
    """What the addresses do."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self._engine = runner.engine

    async def make(self, request: Request) -> JSONResponse:
        """Take the files to the disk, then enter the job: from then on it is answered."""
        exchange: Exchange = request.scope["exchange"]
        self._check_open()
        key = request_key(request.scope["headers"])
        parameters = JobParameters(request.scope["query_string"])
        candidates = find_candidates(self._engine, parameters)
        spool = self._runner.spool
        with self._runner.holding(candidates) as written:
            incoming = await asyncio.to_thread(spool.receive)
            try:
                body = JobBody(exchange, incoming, spool, self._runner.settings)
                body.fingerprint.update(json.dumps(sorted(parameters.items())).encode())
                await body.read(request.headers.get("content-type", "").encode("latin-1"))
            except BaseException:
                await asyncio.to_thread(incoming.drop)
                raise
            job = Job(
                number=0, id=secrets.token_hex(12), owner=exchange.key or "", state="queued",
                reason=None, created=time.time(), ended=None, key=key,
                fingerprint=body.fingerprint.hexdigest(),
                parameters=dict(parameters), candidates=written,
                bytes=incoming.bytes, total=len(body.found.items), answered=0, failed=0,
            )  # fmt: skip
            added = await self._enter(job, body.found.items, incoming)
        return JSONResponse(self._document(added), 202, {"Location": f"{JOBS}/{added.id}"})

    async def _enter(self, job: Job, items: Sequence[Item], incoming: Incoming) -> Job:
        """A job whose files are here; or the one that its idempotency key has made before.

        Who is cancelled here may have entered it: then its files stay, and the next start removes
        them where it was not entered.
        """
        try:
            await asyncio.to_thread(incoming.place, job.id)
            added = await self._runner.add(job, items)
        except Exception:
            await asyncio.to_thread(incoming.drop)
            raise
        if added.id != job.id:
            await asyncio.to_thread(incoming.drop)
        return added

    def _check_open(self) -> None:
        """Whether a new job can be taken."""
        if self._engine.draining:
            raise Draining("the server is shutting down; connect again")
        if not self._engine.catalog.examined:
            raise NotReady("the bundles are still being checked")

    async def list(self, request: Request) -> JSONResponse:
        """Those of this key, a page at a time."""
        ledger, limit = self._runner.ledger, parse_limit(request, LISTED)
        before = parse_cursor(request)
        # one more than is shown, which says whether there are others
        jobs = await ledger.call(ledger.store.of_owner, _owner(request), before, limit + 1)
        rest = None
        if len(jobs) > limit:
            rest = f"{JOBS}?limit={limit}&before={cursor_of(jobs[limit - 1])}"
        shown = [self._document(job) for job in jobs[:limit]]
        return JSONResponse({"jobs": shown, "next": rest})

    async def show(self, request: Request, id: str) -> JSONResponse:
        """One of them."""
        return JSONResponse(self._document(await self._find(request, id)))

    async def cancel(self, request: Request, id: str) -> JSONResponse:
        """It gets no more answers; those that it has can be read. What has ended stays so."""
        job = await self._runner.cancel(await self._find(request, id))
        if job is None:
            raise _unknown(id)
        return JSONResponse(self._document(job))

    async def results(self, request: Request, id: str) -> StreamingResponse:
        """The lines that there are, in the order in which they came."""
        after = parse_count("after", request.query_params.get("after", "0"))
        limit = parse_limit(request, MAX_ITEMS)
        job = await self._find(request, id)
        return StreamingResponse(self._lines(job, after, limit), media_type=JSON_LINES)

    async def _lines(self, job: Job, after: int, left: int) -> AsyncIterator[bytes]:
        ledger = self._runner.ledger
        while True:
            count, lines = await ledger.call(self._page, job, after, min(left, PAGE))
            if not count:
                return
            yield lines
            after, left = after + count, left - count

    def _page(self, job: Job, after: int, most: int) -> tuple[int, bytes]:
        """Lines, how many and joined; in the ledger's thread, for they may be many megabytes."""
        lines = self._runner.ledger.store.lines(job, after, most)
        return len(lines), "".join(f"{line}\n" for line in lines).encode()

    async def _find(self, request: Request, id_: str) -> Job:
        ledger = self._runner.ledger
        job = await ledger.call(ledger.store.get, id_)
        if job is None or job.owner != _owner(request):
            raise _unknown(id_)
        return job

    def _document(self, job: Job) -> dict[str, Any]:
        keep = 3600 * self._runner.settings.jobs_keep_hours
        return JobDocument(
            id=job.id,
            state=job.state,
            reason=job.reason,
            created=_date(job.created),
            ended=None if job.ended is None else _date(job.ended),
            expires=None if job.ended is None else _date(job.ended + keep),
            total=job.total,
            answered=job.answered,
            failed=job.failed,
            bundles=[f"{name}@{version}" for name, version in pinned(job.candidates)],
            results=RESULTS.format(id=job.id),
        ).model_dump()


def _owner(request: Request) -> str:
    exchange: Exchange = request.scope["exchange"]
    return exchange.key or ""


def _unknown(id_: str) -> UnknownJob:
    return UnknownJob(f"there is no job {id_[:40]!a} of yours; it may have expired")


def _date(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
