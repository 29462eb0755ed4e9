"""A zip as a source: members found by its central directory and read in place."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from media.sources.archive import Member, check_count, damaged, open_members
from media.sources.items import SourceError
from media.sources.tree import Tree
from media.sources.zip_entries import ZipError, find_entries, read_directory


class Place(NamedTuple):
    """Where a member's bytes are, and what they must turn out to be."""

    start: int
    stored: int  # bytes in the archive
    size: int  # bytes once inflated
    deflated: bool
    crc: int


def open_zip(path: Path) -> Tree:
    """Open a zip; SourceError for one that is damaged, encrypted or made to deceive."""
    name = path.name[: -len(".zip")]
    return open_members(name, list_zip(path, name), lambda place: read_member(path, place))


def list_zip(path: Path, name: str) -> list[tuple[Member, Place]]:
    """Every entry, with where its bytes are; SourceError as ``open_zip``.

    Args:
        name: of the archive, before those of its members.
    """
    try:
        with path.open("rb") as stream:
            entries, directory = read_directory(stream)
            check_count(name, len(entries))
            return list(_members(name, stream, entries, directory))
    except SourceError:
        raise
    except ZipError as error:
        raise SourceError(str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise SourceError(f"{path.name}: expected a whole zip: {error}") from error


def _members(
    name: str, stream: BinaryIO, entries: list[tuple[str, zipfile.ZipInfo]], directory: int
) -> Iterator[tuple[Member, Place]]:
    """Every entry, with where its bytes are."""
    inside = {entry.header_offset: shown for shown, entry in entries}
    called = [(f"{name}: {entry.orig_filename!a}", entry) for _, entry in entries]
    for entry, start in find_entries(stream, called, directory):
        deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        place = Place(start, entry.compress_size, entry.file_size, deflated, entry.CRC)
        shown = inside[entry.header_offset]
        yield Member(shown, entry.file_size, shown.endswith("/")), place


def read_member(path: Path, place: Place) -> bytes:
    """The bytes of one member; never more are inflated than it declares.

    Raises:
        OSError: it cannot be read, or is not what was declared.
    """
    with path.open("rb") as stream:
        stream.seek(place.start)
        data = stream.read(place.stored)
    if place.deflated:
        data = _inflate(data, place.size)
    if len(data) != place.size or zlib.crc32(data) != place.crc:
        raise damaged(f"expected {place.size} bytes with their checksum, as the zip declares")
    return data


def _inflate(data: bytes, size: int) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = engine.decompress(data, size + 1)
    except zlib.error as error:
        raise damaged(f"cannot be inflated: {error}") from error
    if len(inflated) > size or not engine.eof:
        raise damaged(f"expected {size} bytes once inflated, as the zip declares")
    return inflated
