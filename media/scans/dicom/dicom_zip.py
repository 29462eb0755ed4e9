"""A zip in memory, made by a stranger: its members, each checked before it is inflated.

Nothing is written, and names decide nothing; none appears in a message either, for it may be a
patient's. Members are counted in the order of the zip.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import NamedTuple

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.limits import ScanLimits
from media.scans.dicom.dicom_limits import inflate
from media.scans.inflate import most, too_large
from media.sources.zip_entries import ForeignMethod, ZipError, find_entries, read_directory

ENTRY_BYTES = 1024  # of the directory, for each file that there may be
MAX_COMMENT = 65_535  # bytes, after the end record
END = struct.Struct("<4s4H2LH")  # the record at the end of every zip
ZIP64 = b"PK\6\7"  # before the end record of a zip of more than 4 GiB or 65,535 members


class Member(NamedTuple):
    """One file of a zip."""

    packed: memoryview
    size: int  # bytes once inflated
    deflated: bool
    crc: int


def read_zip(data: bytes, limits: ScanLimits) -> list[Member]:
    """The files of a zip in its order, folders left out; nothing is inflated yet.

    Raises:
        MediaTooLarge: more entries or bytes than a scan may have.
        BrokenMedia: the zip is damaged, encrypted or made to deceive; the message says how.
    """
    told = _check_end(data, limits.files)
    try:
        named, directory = read_directory(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise BrokenMedia("expected a whole zip; its directory cannot be read") from error
    entries = [entry for _, entry in named]
    _check_sizes(entries, limits)
    if len(entries) != told:
        raise BrokenMedia(f"expected {told} entries, as the zip declares; got {len(entries)}")
    _check_names([name for name, _ in named])
    packed = _pack(data, entries, directory)
    return [
        Member(packed[entry.header_offset], entry.file_size,
               entry.compress_type == zipfile.ZIP_DEFLATED, entry.CRC)
        for name, entry in named if entry.file_size or not name.endswith("/")
    ]  # fmt: skip


def _check_end(data: bytes, most_files: int) -> int:
    """How many entries the zip declares, once its directory is small enough to be read at all."""
    start = data.rfind(b"PK\5\6", max(0, len(data) - END.size - MAX_COMMENT))
    if start < 0 or start + END.size > len(data):
        raise BrokenMedia("the zip is truncated: it has no directory")
    _, _, _, _, entries, directory, _, _ = END.unpack_from(data, start)
    if data[max(0, start - 20) :].startswith(ZIP64):
        raise UnsupportedMedia("expected a plain zip, got one of the kind for more than 4 GiB")
    if entries > most_files or directory > most_files * ENTRY_BYTES:
        raise MediaTooLarge(f"expected at most {most_files} entries in the zip, got {entries}")
    return int(entries)


def _check_sizes(entries: list[zipfile.ZipInfo], limits: ScanLimits) -> None:
    if len(entries) > limits.files:
        raise MediaTooLarge(f"expected at most {limits.files} entries in the zip")
    limit = most(sum(entry.compress_size for entry in entries), limits)
    if sum(entry.file_size for entry in entries) > limit:
        raise too_large(limit, limits)


def _check_names(names: list[str]) -> None:
    for number, name in enumerate(names, 1):
        outside = name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/")
        if not name or outside or "\0" in name:
            raise BrokenMedia(
                f"expected names below the zip's root; that of entry {number} is none"
            )
    if len(set(names)) < len(names):
        raise BrokenMedia("expected every name once in the zip; one is there more than once")


def _pack(data: bytes, entries: list[zipfile.ZipInfo], directory: int) -> dict[int, memoryview]:
    """Header offset -> packed bytes of every entry."""
    called = [(f"entry {number} of the zip", entry) for number, entry in enumerate(entries, 1)]
    try:
        return {
            entry.header_offset: memoryview(data)[start : start + entry.compress_size]
            for entry, start in find_entries(io.BytesIO(data), called, directory)
        }
    except ForeignMethod as error:
        raise UnsupportedMedia(str(error)) from error
    except ZipError as error:
        raise BrokenMedia(str(error)) from error


def inflate_member(member: Member) -> bytes:
    """The bytes of one member; never more are inflated than it declares."""
    packed = member.packed
    data = inflate(packed, member.size) if member.deflated else bytes(packed)
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise BrokenMedia(f"expected {member.size} bytes with their checksum, as the zip declares")
    return data
