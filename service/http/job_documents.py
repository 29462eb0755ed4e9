"""Schemas and examples of /v1/jobs, for the OpenAPI page."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from service.engine import failures
from service.engine.vocabulary import OF_JOBS
from service.http import problems
from service.http.documents import Document
from service.http.examples import examples
from service.http.job_body import ARCHIVES, MAX_PATHS_BYTES
from service.http.job_lines import JOB_LINE
from service.http.job_query import CURSOR
from service.http.openapi import BINARY, SCHEMAS, add_problems, answer, in_query, refer
from service.jobs import failures as of_jobs
from service.jobs.inputs import MAX_ITEMS

#: Jobs that are listed where nobody says how many.
LISTED = 100


class JobDocument(Document):
    """A job as it is by now."""

    id: str
    state: str = Field(description="queued, running, done or cancelled")
    reason: str | None = Field(description="why it does not go on for now, where that is so")
    created: str
    ended: str | None = Field(description="when it was done, or cancelled")
    expires: str | None = Field(description="until then its answers can be read")
    total: int = Field(description="files")
    answered: int = Field(description="of them those that have a line")
    failed: int = Field(description="of these those whose line is an error")
    bundles: list[str] = Field(description="who answers, whatever is promoted: NAME@VERSION")
    results: str = Field(description="address of the lines")


class JobList(Document):
    """Jobs, newest first."""

    jobs: list[JobDocument]
    next: str | None = Field(description="address of the older ones; null where there are none")


ID = "3f1d0c52b86e4a97d1c0a5e2"
JOB_EXAMPLE: dict[str, Any] = {
    "id": ID,
    "state": "running",
    "reason": None,
    "created": "2026-11-29T08:30:00.000+00:00",
    "ended": None,
    "expires": None,
    "total": 10000,
    "answered": 4210,
    "failed": 3,
    "bundles": ["cifar10-liere8@1"],
    "results": f"/v1/jobs/{ID}/results",
}
#: One sentence that each problem really gives.
SENTENCES: dict[type[failures.Failure], str] = {
    of_jobs.UnknownJob: f"there is no job '{ID}' of yours; it may have expired",
    of_jobs.EmptyJob: "expected at least one file; an archive or a folder may hold none",
    of_jobs.BrokenArchive: "archive-1: expected a whole zip: File is not a zip file",
    of_jobs.PathRefused: "'scans/latest' cannot be read: it is no file, or a link leads to it",
    of_jobs.JobTooLarge: "a job may have at most 100000 files",
    of_jobs.JobsFull: "the files and answers of all jobs may have 17179869184 bytes; 1024 are free",
    of_jobs.TooManyJobs: "at most 1000 jobs are kept; the oldest expire first",
    of_jobs.KeyReused: "this Idempotency-Key was sent before, with other files or parameters",
    failures.UnknownBundle: "unknown bundle 'nope'; known: cifar10-liere8",
    failures.UnknownVersion: "bundle digits: there is no version '2'; version 1 answers",
    failures.UnknownGrid: "unknown grid '9x9' for bundle digits; known: 8x8, auto",
    failures.BundleRefused: "bundle digits is not served: graphs/weights.bin is listed and missing",
    failures.NoEmbedding: (
        "want: bundle digits has no embedding at grid 8x8; bundles have one since their graphs are "
        "exported with it"
    ),
    failures.NoLabels: (
        "want: bundle digits has no labels and gives features alone: expected want=embedding, got "
        "want=labels"
    ),
    failures.BadParameter: "top_k: expected a whole number from 1 to 10, got '0'",
    failures.EmptyFile: "archive 1 of the form has no bytes",
    failures.NotReady: "the bundles are still being checked",
    failures.Draining: "the server is shutting down; connect again",
    problems.UnknownParameter: (
        f"unknown parameter 'topk'; known parameters: {', '.join(OF_JOBS)}"
    ),
    problems.RepeatedParameter: "top_k is given more than once",
    problems.EmptyBody: "expected a file, an archive, a form or a list of paths",
    problems.BrokenForm: "the form ends before its last boundary",
    problems.BodyTooLarge: f"a list of paths may have at most {MAX_PATHS_BYTES} bytes",
    problems.BodyTimeout: "the body came more slowly than 4 KiB a second",
    problems.ContentEncoded: "expected no Content-Encoding, or identity",
}
NOT_OF_MAKING = {of_jobs.UnknownJob}
_FILES = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
_KEY = {"type": "string", "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 10**9 - 1, "default": 0}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": MAX_ITEMS}


def made_responses() -> dict[int | str, dict[str, Any]]:
    """What making a job may end as."""
    made = answer(JobDocument, JOB_EXAMPLE, "The job, whose address is Location.")
    made["headers"] = refer("Location")
    return {202: made, **add_problems({}, *(SENTENCES.keys() - NOT_OF_MAKING), sentences=SENTENCES)}


def seen_responses() -> dict[int | str, dict[str, Any]]:
    """What looking at a job may end as."""
    seen = answer(JobDocument, JOB_EXAMPLE, "The job as it is now.")
    return {200: seen, **add_problems({}, of_jobs.UnknownJob, sentences=SENTENCES)}


def listed_responses() -> dict[int | str, dict[str, Any]]:
    """What listing jobs may end as."""
    listed = answer(JobList, {"jobs": [JOB_EXAMPLE], "next": None}, "Your jobs, newest first.")
    return {200: listed, **add_problems({}, failures.BadParameter, sentences=SENTENCES)}


def results_responses(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What reading the answers of a job may end as."""
    lines = {
        "description": "A JSON object a line: item, the number of the file in the request, then "
        "as results of /v1/classify: filename, and the answer or an error.",
        "content": _lines_content(media_type),
    }
    kinds = (of_jobs.UnknownJob, failures.BadParameter)
    return {200: lines, **add_problems({}, *kinds, sentences=SENTENCES)}


