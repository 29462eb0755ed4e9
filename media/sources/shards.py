"""Tar shards in webdataset's convention (``media.sources.shard_members``) as one data set.

DATA is a folder whose only data are tars, or a pattern: ``DIR/train-{000..146}.tar``,
``DIR/{train,val}-*.tar``. An item is called after its shard and its member. Splits are said by a
.json, or by a word of the shard's name (``train-000.tar``, ``imagenet-val-7.tar``). Groups are said
by a .json alone: tars are cut by size, so that what belongs together may lie in two, and a shard
holds much that does not. Class names are the lines of ``classes.txt``, or the list
in ``classes.json``, beside the first shard; without them labels are sorted, and numbers are classes
called by their numbers. Whatever else lies in the folder is counted and passed over.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from media.formats import ENDINGS, FOREIGN
from media.sources.items import ALIASES, SPLITS, Item, Source, SourceError, make_source
from media.sources.names import is_junk, kind_of, kind_of_junk, most_frequent
from media.sources.shard_classes import CLASSES, classes_of, renumbered
from media.sources.shard_index import clear_remains, shard_index
from media.sources.shard_members import NONE, Advance, ShardIndex
from media.sources.stores import Reading, Tars, Where
from media.sources.texts import Texts
from media.sources.tree import walk_folder

#: Endings of tars that cannot be read in place.
COMPRESSED = (".tgz", *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4")))
#: Bytes in all -> a context that gives what is to be called with those just looked through.
Indexing = Callable[[int], AbstractContextManager[Advance]]


class Shards(NamedTuple):
    """N items in the order of shards and of their bytes; arrays as ``ShardIndex`` has them."""

    name: str
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    ids: Texts
    shard: np.ndarray  # int32 [N]
    starts: np.ndarray
    sizes: np.ndarray
    targets: np.ndarray  # int32 [N]
    splits: np.ndarray
    groups: np.ndarray
    grouped: tuple[str, ...]
    left_out: dict[str, int]
    stamps: tuple[tuple[int, int], ...]  # of each file


@contextlib.contextmanager
def quiet(size: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda count: None


def find_shards(path: Path) -> list[Path]:
    """The shards that a path names, in order; none where it names something else.

    Raises:
        SourceError: a shard of a pattern is missing.
    """
    if os.path.isdir(path):  # noqa: PTH112  # a pattern may be longer than a path can be
        names = [name for name in sorted(one.name for one in path.iterdir()) if not is_junk(name)]
        return _only_shards(path, names)
    is_pattern = path.name.endswith(".tar") and re.search(r"[{*?\[]", str(path))
    if not is_pattern or os.path.exists(path):  # noqa: PTH110
        return []
    found: list[Path] = []
    for pattern in _expanded(str(path)):
        matching = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  # of absolute ones too
        if not matching or not Path(matching[0]).is_file():
            raise SourceError(f"{path}: expected shards, {pattern} is missing")
        found += map(Path, matching)
    return list(dict.fromkeys(found))


def _only_shards(folder: Path, names: list[str]) -> list[Path]:
    """The tars of a folder that has no classes and no table."""
    tars = [name for name in names if name.lower().endswith(".tar")]
    if "labels.csv" in names or not tars or any(_holds_media(folder / name) for name in names):
        return []
    if packed := [name for name in names if name.lower().endswith(COMPRESSED)]:
        raise SourceError(
            f"{folder}: {packed[0]} is compressed: expected shards that are plain tars, beside "
            f"{tars[0]}; unpack it to a .tar, or move it elsewhere"
        )
    return [folder / name for name in tars]


def _holds_media(folder: Path) -> bool:
    """Whether it is a folder with a medium in it or below: a class, or a split."""
    endings = ENDINGS + FOREIGN
    walk = walk_folder(folder)  # nothing of a file
    return any(name.lower().endswith(endings) for _, _, names, _ in walk for name in names)


def _beside(folder: Path, files: list[Path]) -> Counter[str]:
    """What lies in the folder of some shards and is passed over, by kind."""
    own = {*CLASSES, *(path.name for path in files), *(f"{path.name}.index" for path in files)}
    kinds: Counter[str] = Counter()
    for inner, _, names, junk in walk_folder(folder):
        kinds.update(kind_of(name) for name in names if inner.parts or name not in own)
        kinds.update(map(kind_of_junk, junk))
    return kinds


def _expanded(pattern: str) -> list[str]:
    """``a-{08..10}{x,y}.tar`` -> a-08x.tar, a-08y.tar, a-09x.tar, ..."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        first, last = numbers.groups()
        parts = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    else:
        parts = found[1].split(",")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [one for part in parts for one in _expanded(head + part + tail)]


