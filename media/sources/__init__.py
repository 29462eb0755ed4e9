"""Labelled media: where the items are, what they are called, which split they belong to.

    folder   CLASS/file or SPLIT/CLASS/file; names that begin with a dot are left out. Where a
             labels.csv lies at its root, that table decides instead
    CSV      header path,label with optional split,group; paths relative to the CSV
    txt      a path a line, relative to the text; only where nothing needs a label
    zip, tar, tar.gz   a folder packed, with or without one folder around everything: the same
             rules, the same ids. Files are read in place, nothing is unpacked to disk
    tars     a folder of tar shards, or a pattern that names them: webdataset's convention
             (``media.sources.shards``)
    npz      SPLIT_labels with SPLIT_images, or with SPLIT_jpeg (all encoded files end to end,
             uint8) and SPLIT_offsets [N + 1]; optional SPLIT_names, classes. SPLIT_images are
             pictures [N, H, W(, C)], clips [N, T, H, W, C] or scans [N, D, H, W]

An item is one file: a picture, a clip, or a scan; the slices of a DICOM series are packed into one
zip. Below a class a file counts by its ending (``media.formats``); a CSV may name any file. Names
are told in Unicode's form NFC and found in NFC and NFD. What is passed over is counted by kind.

Splits are ``train``, ``val`` and ``test``. Where no item has one, they are made: 80, 10 and 10
percent of every class, groups whole. Where some have one, the others are ``train``; where ``val``
is missing, 5 percent of ``train`` are taken for it. Given splits are never changed. What is made
depends on ids, labels and groups alone (``media.sources.rules``): the same files give the same
splits to training and to export, which compares hashes to be sure, and a folder gives the same as
its archive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from media.limits import STRANGER, SourceLimits
from media.sources.items import (
    FIRST,
    RULE,
    SPLITS,
    UNLABELLED,
    Item,
    Source,
    SourceError,
    check_classes,
    make_source,
)
from media.sources.lines import open_lines
from media.sources.names import summary
from media.sources.npz import open_npz
from media.sources.rules import assign_splits, with_splits
from media.sources.shards import as_source, open_shards
from media.sources.stores import Files, Reading, Where
from media.sources.table import COLUMNS, open_csv
from media.sources.tars import open_tar, open_tar_gz
from media.sources.tree import Tree, open_folder, open_tree
from media.sources.zips import open_zip

__all__ = [
    "COLUMNS",
    "FIRST",
    "RULE",
    "SPLITS",
    "UNLABELLED",
    "Item",
    "Source",
    "SourceError",
    "assign_splits",
    "list_media",
    "list_source",
    "open_source",
    "summary",
    "with_splits",
]

ARCHIVES: dict[str, Callable[[Path, SourceLimits], Tree]] = {
    ".zip": open_zip,
    ".tar": open_tar,
    ".tar.gz": open_tar_gz,
    ".tgz": open_tar_gz,
}
ENDINGS = (".csv", ".npz", *ARCHIVES)


def open_source(path: Path, rule: int = RULE, limits: SourceLimits = STRANGER.source) -> Source:
    """Open a folder, or a file by its ending, with a split for every item.

    Args:
        rule: that of whoever made splits of these data before; the newest by default.
        limits: of archives.

    Raises:
        SourceError: what is wrong with the data.
    """
    return with_splits(list_source(path, rule, limits=limits), rule)


def list_source(
    path: Path,
    rule: int = RULE,
    extra_columns: bool = False,
    limits: SourceLimits = STRANGER.source,
) -> Source:
    """The items as the data give them; ``split`` is empty where they give none.

    Args:
        extra_columns: whether a CSV may have others than ``COLUMNS``, which mean nothing here.

    Raises:
        SourceError: what is wrong with the data.
    """
    if shards := open_shards(path):
        source = as_source(shards)
    elif found := _opened(path, rule, extra_columns, limits):
        source = found
    else:
        known = ", ".join(ENDINGS)
        raise SourceError(f"expected a folder, a pattern of shards or a {known} file, got {path}")
    check_classes(source.name, source.labels, Counter(item.label for item in source.items))
    return source


def list_media(path: Path, rule: int = RULE, limits: SourceLimits = STRANGER.source) -> Source:
    """The items of anything but shards, or one file of any other ending, with or without labels.

    Raises:
        SourceError: what is wrong with the data, or that there are none.
    """
    source = _opened(path, rule, True, limits, labelled=False)
    if source is None and path.is_file():
        read = Reading(Files((path.parent,)), lambda id_: Where(path=id_))
        source = make_source(path.name, (), [Item(path.name, UNLABELLED, "")], read)
    if source is None:
        raise SourceError(f"expected a folder, a pattern of shards or a file, got {path}")
    if not source.items:
        left = summary(source.left_out)
        raise SourceError(f"{source.name}: expected media, got none{left and f' beside {left}'}")
    labels = [item.label for item in source.items]
    if max(labels) >= (count := len(source.labels)) or min(labels) < UNLABELLED:
        raise SourceError(f"{source.name}: a label is outside the {count} classes")
    return source


def _opened(
    path: Path, rule: int, extra_columns: bool, limits: SourceLimits, labelled: bool = True
) -> Source | None:
    """What is no shards; None where it is no source."""
    if path.is_dir():
        return open_folder(path, rule, extra_columns, labelled)
    name = path.name.lower()
    if path.is_file() and name.endswith(".csv"):
        return open_csv(path, rule, extra_columns=extra_columns, labelled=labelled)
    if path.is_file() and name.endswith(".txt") and not labelled:
        return open_lines(path)
    if path.is_file() and name.endswith(".npz"):
        return open_npz(path, labelled)
    for ending, open_archive in ARCHIVES.items():
        if path.is_file() and name.endswith(ending):
            return open_tree(open_archive(path, limits), rule, labelled)
    return None
