"""A tar as a source: members found by walking its headers, and read in place.

A ``.tar.gz`` cannot be read in place. It is inflated into memory once, up to a limit; what is
larger belongs into a plain tar, a zip or a folder.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from media.limits import SourceLimits
from media.sources.archive import Member, check_count, open_members
from media.sources.items import SourceError
from media.sources.stores import Held, Tars, Where
from media.sources.tree import Tree

PIECE_BYTES = 2**20
#: Of one header with its extensions; what is larger is no name.
MAX_HEADER_BYTES = 2**20


def open_tar(path: Path, limits: SourceLimits) -> Tree:
    """Open a tar; SourceError for one that is damaged or holds more than files and folders."""
    name = path.name[: -len(".tar")]
    return open_members(name, list_tar(path, name, limits.members), Tars((path,)), limits)


def open_tar_gz(path: Path, limits: SourceLimits) -> Tree:
    """Open a tar.gz or tgz, which is then held in memory."""
    name = path.name[: -len(".tgz" if path.name.lower().endswith(".tgz") else ".tar.gz")]
    data = _inflate(path, limits.inflated_bytes)
    members = _list(path.name, name, lambda: io.BytesIO(data), limits.members)
    return open_members(name, members, Held((np.frombuffer(data, np.uint8),)), limits)


def _inflate(path: Path, most: int) -> bytes:
    """All of a gzip file, piece by piece: at the limit it ends, whatever the file would become."""
    inflated = io.BytesIO()
    try:
        with gzip.open(path) as stream:
            while piece := stream.read(PIECE_BYTES):
                inflated.write(piece)
                if inflated.tell() > most:
                    raise SourceError(
                        f"{path.name}: expected at most {most} bytes once inflated; "
                        "a plain .tar may be larger"
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path.name}: expected a whole tar.gz: {error}") from error
    return inflated.getvalue()


def list_tar(path: Path, name: str, most: int) -> list[tuple[Member, Where]]:
    """Every entry, with where its bytes are; SourceError as ``open_tar``.

    Args:
        name: of the archive, before those of its members.
        most: entries; TooManyMembers if there are more.
    """
    return _list(path.name, name, lambda: path.open("rb"), most)


def _list(
    shown: str, name: str, stream: Callable[[], BinaryIO], most: int
) -> list[tuple[Member, Where]]:
    try:
        with stream() as opened:
            return list(_members(name, opened, most))
    except SourceError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise SourceError(f"{shown}: expected a whole tar: {error}") from error


def _members(name: str, stream: BinaryIO, most: int) -> Iterator[tuple[Member, Where]]:
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    with tarfile.open(fileobj=_Headers(stream), mode="r:", encoding="utf-8") as archive:
        count = name_bytes = 0
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header that it has read
            count, name_bytes = count + 1, name_bytes + len(entry.name)
            check_count(name, count, name_bytes, most)
            _check_plain(f"{name}: {entry.name!a}", entry, length)
            where = Where(0, entry.offset_data, entry.size, entry.size)
            yield Member(entry.name, entry.size, entry.isdir()), where
        end = archive.offset
    stream.seek(end)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise SourceError(f"{name}: damaged or truncated at byte {end}: expected a header")


def _check_plain(shown: str, entry: tarfile.TarInfo, length: int) -> None:
    if entry.issparse():
        raise SourceError(f"{shown} is a sparse file; expected whole ones")
    if not (entry.isdir() or entry.isreg()):
        raise SourceError(f"{shown} is a link or a device; expected files and folders")
    if not 0 <= entry.size <= length - entry.offset_data:
        raise SourceError(f"{shown} is truncated: {entry.size} bytes do not lie in the archive")


class _Headers(io.BufferedIOBase):
    """What tarfile reads headers from: no read of a negative or a huge length, as some ask for."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int | None = -1, /) -> bytes:
        """A part of a header; tarfile.ReadError for more than any has."""
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of the stream below."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of the stream below."""
        return self._stream.tell()
