"""What the OpenAPI page says of the protocol's operations."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from service.engine import failures
from service.http import problems
from service.http.examples import details
from service.http.openapi import KEY_PROBLEMS, add_problems, answer
from service.http.v2.documents import (
    IndexEntry,
    InferenceProblem,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.http.v2.request import JSON_LENGTH, InferRequest

TAGS = ["open inference protocol v2"]
_SCHEMAS = "#/components/schemas/"
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
_OF_MODELS = (
    failures.UnknownBundle, failures.UnknownVersion, failures.BundleRefused, failures.NotReady,
)  # fmt: skip


def infer(operation: str, path: str) -> dict[str, Any]:
    """Arguments of the route of this operation."""
    schema = {"$ref": f"{_SCHEMAS}InferRequest"}
    binary = {"schema": {"type": "string", "format": "binary"}}
    body = {
        "required": True,
        "description": "The request as JSON; with the binary tensor extension the tensor behind "
        f"it, and in {JSON_LENGTH} the bytes of the JSON. A file is an element of BYTES, which "
        "in JSON is base64.",
        "content": {
            "application/json": {"schema": schema, "example": REQUEST},
            "application/octet-stream": binary,
        },
    }
    length = {
        "name": JSON_LENGTH, "in": "header", "required": False,
        "schema": {"type": "integer", "minimum": 1},
        "description": "bytes of the JSON, where a tensor comes behind it",
    }  # fmt: skip
    kinds = SENTENCES.keys() - set(KEY_PROBLEMS) - NOT_HERE
    about = _about(
        operation, "Run a model on files, or on prepared arrays", InferResponse, RESPONSE, *kinds
    )
    about["responses"][200]["content"]["application/octet-stream"] = binary
    extra = {"parameters": [*_parameters(path), length], "requestBody": body}
    return about | {"openapi_extra": extra}


def model_metadata(operation: str, path: str) -> dict[str, Any]:
    """The same of this one."""
    summary = "What a model takes and gives"
    about = _about(operation, summary, ModelMetadata, TENSOR_METADATA, *_OF_MODELS)
    return about | {"openapi_extra": {"parameters": _parameters(path)}}


def model_ready(operation: str, path: str) -> dict[str, Any]:
    """And of this."""
    example, summary = {"name": "cifar10-liere8", "ready": True}, "200 while a model answers"
    about = _about(operation, summary, ModelReady, example, *_OF_MODELS)
    return about | {"openapi_extra": {"parameters": _parameters(path)}}


def index() -> dict[str, Any]:
    """And of this."""
    about = _about("listModels", "List the models, also those that are not ready", IndexEntry, {})
    about["responses"][200] = {
        "model": list[IndexEntry],
        "description": "Of every bundle a model that takes files and one that takes arrays.",
        "content": {"application/json": {"example": [INDEX_ENTRY]}},
    }
    return about


def server_metadata() -> dict[str, Any]:
    """And of this."""
    example = {
        "name": "LieRE classification",
        "version": "1",
        "extensions": ["binary_tensor_data", "classification"],
    }
    return _about("describeServer", "What the server is", ServerMetadata, example)


def server_live() -> dict[str, Any]:
    """And of this."""
    summary = "As /health/live"
    return _about("isServerLive", summary, ServerLive, {"live": True}, failures.NotReady)


def server_ready() -> dict[str, Any]:
    """And of this."""
    kinds, example = (failures.NotReady, failures.Draining), {"ready": True}
    return _about("isServerReady", "As /health/ready", ServerReady, example, *kinds)


def schemas() -> dict[str, Any]:
    """Those that only bodies and problems refer to."""
    template = _SCHEMAS + "{model}"
    request = TypeAdapter(InferRequest).json_schema(ref_template=template)
    problem = InferenceProblem.model_json_schema(ref_template=template)
    inner = request.pop("$defs")
    return {"InferRequest": request, "InferenceProblem": problem, **inner}


def _about(
    operation: str,
    summary: str,
    model: type[BaseModel],
    example: Any,
    *kinds: type[failures.Failure],
) -> dict[str, Any]:
    responses = add_problems({}, *kinds, sentences=SENTENCES)
    add_error(responses)
    return {
        "operation_id": operation,
        "summary": summary,
        "tags": TAGS,
        "responses": {200: answer(model, example, "As the protocol says."), **responses},
    }


def add_error(responses: dict[int | str, Any]) -> None:
    """Give the problems under ``responses`` the protocol's own member."""
    for response in responses.values():
        if (content := response.get("content", {}).get(problems.CONTENT_TYPE)) is not None:
            content["schema"] = {"$ref": f"{_SCHEMAS}{InferenceProblem.__name__}"}
            for shown in content["examples"].values():
                shown["value"]["error"] = shown["value"]["detail"]


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
