"""A zip as a source: members found by its central directory and read in place."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from models.sources.archive import Member, check_count, damaged, open_members
from models.sources.items import Source, SourceError

ENCRYPTED = 0x2041  # flags: encrypted, by a strong method, with a hidden directory
SIZES_FOLLOW = 0x8  # flag: the local header was written before the sizes were known
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LOCAL = struct.Struct("<4s3H2H3I2H")  # the header before every member
SLACK_BYTES = 1024  # that deflating may add to nothing at all
UNKNOWN = 0xFFFFFFFF  # a size that stands in an extra field instead


class Place(NamedTuple):
    """Where a member's bytes are, and what they must turn out to be."""

    start: int
    stored: int  # bytes in the archive
    size: int  # bytes once inflated
    deflated: bool
    crc: int


def open_zip(path: Path) -> Source:
    """Open a zip; SourceError for one that is damaged, encrypted or made to deceive."""
    name = path.name[: -len(".zip")]
    try:
        with path.open("rb") as stream, _directory(stream) as archive:
            entries = archive.infolist()
            check_count(name, len(entries))
            members = list(_members(name, stream, entries, archive.start_dir))
    except SourceError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise SourceError(f"{path.name}: expected a whole zip: {error}") from error
    return open_members(name, members, lambda place: _read(path, place))


def _directory(stream: BinaryIO) -> zipfile.ZipFile:
    """Names without a mark of their encoding are UTF-8 where they can be, else cp437."""
    try:
        return zipfile.ZipFile(stream, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(stream)


def _members(
    name: str, stream: BinaryIO, entries: list[zipfile.ZipInfo], directory: int
) -> Iterator[tuple[Member, Place]]:
    """Every entry, once it is plain, says the same twice and shares no byte with the next."""
    entries = sorted(entries, key=lambda entry: entry.header_offset)
    starts = [entry.header_offset for entry in entries] + [directory]
    for entry, end in zip(entries, starts[1:], strict=True):
        shown = f"{name}: {entry.orig_filename!a}"
        _check_plain(shown, entry)
        start = _data_start(shown, stream, entry)
        if start + entry.compress_size > end:
            raise SourceError(f"{shown} overlaps what follows it")
        deflated = entry.compress_type == zipfile.ZIP_DEFLATED
        place = Place(start, entry.compress_size, entry.file_size, deflated, entry.CRC)
        is_folder = entry.orig_filename.endswith("/")
        yield Member(entry.orig_filename, entry.file_size, is_folder), place


def _check_plain(shown: str, entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & ENCRYPTED:
        raise SourceError(f"{shown} is encrypted")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise SourceError(f"{shown} is a link or a device; expected files and folders")
    if entry.compress_type not in METHODS:
        raise SourceError(f"{shown}: expected it stored or deflated, got {entry.compress_type}")
    stored = entry.compress_type == zipfile.ZIP_STORED
    most = entry.file_size if stored else 2 * entry.file_size + SLACK_BYTES
    if entry.compress_size > most or (stored and entry.compress_size < entry.file_size):
        raise SourceError(
            f"{shown}: {entry.compress_size} bytes cannot be {entry.file_size} bytes packed"
        )


def _data_start(shown: str, stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the bytes begin; SourceError where the header there tells of another member."""
    stream.seek(max(entry.header_offset, 0))  # a false directory can make it negative
    magic, _, flags, method, _, _, crc, stored, size, name_bytes, extra_bytes = LOCAL.unpack(
        stream.read(LOCAL.size)
    )
    told = (method, crc, stored, size)
    expected = (entry.compress_type, entry.CRC, entry.compress_size, entry.file_size)
    later = flags & SIZES_FOLLOW or UNKNOWN in (stored, size)
    if magic != b"PK\3\4" or (told != expected and not later):
        raise SourceError(f"{shown}: its header is not what the directory says")
    return entry.header_offset + LOCAL.size + name_bytes + extra_bytes


def _read(path: Path, place: Place) -> bytes:
    """The bytes of one member; never more are inflated than it declares."""
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