def _lines_content(media_type: str) -> dict[str, Any]:
    """The ``content`` of lines.

    OpenAPI 3.1 has no word for a sequence of JSON documents: an object in the place of the schema
    would be that of the whole body, which is none. So the body is a text, and what is in it is said
    in JSON Schema's words: as OpenAPI 3.2 sees such a sequence, an array whose items are lines.
    """
    answered, failed = examples("image")["one of two files is broken"]["results"]
    lines = json.dumps({"item": 1} | answered), json.dumps({"item": 2} | failed)
    schema = {
        "type": "string",
        "contentMediaType": media_type,
        "contentSchema": {"type": "array", "items": {"$ref": SCHEMAS + "JobLine"}},
    }
    return {media_type: {"schema": schema, "example": "".join(f"{line}\n" for line in lines)}}


def line_schemas() -> dict[str, Any]:
    """Those that no document refers to by itself."""
    line = JOB_LINE.json_schema(ref_template=SCHEMAS + "{model}")
    return {**line.pop("$defs"), "JobLine": line}


def body_extra() -> dict[str, Any]:
    """Parameters and body of the operation that makes a job."""
    texts = [in_query(one) for one in OF_JOBS.values()]
    key = "Chosen by you: sent again with the same files, it finds the job that it has made."
    paths = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    listed = {"required": ["paths"], "properties": {"paths": paths}}
    form = {"minProperties": 1, "properties": {"file": _FILES, "archive": _FILES}}
    closed = {"type": "object", "additionalProperties": False}
    return {
        "parameters": [*texts, _parameter("header", "Idempotency-Key", key, _KEY)],
        "requestBody": {
            "required": True,
            "description": "A form with parts named file, one item each, and archive, a zip or tar "
            "of items; a zip or tar; a list of paths; or the bytes of one file.",
            "content": {
                "multipart/form-data": {"schema": closed | form},
                "application/json": {"schema": closed | listed},
                **{one.decode(): BINARY for one in ARCHIVES},
                "application/octet-stream": BINARY,
            },
        },
    }


def listed_extra() -> dict[str, Any]:
    """The parameters of the operation that lists jobs."""
    text = "Where the list goes on, as next of its last page has it."
    before = _parameter("query", "before", text, {"type": "string", "pattern": f"^{CURSOR}$"})
    limit = _parameter("query", "limit", "How many at most.", _LIMIT | {"default": LISTED})
    return {"parameters": [before, limit]}


def results_extra() -> dict[str, Any]:
    """The parameters of the operation that reads results."""
    after = _parameter("query", "after", "Lines that you have.", _COUNT)
    limit = _parameter("query", "limit", "How many at most; else all that are there.", _LIMIT)
    return {"parameters": [after, limit]}


def _parameter(
    place: str, name: str, description: str, schema: dict[str, Any]
) -> dict[str, Any]:
    shown = {"in": place, "name": name, "required": False, "description": description}
    return shown | {"schema": schema}
