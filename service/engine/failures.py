"""Everything a request may end as, along the path of its data; the class owns the status.

A ``Problem`` becomes an ``application/problem+json`` body (RFC 9457). Its ``detail`` is written
for the sender: what was expected and what came, never a path, an address or a library's own words.
Whatever is not a ``Problem`` becomes ``InternalError`` and is explained in the log alone.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        type: stable identifier, a relative URI reference.
        title: the same short sentence for every occurrence.
        detail: what happened this time.
        headers: extra response headers.
    """

    status: ClassVar[int]
    type: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """The members of the problem document."""
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "id": request_id,
        }

    def encode(self, request_id: str) -> bytes:
        return json.dumps(self.body(request_id), ensure_ascii=False).encode()


# --- before the body is read -----------------------------------------------------------------


class NotFound(Problem):
    status, type, title = 404, "/problems/not-found", "There is nothing at this address."


class MethodNotAllowed(Problem):
    status, type, title = 405, "/problems/method-not-allowed", "This address wants another method."


class Unauthorized(Problem):
    status, type, title = 401, "/problems/unauthorized", "This address wants a key."


class Draining(Problem):
    status, type, title = 503, "/problems/draining", "The server is shutting down."


class NotReady(Problem):
    status, type, title = 503, "/problems/not-ready", "The server is not ready."


class Overloaded(Problem):
    status, type, title = 429, "/problems/overloaded", "The server has all the work it can hold."


class ContentEncoded(Problem):
    status, type, title = 415, "/problems/content-encoding", "Compressed bodies are not read."


class BodyTooLarge(Problem):
    status, type, title = 413, "/problems/body-too-large", "The request body is too large."


# --- socket -> bytes -------------------------------------------------------------------------


class BodyTimeout(Problem):
    status, type, title = 408, "/problems/body-timeout", "The request body came too slowly."


class EmptyBody(Problem):
    status, type, title = 400, "/problems/empty-body", "The request body is empty."


class BrokenForm(Problem):
    status, type, title = 400, "/problems/broken-form", "The multipart form cannot be read."


class NoFile(Problem):
    status, type, title = 400, "/problems/no-file", "The form has no file."


class EmptyFile(Problem):
    status, type, title = 400, "/problems/empty-file", "A file is empty."


class FileTooLarge(Problem):
    status, type, title = 413, "/problems/file-too-large", "A file is too large."


class TooManyFiles(Problem):
    status, type, title = 413, "/problems/too-many-files", "The request has too many files."


class UnreadableFile(Problem):
    """Of the command line only: over HTTP there are no names of files."""

    status, type, title = 400, "/problems/unreadable-file", "The file cannot be read."


# --- parameters ------------------------------------------------------------------------------


class UnknownParameter(Problem):
    status, type, title = 422, "/problems/unknown-parameter", "A parameter is not known."


class RepeatedParameter(Problem):
    status, type, title = 422, "/problems/repeated-parameter", "A parameter is given twice."


class BadParameter(Problem):
    status, type, title = 422, "/problems/bad-parameter", "A parameter has a value out of range."


class UnknownBundle(Problem):
    status, type, title = 404, "/problems/unknown-bundle", "There is no such bundle."


class UnknownGrid(Problem):
    status, type, title = 422, "/problems/unknown-grid", "The bundle does not have this grid."


class BundleRefused(Problem):
    status, type, title = 503, "/problems/bundle-refused", "The bundle failed its checks."


# --- bytes -> pixels -------------------------------------------------------------------------


class UnsupportedMedia(Problem):
    status, type, title = 415, "/problems/unsupported-media", "The type of the file is not read."


class BrokenMedia(Problem):
    status, type, title = 422, "/problems/broken-media", "The file cannot be decoded."


class MediaTooLarge(Problem):
    status, type, title = 422, "/problems/media-too-large", "The decoded file is too large."


class DecodeTimeout(Problem):
    status, type, title = 422, "/problems/decode-timeout", "The file takes too long to decode."


# --- pixels -> logits ------------------------------------------------------------------------


class DeadlinePassed(Problem):
    status, type, title = 504, "/problems/deadline-passed", "The answer came too late."


class ClientGone(Problem):
    """Seen in metrics and logs only: nobody is there to read it."""

    status, type, title = 499, "/problems/client-gone", "The client closed the connection."


class InferenceFailed(Problem):
    status, type, title = 500, "/problems/inference-failed", "The model failed on this input."


class InternalError(Problem):
    status, type, title = 500, "/problems/internal-error", "The server made a mistake."
