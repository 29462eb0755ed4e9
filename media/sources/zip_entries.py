r"""What must be true of a stranger's zip before a byte of its members is used.

A zip says everything twice, in its directory and before each member; readers that believe one or
the other see two different archives. Here both must agree, and no two members share a byte.

The standard has ``/`` between the parts of a name; .NET and PowerShell 5 on Windows write ``\``,
and nothing in such a zip need say that it came from there. So ``\`` is ``/`` in every zip, before
a name is looked at in any other way: a file called ``a\b`` on Linux lies in a folder ``a``.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

ENCRYPTED = 0x2041  # flags: encrypted, by a strong method, with a hidden directory
UTF_8 = 0x800  # flag: the name is
SIZES_FOLLOW = 0x8  # flag: the local header was written before the sizes were known
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LOCAL = struct.Struct("<4s3H2H3I2H")  # the header before every member
SLACK_BYTES = 1024  # that deflating may add to nothing at all
UNKNOWN = 0xFFFFFFFF  # a size that stands in an extra field instead


class ZipError(ValueError):
    """An entry that is damaged, or made to deceive. The message says which, and how."""


class ForeignMethod(ZipError):
    """An entry that is packed in another way than those that are read."""


def read_directory(stream: BinaryIO) -> tuple[list[tuple[str, zipfile.ZipInfo]], int]:
    """Every entry behind its name, and where the directory begins.

    Names without a mark of their encoding are UTF-8 where all can be, else cp437. All of it is
    read, however much that is: ``stream`` sees to it.
    """
    try:
        archive, utf_8 = zipfile.ZipFile(stream, metadata_encoding="utf-8"), UTF_8
    except UnicodeDecodeError:
        archive, utf_8 = zipfile.ZipFile(stream), 0
    entries = archive.infolist()
    named = [(_name(one.orig_filename, one.flag_bits | utf_8), one) for one in entries]
    return named, archive.start_dir


def _name(stored: str, flags: int) -> str:
    r"""A name with ``/`` between its parts; it may lead anywhere.

    A ``\`` stays behind a letter beyond ASCII in a name that is not UTF-8: in Shift-JIS, Big5 and
    GBK that byte is the second half of many letters.
    """
    half = "" if flags & UTF_8 else r"(?<![^\0-\x7f])"
    return re.sub(half + r"\\", "/", stored)


def find_entries(
    stream: BinaryIO, entries: Iterable[tuple[str, zipfile.ZipInfo]], directory: int
) -> Iterator[tuple[zipfile.ZipInfo, int]]:
    """Every entry, in the order of their bytes, with where its packed bytes begin.

    Args:
        entries: what a message calls each, and the entry.
        directory: where the central directory begins.

    Raises:
        ZipError: an entry is encrypted, a link or a device, packed by another method than
            ``METHODS``, of a size that cannot be, not what its own header says, or not apart from
            what follows it.
    """
    ordered = sorted(entries, key=lambda one: one[1].header_offset)
    starts = [entry.header_offset for _, entry in ordered] + [directory]
    for (shown, entry), end in zip(ordered, starts[1:], strict=True):
        _check_plain(shown, entry)
        start = _data_start(shown, stream, entry)
        if start + entry.compress_size > end:
            raise ZipError(f"{shown} overlaps what follows it")
        yield entry, start


def _check_plain(shown: str, entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & ENCRYPTED:
        raise ZipError(f"{shown} is encrypted")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ZipError(f"{shown} is a link or a device; expected files and folders")
    if entry.compress_type not in METHODS:
        raise ForeignMethod(f"{shown}: expected it stored or deflated, got {entry.compress_type}")
    stored = entry.compress_type == zipfile.ZIP_STORED
    most = entry.file_size if stored else 2 * entry.file_size + SLACK_BYTES
    if entry.compress_size > most or (stored and entry.compress_size < entry.file_size):
        raise ZipError(
            f"{shown}: {entry.compress_size} bytes cannot be {entry.file_size} bytes packed"
        )


def _data_start(shown: str, stream: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the bytes begin; ZipError where the header there tells of another member."""
    stream.seek(max(entry.header_offset, 0))  # a false directory can make it negative
    header = stream.read(LOCAL.size)
    if entry.header_offset < 0 or len(header) < LOCAL.size:
        raise ZipError(f"{shown} lies outside the zip")
    magic, _, flags, method, _, _, crc, stored, size, name_bytes, extra_bytes = LOCAL.unpack(header)
    told = (method, crc, stored, size)
    expected = (entry.compress_type, entry.CRC, entry.compress_size, entry.file_size)
    later = flags & SIZES_FOLLOW or UNKNOWN in (stored, size)
    if magic != b"PK\3\4" or (told != expected and not later):
        raise ZipError(f"{shown}: its header is not what the directory says")
    return entry.header_offset + LOCAL.size + name_bytes + extra_bytes
