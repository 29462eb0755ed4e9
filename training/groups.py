"""Which items belong together: one person, film or patient, by what the data or a user says.

A way to group gives a name for every item. Groups that the data name already stay whole: a way
that would part one of them contradicts the data and is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from media import MediaError
from media.limits import TRAINER
from media.scans.dicom.patient import patient_id
from media.sources import Item, Source, SourceError
from media.sources.table import read_column

#: Items that an error names.
TOLD = 5
#: Hexadecimal digits of a patient's digest.
DIGITS = 16

#: Item -> the name of its group; empty or None where there is none to be found.
Name = Callable[[Item], str | None]


def regroup(source: Source, how: str, name: Name) -> list[Item]:
    """The items in the groups that a way of grouping gives.

    Args:
        how: what messages call the way.

    Raises:
        SourceError: an item has no group by it, or a group of the data would be parted.
    """
    names = [name(item) or "" for item in source.items]
    if lacking := [item.id for item, found in zip(source.items, names, strict=True) if not found]:
        told = ", ".join(map(repr, lacking[:TOLD])) + ", ..." * (len(lacking) > TOLD)
        raise SourceError(
            f"{source.name}: {how} gives {len(lacking)} of {len(names)} items no group: {told}"
        )
    _check_whole(source, how, names)
    return [
        Item(item.id, item.label, item.split, found)
        for item, found in zip(source.items, names, strict=True)
    ]


def _check_whole(source: Source, how: str, names: Sequence[str]) -> None:
    """Every group that the data name lies in one group of the new ones."""
    home: dict[str, str] = {}
    for item, found in zip(source.items, names, strict=True):
        if item.group and home.setdefault(item.group, found) != found:
            raise SourceError(
                f"{source.name}: {how} would part group {item.group!r} of the data, into "
                f"{home[item.group]!r} and {found!r}"
            )


def joined(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """For every item the first of those that it belongs with: they share a key, or others do."""
    home = list(range(len(keys)))

    def root(place: int) -> int:
        while home[place] != place:
            home[place] = place = home[home[place]]
        return place

    first: dict[Hashable, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            one, two = sorted((root(first.setdefault(key, place)), root(place)))
            home[two] = one
    return [root(place) for place in range(len(keys))]


def by_column(table: Path, column: str) -> Name:
    """By a column of the CSV that lists the items."""
    values = read_column(table, column)
    return lambda item: values[item.id]


def by_level(level: int) -> Name:
    """By a folder: 1 is the first on the way from the data to the file, -1 the one it lies in.

    Folders of one name are one group, whatever class they lie in.
    """
    place = level - 1 if level > 0 else level

    def name(item: Item) -> str | None:
        folders = [part for part in PurePosixPath(item.id).parts[:-1] if part not in ("/", "..")]
        return folders[place] if -len(folders) <= place < len(folders) else None

    return name


def by_regex(pattern: str) -> Name:
    """By what the brackets of a pattern match in a file's name, or in its path if it has a ``/``.

    Raises:
        SourceError: it is no regular expression, or has not one pair of brackets.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SourceError(f"expected a regular expression, got {pattern!r}: {error}") from error
    if compiled.groups != 1:
        raise SourceError(
            f"expected one pair of brackets round the group, got {compiled.groups} in {pattern!r}"
        )

    def name(item: Item) -> str | None:
        found = compiled.search(item.id if "/" in pattern else PurePosixPath(item.id).name)
        return found.group(1) if found else None

    return name


def by_patient(source: Source) -> Name:
    """By the PatientID of DICOM files and of zipped series, as a digest.

    Patients' numbers can be guessed, and a plain hash be looked up by trying them all. So the
    digest is keyed (HMAC-SHA-256) by a hash of all the files' contents: the same data give the
    same groups, on every machine, and who has not got the data can neither compute the key nor
    try numbers. The number itself is written nowhere, and no error quotes it.

    Raises:
        SourceError: an item that cannot be read, is no DICOM, or names no patient or several.
    """
    contents, patients = [], {}
    for item in source.items:
        try:
            data = source.read(item.id)
            if isinstance(data, np.ndarray):
                raise MediaError("expected a DICOM file, got an array")
            patients[item.id] = patient_id(data, TRAINER.scan)
        except (MediaError, OSError) as error:
            raise SourceError(f"{source.name}: {item.id!r} names no patient: {error}") from None
        contents.append(hashlib.sha256(data).digest())
    key = hashlib.sha256(b"".join(sorted(contents))).digest()

    def name(item: Item) -> str:
        return hmac.new(key, patients[item.id].encode(), "sha256").hexdigest()[:DIGITS]

    return name
