"""``POST /v2/models/NAME[/versions/VERSION]/infer``: tensors in, a job per row, tensors out."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from service.engine.engine import Engine
from service.engine.job import Outcome
from service.engine.model import Choice
from service.http.endpoint import ClientWatch
from service.http.exchange import Exchange
from service.http.v2.documents import InferResponse
from service.http.v2.inference import make_jobs, wanted_seconds, write_outputs
from service.http.v2.models import ServedModel, known_model
from service.http.v2.request import JSON_LENGTH, InferRequest, read_body, take_request


class Infer:
    """The endpoint of every model."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def __call__(self, request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        name, version = request.path_params["name"], request.path_params.get("version")
        catalog = self.engine.catalog
        known_model(catalog, name).choose(catalog, version)  # before a byte of the body is read
        assert exchange.upload is not None, "only the guard lets work in"
        body, json_bytes = await read_body(request.receive, request.scope["headers"])
        asked = take_request(body, json_bytes)
        self._limit_time(exchange, asked)
        model, due = known_model(catalog, name), exchange.monotonic_deadline
        jobs = make_jobs(self.engine, model, version, asked, body, due)
        choice = jobs[0].choice
        exchange.bundle, exchange.grid = choice.manifest.name, choice.grid
        async with ClientWatch(request.receive):
            outcomes = await self.engine.submit_all(jobs)
        exchange.grid = ",".join(dict.fromkeys(one.target.grid for one in outcomes))
        return _answer(asked, model, choice, outcomes)

    def _limit_time(self, exchange: Exchange, asked: InferRequest) -> None:
        """Let the answer be due when the client says; Overloaded if that cannot be met by now."""
        most = self.engine.settings.limits(exchange.kind).deadline_seconds
        if (seconds := wanted_seconds(asked, most)) is not None:
            exchange.shorten(seconds)
            self.engine.admission.check(exchange.kind, exchange.monotonic_deadline)


def _answer(
    asked: InferRequest, model: ServedModel, choice: Choice, outcomes: Sequence[Outcome]
) -> Response:
    """The outputs that are wanted, as JSON, or behind it as bytes."""
    written = write_outputs(asked, model, outcomes, asked.parameters.binary_data_output)
    about = {"model_name": model.name, "model_version": choice.manifest.version}
    about |= {} if asked.id is None else {"id": asked.id}
    head = InferResponse.encode({**about, "outputs": [document for document, _ in written]})
    if not any(tail for _, tail in written):
        return Response(head, media_type="application/json")
    headers = {JSON_LENGTH: str(len(head))}
    return Response(
        b"".join((head, *(tail for _, tail in written))),
        media_type="application/octet-stream", headers=headers,
    )  # fmt: skip
