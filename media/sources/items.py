"""What every kind of source gives: labelled items, their splits, and a way to read them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

SPLITS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}
#: Upper bounds of the hash, in order, for items without a split.
SHARES = {"test": 0.1, "val": 0.2}

#: Item id -> encoded bytes, or an array that is stored decoded; OSError where it cannot be read.
Read = Callable[[str], bytes | np.ndarray]


class SourceError(ValueError):
    """Labelled data that cannot be used. The message says what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One labelled medium; ``id`` is unique in its source and means something to its owner."""

    id: str
    label: int
    split: str
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """Items of one data set and the way to read them.

    Attributes:
        labels: class names; an item's label is an index into them.
        read: item id -> encoded bytes, or an array that is stored decoded. It opens what it needs
            and closes it again, so that any thread may call it at any time.
    """

    name: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    read: Read

    def split(self, name: str) -> list[Item]:
        """The items of one split, in order; SourceError if there are none."""
        items = [item for item in self.items if item.split == name]
        if not items:
            counts = Counter(item.split for item in self.items)
            raise SourceError(f"{self.name}: expected items in split {name!r}, got {dict(counts)}")
        return items


def make_source(name: str, labels: tuple[str, ...], items: list[Item], read: Read) -> Source:
    """A source whose items have passed what is asked of every kind, and have their splits."""
    if not items:
        raise SourceError(f"{name}: expected media of at least two classes, got none")
    if len(labels) < 2:
        raise SourceError(f"{name}: expected at least two classes, got {list(labels)}")
    _check_ids(name, items)
    counts = Counter(item.label for item in items)
    unknown = [label for label in counts if not 0 <= label < len(labels)]
    if unknown:
        raise SourceError(f"{name}: label {unknown[0]} is outside the {len(labels)} classes")
    empty = [label for index, label in enumerate(labels) if not counts[index]]
    if empty:
        raise SourceError(f"{name}: class {empty[0]!r} has no items")
    items = assign_splits(items)
    _check_groups(name, items)
    return Source(name, labels, tuple(items), read)


def _check_ids(name: str, items: list[Item]) -> None:
    repeated = [id_ for id_, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise SourceError(f"{name}: {repeated[0]!r} is listed more than once")
    for item in items:
        try:
            item.id.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{name}: expected names in UTF-8, got {item.id!a}") from None


def _check_groups(name: str, items: list[Item]) -> None:
    """One person, film or patient in two splits would let a model be judged on what it knows."""
    home: dict[str, str] = {}
    for item in items:
        if item.group and home.setdefault(item.group, item.split) != item.split:
            raise SourceError(
                f"{name}: group {item.group!r} lies in {home[item.group]} and in {item.split}"
            )


def assign_splits(items: Iterable[Item]) -> list[Item]:
    """Give every item a split, as the head of this package says."""
    items = list(items)
    shares = {} if any(item.split for item in items) else SHARES
    items = [item if item.split else assign(item, shares) for item in items]
    if any(item.split == "val" for item in items):
        return items
    return [assign(item, {"val": 0.05}) if item.split == "train" else item for item in items]


def assign(item: Item, bounds: dict[str, float]) -> Item:
    """The item in the first split whose bound its hash, uniform in [0, 1), stays below."""
    digest = hashlib.sha256((item.group or item.id).encode()).digest()
    value = int.from_bytes(digest[:8], "big") / 2**64
    split = next((split for split, bound in bounds.items() if value < bound), "train")
    return dataclasses.replace(item, split=split)
