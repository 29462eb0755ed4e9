"""A zip or a tar as files by name, whatever they are: no classes, no folder taken off.

Nothing is unpacked to disk: a member is read in place, when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from media.sources import tars, zips
from media.sources.archive import sort_members
from media.sources.items import SourceError
from media.sources.stores import Tars, Zips

TAR_MAGIC = slice(257, 262)
HEAD_BYTES = 512


class Packed(NamedTuple):
    """One member: its size once unpacked, and its bytes, OSError where they cannot be read."""

    size: int
    read: Callable[[], bytes]


def open_archive(path: Path, most: int) -> dict[str, Packed]:
    """Every file of a zip or a tar by its name, in the archive's order; its bytes say which it is.

    Left out are names that begin with a dot, and ``__MACOSX``. A member may have any size.

    Args:
        most: files and folders that it may hold, those that are left out among them.

    Raises:
        TooManyMembers: it holds more; they were not read.
        SourceError: it is neither, damaged, encrypted, or made to deceive.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PK"):
        listed, read = zips.list_zip(path, path.name, most), Zips((path,)).read
    elif head[TAR_MAGIC] == b"ustar":
        listed, read = tars.list_tar(path, path.name, most), Tars((path,)).read
    else:
        gzipped = "; a tar.gz is not read in place" if head.startswith(b"\x1f\x8b") else ""
        raise SourceError(f"{path.name}: expected the bytes of a zip or a tar{gzipped}")
    members = [(one, Packed(one.size, partial(read, where))) for one, where in listed]
    files, _, _ = sort_members(path.name, members, most_bytes=None)
    return files
