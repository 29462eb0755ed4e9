"""How HTTP says what went wrong: every failure as a problem document (RFC 9457).

``PROBLEMS`` is the whole table: status, stable type and title of every class of failure. Those that
only a web server knows are declared here, along the path of a request; the others are the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.engine.failures import (
    BadParameter,
    BrokenMedia,
    BundleRefused,
    CandidateRefused,
    DeadlinePassed,
    DecodeTimeout,
    Draining,
    EmptyFile,
    ExplanationTooLong,
    Failure,
    FileTooLarge,
    FolderFixed,
    InferenceFailed,
    InternalError,
    MediaTooLarge,
    NoAttention,
    NoEmbedding,
    NoLabels,
    NoShadow,
    NotReady,
    Overloaded,
    UnknownBundle,
    UnknownGrid,
    UnknownVersion,
    UnreadableFile,
    UnsupportedMedia,
    VersionInUse,
)
from service.http.documents import FileProblem, ProblemDocument
from service.http.v2.documents import InferenceProblem
from service.jobs.failures import (
    BrokenArchive,
    EmptyJob,
    JobsFull,
    JobTooLarge,
    KeyReused,
    PathRefused,
    TooManyJobs,
    UnknownJob,
)

CONTENT_TYPE = "application/problem+json"
#: What is said of every address without a route.
NOTHING_HERE = "there is nothing at this address; see /docs"


class BadRequest(Failure):
    """What came is no request of HTTP/1.1."""


class HeadTooLarge(Failure):
    """The head of the request, or what follows its body, has more bytes than it may."""


class HeadTimeout(Failure):
    """The head of the request was not complete in time."""


class NotFound(Failure):
    """No route has this path."""


class MethodNotAllowed(Failure):
    """The path is known and wants another method.

    Args:
        allow: the methods that it knows, apart by commas.
    """

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class Unauthorized(Failure):
    """The request needs a key and has none that is known."""


class Forbidden(Failure):
    """The key is known and may not do this."""


class KeyLimited(Failure):
    """The key takes all that it may, whatever others take.

    Args:
        retry_seconds: when it may go on.
    """

    def __init__(self, detail: str, retry_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_seconds = retry_seconds


class ContentEncoded(Failure):
    """The body is compressed."""


class BodyTooLarge(Failure):
    """The body has, or says it has, more bytes than it may."""


class BodyTimeout(Failure):
    """The body was not complete in time."""


class EmptyBody(Failure):
    """There is not a byte in the body."""


class BrokenForm(Failure):
    """The body says it is a form and cannot be read as one."""


class NoFile(Failure):
    """The form has parameters alone."""


class TooManyFiles(Failure):
    """The form has more files than a request may have."""


class UnknownParameter(Failure):
    """Nothing here is called so."""


class RepeatedParameter(Failure):
    """A parameter came twice."""


class BrokenTensors(Failure):
    """The body is no inference request, or its lengths disagree."""


class ClientGone(Failure):
    """The client left before its answer: seen in metrics and logs only."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What every occurrence of a failure has in common."""

    status: int
    name: str  # the end of its type
    title: str  # a short sentence

    @property
    def type(self) -> str:
        """Stable identifier, a relative URI reference."""
        return f"/problems/{self.name}"


