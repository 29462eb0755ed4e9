"""What a person is told of labelled data: splits, classes, what is left out or there twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from media.index import Dataset
from media.sources import FIRST, Source, summary

#: Classes of a split that are counted one by one.
TOLD = 60


def about_source(source: Source | Dataset) -> Iterator[str]:
    """How many items of each class are in each split, and what was left out."""
    for split, counts in source.counts().items():
        yield f"{split} {sum(counts)} items: {_classes(source.labels, counts)}"
    if source.left_out:
        yield f"left out: {summary(source.left_out)}"


def how_split(rule: int, made: tuple[str, ...] | list[str]) -> str:
    """Who made the splits, and how."""
    if not made:
        return "splits: as the data give them"
    how = "each item or group by its hash" if rule == FIRST else "of every class, groups whole"
    whence = "val taken from train" if list(made) == ["val"] else f"{', '.join(made)} made"
    return f"splits: {whence} by rule {rule} ({how})"


def about_duplicates(duplicates: Mapping[str, Any]) -> Iterator[str]:
    """What ``Duplicates.as_json`` says; nothing where there are none."""
    for split, count in duplicates.get("within", {}).items():
        yield f"same bytes more than once within {split}: {count}"
    if across := duplicates.get("across"):
        yield f"same bytes in two splits: {across}"
        for one, id_, other, twin in duplicates.get("named", ()):
            yield f"  {one} {id_}, {other} {twin}"


def _classes(labels: tuple[str, ...], counts: list[int]) -> str:
    told = [f"{count} {label}" for label, count in zip(labels, counts, strict=True)][:TOLD]
    rest = counts[TOLD:]
    more = [f"and {min(rest)} to {max(rest)} of each of {len(rest)} more classes"] if rest else []
    return ", ".join(told + more)
