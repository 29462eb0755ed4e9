"""What every kind of source gives: labelled items, their splits, and a way to read them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

SPLITS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}
#: The first and the newest rule of reading names and making splits (``media.sources.rules``).
FIRST, RULE = 1, 2
#: Label of an item that has none.
UNLABELLED = -1

#: Item id -> encoded bytes, or an array that is stored decoded; OSError where it cannot be read.
Read = Callable[[str], bytes | np.ndarray]


class SourceError(ValueError):
    """Labelled data that cannot be used. The message says what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One medium; ``id`` is unique in its source and means something to its owner.

    Attributes:
        label: a class, or ``UNLABELLED`` where a source needs none.
    """

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
        left_out: how many files of each kind were passed over, by its name, e.g. ``.txt``.
        rule: by which names were read and missing splits made (``media.sources.rules``).
        made: the splits that the rule made; the others were given.
    """

    name: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    read: Read
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rule: int = RULE
    made: tuple[str, ...] = ()

    def split(self, name: str) -> list[Item]:
        """The items of one split, in order; SourceError if there are none."""
        items = [item for item in self.items if item.split == name]
        if not items:
            counts = Counter(item.split for item in self.items)
            raise SourceError(f"{self.name}: expected items in split {name!r}, got {dict(counts)}")
        return items

    def present(self) -> list[str]:
        """The splits that have items."""
        found = {item.split for item in self.items}
        return [split for split in SPLITS if split in found]

    def counts(self) -> dict[str, list[int]]:
        """Items of every class, by split, for the splits that have any."""
        found = Counter((item.split, item.label) for item in self.items)
        classes = range(len(self.labels))
        return {split: [found[split, label] for label in classes] for split in self.present()}


def make_source(
    name: str,
    labels: tuple[str, ...],
    items: list[Item],
    read: Read,
    left_out: Mapping[str, int] | None = None,
) -> Source:
    """A source as its data say it; SourceError for ids that are no text, or there twice."""
    _check_ids(name, items)
    return Source(name, labels, tuple(items), read, left_out or {})


def check_classes(name: str, labels: tuple[str, ...], counts: Mapping[int, int]) -> None:
    """SourceError where there are no two classes, or one has no items; counts are by label."""
    if not counts:
        raise SourceError(f"{name}: expected media of at least two classes, got none")
    if len(labels) < 2:
        raise SourceError(f"{name}: expected at least two classes, got {list(labels)}")
    unknown = [label for label in counts if not 0 <= label < len(labels)]
    if unknown:
        raise SourceError(f"{name}: label {unknown[0]} is outside the {len(labels)} classes")
    empty = [label for index, label in enumerate(labels) if not counts.get(index)]
    if empty:
        raise SourceError(f"{name}: class {empty[0]!r} has no items")


def _check_ids(name: str, items: list[Item]) -> None:
    repeated = [id_ for id_, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise SourceError(f"{name}: {repeated[0]!r} is listed more than once")
    for item in items:
        try:
            item.id.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{name}: expected names in UTF-8, got {item.id!a}") from None
