"""Which classes some shards have: those of a file beside them, or what their labels say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from media.sources.items import SourceError
from media.sources.shard_members import NONE, ShardIndex

#: What says the names of classes, the first one that is there.
CLASSES = ("classes.txt", "classes.json")


def renumbered(codes: np.ndarray, words: tuple[str, ...], places: dict[str, int]) -> np.ndarray:
    """Places among the words of one shard -> among those of all, int32; ``NONE`` stays."""
    table = np.array([*(places[word] for word in words), NONE], np.int32)
    return table[codes]  # -1 is the last


def classes_of(
    root: Path, parts: list[ShardIndex], labelled: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the class of every item, int32 [N].

    Args:
        root: the folder of the first shard.
        labelled: whether every item has to have a label.

    Raises:
        SourceError: a label is none of the classes, or these cannot be read.
    """
    said = {label for part in parts for label in part.said}
    names, numbers = _class_names(root), all(map(_is_number, said))
    if names is None:
        names = _numbered(root, said, labelled) if numbers else tuple(sorted(said))
        places = {name: place for place, name in enumerate(names)}
        if numbers:  # 007 is 7
            places = {label: places[str(int(label))] for label in said}
    else:
        places = {name: place for place, name in enumerate(names)}
        if numbers and not said <= places.keys():
            places = {label: int(label) for label in said if int(label) < len(names)}
    if unknown := sorted(said - places.keys()):
        raise SourceError(
            f"{root.name}: label {unknown[0]!r} is none of the {len(names)} classes"
        )
    targets = [renumbered(part.labels, part.said, places) for part in parts]
    return names, np.concatenate(targets)


def _numbered(root: Path, said: set[str], labelled: bool) -> tuple[str, ...]:
    """What classes are called that only have numbers: all from 0 on, or those of a few items."""
    found = {int(label) for label in said}
    if max(found, default=-1) <= 10 * len(found) + 1000:
        return tuple(map(str, range(max(found, default=-1) + 1)))
    if labelled:  # most of them have no items
        raise SourceError(
            f"{root.name}: expected the classes 0, 1, 2, ..., got the number {max(found)} and only "
            f"{len(found)} numbers; count them from 0 on, or use words"
        )
    return tuple(map(str, sorted(found)))


def _is_number(label: str) -> bool:
    """Whether it can be the number of a class; longer ones are names, such as dates."""
    return label.isascii() and label.isdecimal() and len(label) < 10


def _class_names(root: Path) -> tuple[str, ...] | None:
    """None where no file says them."""
    path = next((root / name for name in CLASSES if (root / name).is_file()), None)
    if path is None:
        return None
    shown = f"{root.name}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text) if path.suffix == ".json" else lines
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SourceError(f"{shown}: expected a list of names")
        "".join(names).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        raise SourceError(f"{shown}: expected JSON: {error}") from error
    except UnicodeError as error:
        raise SourceError(f"{shown}: expected UTF-8: {error}") from error
    if len(set(names)) < len(names):
        raise SourceError(f"{root.name}: expected every class name once, in the order of labels")
    return tuple(names)
