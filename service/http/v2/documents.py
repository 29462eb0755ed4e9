"""The protocol's answers: each class is what is sent, what checks it and what OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

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


class TensorParameters(TypedDict):
    """Of an output that comes behind the JSON."""

    binary_data_size: Annotated[int, Field(description="its bytes")]


class ResponseOutput(TypedDict):
    """An output, with data or with bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: NotRequired[
        Annotated[
            list[float] | list[str],
            Field(union_mode="left_to_right", description="flat, in row-major order"),
        ]
    ]
    parameters: NotRequired[TensorParameters]


class InferResponse(Document):
    """The answer to an inference request."""

    model_config = ConfigDict(protected_namespaces=())  # the rest is inherited

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="that of the request, if it had one")
    outputs: list[ResponseOutput]


class InferenceProblem(ProblemDocument):
    """A problem with the member that the protocol's clients read."""

    error: str = Field(description="the same as detail")
