"""What an inference request asks of the engine, whichever wire it came by.

Tensors become jobs, and outcomes tensors: ``infer`` does that for HTTP, ``service.grpc`` for gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.engine.job import Job, Outcome, Want, softmax
from service.engine.model import Choice
from service.engine.parameters import parse_views
from service.http.v2.models import EMBEDDING, LOGITS, ServedModel
from service.http.v2.request import InferRequest, RequestOutput
from service.http.v2.tensors import read_files, read_pixels, shown, write_output


def wanted_seconds(asked: InferRequest, deadline_seconds: float) -> float | None:
    """When the client wants its answer, seconds from the start of its request; None for no word.

    Args:
        deadline_seconds: when the server itself wants it.

    Raises:
        BadParameter: it is no time up to that.
    """
    timeout, most = asked.parameters.timeout, round(1e6 * deadline_seconds)
    if timeout is None:
        return None
    if not 1 <= timeout <= most:
        got = str(timeout)[:20]
        raise BadParameter(f"timeout: expected 1 to {most} microseconds, got {got}")
    return timeout / 1e6


def make_jobs(
    engine: Engine, model: ServedModel, version: str | None, asked: InferRequest, raw: bytearray,
    deadline: float,
) -> list[Job]:  # fmt: skip
    """A job per file, or per prepared row; all have one choice.

    Args:
        raw: the bytes of the input, where they are not in its data; used up.
        deadline: of the answer, seconds, monotonic.

    Raises:
        Failure: 400, 404, 413, 422 or 503.
    """
    _check(asked, model)
    choice, media = _media(engine, model, version, asked, raw)
    want: Want = "logits" if choice.manifest.labels else "embedding"
    return [Job(one, choice, want=want, deadline=deadline) for one in media]


def _media(
    engine: Engine, model: ServedModel, version: str | None, asked: InferRequest, raw: bytearray
) -> tuple[Choice, list[bytearray] | list[np.ndarray]]:
    """Who answers, and what: files, or of prepared rows ``[1, *pixels per axis, channels]``."""
    (given,), parameters = asked.inputs, asked.parameters
    if model.is_tensor:
        rows, most = given.shape[0] if given.shape else 0, engine.settings.max_batch
        if not 1 <= rows <= most:
            got = shown(given.shape)
            raise BadParameter(f"inputs[0].shape: expected 1 to {most} rows, got {got}")
        choice = model.choose_by_shape(engine.catalog, version, given.shape[1:])
        pixels = read_pixels(given, raw)
        return choice, [pixels[row : row + 1] for row in range(rows)]
    choice = model.choose(engine.catalog, version, parameters.grid)
    if parameters.views is not None:
        if model.bundle.modality != "video":
            raise BadParameter(f"views: of clips only; {model.name} is for another modality")
        choice = choice.with_views(parse_views(str(parameters.views), choice.frames))
    return choice, read_files(given, raw, engine.settings.limits(choice.manifest.modality))


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


def write_outputs(
    asked: InferRequest, model: ServedModel, outcomes: Sequence[Outcome], is_binary: bool
) -> list[tuple[dict[str, Any], bytes]]:
    """The outputs that are wanted: each as ``write_output`` gives it.

    Args:
        is_binary: whether those come as bytes of which the request does not say it.
    """
    labels, written = outcomes[0].target.labels, []
    for output in asked.outputs or (RequestOutput(model.outputs[0]),):
        wanted = output.parameters
        as_bytes = is_binary if wanted.binary_data is None else wanted.binary_data
        values = _values(output.name, outcomes)
        written.append(write_output(output.name, values, labels, wanted, as_bytes))
    return written


def _values(output: str, outcomes: Sequence[Outcome]) -> np.ndarray:
    """Of an output, float ``[rows, numbers]``; probabilities by the grid that took each row."""
    if output == EMBEDDING:
        return np.stack([np.asarray(one.embedding) for one in outcomes])
    logits = [np.asarray(one.logits) for one in outcomes]
    if output == LOGITS:
        return np.stack(logits)
    temperatures = [one.target.temperature for one in outcomes]
    return np.stack(list(map(softmax, logits, temperatures)))
