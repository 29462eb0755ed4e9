"""What zip and tar share: names that are safe, one folder around everything taken off.

An archive is somebody else's file. Nothing in it is ever written to disk, and whatever a name or
a size could be used for otherwise is refused before the first member is read.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from media.sources.items import SourceError
from media.sources.names import is_junk, kind_of, kind_of_junk
from media.sources.tree import LABELS, Tree, looks_like_split

MAX_MEMBERS = 1_000_000
MAX_MEMBER_BYTES = 512 * 2**20

Where = TypeVar("Where")  # the bytes of a member are


class Member(NamedTuple):
    """One file or folder as an archive declares it."""

    name: str
    size: int  # bytes
    is_folder: bool


def check_count(archive: str, count: int) -> None:
    """Refuse more members than anybody trains on."""
    if count > MAX_MEMBERS:
        raise SourceError(f"{archive}: expected at most {MAX_MEMBERS} members, got more")


def open_members(
    archive: str,
    members: Iterable[tuple[Member, Where]],
    read: Callable[[Where], bytes],
) -> Tree:
    """The tree that lies in an archive.

    Args:
        archive: its name without the ending.
        members: what it declares, in any order, each with where its bytes are.
        read: the bytes of one file; OSError where they are not what was declared.

    Raises:
        SourceError: a name or a size that cannot be used.
    """
    places, folders, junk = sort_members(archive, members)
    top = _common_top(places, folders)
    inside = {name: where for name, where in places.items() if name.startswith(top)}
    files = {name.removeprefix(top): where for name, where in inside.items()}
    inner = frozenset(name.removeprefix(top) for name in folders if f"{name}/" != top)
    left_out = Counter(map(kind_of_junk, junk)) + Counter(map(kind_of, places.keys() - inside))
    return Tree(archive, frozenset(files), inner, lambda name: read(files[name]), left_out)


def sort_members(
    archive: str, members: Iterable[tuple[Member, Where]]
) -> tuple[dict[str, Where], set[str], set[str]]:
    """Files by their checked names, every folder above one or declared, and what is junk.

    Raises:
        SourceError: a name or a size that cannot be used.
    """
    places: dict[str, Where] = {}
    folders: set[str] = set()
    junk: set[str] = set()
    for member, where in members:
        name = _clean(archive, member.name)
        if member.size > MAX_MEMBER_BYTES:
            raise SourceError(
                f"{archive}: {name!r} has {member.size} bytes; expected at most {MAX_MEMBER_BYTES}"
            )
        if name in places:
            raise SourceError(f"{archive}: {name!r} is there more than once")
        parts = name.split("/")
        if any(map(is_junk, parts)):  # of a folder only the folder counts, as on disk
            junk.add("/".join(parts[: 1 + list(map(is_junk, parts)).index(True)]))
            continue
        if member.is_folder:
            folders.add(name)
        else:
            places[name] = where
        folders |= _parents(name)
    return places, folders - {""}, junk  # without the root itself, "./"


def damaged(reason: str) -> OSError:
    """A member that cannot be read, told like a file that cannot be."""
    return OSError(errno.EIO, reason)


def _clean(archive: str, name: str) -> str:
    """``./a//b`` -> ``a/b``; SourceError for a name that could mean a place outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    outside = name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts
    if not name or outside or "\\" in name or "\0" in name:
        raise SourceError(
            f"{archive}: expected names below the archive's root, parts joined with '/'; "
            f"got {name!a}"
        )
    return "/".join(parts)


def _parents(name: str) -> set[str]:
    """``a/b/c.png`` -> ``a``, ``a/b``."""
    parts = name.split("/")
    return {"/".join(parts[:length]) for length in range(1, len(parts))}


def _common_top(files: Iterable[str], folders: set[str]) -> str:
    """The folder around everything, with its ``/``; empty where there is none to take off.

    Files beside it (a README, a licence, a table of other things) do not make it a class. A split
    is none, and a single class is none either: something to open must lie below.
    """
    tops = {name.split("/")[0] for name in folders}
    if len(tops) != 1 or LABELS in files:
        return ""
    (top,) = tops
    holds_source = f"{top}/{LABELS}" in files or any(
        folder.startswith(f"{top}/") for folder in folders
    )
    return f"{top}/" if holds_source and not looks_like_split(top) else ""
