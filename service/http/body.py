"""Request body -> files and parameters: the raw body is one file, a multipart form has several."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from service.engine.failures import BadParameter, EmptyFile, FileTooLarge
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

FILE = "file"
_COMMON = ("top_k", "bundle", "grid", "timeout_ms")
#: Modality -> names of the parameters that its requests may have.
PARAMETERS = {"image": _COMMON, "video": (*_COMMON, "views"), "volume": _COMMON}
MAX_VALUE_BYTES = 256
MAX_QUERY_BYTES = 2048


def read_query(query: bytes, modality: str) -> Parameters:
    """The parameters in an address; Failure (422) where one is wrong or unknown."""
    parameters = Parameters(modality)
    if len(query) > MAX_QUERY_BYTES:
        raise BadParameter(f"expected a query of at most {MAX_QUERY_BYTES} bytes")
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        parameters.add(name, value)
    return parameters


async def read_files(
    scope: Scope, receive: Receive, parameters: Parameters, limits: Limits
) -> list[bytearray]:
    """Read a whole body. Every file is held once, in the array that it grew in.

    Whatever is not multipart/form-data is taken as the bytes of one file: their type is decided by
    the bytes, and clients send all kinds of Content-Type.

    Args:
        parameters: those of the address; those of a form are added.

    Raises:
        Failure: 400, 413 or 422; ClientGone if the connection closed half way.
    """
    media_type, options = parse_parameters(_content_type(scope))
    if media_type == b"multipart/form-data":
        form = MultipartReader(pieces(receive), options.get(b"boundary", b""))
        return await _read_form(form, limits, parameters)
    body = bytearray()
    async for piece in pieces(receive):
        body += piece
        check_file_size(len(body), limits)
    if not body:
        raise EmptyBody("expected a file as the body, or a form with a part named file")
    return [body]


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
    """What a request says besides its files, as text; only what its modality knows, each once."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self._known = PARAMETERS[modality]

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


def check_file_size(size: int, limits: Limits) -> None:
    """Refuse a file over its limit with 413."""
    if size > limits.file_bytes:
        raise FileTooLarge(f"a file may have at most {limits.file_bytes} bytes")


async def _read_form(
    form: MultipartReader, limits: Limits, parameters: Parameters
) -> list[bytearray]:
    """The files of a form, in order; its other parts are parameters."""
    files: list[bytearray] = []
    while (headers := await form.next_part()) is not None:
        name = _part_name(headers)
        if name == FILE:
            if len(files) >= limits.files:
                raise TooManyFiles(f"a request may have at most {limits.files} files")
            files.append(await _read_file(form, len(files) + 1, limits))
        else:
            parameters.check(name, is_part=True)  # before its data, which may be a file's
            parameters.add(name, await _read_value(form, name))
    if not files:
        raise NoFile(f"expected at least one part named {FILE}")
    return files


def _part_name(headers: dict[bytes, bytes]) -> str:
    """What a part is called; BrokenForm if it is called nothing, or written in an encoding."""
    _, options = parse_parameters(headers.get(b"content-disposition", b""))
    if b"name" not in options:
        raise BrokenForm(f"a part has no name; that of a file must be {FILE}")
    encoding = headers.get(b"content-transfer-encoding", b"binary").lower()
    if encoding not in (b"binary", b"8bit", b"7bit"):
        raise BrokenForm(
            "expected a part as it is (Content-Transfer-Encoding binary, 8bit or 7bit), "
            f"got {_shown(encoding.decode('latin-1'))}"
        )
    return options[b"name"].decode("utf-8", "replace")


async def _read_file(form: MultipartReader, number: int, limits: Limits) -> bytearray:
    file = bytearray()
    while data := await form.read():
        file += data
        check_file_size(len(file), limits)
    if not file:
        raise EmptyFile(f"file {number} has no bytes")
    return file


async def _read_value(form: MultipartReader, name: str) -> str:
    value = bytearray()
    while data := await form.read():
        value += data
        if len(value) > MAX_VALUE_BYTES:
            raise BadParameter(
                f"{name}: expected at most {MAX_VALUE_BYTES} bytes; a file must be called {FILE}"
            )
    return value.decode("utf-8", "replace")
