"""A zip as a source: members found by its central directory and read in place."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from media.limits import SourceLimits
from media.sources.archive import Member, check_count, open_members
from media.sources.items import SourceError
from media.sources.stores import Where, Zips
from media.sources.tree import Tree
from media.sources.zip_entries import ZipError, find_entries, read_directory

ENTRY = b"PK\1\2"  # begins every one of the directory
LONGEST_END = 2**16 + 22  # bytes after the directory, the comment included


def open_zip(path: Path, limits: SourceLimits) -> Tree:
    """Open a zip; SourceError for one that is damaged, encrypted or made to deceive."""
    name = path.name[: -len(".zip")]
    return open_members(name, list_zip(path, name, limits.members), Zips((path,)), limits)


def list_zip(path: Path, name: str, most: int) -> list[tuple[Member, Where]]:
    """Every entry, with where its bytes are; SourceError as ``open_zip``.

    Args:
        name: of the archive, before those of its members.
        most: entries; TooManyMembers if there are more.
    """
    try:
        with path.open("rb") as stream:
            bounded = cast(BinaryIO, _Bounded(name, stream, most))
            entries, directory = read_directory(bounded)
            return list(_members(name, stream, entries, directory))
    except SourceError:
        raise
    except ZipError as error:
        raise SourceError(str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise SourceError(f"{path.name}: expected a whole zip: {error}") from error


def _members(
    name: str, stream: BinaryIO, entries: list[tuple[str, zipfile.ZipInfo]], directory: int
) -> Iterator[tuple[Member, Where]]:
    """Every entry, with where its bytes are."""
    inside = {entry.header_offset: shown for shown, entry in entries}
    called = [(f"{name}: {entry.orig_filename!a}", entry) for _, entry in entries]
    for entry, start in find_entries(stream, called, directory):
        deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        where = Where(0, start, entry.compress_size, entry.file_size, entry.CRC, deflated)
        shown = inside[entry.header_offset]
        yield Member(shown, entry.file_size, shown.endswith("/")), where


class _Bounded(io.BufferedIOBase):
    """What zipfile reads a directory from, at once and whole: refused before that where it is long.

    Its entries are counted before zipfile makes objects of them, whatever number the zip declares.
    """

    def __init__(self, name: str, stream: BinaryIO, most: int) -> None:
        self._name = name
        self._stream = stream
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """A part of the end, or the directory; TooManyMembers where that is of too many."""
        if size is None or size < 0:  # what is after the last entry: all of it is a comment
            size = LONGEST_END
        check_count(self._name, 0, max(0, size - LONGEST_END), self._most)
        data = self._stream.read(size)
        check_count(self._name, data.count(ENTRY), 0, self._most)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of the stream below."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of the stream below."""
        return self._stream.tell()
