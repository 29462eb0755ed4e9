"""Labelled media: where the items are, what they are called, which split they belong to.

    folder   CLASS/file or SPLIT/CLASS/file; names that begin with a dot are left out
    CSV      header path,label with optional split,group; paths relative to the CSV
    npz      SPLIT_labels with SPLIT_images [N, H, W(, C)] uint8, or with SPLIT_jpeg (all encoded
             files end to end, uint8) and SPLIT_offsets [N + 1]; optional SPLIT_names, classes

Splits are ``train``, ``val`` and ``test``. Where no item has one, a hash of its group (of its id,
where it has no group) decides: 80, 10 and 10 percent. Where some have one, the others are
``train``; where ``val`` is missing, the hash takes 5 percent of ``train`` for it. It depends on
nothing else: the same data, given in the same form, are split in the same way by training and by
export, which compares hashes to be sure.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}
#: Folders of these names are splits that somebody meant, not classes.
MISTAKEN = ("training", "testing")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
#: Pictures that no decoder here reads: listed all the same, so that they are refused by name.
FOREIGN = {".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff"}
COLUMNS = ("path", "label", "split", "group")
#: Upper bounds of the hash, in order, for items without a split.
SHARES = {"test": 0.1, "val": 0.2}

Arrays = dict[str, np.ndarray]


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
        read: item id -> encoded bytes, or an array that is stored decoded.
    """

    name: str
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    read: Callable[[str], bytes | np.ndarray]

    def split(self, name: str) -> list[Item]:
        """The items of one split, in order; SourceError if there are none."""
        items = [item for item in self.items if item.split == name]
        if not items:
            counts = Counter(item.split for item in self.items)
            raise SourceError(f"{self.name}: expected items in split {name!r}, got {dict(counts)}")
        return items


def open_source(path: Path) -> Source:
    """Open a folder, a .csv or an .npz; anything else raises SourceError."""
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".csv" and path.is_file():
        return _open_csv(path)
    if path.suffix == ".npz" and path.is_file():
        return _open_npz(path)
    raise SourceError(f"expected a folder, a .csv or an .npz file, got {path}")


# --- folder -------------------------------------------------------------------------------------


def _open_folder(root: Path) -> Source:
    folders = _subfolders(root)
    names = {ALIASES.get(folder.name, folder.name) for folder in folders}
    alike = {name for name in names if name.lower() in {*SPLITS, *ALIASES, *MISTAKEN}}
    if alike and not names <= set(SPLITS):
        raise SourceError(
            f"{root.name}: expected either classes or the splits {', '.join(SPLITS)}, "
            f"got {', '.join(sorted(names))}"
        )
    if alike:
        found = [
            (file, class_folder.name, ALIASES.get(folder.name, folder.name))
            for folder in folders
            for class_folder in _subfolders(folder)
            for file in _media(class_folder)
        ]
    else:
        found = [(file, folder.name, "") for folder in folders for file in _media(folder)]
    labels = tuple(sorted({label for _, label, _ in found}))
    items = [
        Item(str(file.relative_to(root)), labels.index(label), split)
        for file, label, split in found
    ]
    return _source(root.name, labels, items, lambda id_: (root / id_).read_bytes())


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _media(folder: Path) -> list[Path]:
    """Every media file below a class folder; none at all is an error."""
    files = [path for path in sorted(folder.rglob("*")) if _is_medium(path)]
    if not files:
        endings = ", ".join(sorted(SUFFIXES))
        raise SourceError(f"class {folder.name!r} is empty: expected files ending in {endings}")
    return files


def _is_medium(path: Path) -> bool:
    """By name alone: a dangling link is listed too, and found unreadable later."""
    named = path.suffix.lower() in SUFFIXES | FOREIGN and path.name[0] != "."
    return named and not path.is_dir()


# --- CSV ----------------------------------------------------------------------------------------


def _open_csv(path: Path) -> Source:
    try:
        rows = _rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path.name}: expected a CSV in UTF-8: {error}") from error
    labels = tuple(sorted({row["label"] for row in rows}))
    items = [
        Item(row["path"], labels.index(row["label"]), _split(row, path.name), row.get("group", ""))
        for row in rows
    ]
    root = path.parent
    missing = [item.id for item in items if not (root / item.id).is_file()]
    if missing:
        raise SourceError(
            f"{path.name}: {len(missing)} of {len(items)} files are missing, first {missing[0]!r}"
        )
    return _source(path.stem, labels, items, lambda id_: (root / id_).read_bytes())