def open_shards(
    path: Path,
    cache: Path | None = None,
    indexing: Indexing = quiet,
    labelled: bool = True,
) -> Shards | None:
    """The shards that a path names, with what lies beside them in their folder; None without any.

    Args:
        cache, indexing, labelled: as of ``list_shards``.

    Raises:
        SourceError: what is wrong with the data.
    """
    if not (files := find_shards(path)):
        return None
    shards = list_shards(files, cache, indexing, labelled)
    if not os.path.isdir(path):  # noqa: PTH112  # as in ``find_shards``
        return shards
    left_out = most_frequent(Counter(shards.left_out) + _beside(path, files))
    return shards._replace(left_out=left_out)


def list_shards(
    files: list[Path],
    cache: Path | None = None,
    indexing: Indexing = quiet,
    labelled: bool = True,
) -> Shards:
    """What lies in some shards; an index is made of those that have none.

    Args:
        cache: a folder for indexes, where nothing can be written beside the shards.
        labelled: whether every item has to have a label.

    Raises:
        SourceError: what is wrong with the data.
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in files]))
    for folder in {*(path.parent for path in files), *([cache] if cache else [])}:
        clear_remains(folder)
    with indexing(sum(path.stat().st_size for path in files)) as advance:
        parts = [shard_index(path, cache, advance, labelled) for path in files]
    counts = [len(part.starts) for part in parts]
    labels, targets = classes_of(root, parts, labelled)
    grouped = tuple(sorted({name for part in parts for name in part.grouped}))
    places = {name: place for place, name in enumerate(grouped)}
    stems = [path.absolute().relative_to(root).as_posix()[: -len(".tar")] for path in files]
    ids = (f"{stem}/{name}" for stem, part in zip(stems, parts, strict=True) for name in part.names)
    told = zip(files, parts, strict=True)
    left_out = sum((Counter(part.left_out) for part in parts), Counter[str]())
    return Shards(
        root.name,
        tuple(files),
        labels,
        Texts.of(ids),
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        targets,
        np.concatenate([_splits(path, part) for path, part in told]),
        np.concatenate([renumbered(part.groups, part.grouped, places) for part in parts]),
        grouped,
        most_frequent(left_out),
        tuple(part.stamp for part in parts),
    )


def as_source(shards: Shards) -> Source:
    """The same as objects, for whoever looks at few items; splits as they are given."""
    words = {place: split for place, split in enumerate(SPLITS)} | {NONE: ""}
    groups = {place: group for place, group in enumerate(shards.grouped)} | {NONE: ""}
    told = zip(
        shards.ids, shards.targets.tolist(), shards.splits.tolist(), shards.groups.tolist(),
        strict=True,
    )  # fmt: skip
    items = [Item(id_, label, words[split], groups[group]) for id_, label, split, group in told]
    places = {item.id: place for place, item in enumerate(items)}

    def find(id_: str) -> Where:
        place = places[id_]
        size = int(shards.sizes[place])
        return Where(int(shards.shard[place]), int(shards.starts[place]), size, size)

    read = Reading(Tars(shards.files), find)
    return make_source(shards.name, shards.labels, items, read, shards.left_out)


def _splits(path: Path, part: ShardIndex) -> np.ndarray:
    """Those that items say, else the one that the shard's name says."""
    words = {ALIASES.get(word, word) for word in re.split(r"[^A-Za-z]+", path.stem)}
    named = [place for place, split in enumerate(SPLITS) if split in words]
    own = named[0] if len(named) == 1 else NONE
    return np.where(part.splits == NONE, np.int8(own), part.splits)
