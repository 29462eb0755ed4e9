"""Multipart bodies as RFC 2046 allows them, read as they arrive.

Senders differ in what they put around a form: text before the first boundary and after the last,
spaces at the end of a boundary's line, headers folded over lines, parameters quoted or not and in
any order. The well-kept parsers each refuse some of it, or lose it where a read happens to end
(python-multipart 0.0.34, multipart 2.0.1, werkzeug 3.1.9), so this one is our own.

Whatever the pieces are, a byte is looked at a bounded number of times, and what is held beside the
data that is handed out is bounded by the limits below.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from service.http.problems import BrokenForm, EmptyBody

MAX_BOUNDARY_BYTES = 256  # RFC 2046 has 70; not every sender keeps to it
MAX_PREAMBLE_BYTES = 2**16
MAX_HEADERS = 8  # of one part
MAX_HEADER_BYTES = 4224  # of one header, unfolded
MAX_HEAD_BYTES = MAX_HEADERS * MAX_HEADER_BYTES

CRLF = b"\r\n"
#: What makes a delimiter of a line that begins like one: the end, the end of the line, or padding.
AFTER_BOUNDARY = re.compile(rb"--|\r\n|[ \t]")
FOLD = re.compile(rb"\r\n[ \t]+")
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: One parameter. Quoted text has backslashes before quotes and backslashes; browsers and others
#: that write a backslash for itself are understood where the first reading leaves no end.
PARAMETER = re.compile(
    rb"(?:[ \t]*;)+[ \t]*([^\s=;\"]+)[ \t]*=[ \t]*"
    rb'("(?:[^"\\]|\\.)*"(?=[ \t]*(?:;|$))|"[^"]*"|[^;"]*)',
    re.DOTALL,
)
QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)


def parse_parameters(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """``form-data; name="a"`` -> its first word, and its parameters; names in lower case."""
    word, _, _ = value.partition(b";")
    parameters, at = {}, len(word)
    while match := PARAMETER.match(value, at):
        name, text = match.group(1), match.group(2).strip(b" \t")
        if text.startswith(b'"'):
            text = QUOTED_PAIR.sub(rb"\1", text[1:-1])
        parameters[name.lower()] = text
        at = match.end()
    return word.strip(b" \t").lower(), parameters


class MultipartReader:
    """The parts of a body, one after another: ``next_part``, then ``read`` until its end.

    Args:
        pieces: the body; cut anywhere.

    Raises:
        BrokenForm: here and in every method, for what is no multipart body or beyond a limit.
    """

    def __init__(self, pieces: AsyncIterator[bytes], boundary: bytes) -> None:
        if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
            raise BrokenForm(f"expected a boundary of 1 to {MAX_BOUNDARY_BYTES} bytes")
        self._pieces = pieces
        self._delimiter = CRLF + b"--" + boundary
        self._buffer = bytearray(CRLF)  # a delimiter begins with a line break, the first one too
        self._began = False  # whether anything came
        self._in_data = True  # before a delimiter; at first in the preamble
        self._skip = 0  # bytes at the start of the buffer that belong to no data

    async def next_part(self) -> dict[bytes, bytes] | None:
        """The headers of the next part, names in lower case; None after the last boundary.

        What is unread of the part before, or of the preamble, is passed over.
        """
        passed = 0
        while data := await self.read():
            passed += len(data)
            if passed > MAX_PREAMBLE_BYTES:
                raise BrokenForm(f"no boundary within the first {MAX_PREAMBLE_BYTES} bytes")
        if self._buffer.startswith(b"--"):
            async for _ in self._pieces:  # the epilogue
                pass
            return None
        await self._skip_padding()
        return _parse_head(await self._take_head())

    async def read(self) -> bytearray:
        """The next bytes of this part, as soon as there are any; empty at its end."""
        while self._in_data:
            end = self._find_delimiter()
            found = end >= 0
            if not found:
                end = self._find_possible_delimiter()
            data = self._buffer[self._skip : end]
            if found:
                del self._buffer[: end + len(self._delimiter)]
                self._in_data = False
            elif data:
                del self._buffer[:end]
            else:
                await self._fill()
            if data:
                self._skip = 0
                return data
        return bytearray()

    def _find_delimiter(self) -> int:
        """Where the next one begins, -1 if there is none; two bytes after it are in the buffer."""
        size = len(self._delimiter)
        at = self._buffer.find(self._delimiter)
        while at >= 0 and not AFTER_BOUNDARY.match(self._buffer, at + size):
            at = self._buffer.find(self._delimiter, at + size)
        return at

    def _find_possible_delimiter(self) -> int:
        """Where one may begin whose end is not there yet; else the end of the buffer."""
        at = self._buffer.find(b"\r", max(0, len(self._buffer) - len(self._delimiter) - 1))
        return at if at >= 0 else len(self._buffer)

    async def _skip_padding(self) -> None:
        """Go to the line break after a boundary."""
        while (rest := self._buffer.lstrip(b" \t")) == b"" or rest == b"\r":
            self._buffer = rest
            await self._fill()
        if not rest.startswith(CRLF):
            raise BrokenForm("expected the end of the line after a boundary")
        self._buffer = rest

    async def _take_head(self) -> bytes:
        """The headers, from the line break before them; the one before the data stays.

        It may be the one that the next delimiter begins with: a part may have no data at all.
        """
        seen = 0
        while (end := self._buffer.find(CRLF + CRLF, seen)) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                break
            seen = max(0, len(self._buffer) - 3)
            await self._fill()
        if not 0 <= end <= MAX_HEAD_BYTES:
            raise BrokenForm(f"the headers of a part may have at most {MAX_HEAD_BYTES} bytes")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + len(CRLF)]
        self._in_data, self._skip = True, len(CRLF)
        return head

    async def _fill(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            if not self._began:
                raise EmptyBody("expected a form with a part named file")
            raise BrokenForm("the form ends before its last boundary")
        self._began = self._began or bool(piece)
        self._buffer += piece


def _parse_head(head: bytes) -> dict[bytes, bytes]:
    """Headers, each after its line break, names in lower case; of equal names the last counts."""
    first, *lines = FOLD.sub(b" ", head).split(CRLF)
    if first.strip(b" \t") or len(lines) > MAX_HEADERS:
        raise BrokenForm(f"a part may have at most {MAX_HEADERS} headers, and they begin its lines")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t").lower()
        if not colon or not TOKEN.fullmatch(name) or len(line) > MAX_HEADER_BYTES:
            raise BrokenForm(
                f"expected headers like Name: value, of at most {MAX_HEADER_BYTES} bytes"
            )
        headers[name] = value.strip(b" \t")
    return headers
