"""What the OpenAPI page says of the operations: their bodies, parameters, answers and problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from media.formats import media_types
from service.engine.failures import Failure, Overloaded
from service.engine.vocabulary import PARAMETERS, Parameter
from service.http import documents, problems
from service.http.examples import ID, details, examples
from service.http.exchange import REQUEST_ID
from service.http.v2.documents import InferenceProblem
from service.http.v2.request import JSON_LENGTH

SCHEMAS = "#/components/schemas/"
#: What may become of any request where keys are set, and of none where they are not.
KEY_PROBLEMS = (problems.Unauthorized, problems.Forbidden, problems.KeyLimited)

BINARY = {"schema": {"type": "string", "format": "binary"}}
_ID = {"type": "string", "pattern": f"^{REQUEST_ID.pattern.decode()}$"}
_TEXT, _WHOLE = {"type": "string"}, {"type": "integer", "minimum": 1}
#: What heads of answers say, beside what describes the body: schema, whether always, and what.
_HEADERS = {
    "X-Request-ID": (_ID, True, "of the request: the client's, where it is fit for a log"),
    "traceparent": (_TEXT, False, "this server's span, where the request belongs to a trace"),
    "Server-Timing": (_TEXT, True, "of the slowest file: decode, queue, inference, milliseconds"),
    "Retry-After": (_WHOLE, False, "seconds until there should be room, where that is known"),
    "WWW-Authenticate": (_TEXT, True, "the kind of key"),
    "Location": (_TEXT, True, "of the job"),
    JSON_LENGTH: (_WHOLE, False, "bytes of the JSON, where tensors come behind it"),
}
#: Those of every answer; those of some problems.
EVERYWHERE = ("X-Request-ID", "traceparent")
OF_PROBLEMS: dict[type[Failure], str] = {
    problems.Unauthorized: "WWW-Authenticate",
    problems.KeyLimited: "Retry-After",
    Overloaded: "Retry-After",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is said of one modality."""

    many: str
    files: str  # what one file may be
    answer: type[documents.Answer]


KINDS = {
    "image": Kind(
        "images",
        "one image (JPEG, PNG, WebP, TIFF, BMP or GIF; the first frame or page)",
        documents.ImageAnswer,
    ),
    "video": Kind(
        "clips",
        "one clip (MP4, MOV, MKV, WebM, AVI, GIF, MPEG or MPEG-TS; of several video streams the "
        "one that a player would show)",
        documents.ClipAnswer,
    ),
    "volume": Kind(
        "scans",
        "one scan (NIfTI, also gzipped; DICOM, or a zip of one series; NPY or NPZ; NRRD; "
        "MetaImage)",
        documents.ScanAnswer,
    ),
}


def about(
    operation: str, summary: str, tag: str, good: dict[str, Any], *kinds: type[Failure],
    sentences: Mapping[type[Failure], str] | None = None, path: str = "", **more: Any,
) -> dict[str, Any]:
    """Arguments of a route.

    Args:
        good: its 200; the schema of that is the document which the endpoint says it returns.
        kinds: the problems that it may end as, besides those of keys.
        sentences, path: as of ``add_problems``.
        more: what else the route is told.
    """
    told = add_problems({200: good}, *kinds, sentences=sentences, path=path)
    named = {"operation_id": operation, "summary": summary, "tags": [tag]}
    return {**named, "responses": told, "response_model_exclude_unset": True, **more}


def classify(modality: str) -> dict[str, Any]:
    """Arguments of the route that classifies a modality."""
    kind, sentences = KINDS[modality], details(modality)
    good = answer(kind.answer, None, "What became of every file; one was answered.")
    good["content"]["application/json"] = {
        "examples": {name: {"value": one} for name, one in examples(modality).items()}
    }
    return about(
        f"classify{modality.title()}",
        f"Rank the labels of one or more {kind.many}",
        "classify",
        good | {"headers": refer("Server-Timing")},
        *(sentences.keys() - set(KEY_PROBLEMS)),
        sentences=sentences,
        description="Every file of a request has a result or a problem of its own. 200 if any was "
        "answered; else the first one's problem. With strict=true the first that fails ends the "
        "request.",
        openapi_extra=classify_extra(modality),
    )