def _rows(path: Path) -> list[dict[str, str]]:
    """Every row, stripped; SourceError where a column is unknown, missing or too many."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, restkey="", restval="")
        header = tuple(reader.fieldnames or ())
        if not {"path", "label"} <= set(header) or not set(header) <= set(COLUMNS):
            raise SourceError(
                f"{path.name}: expected columns path,label and optionally split,group; "
                f"got {','.join(header)}"
            )
        rows = []
        for row in reader:
            if "" in row:
                raise SourceError(
                    f"{path.name}: line {reader.line_num} has more than {len(header)} columns"
                )
            rows.append({key: value.strip() for key, value in row.items()})
            if not rows[-1]["path"] or not rows[-1]["label"]:
                raise SourceError(f"{path.name}: line {reader.line_num} lacks a path or a label")
    return rows


def _split(row: dict[str, str], name: str) -> str:
    split = ALIASES.get(row.get("split", ""), row.get("split", ""))
    if split not in ("", *SPLITS):
        raise SourceError(f"{name}: split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


# --- npz ----------------------------------------------------------------------------------------


def _open_npz(path: Path) -> Source:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's own words for pickled objects are of use, those for a cut archive are not
        reason = "it holds pickled objects" if "pickle" in str(error) else type(error).__name__
        raise SourceError(f"{path.name}: expected an npz of plain arrays, {reason}") from error
    splits = [split for split in SPLITS if f"{split}_labels" in arrays]
    if not splits:
        raise SourceError(f"{path.name}: expected train_labels, got keys {list(arrays)[:8]}")
    items: list[Item] = []
    media: dict[str, bytes | np.ndarray] = {}
    for split in splits:
        for name, target, medium in _npz_rows(arrays, split, path.name):
            items.append(Item(f"{split}/{name}", target, split))
            media[items[-1].id] = medium
    return _source(path.stem, _npz_labels(arrays, items), items, media.__getitem__)


def _npz_rows(
    arrays: Arrays, split: str, file: str
) -> Iterable[tuple[str, int, bytes | np.ndarray]]:
    """Name, label and medium of every item of one split."""
    media = _npz_media(arrays, split, file)
    targets = arrays[f"{split}_labels"].reshape(-1)
    if targets.dtype.kind not in "iu":
        raise SourceError(f"{file}: expected whole numbers in {split}_labels, got {targets.dtype}")
    names = arrays.get(f"{split}_names", np.arange(len(targets))).astype(str).tolist()
    if not len(media) == len(targets) == len(names):
        raise SourceError(
            f"{file}: {split} has {len(media)} media, {len(targets)} labels, {len(names)} names"
        )
    return zip(names, targets.tolist(), media, strict=True)


def _npz_media(arrays: Arrays, split: str, file: str) -> Sequence[bytes] | np.ndarray:
    """The media of one split: a list of encoded files, or an array whose rows are images."""
    if f"{split}_images" in arrays:
        return arrays[f"{split}_images"]
    if f"{split}_jpeg" not in arrays or f"{split}_offsets" not in arrays:
        raise SourceError(f"{file}: expected {split}_images, or {split}_jpeg with {split}_offsets")
    data, offsets = arrays[f"{split}_jpeg"].tobytes(), arrays[f"{split}_offsets"].astype(np.int64)
    return [data[start:end] for start, end in pairwise(offsets)]


def _npz_labels(arrays: Arrays, items: list[Item]) -> tuple[str, ...]:
    """Class names; numbers where the archive gives none, up to the last that can have items."""
    if "classes" in arrays:
        return tuple(arrays["classes"].astype(str).tolist())
    last = max((item.label for item in items), default=-1)
    return tuple(str(index) for index in range(min(last, len(items)) + 1))


# --- what all kinds share -----------------------------------------------------------------------


def _source(
    name: str,
    labels: tuple[str, ...],
    items: list[Item],
    read: Callable[[str], bytes | np.ndarray],
) -> Source:
    if len(labels) < 2:
        raise SourceError(f"{name}: expected at least two classes, got {list(labels)}")
    repeated = [id_ for id_, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise SourceError(f"{name}: {repeated[0]!r} is listed more than once")
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


def _check_groups(name: str, items: list[Item]) -> None:
    """One person, film or patient in two splits would let a model be judged on what it knows."""
    home: dict[str, str] = {}
    for item in items:
        if item.group and home.setdefault(item.group, item.split) != item.split:
            raise SourceError(
                f"{name}: group {item.group!r} lies in {home[item.group]} and in {item.split}"
            )


def assign_splits(items: Iterable[Item]) -> list[Item]:
    """Give every item a split, as the head of this module says."""
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
