"""``POST /v1/classify/MODALITY``: the upload, a job per file, the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.engine.engine import Engine
from service.engine.explain.explanation import Explain, explain_method, parse_explain
from service.engine.failures import Failure
from service.engine.job import EncodingFormat, Job, Outcome
from service.engine.model import Choice
from service.engine.parameters import Asked, choose, parse_timeout
from service.engine.vocabulary import PARAMETERS
from service.http import problems
from service.http.body import Parameters, Upload, is_form, read_files, read_query
from service.http.documents import ANSWERS, ProblemDocument
from service.http.exchange import Exchange
from service.http.problems import CONTENT_TYPE, ClientGone

log = logging.getLogger(__name__)


class Classify:
    """The endpoint of one modality."""

    def __init__(self, engine: Engine, modality: str) -> None:
        self.engine = engine
        self.modality = modality
        self.limits = engine.settings.limits(modality)

    async def __call__(self, request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        parameters = read_query(request.scope["query_string"], PARAMETERS[self.modality])
        self._limit_time(exchange, parameters)
        said, asked = len(parameters), Asked.parse(parameters)
        explain_method(parameters)
        # Before the body, unless a form may still say for which bundle all of it is meant.
        is_known = "bundle" in parameters or not is_form(request.scope)
        chosen = choose(self.engine, self.modality, parameters) if is_known else None
        files = await read_files(request.scope, request.receive, parameters, self.limits)
        if chosen is None or len(parameters) > said:
            self._limit_time(exchange, parameters)
            asked = Asked.parse(parameters)
            chosen = choose(self.engine, self.modality, parameters)
        choice, top_k = chosen
        explain = parse_explain(parameters, choice, len(files))
        exchange.explained = explain is not None and explain.hides
        exchange.bundle, exchange.grid = choice.manifest.name, choice.grid
        if asked.strict:
            for file in files:
                if isinstance(file.media, Failure):
                    raise file.media
        async with ClientWatch(request.receive):
            due = exchange.monotonic_deadline
            answers = await self._answer(files, choice, top_k, asked, due, explain)
        self._tell(exchange, answers)
        return _respond(exchange, files, answers, asked.encoding_format)

    async def _answer(
        self, files: Sequence[Upload], choice: Choice, top_k: int, asked: Asked, deadline: float,
        explain: Explain | None,
    ) -> list[Outcome | Failure]:
        """Of each file, in order: what became of it."""
        jobs = [
            Job(
                file.media, choice, asked.want, top_k, deadline, raw=asked.raw,
                abstain=asked.abstain, explain=explain,
            )  # fmt: skip
            for file in files
            if not isinstance(file.media, Failure)
        ]
        found: Sequence[Outcome | Failure]
        if asked.strict:
            found = await self.engine.submit_all(jobs)
        else:
            found = await self.engine.submit_each(jobs) if jobs else ()
        rest = iter(found)
        return [file.media if isinstance(file.media, Failure) else next(rest) for file in files]

    def _tell(self, exchange: Exchange, answers: Sequence[Outcome | Failure]) -> None:
        """Operators of files that failed: the status of a request may be that of others."""
        for answer in answers:
            if isinstance(answer, Failure):
                problem = problems.problem_of(answer)
                self.engine.metrics.file_problems.labels(self.modality, problem.name).inc()
                if problem.status >= 500 and len(answers) > 1:
                    traced = {"fields": {"trace_id": exchange.trace_id}}
                    told = exchange.id, problem.status, answer.detail
                    log.warning("request %s: a file: %s %s", *told, extra=traced)

    def _limit_time(self, exchange: Exchange, parameters: Parameters) -> None:
        """Let the answer be due when the client says; Overloaded if that cannot be met by now."""
        if (text := parameters.get("timeout_ms")) is not None:
            exchange.shorten(parse_timeout(text, self.limits.deadline_seconds))
            self.engine.admission.check(self.modality, exchange.monotonic_deadline)


class ClientWatch:
    """While it is open, a client that leaves cancels the work; it ends as ClientGone.

    Waiting entries are cancelled with it, so what nobody waits for is never run.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        task = self._task
        del self._watcher, self._task  # their frames know this object: no cycle per request
        if self._gone and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone("the client left before its answer") from None


def _respond(
    exchange: Exchange,
    files: Sequence[Upload],
    answers: Sequence[Outcome | Failure],
    encoding_format: EncodingFormat,
) -> Response:
    """What became of every file: 200 if any was answered, else the first one's problem."""
    outcomes = [one for one in answers if isinstance(one, Outcome)]
    first = answers[0]
    if isinstance(first, Failure) and len(answers) == 1:
        raise first
    results = [_result(*one, encoding_format) for one in zip(files, answers, strict=True)]
    if isinstance(first, Failure) and not outcomes:
        document = {**problems.document(first, exchange.id), "results": results}
        body, status = ProblemDocument.encode(document), document["status"]
        return Response(body, status, media_type=CONTENT_TYPE)
    exchange.grid = ",".join(dict.fromkeys(one.target.grid for one in outcomes))
    body = ANSWERS[exchange.kind].encode({"id": exchange.id, "results": results})
    headers = {"Server-Timing": _server_timing(outcomes)}
    return Response(body, media_type="application/json", headers=headers)


def _result(
    file: Upload, answer: Outcome | Failure, encoding_format: EncodingFormat
) -> dict[str, Any]:
    name = {} if file.filename is None else {"filename": file.filename}
    if isinstance(answer, Failure):
        return {**name, "error": problems.members(answer)}
    return {**name, **answer.document(encoding_format)}


def _server_timing(outcomes: list[Outcome]) -> str:
    """The slowest file of each stage."""
    decode = max(one.timing.decode for one in outcomes)
    queue = max(one.timing.queue for one in outcomes)
    inference = max(one.timing.inference for one in outcomes)
    return f"decode;dur={decode}, queue;dur={queue}, inference;dur={inference}"