def classify_extra(modality: str) -> dict[str, Any]:
    """Parameters and body of the operation that classifies a modality."""
    known, types = PARAMETERS[modality].values(), media_types(modality)
    return {
        "parameters": [in_query(one) for one in known],
        "requestBody": {
            "required": True,
            "description": f"The bytes of {KINDS[modality].files}, or a form with one or more "
            "parts named file. The type is decided by the bytes.",
            "content": {
                "multipart/form-data": {
                    "schema": _form(known),
                    "encoding": {"file": {"contentType": ", ".join(types)}},
                },
                **dict.fromkeys((*types, "application/octet-stream"), BINARY),
            },
        },
    }


def in_query(one: Parameter) -> dict[str, Any]:
    """A parameter, where an address has it."""
    told = {"in": "query", "required": False, "description": one.description}
    return {"name": one.name, **told, "schema": one.schema}


def _form(known: Iterable[Parameter]) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    texts = {one.name: {**one.schema, "description": one.description} for one in known}
    return {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {"file": {"type": "array", "minItems": 1, "items": file}, **texts},
    }


def example(value: Any, description: str) -> dict[str, Any]:
    """An entry under ``responses``, where the schema is told elsewhere."""
    return {"description": description, "content": {"application/json": {"example": value}}}


def answer(model: type[BaseModel], value: Any, description: str) -> dict[str, Any]:
    """The same with its schema."""
    return {"model": model, **example(value, description)}


def refer(*headers: str) -> dict[str, Any]:
    """The ``headers`` of an answer."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def add_problems(
    responses: dict[int | str, dict[str, Any]], *kinds: type[Failure], modality: str = "image",
    sentences: Mapping[type[Failure], str] | None = None, path: str = "",
) -> dict[int | str, dict[str, Any]]:
    """Put problems under ``responses``: one entry per status, one example per problem.

    Args:
        sentences: what each says; else what it says to requests of the modality.
        path: of the operation, which decides what its problems look like.
    """
    sentences = sentences or details(modality)
    schema = {"$ref": SCHEMAS + problems.shape(path).__name__}
    for kind in (one for one in problems.PROBLEMS if one in kinds):
        problem = problems.PROBLEMS[kind]
        empty = {"description": "", "content": {problems.CONTENT_TYPE: {"schema": schema}}}
        entry = responses.setdefault(str(problem.status), empty)
        shown = entry["content"][problems.CONTENT_TYPE].setdefault("examples", {})
        value = problems.document(kind(sentences[kind]), ID, path)
        shown[problem.name] = {"summary": problem.title, "value": value}
        entry["description"] = " ".join(filter(None, [entry["description"], problem.title]))
        if kind in OF_PROBLEMS:
            entry["headers"] = entry.get("headers", {}) | refer(OF_PROBLEMS[kind])
    return responses


def whole(
    app: FastAPI, more: Mapping[str, Any], public: frozenset[tuple[str, str]] | None
) -> dict[str, Any]:
    """FastAPI's document, with what it does not know.

    Args:
        more: schemas that only bodies and texts refer to.
        public: method and path of what needs no key; None where no keys are set.
    """
    told = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    parts = told.setdefault("components", {})
    parts["headers"] = {
        name: {"description": text, "required": always, "schema": schema}
        for name, (schema, always, text) in _HEADERS.items()
    }
    schemas = parts.setdefault("schemas", {})
    for model in (documents.ProblemDocument, InferenceProblem):
        schema = model.model_json_schema(ref_template=SCHEMAS + "{model}")
        schemas |= {**schema.pop("$defs"), model.__name__: schema}
    schemas |= more
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if public is not None:
        parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        told["security"] = [{"bearer": []}]
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            _finish(operation, path, public is not None and (method.upper(), path) not in public)
            if public and (method.upper(), path) in public:
                operation["security"] = []
    return told


def _finish(operation: dict[str, Any], path: str, wants_key: bool) -> None:
    """What all operations have in common."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]  # FastAPI's own, of texts in an address, none of which it refuses
    if wants_key:
        add_problems(responses, *KEY_PROBLEMS, path=path)
    for response in responses.values():
        response["headers"] = refer(*EVERYWHERE) | response.get("headers", {})
