"""Files below one root as a source, be it a folder or an archive: one set of rules for both.

CLASS/file or SPLIT/CLASS/file, files at any depth below their class; or a ``labels.csv`` at the
root, which then decides alone. Left out are names that begin with a dot, and ``__MACOSX``. Below a
class one file is one item, whatever it holds: a zip there is a scan, not an archive to be opened.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Callable
from pathlib import Path

from media.sources.items import ALIASES, SPLITS, Item, Source, SourceError, make_source
from media.sources.table import open_csv, read_table

LABELS = "labels.csv"
#: Folders of these names are splits that somebody meant, not classes.
MISTAKEN = ("training", "testing")
#: What the readers in ``media`` read.
ENDINGS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *(".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"),
    *(".dcm", ".mha", ".nii", ".nii.gz", ".npy", ".npz", ".nrrd", ".zip"),
)
#: Media that no reader here reads: listed all the same, so that they are refused by name.
FOREIGN = (
    *(".avif", ".heic", ".heif", ".jp2", ".jxl"),
    *(".flv", ".ogv", ".wmv"),
    *(".hdr", ".img", ".mgz", ".mhd", ".mnc", ".nhdr"),
)
#: Symbolic links to folders are followed so far down: splits and classes may be links.
LINKED_LEVELS = 2

Parts = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tree:
    """What lies below a root, by its path from there, parts joined with ``/``.

    Attributes:
        files: every file that is not junk, whether it is a medium or not.
        folders: every folder that is not junk, empty ones too where that is known.
        read: path of a file -> its bytes; OSError where it cannot be read.
    """

    name: str
    files: frozenset[str]
    folders: frozenset[str]
    read: Callable[[str], bytes]


def open_folder(root: Path) -> Source:
    """A folder on disk."""
    if (root / LABELS).is_file():
        return open_csv(root / LABELS, root.name)
    files, folders = _walk(root)
    return read_classes(Tree(root.name, files, folders, lambda id_: (root / id_).read_bytes()))


def open_tree(tree: Tree) -> Source:
    """The tree of an archive; a table in it can name nothing outside."""
    if LABELS not in tree.files:
        return read_classes(tree)
    try:
        data = tree.read(LABELS)
    except OSError as error:
        raise SourceError(f"{tree.name}: {LABELS} cannot be read: {error.strerror}") from error
    return read_table(
        data,
        f"{tree.name}/{LABELS}",
        tree.name,
        exists=lambda id_: posixpath.normpath(id_) in tree.files,
        read=lambda id_: tree.read(posixpath.normpath(id_)),
    )


def read_classes(tree: Tree) -> Source:
    """CLASS/file or SPLIT/CLASS/file."""
    classes = _classes(tree, 2 if _has_splits(tree) else 1)
    for place, files in classes.items():
        if not files:
            endings = ", ".join(ENDINGS)
            raise SourceError(f"class {place[-1]!r} is empty: expected files ending in {endings}")
    labels = tuple(sorted({place[-1] for place in classes}))
    items = [
        Item("/".join(file), labels.index(place[-1]), _split(place))
        for place, files in sorted(classes.items())
        for file in sorted(files)
    ]
    return make_source(tree.name, labels, items, tree.read)


def looks_like_split(name: str) -> bool:
    """Whether a folder of this name is a split, or was meant to be one."""
    return name.lower() in {*SPLITS, *ALIASES, *MISTAKEN}


def is_junk(part: str) -> bool:
    """What systems leave behind beside the files: ``.DS_Store``, ``.git``, ``__MACOSX``."""
    return part.startswith(".") or part == "__MACOSX"


def _has_splits(tree: Tree) -> bool:
    """Whether the upper folders are splits; SourceError where only some of them are."""
    tops = {folder for folder in tree.folders if "/" not in folder}
    names = {ALIASES.get(top, top) for top in tops}
    alike = any(looks_like_split(top) for top in tops)
    if alike and not names <= set(SPLITS):
        raise SourceError(
            f"{tree.name}: expected either classes or the splits {', '.join(SPLITS)}, "
            f"got {', '.join(sorted(names))}"
        )
    return alike


def _classes(tree: Tree, depth: int) -> dict[Parts, list[Parts]]:
    """Class folder -> its media, both by their parts; folders ``depth`` below the root."""
    places = (tuple(folder.split("/")) for folder in tree.folders)
    classes: dict[Parts, list[Parts]] = {place: [] for place in places if len(place) == depth}
    for file in tree.files:
        parts = tuple(file.split("/"))
        if len(parts) > depth and parts[-1].lower().endswith(ENDINGS + FOREIGN):
            classes[parts[:depth]].append(parts)
    return classes


def _split(place: Parts) -> str:
    """The split of a class folder; none where the class is the upper folder itself."""
    return ALIASES.get(place[0], place[0]) if len(place) > 1 else ""


def _walk(root: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Files and folders below a root. A dangling link is a file, and found unreadable later."""
    files, folders = set(), set()
    for place, below, names in os.walk(root, onerror=_refuse, followlinks=True):
        inner = Path(place).relative_to(root)
        linked = len(inner.parts) < LINKED_LEVELS
        below[:] = [
            name
            for name in below
            if not is_junk(name) and (linked or not Path(place, name).is_symlink())
        ]
        folders |= {(inner / name).as_posix() for name in below}
        files |= {(inner / name).as_posix() for name in names if not is_junk(name)}
    return frozenset(files), frozenset(folders)


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be listed: {error.strerror}") from error
