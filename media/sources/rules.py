"""How splits are made where the data give none, and which rule a run was made by.

A rule is a pure function of ids, labels, groups and given splits: the same data give the same
splits on every machine, in whatever order they are listed. Rules never change; a better one gets
the next number, and whoever made something by an older one goes on with that.

    1   each item (or group) by its own hash, whatever its class. File names as they are stored,
        and only the endings of ``formats.FIRST_ENDINGS``
    2   stratified by class, groups whole; names in Unicode's form NFC
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from media.sources.items import FIRST, RULE, Item, Source, SourceError
from media.sources.stratify import stratify

#: Where no item has a split; and where ``val`` is missing, what is taken from ``train`` for it.
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
VAL_SHARES = {"train": 0.95, "val": 0.05}


def with_splits(
    source: Source,
    rule: int = RULE,
    shares: Mapping[str, float] = SHARES,
    val_shares: Mapping[str, float] = VAL_SHARES,
) -> Source:
    """The source with a split for every item; arguments as of ``assign_splits``.

    Raises:
        SourceError: a group lies in two splits.
    """
    items = assign_splits(source.items, rule, shares, val_shares)
    check_groups(source.name, items)
    return dataclasses.replace(source, items=tuple(items), rule=rule, made=_made(source.items))


def assign_splits(
    items: Iterable[Item],
    rule: int = RULE,
    shares: Mapping[str, float] = SHARES,
    val_shares: Mapping[str, float] = VAL_SHARES,
) -> list[Item]:
    """Give every item a split; one that has a split keeps it.

    Args:
        rule: as the head of this module has them.
        shares: of train, val and test, where nothing is given.
        val_shares: of train and val, where both come from a given ``train``.
    """
    items, make = list(items), _by_hash if rule == FIRST else stratify
    made = _made(items)
    if "train" in made:
        return make(items, shares)
    items = [item if item.split else dataclasses.replace(item, split="train") for item in items]
    if not made:
        return items
    halves = iter(make([item for item in items if item.split == "train"], val_shares))
    return [next(halves) if item.split == "train" else item for item in items]


def _made(items: Sequence[Item]) -> tuple[str, ...]:
    """The splits that a rule has to make: all, ``val`` where only that is missing, or none."""
    given = {item.split for item in items}
    if given == {""}:
        return tuple(SHARES)
    return () if "val" in given or not given & {"train", ""} else ("val",)


def _by_hash(items: Sequence[Item], shares: Mapping[str, float]) -> list[Item]:
    """Rule 1: where the hash of its group, or of its id, lies between 0 and 1."""
    return [dataclasses.replace(item, split=_place(item, shares)) for item in items]


def _place(item: Item, shares: Mapping[str, float]) -> str:
    digest = hashlib.sha256((item.group or item.id).encode()).digest()
    value, bound = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split in ("test", "val"):
        bound += shares.get(split, 0.0)
        if value < bound:
            return split
    return "train"


def check_groups(name: str, items: Sequence[Item]) -> None:
    """SourceError where a group lies in two splits.

    One person, film or patient there would let a model be judged on what it knows.
    """
    home: dict[str, str] = {}
    for item in items:
        if item.group and home.setdefault(item.group, item.split) != item.split:
            raise SourceError(
                f"{name}: group {item.group!r} lies in {home[item.group]} and in {item.split}"
            )
