"""Files below one root as a source, be it a folder or an archive: one set of rules for both.

CLASS/file or SPLIT/CLASS/file, files at any depth below their class; or a ``labels.csv`` at the
root, which then decides alone. Left out, and counted by kind, are names that begin with a dot,
``__MACOSX``, files that are no media, and media that no class or table claims. Below a class one
file is one item, whatever it holds: a zip there is a scan, not an archive to be opened.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from media.formats import ENDINGS, FIRST_ENDINGS, FOREIGN
from media.sources.items import (
    ALIASES,
    FIRST,
    RULE,
    SPLITS,
    UNLABELLED,
    Item,
    Source,
    SourceError,
    make_source,
)
from media.sources.names import (
    composed,
    is_junk,
    kind_of,
    kind_of_junk,
    most_frequent,
    summary,
    twins,
)
from media.sources.stores import Files, Reading, Where
from media.sources.table import open_csv, read_table

LABELS = "labels.csv"
#: Folders of these names are splits that somebody meant, not classes.
MISTAKEN = ("training", "testing")
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
        left_out: how many files were passed over on the way, by their kind.
    """

    name: str
    files: frozenset[str]
    folders: frozenset[str]
    read: Reading
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def composed(self) -> Tree:
        """The same with all names in NFC; SourceError where two files then have one name."""
        stored = {composed(file): file for file in self.files if not file.isascii()}
        files = frozenset(map(composed, self.files))
        if len(files) < len(self.files):
            raise twins(self.name, *min(_twins(self.files)))
        folders = frozenset(map(composed, self.folders))
        read = self.read.renamed(lambda id_: stored.get(id_, id_))
        return Tree(self.name, files, folders, read, self.left_out)


def open_folder(
    root: Path, rule: int = RULE, extra_columns: bool = False, labelled: bool = True
) -> Source:
    """A folder on disk; ``labelled`` as of ``open_tree``."""
    if not (root / LABELS).is_file():
        return open_tree(_walk(root, _refuse), rule, labelled)
    source = open_csv(root / LABELS, rule, root.name, extra_columns, labelled)
    return _with_unlisted(source, _walk(root))


def open_tree(tree: Tree, rule: int = RULE, labelled: bool = True) -> Source:
    """A folder or an archive; a table in it can name nothing outside.

    Args:
        rule: of ``media.sources.rules``.
        labelled: whether every item has to have a label, and every folder of a class an item.
    """
    tree = tree if rule == FIRST else tree.composed()
    if LABELS not in tree.files:
        return read_classes(tree, rule) if labelled else read_media(tree, rule)
    try:
        data = bytes(tree.read(LABELS))
    except OSError as error:
        raise SourceError(f"{tree.name}: {LABELS} cannot be read: {error.strerror}") from error
    source = read_table(
        data,
        f"{tree.name}/{LABELS}",
        tree.name,
        exists=lambda id_: posixpath.normpath(id_) in tree.files,
        read=tree.read.renamed(posixpath.normpath),
        rule=rule,
        extra_columns=not labelled,
        labelled=labelled,
    )
    return _with_unlisted(source, tree)


def read_classes(tree: Tree, rule: int = RULE) -> Source:
    """CLASS/file or SPLIT/CLASS/file."""
    endings = (FIRST_ENDINGS if rule == FIRST else ENDINGS) + FOREIGN
    classes, left_out = _classes(tree, 2 if _has_splits(tree) else 1, endings)
    for place, files in classes.items():
        if not files:
            inside = [file for file in tree.files if file.startswith(f"{'/'.join(place)}/")]
            raise SourceError(
                f"class {place[-1]!r} is empty: expected files ending in {', '.join(ENDINGS)}; "
                f"got {summary(most_frequent(Counter(map(kind_of, inside)))) or 'none'}"
            )
    labels = tuple(sorted({place[-1] for place in classes}))
    items = [
        Item("/".join(file), labels.index(place[-1]), _split(place))
        for place, files in sorted(classes.items())
        for file in sorted(files)
    ]
    return make_source(tree.name, labels, items, tree.read, most_frequent(left_out))


