"""Labelled media: where the items are, what they are called, which split they belong to.

    folder   CLASS/file or SPLIT/CLASS/file
    CSV      header path,label with optional split,group; paths relative to the CSV
    npz      SPLIT_labels with SPLIT_images [N, H, W(, C)] uint8, or with SPLIT_jpeg (all encoded
             files end to end, uint8) and SPLIT_offsets [N + 1]; optional SPLIT_names, classes

Splits are ``train``, ``val`` and ``test``. Items without a split get one from a hash of their
group (of their id, where they have no group): 80, 10 and 10 percent; where only ``val`` is
missing, 5 percent of ``train`` become ``val``. The hash depends on nothing else, so training and
export always agree.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test")
ALIASES = {"valid": "val", "validation": "val"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
COLUMNS = ("path", "label", "split", "group")


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
    if names and names <= set(SPLITS):
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
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SourceError(
            f"class {folder.name!r} is empty: expected files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return files


# --- CSV ----------------------------------------------------------------------------------------


def _open_csv(path: Path) -> Source:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        header = tuple(reader.fieldnames or ())
        if not {"path", "label"} <= set(header) or not set(header) <= set(COLUMNS):
            raise SourceError(
                f"{path.name}: expected columns path,label and optionally split,group; "
                f"got {','.join(header)}"
            )
        rows = [{key: (value or "").strip() for key, value in row.items()} for row in reader]
    labels = tuple(sorted({row["label"] for row in rows}))
    if "" in labels:
        raise SourceError(f"{path.name}: a row has no label")
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


def _split(row: dict[str, str], name: str) -> str:
    split = ALIASES.get(row.get("split", ""), row.get("split", ""))
    if split not in ("", *SPLITS):
        raise SourceError(f"{name}: split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


# --- npz ----------------------------------------------------------------------------------------


def _open_npz(path: Path) -> Source:
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path.name}: not a readable npz archive") from error
    with archive:
        splits = [split for split in SPLITS if f"{split}_labels" in archive]
        if not splits:
            raise SourceError(f"{path.name}: expected train_labels, got keys {archive.files[:8]}")
        items: list[Item] = []
        media: dict[str, bytes | np.ndarray] = {}
        for split in splits:
            arrays = _npz_media(archive, split, path.name)
            targets = archive[f"{split}_labels"].reshape(-1)
            if len(arrays) != len(targets):
                raise SourceError(
                    f"{path.name}: {split} has {len(arrays)} media and {len(targets)} labels"
                )
            names = archive.get(f"{split}_names", np.arange(len(targets)).astype(str))
            for name, target, array in zip(names, targets, arrays, strict=True):
                items.append(Item(f"{split}/{name}", int(target), split))
                media[items[-1].id] = array
        labels = _npz_labels(archive, items)
    return _source(path.stem, labels, items, media.__getitem__)


def _npz_media(archive: np.lib.npyio.NpzFile, split: str, name: str) -> Sequence:
    """The media of one split: a list of encoded files, or an array whose rows are images."""
    if f"{split}_images" in archive:
        return archive[f"{split}_images"]
    if f"{split}_jpeg" not in archive or f"{split}_offsets" not in archive:
        raise SourceError(
            f"{name}: expected {split}_images, or {split}_jpeg with {split}_offsets"
        )
    data, offsets = archive[f"{split}_jpeg"].tobytes(), archive[f"{split}_offsets"].tolist()
    return [data[start:end] for start, end in zip(offsets, offsets[1:], strict=False)]


def _npz_labels(archive: np.lib.npyio.NpzFile, items: list[Item]) -> tuple[str, ...]:
    if "classes" in archive:
        return tuple(str(label) for label in archive["classes"])
    return tuple(str(index) for index in range(max(item.label for item in items) + 1))


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
    return Source(name, labels, tuple(assign_splits(items)), read)


def assign_splits(items: Iterable[Item]) -> list[Item]:
    """Give every item a split, as the head of this module says."""
    items = list(items)
    given = {item.split for item in items} - {""}
    shares = {"test": 0.1, "val": 0.2} if not given else {}
    items = [
        item if item.split else dataclasses.replace(item, split=_share(item, shares))
        for item in items
    ]
    if "val" in {item.split for item in items}:
        return items
    return [
        dataclasses.replace(item, split=_share(item, {"val": 0.05}))
        if item.split == "train"
        else item
        for item in items
    ]


def _share(item: Item, bounds: dict[str, float]) -> str:
    """The first split whose upper bound the item's hash, uniform in [0, 1), stays below."""
    digest = hashlib.sha256((item.group or item.id).encode()).digest()
    value = int.from_bytes(digest[:8], "big") / 2**64
    return next((split for split, bound in bounds.items() if value < bound), "train")
