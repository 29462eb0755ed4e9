"""What the OpenAPI page says about requests, answers and problems, with real examples."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service import errors


class Document(BaseModel):
    """Base of the documents below; they describe answers and are not on their way."""

    model_config = ConfigDict(extra="forbid")


class Prediction(Document):
    label: str
    index: int = Field(description="of the label in the bundle's list", ge=0)
    probability: float = Field(description="softmax over all labels", ge=0, le=1)


class TimingMs(Document):
    decode: float = Field(description="upload to pixels, the wait for a worker included")
    queue: float = Field(description="pixels to the start of the batch")
    inference: float = Field(description="of the whole batch")


class Result(Document):
    bundle: str
    version: str
    grid: str = Field(description="tokens per axis, like 8x8")
    predictions: list[Prediction] = Field(description="the most probable labels, descending")
    timing_ms: TimingMs


class Answer(Document):
    id: str = Field(description="of the request, as in the header X-Request-ID")
    results: list[Result] = Field(description="one per file, in the order sent")


class GridDocument(Document):
    grid: str
    pixels: list[int] = Field(description="per axis, after preparation")
    top1: float = Field(description="accuracy of the exported graph, 0 to 1")


class BundleDocument(Document):
    name: str
    state: str = Field(description="ready or refused")
    reason: str | None = Field(description="why it is refused")
    version: str | None = None
    modality: str | None = None
    device: str | None = None
    encoding: str | None = None
    precision: str | None = None
    grids: list[GridDocument] = Field(default=[], description="the first one is the default")
    labels: list[str] = []


class BundleList(Document):
    ready: bool
    default: dict[str, str | None] = Field(description="modality to the bundle that answers it")
    bundles: list[BundleDocument]


class Status(Document):
    status: str


class ProblemDocument(BaseModel):
    """RFC 9457, with the id of the request."""

    type: str = Field(description="stable, a relative URI reference")
    title: str
    status: int
    detail: str
    id: str


ANSWER_EXAMPLE: dict[str, Any] = {
    "id": "ce5fe426057e319e",
    "results": [
        {
            "bundle": "cifar10-liere8",
            "version": "1",
            "grid": "8x8",
            "predictions": [
                {"label": "truck", "index": 9, "probability": 0.377327},
                {"label": "automobile", "index": 1, "probability": 0.314716},
            ],
            "timing_ms": {"decode": 1.174, "queue": 0.325, "inference": 3.908},
        }
    ],
}

BUNDLES_EXAMPLE: dict[str, Any] = {
    "ready": True,
    "default": {"image": "cifar10-liere8"},
    "bundles": [
        {
            "name": "cifar10-liere8",
            "state": "ready",
            "reason": None,
            "version": "1",
            "modality": "image",
            "device": "cpu",
            "encoding": "liere",
            "precision": "fp32",
            "grids": [
                {"grid": "8x8", "pixels": [32, 32], "top1": 0.7864},
                {"grid": "6x6", "pixels": [24, 24], "top1": 0.7262},
                {"grid": "10x10", "pixels": [40, 40], "top1": 0.7318},
            ],
            "labels": [
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ],
        }
    ],
}

#: One sentence that each problem really gives.
DETAILS: dict[type[errors.Problem], str] = {
    errors.Unauthorized: "expected Authorization: Bearer KEY, with a key that this server knows",
    errors.EmptyBody: "expected an image as the body, or a form with a part named file",
    errors.BrokenForm: "the form ends before its last boundary",
    errors.NoFile: "expected at least one part named file",
    errors.EmptyFile: "file 1 has no bytes",
    errors.UnknownBundle: "unknown image bundle 'cifar'; known: cifar10-liere8",
    errors.BodyTimeout: "the body was not complete within 20 seconds",
    errors.BodyTooLarge: "a request body may have at most 33554432 bytes",
    errors.FileTooLarge: "a file may have at most 20971520 bytes",
    errors.TooManyFiles: "a request may have at most 16 files",
    errors.ContentEncoded: "expected no Content-Encoding, or identity",
    errors.UnsupportedMedia: (
        "expected JPEG, PNG, WEBP, TIFF, BMP, GIF bytes; these are none of them"
    ),
    errors.UnknownParameter: "unknown parameter 'topk'; known: top_k, bundle, grid",
    errors.RepeatedParameter: "top_k is given more than once",
    errors.BadParameter: "top_k: expected a whole number from 1 to 10, got '0'",
    errors.UnknownGrid: "unknown grid '9x9' for bundle cifar10-liere8; known: 8x8, 6x6, 10x10",
    errors.BrokenMedia: "the image is truncated or corrupt and cannot be decoded",
    errors.MediaTooLarge: "images may have at most 50000000 pixels",
    errors.DecodeTimeout: "decoding took longer than 5 seconds",
    errors.Overloaded: "all 128 permits are taken; try again later",
    errors.InferenceFailed: "the model gave no finite answer for this input",
    errors.InternalError: "the server made a mistake; it is in its log under this id",
    errors.NotReady: "the bundles are still being checked",
    errors.BundleRefused: (
        "bundle cifar10-liere8 is not served: graphs/weights.bin is listed and missing"
    ),
    errors.Draining: "the server is shutting down; connect again",
    errors.DeadlinePassed: "there was no answer within 30 seconds",
}

#: What a request for work may end as, whether keys are set or not.
WORK_PROBLEMS = tuple(kind for kind in DETAILS if kind is not errors.Unauthorized)

_PARAMETERS: dict[str, dict[str, Any]] = {
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "description": "Number of predictions, at most the number of labels; 5 (or all, if "
        "there are fewer) when it is not given.",
    },
    "bundle": {"type": "string", "description": "Name of a bundle; see GET /v1/bundles."},
    "grid": {
        "type": "string",
        "pattern": "^[1-9][0-9]*(x[1-9][0-9]*)+$",
        "description": "One of the bundle's grids; its first when it is not given.",
    },
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = ("jpeg", "png", "webp", "tiff", "bmp", "gif")

CLASSIFY_EXTRA: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in _PARAMETERS.items()
    ],
    "requestBody": {
        "required": True,
        "description": "The bytes of one image (JPEG, PNG, WebP, TIFF, BMP or GIF; the first frame "
        "or page), or a form with one or more parts named file. The type is decided by the bytes.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        },
                        **_PARAMETERS,
                    },
                }
            },
            **{f"image/{kind}": _BINARY for kind in _IMAGES},
            "application/octet-stream": _BINARY,
        },
    },
}


def answer(model: type[BaseModel], example: Any, description: str) -> dict[str, Any]:
    """The entry of a 200 under ``responses``."""
    return {
        "model": model,
        "description": description,
        "content": {"application/json": {"example": example}},
    }


def problems(*kinds: type[errors.Problem]) -> dict[int | str, dict[str, Any]]:
    """Entries under ``responses``: one per status, one example per problem."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        entry = responses.setdefault(kind.status, _problem_entry())
        example = kind(DETAILS[kind]).body(ANSWER_EXAMPLE["id"])
        name = kind.type.rpartition("/")[2]
        shown = entry["content"][errors.CONTENT_TYPE]["examples"]
        shown[name] = {"summary": kind.title, "value": example}
        entry["description"] = " ".join(filter(None, [entry["description"], kind.title]))
    return responses


def _problem_entry() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        "description": "",
        "content": {errors.CONTENT_TYPE: {"schema": schema, "examples": {}}},
    }