#: Along the path of a request.
PROBLEMS: dict[type[Failure], Problem] = {
    BadRequest: Problem(400, "bad-request", "This is no request that can be read."),
    HeadTooLarge: Problem(431, "head-too-large", "The head of the request is too large."),
    HeadTimeout: Problem(408, "head-timeout", "The head of the request came too slowly."),
    NotFound: Problem(404, "not-found", "There is nothing at this address."),
    MethodNotAllowed: Problem(405, "method-not-allowed", "This address wants another method."),
    Unauthorized: Problem(401, "unauthorized", "This address wants a key."),
    Forbidden: Problem(403, "forbidden", "The key may not do this."),
    KeyLimited: Problem(429, "key-limited", "The key takes all that it may."),
    Draining: Problem(503, "draining", "The server is shutting down."),
    NotReady: Problem(503, "not-ready", "The server is not ready."),
    Overloaded: Problem(429, "overloaded", "The server has all the work it can hold."),
    ContentEncoded: Problem(415, "content-encoding", "Compressed bodies are not read."),
    BodyTooLarge: Problem(413, "body-too-large", "The request body is too large."),
    BodyTimeout: Problem(408, "body-timeout", "The request body came too slowly."),
    EmptyBody: Problem(400, "empty-body", "The request body is empty."),
    BrokenForm: Problem(400, "broken-form", "The multipart form cannot be read."),
    BrokenTensors: Problem(400, "broken-tensors", "The inference request cannot be read."),
    NoFile: Problem(400, "no-file", "The form has no file."),
    EmptyFile: Problem(400, "empty-file", "A file is empty."),
    FileTooLarge: Problem(413, "file-too-large", "A file is too large."),
    TooManyFiles: Problem(413, "too-many-files", "The request has too many files."),
    UnreadableFile: Problem(400, "unreadable-file", "The file cannot be read."),
    UnknownParameter: Problem(422, "unknown-parameter", "A parameter is not known."),
    RepeatedParameter: Problem(422, "repeated-parameter", "A parameter is given twice."),
    BadParameter: Problem(422, "bad-parameter", "A parameter has a value out of range."),
    UnknownBundle: Problem(404, "unknown-bundle", "There is no such bundle."),
    UnknownVersion: Problem(404, "unknown-version", "The bundle answers with another version."),
    NoShadow: Problem(404, "no-shadow", "The bundle has no shadow."),
    UnknownGrid: Problem(422, "unknown-grid", "The bundle does not have this grid."),
    NoEmbedding: Problem(422, "no-embedding", "The bundle has no embedding."),
    NoAttention: Problem(422, "no-attention", "The bundle cannot tell where attention looked."),
    NoLabels: Problem(422, "no-labels", "The bundle has no labels."),
    ExplanationTooLong: Problem(
        422, "explanation-too-long", "The explanation takes longer than the answer may."
    ),
    CandidateRefused: Problem(409, "candidate-refused", "The version failed its proof."),
    VersionInUse: Problem(409, "version-in-use", "The version answers."),
    FolderFixed: Problem(409, "folder-fixed", "The folder of bundles cannot be changed."),
    BundleRefused: Problem(503, "bundle-refused", "The bundle failed its checks."),
    UnknownJob: Problem(404, "unknown-job", "There is no such job."),
    EmptyJob: Problem(422, "empty-job", "The job has no files."),
    BrokenArchive: Problem(422, "broken-archive", "The archive cannot be read."),
    PathRefused: Problem(422, "path-refused", "A path leads to nothing that may be read."),
    KeyReused: Problem(422, "key-reused", "The idempotency key belongs to another job."),
    JobTooLarge: Problem(413, "job-too-large", "The job is too large."),
    TooManyJobs: Problem(429, "too-many-jobs", "All the jobs that may be kept are there."),
    JobsFull: Problem(507, "jobs-full", "There is no room for the files of the job."),
    UnsupportedMedia: Problem(415, "unsupported-media", "The type of the file is not read."),
    BrokenMedia: Problem(422, "broken-media", "The file cannot be decoded."),
    MediaTooLarge: Problem(422, "media-too-large", "The decoded file is too large."),
    DecodeTimeout: Problem(422, "decode-timeout", "The file takes too long to decode."),
    DeadlinePassed: Problem(504, "deadline-passed", "The answer came too late."),
    ClientGone: Problem(499, "client-gone", "The client closed the connection."),
    InferenceFailed: Problem(500, "inference-failed", "The model failed on this input."),
    InternalError: Problem(500, "internal-error", "The server made a mistake."),
}


def problem_of(failure: Failure) -> Problem:
    """The row of the table."""
    return PROBLEMS[type(failure)]


def members(failure: Failure) -> FileProblem:
    """What is said of a failure, be it of a request or of one file."""
    problem = problem_of(failure)
    return {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": failure.detail,
    }


def document(failure: Failure, request_id: str, path: str = "") -> dict[str, Any]:
    """The members of the problem document; under /v2 with the one that the protocol asks for."""
    told = {**members(failure), "id": request_id}
    return told | ({"error": failure.detail} if speaks_v2(path) else {})


def encode(failure: Failure, request_id: str, path: str = "") -> bytes:
    """The problem document as a body."""
    return shape(path).encode(document(failure, request_id, path))


def shape(path: str) -> type[ProblemDocument]:
    """What problems of an address are."""
    return InferenceProblem if speaks_v2(path) else ProblemDocument


def speaks_v2(path: str) -> bool:
    """Whether an address is one of the Open Inference Protocol."""
    return path == "/v2" or path.startswith("/v2/")


def headers_of(failure: Failure) -> dict[str, str]:
    """What the head of the answer says beside the document."""
    if isinstance(failure, MethodNotAllowed):
        return {"Allow": failure.allow}
    if isinstance(failure, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(failure, (Overloaded, KeyLimited)) and failure.retry_seconds is not None:
        return {"Retry-After": str(failure.retry_seconds)}
    return {}
