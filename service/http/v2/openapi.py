"""What the OpenAPI page says of the protocol's operations."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from service.engine import failures
from service.http import problems
from service.http.examples import details
from service.http.openapi import BINARY, KEY_PROBLEMS, SCHEMAS, about, answer, example, refer
from service.http.v2.documents import InferResponse
from service.http.v2.request import JSON_LENGTH, MAX_JSON_BYTES, InferRequest

TAG = "open inference protocol v2"
TENSOR_METADATA = {
    "name": "cifar10-liere8_tensor",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
    "outputs": [
        {"name": "logits", "datatype": "FP32", "shape": [-1, 10]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    ],
}
#: Of the smallest GIF: a picture in base64.
REQUEST = {
    "id": "42",
    "inputs": [
        {
            "name": "file",
            "shape": [1],
            "datatype": "BYTES",
            "data": ["R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="],
        }
    ],
    "outputs": [{"name": "logits", "parameters": {"classification": 2}}],
}
RESPONSE = {
    "model_name": "cifar10-liere8",
    "model_version": "1",
    "id": "42",
    "outputs": [
        {
            "name": "logits",
            "shape": [1, 2],
            "datatype": "BYTES",
            "data": ["1.622381:0:airplane", "1.141792:8:ship"],
        }
    ],
}
INDEX_ENTRY = {"name": "cifar10-liere8", "version": "1", "state": "READY", "reason": ""}
#: What each problem really says here, where that is not what it says to everyone.
SENTENCES: dict[type[failures.Failure], str] = details("image") | {
    failures.UnknownBundle: "unknown model 'nope'; known: cifar10-liere8, cifar10-liere8_tensor",
    failures.BadParameter: "inputs[0].datatype: expected UINT8, got 'FP32'",
    problems.BrokenTensors: f"binary_data_size: 10 bytes are announced, and 9 come behind the "
    f"JSON, whose length {JSON_LENGTH} says",
    problems.EmptyBody: "expected an inference request as JSON",
}
#: Of forms and of parameters in an address alone.
NOT_HERE = {
    problems.BrokenForm, problems.NoFile, problems.UnknownParameter, problems.RepeatedParameter,
}  # fmt: skip
OF_MODELS = (
    failures.UnknownBundle, failures.UnknownVersion, failures.BundleRefused, failures.NotReady,
)  # fmt: skip


def infer(operation: str, path: str) -> dict[str, Any]:
    """Arguments of the route of this operation."""
    body = {
        "required": True,
        "description": "The request as JSON; with the binary tensor extension the tensor behind "
        f"it, and in {JSON_LENGTH} the bytes of the JSON. A file is an element of BYTES, which "
        "in JSON is base64.",
        "content": {
            "application/json": {"schema": {"$ref": SCHEMAS + "InferRequest"}, "example": REQUEST},
            "application/octet-stream": BINARY,
        },
    }
    length = {
        "name": JSON_LENGTH, "in": "header", "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_JSON_BYTES},
        "description": "bytes of the JSON, where a tensor comes behind it",
    }  # fmt: skip
    told = answer(InferResponse, RESPONSE, "As the protocol says.")
    told["content"]["application/octet-stream"] = BINARY
    told["headers"] = refer(JSON_LENGTH)
    kinds = SENTENCES.keys() - set(KEY_PROBLEMS) - NOT_HERE
    extra = {"parameters": [*_parameters(path), length], "requestBody": body}
    summary = "Run a model on files, or on prepared arrays"
    return _about(operation, summary, told, *kinds, openapi_extra=extra)


def says(
    operation: str, summary: str, value: Any, told: str, *kinds: type[failures.Failure],
    path: str = "",
) -> dict[str, Any]:
    """Arguments of every other route."""
    extra = {"parameters": _parameters(path)}
    return _about(operation, summary, example(value, told), *kinds, openapi_extra=extra)


def request_schemas() -> dict[str, Any]:
    """Those that only bodies refer to."""
    request = TypeAdapter(InferRequest).json_schema(ref_template=SCHEMAS + "{model}")
    return {**request.pop("$defs"), "InferRequest": request}


def _about(
    operation: str, summary: str, good: dict[str, Any], *kinds: type[failures.Failure], **more: Any
) -> dict[str, Any]:
    return about(
        operation, summary, TAG, good, *kinds, sentences=SENTENCES, path="/v2", **more
    )


def _parameters(path: str) -> list[dict[str, Any]]:
    """Those in an address."""
    told = {
        "name": "of a bundle; with _tensor behind it that of its twin, which takes prepared arrays",
        "version": "the one that answers: any other is 404",
    }
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"},
         "description": description}
        for name, description in told.items()
        if f"{{{name}}}" in path
    ]  # fmt: skip
