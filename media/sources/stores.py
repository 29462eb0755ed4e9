"""Where the bytes of items lie, as plain data: an index can keep it, and a process be given it.

A store opens what it needs and closes it again: any thread or process may read at any time.
"""

from __future__ import annotations

import dataclasses
import errno
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

#: Of errors that are the file's own, and say the same tomorrow. Whatever else comes is the
#: machine's (EIO, ESTALE, ENOMEM, EMFILE, ...), which may read the file the next time.
OF_THE_FILE = frozenset((
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ENXIO, errno.EBADMSG,
))  # fmt: skip
#: ``Where.stored`` of what is taken whole: a file of its own, or a row of an array of items.
WHOLE = -1


class Where(NamedTuple):
    """The bytes of one item in its store.

    Attributes:
        file: number of the store's file or array that holds them.
        start: their first byte there; of an array of items the row.
        stored: how many bytes they take there, or ``WHOLE``.
        size: bytes once unpacked; -1 where nobody has asked yet.
        crc: of a zip's member, the checksum that it must have.
        deflated: whether they have to be inflated.
        path: of a file of its own, from the folder that ``file`` says.
    """

    file: int = 0
    start: int = 0
    stored: int = WHOLE
    size: int = -1
    crc: int = 0
    deflated: bool = False
    path: str = ""


class Store(Protocol):
    """One way of keeping the bytes of many items."""

    def read(self, where: Where) -> bytes | np.ndarray:
        """The encoded bytes of an item, or an array that is kept decoded.

        Raises:
            OSError: they cannot be read, or are not what was declared.
        """
        ...

    def holder(self, where: Where) -> Path | None:
        """The file on disk that holds an item; None where memory does."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Every item is a file of its own, below a folder or anywhere if its path is absolute."""

    files: tuple[Path, ...]

    def read(self, where: Where) -> bytes:
        """All of a file; OSError where it cannot be read."""
        return self.holder(where).read_bytes()

    def holder(self, where: Where) -> Path:
        """The item's own file."""
        return self.files[where.file] / where.path


@dataclasses.dataclass(frozen=True)
class Tars:
    """Items are ranges of bytes in tars."""

    files: tuple[Path, ...]

    def read(self, where: Where) -> bytes:
        """One range; OSError where it is not all there."""
        data = _range(self.holder(where), where)
        if len(data) != where.size:
            raise damaged(f"expected {where.size} bytes in the tar, got {len(data)}")
        return data

    def holder(self, where: Where) -> Path:
        """The tar."""
        return self.files[where.file]


@dataclasses.dataclass(frozen=True)
class Zips:
    """Items are members of zips, stored or deflated; never more is inflated than one declares."""

    files: tuple[Path, ...]

    def read(self, where: Where) -> bytes:
        """One member; OSError where it cannot be read, or is not what was declared."""
        data = _range(self.holder(where), where)
        if where.deflated:
            data = _inflate(data, where.size)
        if len(data) != where.size or zlib.crc32(data) != where.crc:
            raise damaged(f"expected {where.size} bytes with their checksum, as the zip declares")
        return data

    def holder(self, where: Where) -> Path:
        """The zip."""
        return self.files[where.file]


@dataclasses.dataclass(frozen=True)
class Held:
    """Items are rows of arrays [N, ...], or ranges of arrays of bytes, uint8 [bytes]."""

    arrays: tuple[np.ndarray, ...]

    def read(self, where: Where) -> bytes | np.ndarray:
        """A copy of a range, or a view of a row."""
        array = self.arrays[where.file]
        if where.stored == WHOLE:
            return array[where.start]
        return array[where.start : where.start + where.stored].tobytes()

    def holder(self, where: Where) -> None:
        """No file."""
        return


@dataclasses.dataclass(frozen=True)
class Reading:
    """Reads the items of a source by their ids, and tells where each of them lies."""

    store: Store
    find: Callable[[str], Where]

    def __call__(self, id_: str) -> bytes | np.ndarray:
        """What ``store.read`` gives, and raises."""
        return self.store.read(self.find(id_))

    def renamed(self, stored: Callable[[str], str]) -> Reading:
        """The same by other ids: ``stored`` gives the one that an item has here."""
        return Reading(self.store, lambda id_: self.find(stored(id_)))


def damaged(reason: str) -> OSError:
    """A member that cannot be read, told like a file that cannot be."""
    return OSError(errno.EBADMSG, reason)


def _range(path: Path, where: Where) -> bytes:
    with path.open("rb") as stream:
        stream.seek(where.start)
        return stream.read(where.stored)


def _inflate(data: bytes, size: int) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = engine.decompress(data, size + 1)
    except zlib.error as error:
        raise damaged(f"cannot be inflated: {error}") from error
    if len(inflated) > size or not engine.eof:
        raise damaged(f"expected {size} bytes once inflated, as the zip declares")
    return inflated
