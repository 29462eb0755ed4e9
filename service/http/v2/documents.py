"""The schemas of the protocol's answers, for the OpenAPI page."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from service.http.documents import Document, ProblemDocument


class ServerMetadata(Document):
    """``GET /v2``."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(Document):
    """The server is live; else the answer is no 200."""

    live: bool


class ServerReady(Document):
    """The server is ready; else the answer is no 200."""

    ready: bool


class ModelReady(Document):
    """The model is ready; else the answer is no 200."""

    name: str
    ready: bool


class TensorMetadata(Document):
    """An input or output of a model."""

    name: str
    datatype: str = Field(description="BYTES, UINT8 or FP32")
    shape: list[int] = Field(description="-1 where it is the request's affair")


class ModelMetadata(Document):
    """What a model takes and gives."""

    name: str
    versions: list[str] = Field(description="the one that answers")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(Document):
    """A model, ready or not."""

    name: str
    version: str | None = None
    state: str = Field(description="READY or UNAVAILABLE")
    reason: str = Field(description="why it is not ready, or nothing")


class TensorParameters(Document):
    """Of an output that comes behind the JSON."""

    binary_data_size: int = Field(description="its bytes")


class ResponseOutput(Document):
    """An output, with data or with bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = Field(default=None, description="flat, in row-major order")
    parameters: TensorParameters | None = None


class InferResponse(Document):
    """The answer to an inference request."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="that of the request, if it had one")
    outputs: list[ResponseOutput]


class InferenceProblem(ProblemDocument):
    """A problem with the member that the protocol's clients read."""

    error: str = Field(description="the same as detail")
