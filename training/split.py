"""python -m training split DATA --out labels.csv: which items teach and which ones judge.

Photos of one person, clips of one film or slices of one patient belong into one split: a model
that has seen the person recognises the photo, and the accuracy says nothing. Say what belongs
together by one of --group-column, --group-level, --group-regex and --group-dicom-patient; groups
that the data name already stay whole, and a way that would part one of them is refused. Where such
items carry neighbouring numbers, --order number keeps them together: in ranges over all classes
or, where a class would then be absent from a split, in ranges within each class; the output says
which.

Files with the same bytes count as one item, of whatever name or class: they go into one split, and
groups of the data that share such files become one group. The output says how many.

Splits that the data give are kept: then only a missing val is taken from train, and groups are
written. A group in two given splits is refused by name.

Of DICOM's PatientID only a digest is written, 16 hexadecimal digits of an HMAC-SHA-256 whose key is
a hash of all the files: the same data give the same digests, and without the data nobody can try
numbers. File names are written as they are.
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
from collections.abc import Mapping
from pathlib import Path

from media.files import write_atomic
from media.sources import COLUMNS, RULE, SPLITS, Source, SourceError, list_source, with_splits
from media.sources.rules import SHARES, VAL_SHARES
from media.sources.shards import find_shards
from media.sources.tree import LABELS
from media.spec import SpecError
from training.about_data import about_source, how_split
from training.copies import about_copies, first_copies, join_copies
from training.groups import by_column, by_level, by_patient, by_regex, regroup
from training.ranges import by_number


def main(arguments: list[str]) -> int:
    """Write the CSV; the exit status is 0, 1 (it cannot be written) or 2 (bad input)."""
    options = _parser().parse_args(arguments)
    try:
        if options.out.exists():
            raise FileExistsError(f"{options.out} exists already and is never overwritten")
        listed = _grouped(_open(options), options)
        copies = first_copies(listed)
        source, how = ORDERS[options.order](
            join_copies(listed, copies), options.fractions, copies
        )
        root = options.data if options.data.is_dir() else options.data.parent
        write_atomic(options.out, _table(source, root, options.out).encode())
    except (SpecError, SourceError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(how, *about_copies(listed, copies), *about_source(source), sep="\n")
    groups = len({item.group for item in source.items} - {""})
    counts = Counter(item.split for item in source.items)
    shown = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    print(f"{shown} items in {options.out}" + f", {groups} groups" * bool(groups))
    return 0


def by_hash(
    source: Source, fractions: Mapping[str, float] | None, copies: Mapping[str, str]
) -> tuple[Source, str]:
    """The rule that training follows where splits are missing, for other shares too.

    Returns how it was split, too. Copies are groups by now.
    """
    val_shares = VAL_SHARES
    if fractions is not None:
        held = fractions["train"] + fractions["val"]
        val_shares = {split: fractions[split] / held for split in VAL_SHARES}
    made = with_splits(source, RULE, fractions or SHARES, val_shares)
    return made, how_split(made.rule, made.made)


ORDERS = {"number": by_number, "hash": by_hash}


def _open(options: argparse.Namespace) -> Source:
    """A folder or a CSV, with the splits and groups that it gives."""
    if find_shards(options.data):
        raise SourceError(
            f"{options.data} names tar shards, whose items no CSV can name: expected a folder with "
            'CLASS/file or a CSV. Say what belongs together by "group" in the .json of each item; '
            'and its split by "split" there, or by the shard\'s name, such as train-000.tar'
        )
    if not options.data.is_dir() and options.data.suffix.lower() != ".csv":
        raise SourceError(f"expected a folder with CLASS/file or a CSV, got {options.data}")
    source = list_source(options.data, extra_columns=True)
    given = {item.split for item in source.items}
    if "val" in given and not _way(options):
        raise SourceError(
            f"{options.data} is split already: expected CLASS/file, or a way to group "
            f"(--group-...), got {source.items[0].id}"
        )
    return source


def _way(options: argparse.Namespace) -> str:
    """The option that says what belongs together; empty where there is none."""
    ways = ("group_column", "group_level", "group_regex", "group_dicom_patient")
    given = [way for way in ways if getattr(options, way) not in (None, False)]
    return f"--{given[0].replace('_', '-')}" if given else ""


def _grouped(source: Source, options: argparse.Namespace) -> Source:
    """The source in the groups that the options ask for; those of the data stay whole."""
    if not (way := _way(options)):
        return source
    if options.group_column is not None:
        table = options.data / LABELS if options.data.is_dir() else options.data
        if not table.is_file():
            raise SourceError(f"--group-column needs a CSV or a folder with {LABELS}, got {table}")
        name = by_column(table, options.group_column)
    elif options.group_level is not None:
        name = by_level(options.group_level)
    elif options.group_regex is not None:
        name = by_regex(options.group_regex)
    else:
        name = by_patient(source)
    old = len({item.group for item in source.items} - {""})
    items = regroup(source, way, name)
    if old:
        new = len({item.group for item in items})
        print(f"groups: the data name {old}, each of them whole in one of the {new} of {way}")
    return dataclasses.replace(source, items=tuple(items))


def _table(source: Source, root: Path, out: Path) -> str:
    """The CSV; paths relative to its own folder. SourceError where a split would be empty."""
    counts = Counter(item.split for item in source.items)
    if empty := [split for split in source.made if not counts[split]]:
        raise SourceError(
            f"{source.name}: expected items in every split, got none in {', '.join(empty)} "
            f"of {len(source.items)} items, which may be too few, or too few groups"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in source.items:
        path = Path(os.path.relpath(root / item.id, out.parent)).as_posix()
        writer.writerow((path, source.labels[item.label], item.split, item.group))
    return text.getvalue()


def _fractions(text: str) -> dict[str, float]:
    """``0.8,0.1,0.1``: shares of train, val and test."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(
            f"expected three positive shares of train,val,test that add up to 1, got {text!r}"
        )
    return dict(zip(SPLITS, shares, strict=True))


