"""A call before and after it goes over the wire: file -> request, response -> answer or problem."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

import httpx

from client.answers import FileProblem, ProblemDocument
from client.errors import BadAnswer, Problem, UnknownModality
from client.reading import read_json

#: Where a file is, or its bytes.
File = str | os.PathLike[str] | bytes
Modality = Literal["image", "video", "volume"]
PIECE_BYTES = 256 * 1024
#: Seconds in which a piece of a long body goes out, and in which its answer comes after the last.
STILL = httpx.Timeout(None, connect=10.0, write=120.0, read=600.0)
#: What the endings of names mean; a GIF may also be a clip, for whoever says so.
ENDINGS: dict[Modality, tuple[str, ...]] = {
    "image": (
        *(".bmp", ".dib", ".gif", ".jpeg", ".jpg", ".jfi", ".jfif", ".jif", ".jpe", ".pjp"),
        *(".pjpeg", ".png", ".apng", ".tif", ".tiff", ".webp"),
    ),
    "video": (
        *(".avi", ".divx", ".mkv", ".webm", ".m4v", ".mov", ".mp4", ".3g2", ".3gp", ".qt"),
        *(".mpeg", ".mpg", ".mpe", ".vob", ".ts", ".m2t", ".m2ts", ".mts"),
    ),
    "volume": (
        *(".dcm", ".dicom", ".ima", ".mha", ".nii", ".nii.gz", ".npy", ".npz", ".nrrd", ".zip"),
    ),
}


class Options(TypedDict, total=False):
    """What a call may say beside its file.

    All but ``modality`` are parameters of the request, and the server checks them: one that a newer
    server knows can be given too.
    """

    modality: Modality  # else the ending of the file's name decides
    bundle: str  # NAME or NAME@VERSION
    grid: str  # one of the bundle's, or auto
    top_k: int
    views: int  # of clips
    want: Literal["labels", "probabilities", "logits", "embedding"]
    encoding_format: Literal["float", "base64"]  # of arrays on their way; both are read
    raw: bool  # the network's own probabilities
    abstain: float  # calibrated probability under which the model does not know, 0 to 1; 0 is never
    strict: bool  # of requests with several files
    explain: Literal["occlusion", "attention"]  # also say where the model looked; the first is slow
    explain_label: str  # of occlusion: the label that is explained; else the most probable one
    timeout_ms: int  # when the server's answer is due; never later than the call's own deadline


class PrepareOptions(TypedDict, total=False):
    """What a call for the prepared input may say; see ``Options``."""

    modality: Modality
    bundle: str
    grid: str
    views: int


@dataclass(frozen=True, slots=True)
class Call:
    """One request as often as it is sent.

    Attributes:
        content: the body; a path is read anew each time, piece by piece; or what gives the pieces.
        length: bytes of the body.
        headers: beside those that every call has.
        is_long: it takes as long as its body is, and ends where nothing moves any more.
    """

    method: str
    path: str
    parameters: dict[str, str]
    content: bytes | Path | Callable[[], AsyncIterator[bytes]] = b""
    length: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    is_long: bool = False

    def request(self, http: httpx.AsyncClient, seconds: float | None) -> httpx.Request:
        """What is sent where so many seconds are left."""
        parameters = dict(self.parameters)
        wanted = parameters.get("timeout_ms", "")
        if seconds is not None and wanted.isdecimal():
            parameters["timeout_ms"] = str(min(int(wanted), max(1, int(1000 * seconds))))
        content = pieces_of(self.content) if isinstance(self.content, Path) else self.content
        # With its length said, the body of a file is not sent in chunks.
        headers = {"Content-Length": str(self.length)} if self.method == "POST" else {}
        return http.build_request(
            self.method,
            self.path,
            params=parameters,
            content=content() if callable(content) else content,
            headers=self.headers | headers,
            timeout=STILL if self.is_long else httpx.USE_CLIENT_DEFAULT,
        )


async def file_call(
    what: Literal["classify", "prepare"], file: File, options: dict[str, Any]
) -> Call:
    """The call that asks this of one file.

    Raises:
        OSError: it cannot be read.
        UnknownModality: nobody says what it is.
    """
    parameters = {name: text_of(value) for name, value in options.items() if name != "modality"}
    path = f"/v1/{what}/{options.get('modality') or modality_of(file)}"
    if isinstance(file, bytes):
        return Call("POST", path, parameters, file, len(file))
    content, length = await asyncio.to_thread(_open, Path(file))
    return Call("POST", path, parameters, content, length)


def modality_of(file: File) -> Modality:
    """What the ending of a name means; UnknownModality where it says nothing."""
    if not isinstance(file, bytes):
        name = os.fspath(file).lower()
        for modality, endings in ENDINGS.items():
            if name.endswith(endings):
                return modality
    told = "bytes have no name" if isinstance(file, bytes) else "the name does not end like one"
    raise UnknownModality(f"{told}: say modality image, video or volume")


def text_of(value: object) -> str:
    """A value as the server reads it in an address."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _open(path: Path) -> tuple[bytes | Path, int]:
    """Body and length of a file: what is large, and can be read again, stays on the disk."""
    with path.open("rb") as stream:
        found = os.fstat(stream.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size > PIECE_BYTES:
            return path, found.st_size
        media = stream.read()
    return media, len(media)


async def pieces_of(path: Path) -> AsyncIterator[bytes]:
    """The bytes of a file."""
    with path.open("rb") as stream:
        while piece := await asyncio.to_thread(stream.read, PIECE_BYTES):
            yield piece


# --- what came back --------------------------------------------------------------------------


def problem_of(response: httpx.Response) -> Problem:
    """What a response that is not 200 says."""
    try:
        said = read_json(ProblemDocument, response.content)
    except BadAnswer:  # not the service's own words: a proxy's page, or another server
        detail = f"{response.reason_phrase or 'an answer'}, without a problem document"
        said = ProblemDocument(detail=detail)
    return Problem(
        status=response.status_code,
        type=said.type,
        title=said.title,
        detail=said.detail,
        id=said.id,
        retry_after=retry_after(response.headers.get("retry-after", ""), time.time()),
    )


def problem_of_file(error: FileProblem) -> Problem:
    """What an answer of 200 says of a file that was not answered."""
    return Problem(
        status=error.status, type=error.type, title=error.title, detail=error.detail
    )


def retry_after(text: str, now: float) -> float | None:
    """Seconds that the header means, which are given as such or as a date; None if it says nothing.

    Args:
        now: seconds since 1970.
    """
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return None
