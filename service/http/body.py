"""Request body -> files and parameters: the raw body is one file, a multipart form has several."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from service.engine.failures import BadParameter, EmptyFile, Failure, FileTooLarge
from service.http.multipart import MultipartReader, parse_parameters
from service.http.problems import (
    BrokenForm,
    ClientGone,
    EmptyBody,
    NoFile,
    RepeatedParameter,
    TooManyFiles,
    UnknownParameter,
)
from service.settings import Limits

FILE, FORM = "file", b"multipart/form-data"
_COMMON = ("top_k", "bundle", "grid", "timeout_ms", "want", "encoding_format", "strict")
#: Modality -> names of the parameters that its requests may have.
PARAMETERS = {"image": _COMMON, "video": (*_COMMON, "views"), "volume": _COMMON}
MAX_VALUE_BYTES = 256
MAX_QUERY_BYTES = 2048
MAX_FILENAME = 255  # characters that are told back


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a request.

    Attributes:
        media: its bytes, held once, in the array that they grew in; or what is wrong with it.
        filename: what the form calls it, fit to be shown; None where it has no name.
    """

    media: bytearray | Failure
    filename: str | None = None


def read_query(query: bytes, known: Collection[str]) -> Parameters:
    """The parameters in an address; Failure (422) where one is wrong or not among the known."""
    parameters = Parameters(known)
    if len(query) > MAX_QUERY_BYTES:
        raise BadParameter(f"expected a query of at most {MAX_QUERY_BYTES} bytes")
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        parameters.add(name, value)
    return parameters


def is_form(scope: Scope) -> bool:
    """Whether a body may have parameters besides its files."""
    return parse_parameters(_content_type(scope))[0] == FORM


async def read_files(
    scope: Scope, receive: Receive, parameters: Parameters, limits: Limits
) -> list[Upload]:
    """Read a whole body.

    Whatever is not multipart/form-data is taken as the bytes of one file: their type is decided by
    the bytes, and clients send all kinds of Content-Type.

    Args:
        parameters: those of the address; those of a form are added.

    Raises:
        Failure: 400, 413 or 422, of the body as a whole; what is wrong with one file of a form is
            in its place. ClientGone if the connection closed half way.
    """
    media_type, options = parse_parameters(_content_type(scope))
    if media_type == FORM:
        form = MultipartReader(pieces(receive), options.get(b"boundary", b""))
        return await _read_form(form, limits, parameters)
    body = bytearray()
    async for piece in pieces(receive):
        body += piece
        if len(body) > limits.file_bytes:
            raise _too_large(limits)
    if not body:
        raise EmptyBody("expected a file as the body, or a form with a part named file")
    return [Upload(body)]


async def pieces(receive: Receive) -> AsyncIterator[bytes]:
    """A body as it comes; ClientGone if the connection closes half way."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone("the client left while it sent the body")
        more = message.get("more_body", False)
        yield message.get("body", b"")


def _content_type(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return bytes(value)
    return b""


class Parameters(dict[str, str]):
    """What a request says besides its files, as text; only what its address knows, each once."""

    def __init__(self, known: Collection[str]) -> None:
        super().__init__()
        self._known = known

    def add(self, name: str, value: str) -> None:
        """Take a value; 422 as ``check``."""
        self.check(name)
        self[name] = value

    def check(self, name: str, is_part: bool = False) -> None:
        """Refuse, with 422, a name that is unknown here, or came before.

        Args:
            is_part: it is that of a part of a form, which may have been meant as a file.
        """
        if name not in self._known:
            wrong = f"unknown parameter {_shown(name)}"
            if is_part:
                wrong = f"the part {_shown(name)} of the form is no parameter: "
                wrong += f"a file must be a part called {FILE}"
            raise UnknownParameter(f"{wrong}; known parameters: {', '.join(self._known)}")
        if name in self:
            raise RepeatedParameter(f"{name} is given more than once")


def _shown(text: str) -> str:
    """A client's own words, short and printable, for a message to that client."""
    return ascii(text[:40])


def _too_large(limits: Limits) -> FileTooLarge:
    return FileTooLarge(f"a file may have at most {limits.file_bytes} bytes")


async def _read_form(
    form: MultipartReader, limits: Limits, parameters: Parameters
) -> list[Upload]:
    """The files of a form, in order; its other parts are parameters."""
    files: list[Upload] = []
    while (headers := await form.next_part()) is not None:
        name, filename = _part_names(headers)
        if name == FILE:
            if len(files) >= limits.files:
                most = "one file" if limits.files == 1 else f"{limits.files} files"
                raise TooManyFiles(f"a request may have at most {most}")
            media = await _read_file(form, limits, strict=parameters.get("strict") == "true")
            empty = EmptyFile(f"file {len(files) + 1} has no bytes")
            files.append(Upload(media or empty, filename))
        else:
            parameters.check(name, is_part=True)  # before its data, which may be a file's
            parameters.add(name, await _read_value(form, name))
    if not files:
        raise NoFile(f"expected at least one part named {FILE}")
    return files


def _part_names(headers: dict[bytes, bytes]) -> tuple[str, str | None]:
    """What a part is called, and its file; BrokenForm if a part is called nothing, or encoded."""
    _, options = parse_parameters(headers.get(b"content-disposition", b""))
    if b"name" not in options:
        raise BrokenForm(f"a part has no name; that of a file must be {FILE}")
    encoding = headers.get(b"content-transfer-encoding", b"binary").lower()
    if encoding not in (b"binary", b"8bit", b"7bit"):
        raise BrokenForm(
            "expected a part as it is (Content-Transfer-Encoding binary, 8bit or 7bit), "
            f"got {_shown(encoding.decode('latin-1'))}"
        )
    name = options[b"name"].decode("utf-8", "replace")
    return name, shown_filename(options.get(b"filename", b"").decode("utf-8", "replace"))


def shown_filename(text: str) -> str | None:
    """A name as a client gave it, fit to be told back: no folders, no controls, not endless.

    Whoever writes answers to a disk or a terminal may use it as it is. None where nothing is left.
    """
    last = re.split(r"[/\\]", text)[-1][:MAX_FILENAME]
    shown = "".join(one if one.isprintable() else "\ufffd" for one in last)
    return None if shown in ("", ".", "..") else shown


async def _read_file(form: MultipartReader, limits: Limits, strict: bool) -> bytearray | Failure:
    """A file, or FileTooLarge: nothing of it is kept, and what comes after it may be answered.

    ``strict``: nothing may; that is raised while it comes.
    """
    file, size = bytearray(), 0
    while data := await form.read():
        size += len(data)
        if size <= limits.file_bytes:
            file += data
        elif strict:
            raise _too_large(limits)
        else:
            file.clear()
    return file if size <= limits.file_bytes else _too_large(limits)


async def _read_value(form: MultipartReader, name: str) -> str:
    value = bytearray()
    while data := await form.read():
        value += data
        if len(value) > MAX_VALUE_BYTES:
            raise BadParameter(
                f"{name}: expected at most {MAX_VALUE_BYTES} bytes; a file must be called {FILE}"
            )
    return value.decode("utf-8", "replace")
