"""Files as the parts of a form, which are read when it is sent and never held together."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.calls import File, pieces_of

CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Part:
    """One file.

    Attributes:
        head: its headers, with the blank line after them.
        length: bytes of ``content``.
    """

    head: bytes
    content: bytes | Path
    length: int


@dataclass(frozen=True, slots=True)
class Form:
    """A body of multipart/form-data (RFC 7578), as often as it is sent."""

    parts: Sequence[Part]
    boundary: bytes = field(default_factory=lambda: secrets.token_hex(16).encode())

    @classmethod
    def of(cls, files: Mapping[str, Iterable[File]]) -> Form:
        """By the name of their parts; OSError for one that cannot be read."""
        return cls([_part(name, file) for name, some in files.items() for file in some])

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary.decode()}"

    @property
    def length(self) -> int:
        """Of the whole body, in bytes."""
        around = len(self._before) + 2 * len(CRLF)
        end = len(self._before) + len(b"--") + len(CRLF)
        return sum(around + len(one.head) + one.length for one in self.parts) + end

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, from its begin."""
        for part in self.parts:
            yield self._before + CRLF + part.head
            if isinstance(part.content, Path):
                async for piece in pieces_of(part.content):
                    yield piece
            else:
                yield part.content
            yield CRLF
        yield self._before + b"--" + CRLF

    @property
    def _before(self) -> bytes:
        return b"--" + self.boundary


def _part(name: str, file: File) -> Part:
    if isinstance(file, bytes):
        return Part(_head(name, None), file, len(file))
    path = Path(file)
    with path.open("rb") as stream:  # now, not in the middle of the request
        size = os.fstat(stream.fileno()).st_size
    return Part(_head(name, path.name), path, size)


def _head(name: str, filename: str | None) -> bytes:
    """The headers of a part; as browsers do, what would end the name is written as %22 and such."""
    said = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        told = filename.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for one, written in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
            told = told.replace(one, written)
        said += f'; filename="{told}"'
    return said.encode() + CRLF + CRLF