def read_media(tree: Tree, rule: int = RULE) -> Source:
    """Every medium; its folder is its class, as ``read_classes`` has it, if it lies in one."""
    endings = (FIRST_ENDINGS if rule == FIRST else ENDINGS) + FOREIGN
    depth, left_out = 2 if _has_splits(tree) else 1, Counter(tree.left_out)
    media = sorted(file for file in tree.files if file.lower().endswith(endings))
    left_out.update(map(kind_of, tree.files - frozenset(media)))
    places = [tuple(file.split("/")[:-1])[:depth] for file in media]
    labels = tuple(sorted({place[-1] for place in places if len(place) == depth}))
    items = []
    for file, place in zip(media, places, strict=True):
        label = labels.index(place[-1]) if len(place) == depth else UNLABELLED
        split = ALIASES.get(place[0], place[0]) if place and depth == 2 else ""
        items.append(Item(file, label, split))
    return make_source(tree.name, labels, items, tree.read, most_frequent(left_out))


def looks_like_split(name: str) -> bool:
    """Whether a folder of this name is a split, or was meant to be one."""
    return name.lower() in {*SPLITS, *ALIASES, *MISTAKEN}


def _twins(names: frozenset[str]) -> list[tuple[str, str]]:
    """Pairs of names that are one in NFC."""
    first: dict[str, str] = {}
    pairs = ((first.setdefault(composed(name), name), name) for name in sorted(names))
    return [(one, other) for one, other in pairs if one != other]


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


def _classes(
    tree: Tree, depth: int, endings: tuple[str, ...]
) -> tuple[dict[Parts, list[Parts]], Counter[str]]:
    """Class folder -> its media, both by their parts; folders ``depth`` below the root.

    And how many files were passed over, by kind.
    """
    places = (tuple(folder.split("/")) for folder in tree.folders)
    classes: dict[Parts, list[Parts]] = {place: [] for place in places if len(place) == depth}
    left_out = Counter(tree.left_out)
    for file in tree.files:
        parts = tuple(file.split("/"))
        if not parts[-1].lower().endswith(endings):
            left_out[kind_of(file)] += 1
        elif len(parts) <= depth:
            left_out[f"{kind_of(file)} outside a class"] += 1
        else:
            classes[parts[:depth]].append(parts)
    return classes, left_out


def _with_unlisted(source: Source, tree: Tree) -> Source:
    """The source of a table, and what lies beside it without being named there."""
    listed = {composed(posixpath.normpath(item.id)) for item in source.items} | {LABELS}
    left_out = Counter(tree.left_out)
    for file in set(map(composed, tree.files)) - listed:
        unlisted = file.lower().endswith(ENDINGS + FOREIGN)
        left_out[kind_of(file) + " not in the table" * unlisted] += 1
    return dataclasses.replace(source, left_out=most_frequent(left_out))


def _split(place: Parts) -> str:
    """The split of a class folder; none where the class is the upper folder itself."""
    return ALIASES.get(place[0], place[0]) if len(place) > 1 else ""


def _walk(root: Path, onerror: Callable[[OSError], None] | None = None) -> Tree:
    """Files and folders below a root. A dangling link is a file, and found unreadable later."""
    files, folders, junk = set[str](), set[str](), Counter[str]()
    for inner, below, names, passed in walk_folder(root, onerror):
        junk.update(map(kind_of_junk, passed))
        folders |= {(inner / name).as_posix() for name in below}
        files |= {(inner / name).as_posix() for name in names}
    read = Reading(Files((root,)), lambda id_: Where(path=id_))
    return Tree(root.name, frozenset(files), frozenset(folders), read, junk)


def walk_folder(
    root: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str], list[str]]]:
    """Every folder from a root on: its path from there, its folders, its files, and its junk."""
    for place, below, names in os.walk(root, onerror=onerror, followlinks=True):
        inner = Path(place).relative_to(root)
        linked = len(inner.parts) < LINKED_LEVELS
        junk = [name for name in (*below, *names) if is_junk(name)]
        below[:] = [
            name
            for name in below
            if not is_junk(name) and (linked or not Path(place, name).is_symlink())
        ]
        yield inner, list(below), [name for name in names if not is_junk(name)], junk


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be listed: {error.strerror}") from error
