"""Splits as ranges of the numbers in file names: neighbours are alike and stay together.

Ranges over all classes are taken where they leave no class out: of photos that are numbered through
the people who were asked, nobody is in two splits then. Where files are numbered through one class
after the other, such ranges would give whole classes to one split; there each class has ranges of
its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from media.sources import SPLITS, Item, Source, SourceError
from media.sources.rules import SHARES, check_groups
from training.groups import joined

#: Numbered items that are never parted.
Unit = list[tuple[int, Item]]


def by_number(
    source: Source, fractions: Mapping[str, float] | None, copies: Mapping[str, str]
) -> tuple[Source, str]:
    """Contiguous ranges of the last number in the file name, in the order train, val, test.

    Items with one number are never parted, nor is a group, nor groups whose numbers overlap in a
    range: what belongs together goes where its middle lies. Returns how it was split, too.

    Args:
        copies: item id -> that of the first item with the same bytes, whose number it takes.
    """
    if any(item.split for item in source.items):
        raise SourceError(f"{source.name} is split already: --order number makes all three splits")
    shares = fractions or SHARES
    numbered = sorted(
        ((_number(copies.get(item.id, item.id), source), item) for item in source.items),
        key=lambda pair: (pair[0], pair[1].id),
    )
    keys = [[number, *([item.group] if item.group else [])] for number, item in numbered]
    units: dict[int, Unit] = defaultdict(list)
    for home, pair in zip(joined(keys), numbered, strict=True):
        units[home].append(pair)
    over_all = _cut(list(units.values()), shares)
    within: dict[str, str] = {}
    for of_class in _by_rarest_class(source, list(units.values())):
        within |= _cut(of_class, shares, every=True)
    lost = _absent(source, over_all) > _absent(source, within)
    split_of = within if lost else over_all
    name = _unused_name(source)
    items = [
        dataclasses.replace(item, split=split_of[item.id], group=item.group or f"{name}{number}")
        for number, item in numbered
    ]
    check_groups(source.name, items)
    how = f"splits: ranges of numbers {'within each class' if lost else 'over all classes'}"
    return dataclasses.replace(source, items=tuple(items), made=SPLITS), how


def _number(id_: str, source: Source) -> int:
    numbers = re.findall(r"\d+", Path(id_).stem, flags=re.ASCII)
    if not numbers:
        raise SourceError(f"{source.name}: expected a number in every file name, got {id_!r}")
    return int(numbers[-1])


def _cut(units: Sequence[Unit], shares: Mapping[str, float], every: bool = False) -> dict[str, str]:
    """Item id -> split, by ranges that cut through no unit.

    Args:
        every: give each split a unit as far as they go, train before val before test.
    """
    ranges: list[Unit] = []
    reach = -1  # up to this number the last range holds everything
    for unit in sorted(units, key=lambda unit: unit[0][0]):
        if unit[0][0] > reach:
            ranges.append([])
        reach = max(reach, unit[-1][0])
        ranges[-1] += unit
    total, before, splits = sum(map(len, ranges)), 0, []
    for held in ranges:
        splits.append(_at((before + len(held) / 2) / total, shares))
        before += len(held)
    if every:
        train = min(max(splits.count("train"), 1), max(len(splits) - 2, 1))
        last = min(max(len(splits) - splits.count("test"), train + 1), max(len(splits) - 1, 2))
        splits = [SPLITS[(place >= train) + (place >= last)] for place in range(len(splits))]
    return {
        item.id: split for held, split in zip(ranges, splits, strict=True) for _, item in held
    }


def _at(place: float, shares: Mapping[str, float]) -> str:
    """The split that a place in [0, 1] of the ordered items belongs to."""
    train, val = shares["train"], shares["val"]
    return "train" if place < train else "val" if place < train + val else "test"


def _by_rarest_class(source: Source, units: Sequence[Unit]) -> list[list[Unit]]:
    """Units of one class each; one that holds several is of the rarest of them."""
    counts = Counter(item.label for item in source.items)
    of_class: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        of_class[min({item.label for _, item in unit}, key=lambda c: (counts[c], c))].append(unit)
    return list(of_class.values())


def _absent(source: Source, split_of: Mapping[str, str]) -> tuple[int, int]:
    """How many classes cannot be learned, and in how many splits they are missing in all."""
    present = {(item.label, split_of[item.id]) for item in source.items}
    trained = sum(split == "train" for _, split in present)
    return len(source.labels) - trained, len(SPLITS) * len(source.labels) - len(present)


def _unused_name(source: Source) -> str:
    """What stands before a number where groups that the data name may be numbers as well."""
    groups, before = {item.group for item in source.items}, ""
    while any(re.fullmatch(rf"{before}\d+", group, flags=re.ASCII) for group in groups):
        before += "number "
    return before
