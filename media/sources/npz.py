"""An npz as a source: decoded media or encoded files in arrays, one set of keys per split."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from media.sources.items import SPLITS, Item, Source, SourceError, make_source

Arrays = dict[str, np.ndarray]


def open_npz(path: Path) -> Source:
    """Read all of its arrays into memory, once: items are views of them. Nothing is unpickled."""
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
        for name, target, medium in _rows(arrays, split, path.name):
            items.append(Item(f"{split}/{name}", target, split))
            media[items[-1].id] = medium
    return make_source(path.stem, _labels(arrays, items), items, media.__getitem__)


def _rows(
    arrays: Arrays, split: str, file: str
) -> Iterable[tuple[str, int, bytes | np.ndarray]]:
    """Name, label and medium of every item of one split."""
    media = _media(arrays, split, file)
    targets = arrays[f"{split}_labels"].reshape(-1)
    if targets.dtype.kind not in "iu":
        raise SourceError(f"{file}: expected whole numbers in {split}_labels, got {targets.dtype}")
    names = arrays.get(f"{split}_names", np.arange(len(targets))).astype(str).tolist()
    if not len(media) == len(targets) == len(names):
        raise SourceError(
            f"{file}: {split} has {len(media)} media, {len(targets)} labels, {len(names)} names"
        )
    return zip(names, targets.tolist(), media, strict=True)


def _media(arrays: Arrays, split: str, file: str) -> Sequence[bytes] | np.ndarray:
    """The media of one split: a list of encoded files, or an array whose rows are items."""
    if f"{split}_images" in arrays:
        return arrays[f"{split}_images"]
    if f"{split}_jpeg" not in arrays or f"{split}_offsets" not in arrays:
        raise SourceError(f"{file}: expected {split}_images, or {split}_jpeg with {split}_offsets")
    data, offsets = arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"].astype(np.int64)
    return [data[start:end].tobytes() for start, end in pairwise(offsets)]


def _labels(arrays: Arrays, items: list[Item]) -> tuple[str, ...]:
    """Class names; numbers where the archive gives none, up to the last that can have items."""
    if "classes" in arrays:
        return tuple(arrays["classes"].astype(str).tolist())
    last = max((item.label for item in items), default=-1)
    return tuple(str(index) for index in range(min(last, len(items)) + 1))
