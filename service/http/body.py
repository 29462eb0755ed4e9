"""Request body -> files and parameters: the raw body is one file, a multipart form has several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from service.engine.failures import BadParameter, EmptyFile, FileTooLarge
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

FILE = "file"
_COMMON = ("top_k", "bundle", "grid")
#: Modality -> names of the parameters that its requests may have.
PARAMETERS = {"image": _COMMON, "video": (*_COMMON, "views"), "volume": _COMMON}
MAX_VALUE_BYTES = 256
MAX_QUERY_BYTES = 2048


@dataclass(slots=True)
class Upload:
    """What the client sent: encoded files, and its parameters as text."""

    files: list[bytearray]
    parameters: Parameters


async def read_upload(scope: Scope, receive: Receive, modality: str, limits: Limits) -> Upload:
    """Read a whole request. Every file is held once, in the array that it grew in.

    Whatever is not multipart/form-data is taken as the bytes of one file: their type is decided by
    the bytes, and clients send all kinds of Content-Type.

    Raises:
        Failure: 400, 413 or 422; ClientGone if the connection closed half way.
    """
    parameters = Parameters(modality)
    _read_query(scope["query_string"], parameters)
    content_type = _content_type(scope)
    if content_type[:19].lower() == b"multipart/form-data":
        form = _Form(content_type, limits, parameters)
        async for piece in _pieces(receive):
            form.write(piece)
        return Upload(form.finish(), parameters)
    body = bytearray()
    async for piece in _pieces(receive):
        body += piece
        check_file_size(len(body), limits)
    if not body:
        raise EmptyBody("expected a file as the body, or a form with a part named file")
    return Upload([body], parameters)


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
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
    """What a request says besides its files, as text; only what its modality knows, each once."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self._known = PARAMETERS[modality]

    def add(self, name: str, value: str) -> None:
        """Take a value; 422 for a name that is unknown here, or came before."""
        if name not in self._known:
            raise UnknownParameter(
                f"unknown parameter {_shown(name)}; known: {', '.join(self._known)}"
                f" (and {FILE}, a part of a form)"
            )
        if name in self:
            raise RepeatedParameter(f"{name} is given more than once")
        self[name] = value


def _read_query(query: bytes, parameters: Parameters) -> None:
    if query:
        if len(query) > MAX_QUERY_BYTES:
            raise BadParameter(f"expected a query of at most {MAX_QUERY_BYTES} bytes")
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            parameters.add(name, value)


def _shown(text: str) -> str:
    """A client's own words, short and printable, for a message to that client."""
    return ascii(text[:40])


def check_file_size(size: int, limits: Limits) -> None:
    """Refuse a file over its limit with 413."""
    if size > limits.file_bytes:
        raise FileTooLarge(f"a file may have at most {limits.file_bytes} bytes")


@dataclass(slots=True)
class _Part:
    name: str
    data: bytearray = field(default_factory=bytearray)


class _Form:
    """A multipart form, parsed as it arrives and kept in memory (its body is bounded)."""

    def __init__(self, content_type: bytes, limits: Limits, parameters: Parameters) -> None:
        _, options = parse_options_header(content_type)
        if not options.get(b"boundary"):
            raise BrokenForm("multipart/form-data needs a boundary")
        self._limits = limits
        self._parameters = parameters
        self._files: list[bytearray] = []
        self._part: _Part | None = None
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._started = False
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError:
            raise BrokenForm("the boundary of the form cannot be used") from None

    def write(self, piece: bytes) -> None:
        self._started = self._started or bool(piece)
        try:
            self._parser.write(piece)
        except FormParserError:
            raise BrokenForm("the form does not follow multipart/form-data") from None

    def finish(self) -> list[bytearray]:
        """The files, in order."""
        if not self._started:
            raise EmptyBody("expected a form with a part named file")
        if not self._ended:
            raise BrokenForm("the form ends before its last boundary")
        if not self._files:
            raise NoFile("expected at least one part named file")
        return self._files

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        if b"name" not in options:
            raise BrokenForm("a part has no name")
        name = options[b"name"].decode("utf-8", "replace")
        if name == FILE and len(self._files) >= self._limits.files:
            raise TooManyFiles(f"a request may have at most {self._limits.files} files")
        self._part = _Part(name)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None  # headers come first
        self._part.data += data[start:end]
        if self._part.name == FILE:
            check_file_size(len(self._part.data), self._limits)
        elif len(self._part.data) > MAX_VALUE_BYTES:
            raise BadParameter(
                f"{_shown(self._part.name)}: expected at most {MAX_VALUE_BYTES} bytes"
            )

    def _on_part_end(self) -> None:
        part, self._part = self._part, None
        assert part is not None
        if part.name != FILE:
            self._parameters.add(part.name, part.data.decode("utf-8", "replace"))
        elif part.data:
            self._files.append(part.data)
        else:
            raise EmptyFile(f"file {len(self._files) + 1} has no bytes")

    def _on_end(self) -> None:
        self._ended = True
