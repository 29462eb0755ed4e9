"""python -m training split FOLDER --out labels.csv: which items teach and which ones judge.

Photos of one person, clips of one film or slices of one patient belong into one split: a model
that has seen the person recognises the photo, and the accuracy says nothing. Where such items
carry neighbouring numbers, ``--order number`` keeps them together.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import os
import re
import sys
from collections import Counter
from pathlib import Path

from media.files import write_atomic
from media.sources import COLUMNS, SPLITS, Item, Source, SourceError, assign, open_source
from media.spec import SpecError


def main(arguments: list[str]) -> int:
    """Write the CSV; the exit status is 0, 1 (it cannot be written) or 2 (bad input)."""
    options = _parser().parse_args(arguments)
    try:
        if options.out.exists():
            raise FileExistsError(f"{options.out} exists already and is never overwritten")
        source = _open(options.folder)
        items = ORDERS[options.order](source, options.fractions)
        write_atomic(options.out, _table(source, items, options.folder, options.out).encode())
    except (SpecError, SourceError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = Counter(item.split for item in items)
    print(", ".join(f"{split} {counts[split]}" for split in SPLITS) + f" items in {options.out}")
    return 0


def by_number(source: Source, fractions: tuple[float, ...]) -> list[Item]:
    """Contiguous ranges of the last number in the file name, in the order train, val, test.

    Items with one number are a group, and a group is never cut: it goes where its middle lies.
    """
    items = [dataclasses.replace(item, group=str(_number(item, source))) for item in source.items]
    items.sort(key=lambda item: (int(item.group), item.id))
    sizes = Counter(item.group for item in items)
    before, split_of = 0, {}
    for group, size in sizes.items():
        split_of[group] = _at((before + size / 2) / len(items), fractions)
        before += size
    return [dataclasses.replace(item, split=split_of[item.group]) for item in items]


def by_hash(source: Source, fractions: tuple[float, ...]) -> list[Item]:
    """The rule that training follows for a folder without splits: a hash of each item's id."""
    _, val, test = fractions
    bounds = {"test": test, "val": test + val}
    return [assign(dataclasses.replace(item, group=""), bounds) for item in source.items]


ORDERS = {"number": by_number, "hash": by_hash}


def _open(folder: Path) -> Source:
    """A CLASS/file folder; one that has splits already is refused."""
    if not folder.is_dir():
        raise SourceError(f"expected a folder with CLASS/file, got {folder}")
    source = open_source(folder)
    first = source.items[0]
    if Path(first.id).parts[0] != source.labels[first.label]:
        raise SourceError(f"{folder} is split already: expected CLASS/file, got {first.id}")
    return source


def _number(item: Item, source: Source) -> int:
    numbers = re.findall(r"\d+", Path(item.id).stem, flags=re.ASCII)
    if not numbers:
        raise SourceError(f"{source.name}: expected a number in every file name, got {item.id!r}")
    return int(numbers[-1])


def _at(place: float, fractions: tuple[float, ...]) -> str:
    """The split that a place in [0, 1] of the ordered items belongs to."""
    train, val, _ = fractions
    return "train" if place < train else "val" if place < train + val else "test"


def _table(source: Source, items: list[Item], folder: Path, out: Path) -> str:
    """The CSV; paths relative to its own folder. SourceError where a split would be empty."""
    counts = Counter(item.split for item in items)
    if empty := [split for split in SPLITS if not counts[split]]:
        raise SourceError(
            f"{source.name}: expected items in every split, got none in {', '.join(empty)} "
            f"of {len(items)} items"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in items:
        path = Path(os.path.relpath(folder / item.id, out.parent)).as_posix()
        writer.writerow((path, source.labels[item.label], item.split, item.group))
    return text.getvalue()


def _fractions(text: str) -> tuple[float, ...]:
    """``0.8,0.1,0.1``: shares of train, val and test."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(
            f"expected three positive shares of train,val,test that add up to 1, got {text!r}"
        )
    return shares


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training split",
        description="Write the splits of a CLASS/file folder as a CSV (path,label,split,group).",
        epilog="Train on it with --data labels.csv. " + " ".join((__doc__ or "").split("\n\n")[1:]),
    )
    parser.add_argument("folder", type=Path, help="one folder per class, files below it")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    parser.add_argument(
        "--order",
        choices=sorted(ORDERS),
        default="hash",
        help="number: contiguous ranges of the last number in the file name, never cutting "
        "between two items with the same number; hash: at random, the same every time",
    )
    parser.add_argument(
        "--fractions", type=_fractions, default=(0.8, 0.1, 0.1), metavar="TRAIN,VAL,TEST"
    )
    return parser
