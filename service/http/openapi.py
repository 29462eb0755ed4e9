"""What the OpenAPI page says of the operations: their bodies, parameters, answers and problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from media.clips.clip_times import MAX_FRAMES
from media.formats import media_types
from media.spec import MAX_VIEWS
from service.engine.explain.explanation import ANSWERS as EXPLAINED
from service.engine.explain.explanation import METHODS, MOST_FILES
from service.engine.failures import Failure
from service.engine.parameters import FORMATS, WANTS
from service.http import problems
from service.http.body import PARAMETERS
from service.http.documents import Answer, ClipAnswer, ImageAnswer, ScanAnswer
from service.http.examples import ANSWERS, ID, details, examples

_PARAMETERS: dict[str, dict[str, Any]] = {
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "description": "Number of predictions, at most the number of labels; 5 (or all, if "
        "there are fewer) when it is not given.",
    },
    "bundle": {
        "type": "string",
        "description": "Name of a bundle; see GET /v1/bundles. NAME@VERSION insists on the version "
        "that answers.",
    },
    "grid": {
        "type": "string",
        "pattern": "^(auto|[1-9][0-9]*(x[1-9][0-9]*)+)$",
        "description": "One of the bundle's grids; its first when it is not given. auto: for each "
        "file the largest whose input (grid times patch) is above the upright file on no axis, the "
        "smallest if all are, of equally large ones the nearest in shape; the answer names it. The "
        "size of a clip is that of its frames and their number (as many as the bundle's stride "
        "leaves), of a scan its voxels in SPL, counted in the bundle's own where these have a "
        "spacing.",
    },
    "timeout_ms": {
        "type": "integer",
        "minimum": 1,
        "description": "When the answer is due, in milliseconds from the start of the request; at "
        "most, and where it is not given, the server's own time for this address. What cannot be "
        "answered in time is refused at once (429), or ended when the time has run out (504).",
    },
    "want": {
        "type": "string",
        "enum": [*WANTS],
        "default": WANTS[0],
        "description": "What a result holds: ranked labels; or, of all labels in the bundle's "
        "order, probabilities or logits; or the features before the head, where the bundle has "
        "them (else 422).",
    },
    "encoding_format": {
        "type": "string",
        "enum": [*FORMATS],
        "default": FORMATS[0],
        "description": "Of arrays, so with another want than labels: a list of numbers, or base64 "
        "of little-endian float32.",
    },
    "strict": {
        "type": "boolean",
        "default": False,
        "description": "Whether the first file that fails ends its request.",
    },
    "explain": {
        "type": "string",
        "enum": [*METHODS],
        "description": "Also say where the model looked: parts of every file are hidden, one after "
        f"another, and the answer is asked for again. Of at most {MOST_FILES} files, with want="
        f"{', '.join(EXPLAINED)}; it is slow, and other work goes first.",
    },
    "explain_label": {
        "type": "string",
        "description": "With explain: the label that is explained; the most probable one of each "
        "file when it is not given.",
    },
    "views": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_VIEWS,
        "description": "How often a clip is sampled, at other times each, and the logits averaged; "
        f"the bundle's own number when it is not given. At most {MAX_FRAMES} frames in all.",
    },
}

#: What may become of any request where keys are set, and of none where they are not.
KEY_PROBLEMS = (problems.Unauthorized, problems.Forbidden, problems.KeyLimited)

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is said of one modality."""

    operation: str
    summary: str
    files: str  # what one file may be
    media_types: tuple[str, ...]
    answer: type[Answer]


KINDS = {
    "image": Kind(
        "classifyImage",
        "Rank the labels of one or more images",
        "one image (JPEG, PNG, WebP, TIFF, BMP or GIF; the first frame or page)",
        media_types("image"),
        ImageAnswer,
    ),
    "video": Kind(
        "classifyVideo",
        "Rank the labels of one or more clips",
        "one clip (MP4, MOV, MKV, WebM, AVI, GIF, MPEG or MPEG-TS; of several video streams the "
        "one that a player would show)",
        media_types("video"),
        ClipAnswer,
    ),
    "volume": Kind(
        "classifyVolume",
        "Rank the labels of one or more scans",
        "one scan (NIfTI, also gzipped; DICOM, or a zip of one series; NPY or NPZ; NRRD; "
        "MetaImage)",
        media_types("volume"),
        ScanAnswer,
    ),
}


def classify_responses(modality: str) -> dict[int | str, dict[str, Any]]:
    """What the operation that classifies a modality may end as."""
    ranked = answer(
        KINDS[modality].answer, ANSWERS[modality], "What became of every file; one was answered."
    )
    ranked["content"]["application/json"] = {
        "examples": {name: {"value": one} for name, one in examples(modality).items()}
    }
    kinds = details(modality).keys() - set(KEY_PROBLEMS)
    return {200: ranked, **add_problems({}, *kinds, modality=modality)}


def classify_extra(modality: str) -> dict[str, Any]:
    """Parameters and body of the operation that classifies a modality."""
    known = {name: _PARAMETERS[name] for name in PARAMETERS[modality]}
    return {
        "parameters": [_in_query(name, schema) for name, schema in known.items()],
        "requestBody": {
            "required": True,
            "description": f"The bytes of {KINDS[modality].files}, or a form with one or more "
            "parts named file. The type is decided by the bytes.",
            "content": {
                "multipart/form-data": {"schema": _form(known)},
                **{media_type: _BINARY for media_type in KINDS[modality].media_types},
                "application/octet-stream": _BINARY,
            },
        },
    }


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": schema["description"],
        "schema": {key: value for key, value in schema.items() if key != "description"},
    }


def _form(known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    return {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {"file": {"type": "array", "minItems": 1, "items": file}, **known},
    }


def answer(model: type[BaseModel], example: Any, description: str) -> dict[str, Any]:
    """The entry of a 200 under ``responses``."""
    return {
        "model": model,
        "description": description,
        "content": {"application/json": {"example": example}},
    }


def add_problems(
    responses: dict[int | str, dict[str, Any]], *kinds: type[Failure], modality: str = "image",
    sentences: Mapping[type[Failure], str] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Put problems under ``responses``: one entry per status, one example per problem.

    Args:
        sentences: what each says; else what it says to requests of the modality.
    """
    sentences = sentences or details(modality)
    for kind in kinds:
        problem = problems.PROBLEMS[kind]
        entry = responses.setdefault(str(problem.status), _problem_entry())
        example = problems.document(kind(sentences[kind]), ID)
        shown = entry["content"][problems.CONTENT_TYPE]["examples"]
        shown[problem.name] = {"summary": problem.title, "value": example}
        entry["description"] = " ".join(filter(None, [entry["description"], problem.title]))
    return responses


def _problem_entry() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        "description": "",
        "content": {problems.CONTENT_TYPE: {"schema": schema, "examples": {}}},
    }
