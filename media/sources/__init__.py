"""Labelled media: where the items are, what they are called, which split they belong to.

    folder   CLASS/file or SPLIT/CLASS/file; names that begin with a dot are left out. Where a
             labels.csv lies at its root, that table decides instead
    CSV      header path,label with optional split,group; paths relative to the CSV
    zip, tar, tar.gz   a folder packed, with or without one folder around everything: the same
             rules, the same ids. Files are read in place, nothing is unpacked to disk
    npz      SPLIT_labels with SPLIT_images, or with SPLIT_jpeg (all encoded files end to end,
             uint8) and SPLIT_offsets [N + 1]; optional SPLIT_names, classes. SPLIT_images are
             pictures [N, H, W(, C)], clips [N, T, H, W, C] or scans [N, D, H, W]

An item is one file: a picture, a clip, or a scan; the slices of a DICOM series are packed into one
zip. Below a class a file counts by its ending; a CSV may name any file.

Splits are ``train``, ``val`` and ``test``. Where no item has one, a hash of its group (of its id,
where it has no group) decides: 80, 10 and 10 percent. Where some have one, the others are
``train``; where ``val`` is missing, the hash takes 5 percent of ``train`` for it. It depends on
nothing else: the same files give the same splits to training and to export, which compares hashes
to be sure, and a folder gives the same as its archive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from media.sources.items import SPLITS, Item, Source, SourceError, assign, assign_splits
from media.sources.npz import open_npz
from media.sources.table import COLUMNS, open_csv
from media.sources.tars import open_tar, open_tar_gz
from media.sources.tree import open_folder
from media.sources.zips import open_zip

__all__ = [
    "COLUMNS",
    "SPLITS",
    "Item",
    "Source",
    "SourceError",
    "assign",
    "assign_splits",
    "open_source",
]

OPENERS: dict[str, Callable[[Path], Source]] = {
    ".csv": open_csv,
    ".npz": open_npz,
    ".zip": open_zip,
    ".tar": open_tar,
    ".tar.gz": open_tar_gz,
    ".tgz": open_tar_gz,
}


def open_source(path: Path) -> Source:
    """Open a folder, or a file by its ending; SourceError says what is wrong with either."""
    if path.is_dir():
        return open_folder(path)
    for ending, open_file in OPENERS.items():
        if path.name.lower().endswith(ending) and path.is_file():
            return open_file(path)
    raise SourceError(f"expected a folder or a {', '.join(OPENERS)} file, got {path}")
