"""What zip and tar share: names that are safe, one folder around everything taken off.

An archive is somebody else's file. Nothing in it is ever written to disk, and whatever a name or
a size could be used for otherwise is refused before the first member is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from media.limits import SourceLimits
from media.sources.items import SourceError
from media.sources.names import is_junk, kind_of, kind_of_junk
from media.sources.stores import Reading, Store, Where
from media.sources.tree import LABELS, Tree, looks_like_split

#: Of names, and what a directory says beside them, for each member that there may be.
NAME_BYTES = 512

Place = TypeVar("Place")  # where the bytes of a member are


class Member(NamedTuple):
    """One file or folder as an archive declares it."""

    name: str
    size: int  # bytes
    is_folder: bool


class TooManyMembers(SourceError):
    """An archive with more in it than was to be read."""


def check_count(archive: str, count: int, name_bytes: int, most: int) -> None:
    """TooManyMembers above ``most``, or where their names are as long as those of more."""
    if count > most or name_bytes > NAME_BYTES * most:
        raise TooManyMembers(f"{archive}: expected at most {most} members, got more")


def open_members(
    archive: str,
    members: Iterable[tuple[Member, Where]],
    store: Store,
    limits: SourceLimits,
) -> Tree:
    """The tree that lies in an archive.

    Args:
        archive: its name without the ending.
        members: what it declares, in any order, each with where its bytes are.
        store: what reads the bytes of one file.

    Raises:
        SourceError: a name or a size that cannot be used.
    """
    places, declared, junk = sort_members(archive, members, limits.member_bytes)
    folders = {above for name in (*places, *declared) for above in _parents(name)}
    folders = (folders | declared) - {""}  # without the root itself, "./"
    top = _common_top(places, folders)
    inside = {name: where for name, where in places.items() if name.startswith(top)}
    files = {name.removeprefix(top): where for name, where in inside.items()}
    inner = frozenset(name.removeprefix(top) for name in folders if f"{name}/" != top)
    left_out = Counter(map(kind_of_junk, junk)) + Counter(map(kind_of, places.keys() - inside))
    return Tree(archive, frozenset(files), inner, Reading(store, files.__getitem__), left_out)


def sort_members(
    archive: str, members: Iterable[tuple[Member, Place]], most_bytes: int | None
) -> tuple[dict[str, Place], set[str], set[str]]:
    """Files by their checked names, the folders that are declared, and what is junk.

    Args:
        most_bytes: that a member may have; None where whoever reads it looks at that.

    Raises:
        SourceError: a name or a size that cannot be used.
    """
    places: dict[str, Place] = {}
    folders: set[str] = set()
    junk: set[str] = set()
    for member, where in members:
        name = clean(archive, member.name)
        if most_bytes is not None and member.size > most_bytes:
            raise SourceError(
                f"{archive}: {name!r} has {member.size} bytes; expected at most {most_bytes}"
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
    return places, folders, junk


def clean(archive: str, name: str) -> str:
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
