"""An inference request: its JSON as dataclasses, which are validator and schema, and what follows.

Tensors stand in the JSON, or as bytes behind it: the binary tensor extension.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from starlette.types import Receive

from media.spec import SpecError
from media.strict_json import from_json
from service.engine.failures import BadParameter
from service.http.body import pieces
from service.http.problems import BodyTooLarge, BrokenTensors, EmptyBody

#: Says how many bytes of a body are JSON, where tensors come behind it.
JSON_LENGTH = "Inference-Header-Content-Length"
#: Of the JSON; parsing more would keep everybody else waiting.
MAX_JSON_BYTES = 2**20
#: The same without the data of tensors.
MAX_REST_BYTES = 2**16
LENGTH = re.compile(rb"[0-9]{1,15}")


@dataclasses.dataclass(frozen=True)
class InputParameters:
    """``binary_data_size``: bytes of the tensor behind the JSON."""

    binary_data_size: int | None = None


@dataclasses.dataclass(frozen=True)
class RequestInput:
    """One tensor; ``data`` in row-major order, flat or nested, unless it comes behind the JSON."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


@dataclasses.dataclass(frozen=True)
class OutputParameters:
    """How an output is wanted.

    ``classification``: so many texts VALUE:INDEX:LABEL, the highest values first, in its place.
    """

    binary_data: bool | None = None
    classification: int | None = None


@dataclasses.dataclass(frozen=True)
class RequestOutput:
    """An output that is wanted."""

    name: str
    parameters: OutputParameters = OutputParameters()


@dataclasses.dataclass(frozen=True)
class RequestParameters:
    """What is said of the whole request.

    ``timeout``: when the answer is due, in microseconds from the start of the request. ``grid`` and
    ``views``: of models that take files, as everywhere else.
    """

    binary_data_output: bool = False
    timeout: int | None = None
    grid: str | None = None
    views: int | None = None


@dataclasses.dataclass(frozen=True)
class InferRequest:
    """The whole request; ``id`` comes back with the answer."""

    inputs: tuple[RequestInput, ...] = dataclasses.field(
        metadata={"json_schema_extra": {"minItems": 1, "maxItems": 1}}
    )
    outputs: tuple[RequestOutput, ...] = ()
    id: str | None = None
    model_name: str | None = None
    parameters: RequestParameters = RequestParameters()


async def read_body(receive: Receive, headers: list[tuple[bytes, bytes]]) -> tuple[bytearray, int]:
    """A whole body, and how many bytes of it are JSON.

    Raises:
        Failure: 400 where the header is no length, or the body shorter; 413 for too much JSON;
            ClientGone if the connection closed half way.
    """
    told = _json_length(headers)
    body = bytearray()
    async for piece in pieces(receive):
        body += piece
        if told is None and len(body) > MAX_JSON_BYTES:
            raise _too_much_json()
    if not body:
        raise EmptyBody("expected an inference request as JSON")
    if told is not None and told > len(body):
        raise BrokenTensors(f"{JSON_LENGTH} is {told}, and the body has {len(body)} bytes")
    return body, len(body) if told is None else told


def _json_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """What the header says; None where there is none."""
    values = [value for name, value in headers if name == JSON_LENGTH.lower().encode()]
    if not values:
        return None
    if len(values) > 1 or not LENGTH.fullmatch(values[0]):
        raise BrokenTensors(f"{JSON_LENGTH}: expected one number of bytes")
    if int(values[0]) > MAX_JSON_BYTES:
        raise _too_much_json()
    return int(values[0])


def _too_much_json() -> BodyTooLarge:
    return BodyTooLarge(
        f"the JSON of a request may have at most {MAX_JSON_BYTES} bytes; send tensors behind it, "
        "as binary data"
    )


def take_request(body: bytearray, json_bytes: int) -> InferRequest:
    """Parse the JSON at the front of a body, which is left with the binary data of its input.

    Raises:
        BrokenTensors: it is no JSON, or lengths disagree.
        BadParameter: it says something else than the protocol lets it.
    """
    document, datas = _parse(bytes(body[:json_bytes]))
    del body[:json_bytes]  # from the front, which moves no byte
    try:
        request = from_json(InferRequest, document, "request")
    except SpecError as error:
        raise BadParameter(str(error)) from None
    if len(request.inputs) != 1:
        raise BadParameter(f"request.inputs: expected one, got {len(request.inputs)}")
    (asked,) = request.inputs
    told = asked.parameters.binary_data_size
    if (told or 0) != len(body):
        raise BrokenTensors(
            f"binary_data_size: {told or 0} bytes are announced, and {len(body)} come behind the "
            f"JSON, whose length {JSON_LENGTH} says"
        )
    (data,) = datas
    if (data is None) == (told is None):
        raise BadParameter("request.inputs[0]: expected either data or binary_data_size")
    return dataclasses.replace(request, inputs=(dataclasses.replace(asked, data=data),))


def _parse(text: bytes) -> tuple[Any, list[Any]]:
    """A document without the data of its inputs, and those, which need no strict reader."""
    try:
        document = json.loads(text)
        inputs = document.get("inputs") if isinstance(document, dict) else None
        inputs = inputs if isinstance(inputs, list) else []
        datas = [one.pop("data", None) for one in inputs if isinstance(one, dict)]
        rest = len(json.dumps(document))
    except (ValueError, RecursionError):
        raise BrokenTensors("expected an inference request as JSON, in UTF-8") from None
    if rest > MAX_REST_BYTES:
        raise BodyTooLarge(f"a request may have {MAX_REST_BYTES} bytes of JSON besides its data")
    for number, data in enumerate(datas):
        if not (data is None or isinstance(data, list)):
            found = type(data).__name__
            raise BadParameter(f"request.inputs[{number}].data: expected a list, got {found}")
    return document, datas
