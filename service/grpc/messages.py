"""Messages of the protocol <-> what ``service.http.v2`` makes of requests and answers.

Of a request only what is not raw contents is parsed, and that is bounded as the JSON of a request
over HTTP is: parsed, a field of two bytes may take a hundred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from media.spec import SpecError
from media.strict_json import from_json
from service.engine.failures import BadParameter
from service.engine.job import Outcome
from service.grpc.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from service.http.problems import BodyTooLarge, BrokenTensors
from service.http.v2.inference import write_outputs
from service.http.v2.models import ServedModel
from service.http.v2.request import InferRequest
from service.http.v2.tensors import BYTES, LENGTH_BYTES

#: Of a request without its raw contents, bytes; as of the JSON over HTTP.
MAX_REST_BYTES = 2**20
#: Of a request, its inputs, outputs and parameters among them; of one input or output, parameters.
MAX_FIELDS, MAX_PARAMETERS = 1024, 16
RAW_INPUT_CONTENTS = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
#: Of the wire: how a field is written.
VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5
#: Where elements of a datatype stand that do not come raw.
CONTENTS = {BYTES: "bytes_contents", "UINT8": "uint_contents", "FP32": "fp32_contents"}
#: Of HTTP, where bytes come behind JSON.
OF_HTTP = ("binary_data_size", "binary_data", "binary_data_output")

Parameters = Mapping[str, InferParameter]


def take_request(message: bytes) -> tuple[InferRequest, str | None, bytearray, bool]:
    """The request, the version it wants, the bytes of its input, and whether those came raw.

    Raises:
        BrokenTensors: it is no such message.
        BodyTooLarge: there is more of it besides raw contents than is parsed.
        BadParameter: it says something else than the protocol lets it.
    """
    rest, raw = _split(message)
    try:
        told = ModelInferRequest.FromString(rest)
    except DecodeError:
        raise BrokenTensors("expected a ModelInferRequest") from None
    if len(told.inputs) != 1:
        raise BadParameter(f"inputs: expected one, got {len(told.inputs)}")
    (given,) = told.inputs
    document = {
        "model_name": told.model_name,
        "id": told.id,
        "parameters": _plain("parameters", told.parameters),
        "inputs": [
            {
                "name": given.name,
                "datatype": given.datatype,
                "shape": list(given.shape),
                "parameters": _plain("inputs[0].parameters", given.parameters),
            }
        ],
        "outputs": [
            {"name": one.name, "parameters": _plain("outputs.parameters", one.parameters)}
            for one in told.outputs
        ],
    }
    try:
        asked = from_json(InferRequest, document, "request")
    except SpecError as error:
        raise BadParameter(str(error)) from None
    if (raw is None) == (not given.HasField("contents")):
        raise BadParameter("inputs[0]: expected either contents or raw_input_contents")
    tensor = _written(given) if raw is None else raw
    return asked, told.model_version or None, tensor, raw is not None


def _split(message: bytes) -> tuple[bytes, bytearray | None]:
    """A request without its raw contents, and those."""
    rest, size, raw = [], 0, None
    for count, (number, start, begin, end) in enumerate(_fields(message)):
        if count >= MAX_FIELDS:
            raise BrokenTensors(f"expected at most {MAX_FIELDS} fields in a ModelInferRequest")
        if number == RAW_INPUT_CONTENTS:
            if raw is not None:
                raise BadParameter("raw_input_contents: expected one, got several")
            raw = bytearray(memoryview(message)[begin:end])
        else:
            rest.append(message[start:end])
            size += end - start
            if size > MAX_REST_BYTES:
                raise BodyTooLarge(
                    f"a request may have at most {MAX_REST_BYTES} bytes besides its "
                    "raw_input_contents; send the tensor in those"
                )
    return b"".join(rest), raw


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of every field on the top: number, where it starts, where its value begins, where it ends."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        begin, kind = position, tag & 7
        if kind == VARINT:
            _, position = _varint(message, position)
        elif kind == DELIMITED:
            length, begin = _varint(message, position)
            position = begin + length
        elif kind in (FIXED_64, FIXED_32):
            position += 8 if kind == FIXED_64 else 4
        else:
            raise BrokenTensors("expected a ModelInferRequest")
        if position > len(message):
            raise BrokenTensors("expected a ModelInferRequest; this one ends too early")
        yield tag >> 3, start, begin, position


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BrokenTensors("expected a ModelInferRequest; this one ends within a number")


def _plain(where: str, parameters: Parameters) -> dict[str, bool | int | float | str]:
    """Parameters as JSON has them; what HTTP alone has a use for is not known here."""
    if len(parameters) > MAX_PARAMETERS:
        raise BadParameter(f"{where}: expected at most {MAX_PARAMETERS}, got {len(parameters)}")
    if of_http := [name for name in OF_HTTP if name in parameters]:
        raise BadParameter(f"{where}: {of_http[0]} is of HTTP alone")
    values = {}
    for name, value in parameters.items():
        if (kind := value.WhichOneof("parameter_choice")) is None:
            raise BadParameter(f"{where}.{name[:40]!a}: expected a value")
        values[name] = getattr(value, kind)
    return values


def _written(given: ModelInferRequest.InferInputTensor) -> bytearray:
    """Contents as raw ones would have been."""
    known = CONTENTS.get(given.datatype)
    if known is None:
        expected, got = ", ".join(CONTENTS), f"{given.datatype[:40]!a}"
        raise BadParameter(f"inputs[0].datatype: expected one of {expected}; got {got}")
    if others := [one.name for one, _ in given.contents.ListFields() if one.name != known]:
        raise BadParameter(f"inputs[0].contents: expected {known}, got {others[0]}")
    if given.datatype == BYTES:
        files = given.contents.bytes_contents
        return bytearray().join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in files)
    if given.datatype == "FP32":
        return bytearray(np.array(given.contents.fp32_contents, "<f4").tobytes())
    numbers = np.array(given.contents.uint_contents, np.uint32)
    if numbers.size and numbers.max() > 255:
        raise BadParameter(f"inputs[0].contents: expected 0 to 255 for UINT8, got {numbers.max()}")
    return bytearray(numbers.astype(np.uint8).tobytes())


def write_answer(
    asked: InferRequest, model: ServedModel, outcomes: Sequence[Outcome], is_raw: bool
) -> bytes:
    """The outputs that are wanted.

    Args:
        is_raw: whether they come raw, which they do where the input did.
    """
    manifest = outcomes[0].target.manifest
    answer = ModelInferResponse(
        model_name=asked.model_name, model_version=manifest.version, id=asked.id
    )
    for document, raw in write_outputs(asked, model, outcomes, is_raw):
        output = answer.outputs.add(
            name=document["name"], datatype=document["datatype"], shape=document["shape"]
        )
        if is_raw:
            answer.raw_output_contents.append(raw)
        else:
            _add_contents(output, document)
    return answer.SerializeToString()


def _add_contents(
    output: ModelInferResponse.InferOutputTensor, document: Mapping[str, Any]
) -> None:
    if document["datatype"] == BYTES:
        output.contents.bytes_contents.extend(text.encode() for text in document["data"])
    else:
        output.contents.fp32_contents.extend(document["data"])
