"""``POST /v2/models/NAME[/versions/VERSION]/infer``: tensors in, a job per row, tensors out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.engine.job import Job, Outcome, Want, softmax
from service.engine.model import Choice
from service.engine.parameters import parse_views
from service.http.endpoint import ClientWatch
from service.http.exchange import Exchange
from service.http.v2.documents import InferResponse
from service.http.v2.models import EMBEDDING, LOGITS, ServedModel, known_model
from service.http.v2.request import (
    JSON_LENGTH,
    InferRequest,
    RequestOutput,
    read_body,
    take_request,
)
from service.http.v2.tensors import read_files, read_pixels, shown, write_output


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
        model = known_model(catalog, name)
        _check(asked, model)
        choice, media = self._media(model, version, asked, body)
        exchange.bundle, exchange.grid = choice.manifest.name, choice.grid
        async with ClientWatch(request.receive):
            deadline = exchange.monotonic_deadline
            want: Want = "logits" if choice.manifest.labels else "embedding"
            jobs = [Job(one, choice, want=want, deadline=deadline) for one in media]
            outcomes = await self.engine.submit_all(jobs)
        exchange.grid = ",".join(dict.fromkeys(one.target.grid for one in outcomes))
        return _answer(asked, model, choice, outcomes)

    def _limit_time(self, exchange: Exchange, asked: InferRequest) -> None:
        """Let the answer be due when the client says; Overloaded if that cannot be met by now."""
        if (timeout := asked.parameters.timeout) is not None:
            most = round(1e6 * self.engine.settings.limits(exchange.kind).deadline_seconds)
            if not 1 <= timeout <= most:
                got = str(timeout)[:20]
                raise BadParameter(f"timeout: expected 1 to {most} microseconds, got {got}")
            exchange.shorten(timeout / 1e6)
            self.engine.admission.check(exchange.kind, exchange.monotonic_deadline)

    def _media(
        self, model: ServedModel, version: str | None, asked: InferRequest, body: bytearray
    ) -> tuple[Choice, list[bytearray] | list[np.ndarray]]:
        """Who answers, and what: files, or of prepared rows ``[1, *pixels per axis, channels]``."""
        (given,), parameters = asked.inputs, asked.parameters
        if model.is_tensor:
            rows, most = given.shape[0] if given.shape else 0, self.engine.settings.max_batch
            if not 1 <= rows <= most:
                got = shown(given.shape)
                raise BadParameter(f"inputs[0].shape: expected 1 to {most} rows, got {got}")
            choice = model.choose_by_shape(self.engine.catalog, version, given.shape[1:])
            pixels = read_pixels(given, body)
            return choice, [pixels[row : row + 1] for row in range(rows)]
        choice = model.choose(self.engine.catalog, version, parameters.grid)
        if parameters.views is not None:
            if model.bundle.modality != "video":
                raise BadParameter(f"views: of clips only; {model.name} is for another modality")
            choice = choice.with_views(parse_views(str(parameters.views), choice.frames))
        limits = self.engine.settings.limits(choice.manifest.modality)
        return choice, read_files(given, body, limits)


def _check(asked: InferRequest, model: ServedModel) -> None:
    """BadParameter where a request is meant for another model than its address."""
    (given,), (name, datatype) = asked.inputs, model.input
    for what, expected, got in (
        ("model_name", model.name, asked.model_name or model.name),
        ("inputs[0].name", name, given.name),
        ("inputs[0].datatype", datatype, given.datatype),
    ):
        if got != expected:
            raise BadParameter(f"{what}: expected {expected}, got {got[:80]!a}")
    assert model.bundle.manifest is not None
    outputs, labels = [one.name for one in asked.outputs], len(model.bundle.manifest.labels)
    if not set(outputs) <= set(model.outputs) or len(set(outputs)) < len(outputs):
        known = " or ".join(model.outputs)
        shown = ", ".join(f"{one[:40]!a}" for one in outputs[:4])
        raise BadParameter(f"outputs: expected {known}, each once, got {shown}")
    for output in asked.outputs:
        classes = output.parameters.classification
        if classes is not None and not labels:
            raise BadParameter(f"classification: {model.name} has no labels that could be ranked")
        if classes is not None and not 1 <= classes <= labels:
            got = str(classes)[:20]
            raise BadParameter(f"classification: expected from 1 to {labels}, got {got}")
    parameters = asked.parameters
    if model.is_tensor and not (parameters.grid is None and parameters.views is None):
        raise BadParameter("grid, views: not of prepared pixels, whose shape says what they are")


def _values(output: str, outcomes: Sequence[Outcome]) -> np.ndarray:
    """Of an output, float ``[rows, numbers]``; probabilities by the grid that took each row."""
    if output == EMBEDDING:
        return np.stack([np.asarray(one.embedding) for one in outcomes])
    logits = [np.asarray(one.logits) for one in outcomes]
    if output == LOGITS:
        return np.stack(logits)
    temperatures = [one.target.temperature for one in outcomes]
    return np.stack(list(map(softmax, logits, temperatures)))


def _answer(
    asked: InferRequest, model: ServedModel, choice: Choice, outcomes: Sequence[Outcome]
) -> Response:
    """The outputs that are wanted, as JSON, or behind it as bytes."""
    labels, documents, tails = choice.manifest.labels, [], []
    for output in asked.outputs or (RequestOutput(model.outputs[0]),):
        wanted = output.parameters
        is_binary = wanted.binary_data
        if is_binary is None:
            is_binary = asked.parameters.binary_data_output
        values = _values(output.name, outcomes)
        document, tail = write_output(output.name, values, labels, wanted, is_binary)
        documents.append(document)
        tails.append(tail)
    about = {"model_name": model.name, "model_version": choice.manifest.version}
    about |= {} if asked.id is None else {"id": asked.id}
    head = InferResponse.encode({**about, "outputs": documents})
    if not any(tails):
        return Response(head, media_type="application/json")
    headers = {JSON_LENGTH: str(len(head))}
    return Response(
        b"".join((head, *tails)), media_type="application/octet-stream", headers=headers
    )
