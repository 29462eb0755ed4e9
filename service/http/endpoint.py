"""``POST /v1/classify/MODALITY``: the upload, a job per file, the answer."""

from __future__ import annotations

import asyncio
import json
from types import TracebackType

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.engine.engine import Engine
from service.engine.job import Job, Outcome
from service.engine.parameters import choose, parse_timeout
from service.http.body import Parameters, is_form, read_files, read_query
from service.http.exchange import Exchange
from service.http.problems import ClientGone

encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Classify:
    """The endpoint of one modality."""

    def __init__(self, engine: Engine, modality: str) -> None:
        self.engine = engine
        self.modality = modality
        self.limits = engine.settings.limits(modality)

    async def __call__(self, request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        parameters = read_query(request.scope["query_string"], self.modality)
        self._limit_time(exchange, parameters)
        said = len(parameters)
        # Before the body, unless a form may still say for which bundle all of it is meant.
        is_known = "bundle" in parameters or not is_form(request.scope)
        chosen = choose(self.engine, self.modality, parameters) if is_known else None
        files = await read_files(request.scope, request.receive, parameters, self.limits)
        if chosen is None or len(parameters) > said:
            self._limit_time(exchange, parameters)
            chosen = choose(self.engine, self.modality, parameters)
        choice, top_k = chosen
        exchange.bundle, exchange.grid = choice.manifest.name, choice.grid
        async with ClientWatch(request.receive):
            deadline = exchange.monotonic_deadline
            jobs = [Job(file, choice, top_k=top_k, deadline=deadline) for file in files]
            outcomes = await self.engine.submit_all(jobs)
        exchange.grid = ",".join(dict.fromkeys(one.target.grid for one in outcomes))
        document = {"id": exchange.id, "results": [one.document() for one in outcomes]}
        headers = {"Server-Timing": _server_timing(outcomes)}
        body = encode_json(document).encode()
        return Response(body, media_type="application/json", headers=headers)

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


def _server_timing(outcomes: list[Outcome]) -> str:
    """The slowest file of each stage."""
    decode = max(one.timing.decode for one in outcomes)
    queue = max(one.timing.queue for one in outcomes)
    inference = max(one.timing.inference for one in outcomes)
    return f"decode;dur={decode}, queue;dur={queue}, inference;dur={inference}"
