"""An npz as a source: decoded media or encoded files in arrays, one set of keys per split."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from media.sources.items import SPLITS, UNLABELLED, Item, Source, SourceError, make_source
from media.sources.stores import WHOLE, Held, Reading, Where

Arrays = dict[str, np.ndarray]


def open_npz(path: Path, labelled: bool = True) -> Source:
    """Read all of its arrays into memory, once: items are views of them. Nothing is unpickled.

    Args:
        labelled: whether it has to have labels.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # numpy's own words for pickled objects are of use, those for a cut archive are not
        reason = "it holds pickled objects" if "pickle" in str(error) else type(error).__name__
        raise SourceError(f"{path.name}: expected an npz of plain arrays, {reason}") from error
    splits = [split for split in SPLITS if f"{split}_labels" in arrays]
    if not splits and not labelled:
        splits = [s for s in SPLITS if {f"{s}_images", f"{s}_jpeg"} & arrays.keys()]
    if not splits:
        wanted = "train_labels" if labelled else "train_images or train_jpeg"
        raise SourceError(f"{path.name}: expected {wanted}, got keys {list(arrays)[:8]}")
    items: list[Item] = []
    held: list[np.ndarray] = []
    places: dict[str, Where] = {}
    for split in splits:
        for name, target, where in _rows(arrays, split, path.name):
            items.append(Item(f"{split}/{name}", target, split))
            places[items[-1].id] = where._replace(file=len(held))
        decoded = f"{split}_images" in arrays
        held.append(arrays[f"{split}_images" if decoded else f"{split}_jpeg"])
    read = Reading(Held(tuple(held)), places.__getitem__)
    return make_source(path.stem, _labels(arrays, items), items, read)


def _rows(arrays: Arrays, split: str, file: str) -> Iterable[tuple[str, int, Where]]:
    """Name, label and place of every item of one split."""
    media = _media(arrays, split, file)
    unlabelled = np.full(len(media), UNLABELLED)
    targets = arrays.get(f"{split}_labels", unlabelled).reshape(-1)
    if targets.dtype.kind not in "iu":
        raise SourceError(f"{file}: expected whole numbers in {split}_labels, got {targets.dtype}")
    names = arrays.get(f"{split}_names", np.arange(len(targets))).astype(str).tolist()
    if not len(media) == len(targets) == len(names):
        raise SourceError(
            f"{file}: {split} has {len(media)} media, {len(targets)} labels, {len(names)} names"
        )
    return zip(names, targets.tolist(), media, strict=True)


def _media(arrays: Arrays, split: str, file: str) -> list[Where]:
    """Where the media of one split are: encoded files end to end, or rows of an array."""
    if f"{split}_images" in arrays:
        images = arrays[f"{split}_images"]
        return [Where(0, row, WHOLE, image.nbytes) for row, image in enumerate(images)]
    if f"{split}_jpeg" not in arrays or f"{split}_offsets" not in arrays:
        raise SourceError(f"{file}: expected {split}_images, or {split}_jpeg with {split}_offsets")
    data, offsets = arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"].astype(np.int64).tolist()
    bounds = (slice(start, end).indices(len(data)) for start, end in pairwise(offsets))
    return [Where(0, start, max(0, end - start), max(0, end - start)) for start, end, _ in bounds]


def _labels(arrays: Arrays, items: list[Item]) -> tuple[str, ...]:
    """Class names; numbers where the archive gives none, up to the last that can have items."""
    if "classes" in arrays:
        return tuple(arrays["classes"].astype(str).tolist())
    last = max((item.label for item in items), default=-1)
    return tuple(str(index) for index in range(min(last, len(items)) + 1))