def _level(text: str) -> int:
    """``2`` or ``-1``, not 0."""
    if not re.fullmatch(r"-?[1-9]\d*", text, flags=re.ASCII):
        raise argparse.ArgumentTypeError(
            f"expected a folder's place, 1 from the data or -1 from the file, got {text!r}"
        )
    return int(text)


def _parser() -> argparse.ArgumentParser:
    first, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m training split",
        description="Write the splits of a folder or a CSV as a CSV (path,label,split,group).",
        epilog="Train on it with --data labels.csv.\n\n" + "\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="a folder (CLASS/file, or a labels.csv) or a CSV")
    add("--out", type=Path, required=True, metavar="CSV")
    add(
        "--order",
        choices=sorted(ORDERS),
        default="hash",
        help="number: contiguous ranges of the last number in the file name, never cutting "
        "between two items with the same number, nor through a group; over all classes, or within "
        "each class where one would be absent from a split; hash: at random, the same every time, "
        "alike from every class",
    )
    add(
        "--fractions", type=_fractions, metavar="TRAIN,VAL,TEST", help="(default 0.8,0.1,0.1; a "
        "val that is taken from a given train: 5 percent of it)",
    )  # fmt: skip
    ways = parser.add_mutually_exclusive_group().add_argument
    ways("--group-column", metavar="NAME", help="what has one value in this column of the CSV")
    ways(
        "--group-level", type=_level, metavar="N", help="what lies in folders of one name: 1 is "
        "the first folder on the way to the file (of CLASS/PATIENT/file the class), 2 the next; "
        "-1 the folder that holds the file",
    )  # fmt: skip
    ways(
        "--group-regex", metavar="PATTERN", help="what the brackets of the pattern match in the "
        "file's name, or in its path where the pattern has a /: '^(p[0-9]+)_'",
    )  # fmt: skip
    ways("--group-dicom-patient", action="store_true", help="scans with one PatientID")
    return parser
