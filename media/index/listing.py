"""Labelled media of every kind as an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from media.index.columns import NONE, Columns
from media.index.dataset import Dataset, stamp_of
from media.limits import TRAINER, SourceLimits
from media.sources import (
    RULE,
    SPLITS,
    UNLABELLED,
    Source,
    SourceError,
    list_media,
    open_source,
    with_splits,
)
from media.sources.items import check_classes
from media.sources.shards import Indexing, Shards, as_source, open_shards, quiet
from media.sources.stores import Files, Reading, Tars
from media.sources.texts import Texts

#: The stamp of what could not be looked at.
UNSEEN = (-1, 0)


def open_dataset(
    path: Path,
    rule: int = RULE,
    limits: SourceLimits = TRAINER.source,
    cache: Path | None = None,
    indexing: Indexing = quiet,
) -> Dataset:
    """Open what ``open_source`` opens, with a split for every item; nothing is decoded.

    Args:
        rule: that of whoever made splits of these data before; the newest by default.
        limits: of archives.
        cache: a folder for the indexes of shards, where nothing can be written beside these.
        indexing: shows how far shards without an index have been looked through.

    Raises:
        SourceError: what is wrong with the data.
    """
    if shards := open_shards(path, cache, indexing):
        found = np.bincount(shards.targets, minlength=len(shards.labels))
        check_classes(shards.name, shards.labels, dict(enumerate(found.tolist())))
        return index_shards(shards, rule)
    stamp = _stamp_if_there(path)
    return index(open_source(path, rule, limits), stamp)


def open_media(
    path: Path,
    rule: int = RULE,
    split: bool = False,
    limits: SourceLimits = TRAINER.source,
    cache: Path | None = None,
    indexing: Indexing = quiet,
) -> Dataset:
    """Open what ``open_dataset`` opens, or one file; items need no label, and classes no items.

    Args:
        rule, limits, cache, indexing: as of ``open_dataset``.
        split: whether all items shall have a split, as training gives them; it takes a label of
            every item, or the splits as they stand in the data. Else they stay as they are there.

    Raises:
        SourceError: what is wrong with the data.
    """
    if shards := open_shards(path, cache, indexing, labelled=False):
        if not len(shards.targets):
            raise SourceError(f"{shards.name}: expected media, got none")
        return index_shards(shards, rule, split and _may_split(shards.targets, shards.splits))
    stamp = _stamp_if_there(path)
    source = list_media(path, rule, limits)
    labels = np.array([item.label for item in source.items])
    splits = np.array([_place(item.split) for item in source.items])
    if split and _may_split(labels, splits):
        source = with_splits(source, rule)
    return index(source, stamp)


def _may_split(labels: np.ndarray, splits: np.ndarray) -> bool:
    """Whether splits can be made, of labels [N]; SourceError where there are neither."""
    labelled = bool((labels != UNLABELLED).all())
    if not labelled and (splits == NONE).all():
        raise SourceError("expected splits in the data, or a label of every item to make them by")
    return labelled


def index_shards(shards: Shards, rule: int = RULE, split: bool = True) -> Dataset:
    """Shards as columns; objects are made, and let go, only where splits have to be.

    Args:
        split: whether every item shall have one.
    """
    splits = shards.splits
    made: tuple[str, ...] = ()
    if split and ((splits == NONE).any() or SPLITS.index("val") not in splits):
        source = with_splits(as_source(shards), rule)
        splits = np.array([SPLITS.index(item.split) for item in source.items], np.int8)
        made = source.made
    _check_groups(shards, splits)
    count = len(splits)
    columns = Columns(
        ids=shards.ids,
        paths=shards.ids,
        labels=shards.targets,
        splits=splits,
        groups=shards.groups,
        names=Texts.of(shards.grouped),
        sizes=shards.sizes,
        times=np.zeros(count, np.int64),
        files=shards.shard,
        starts=shards.starts,
        stored=shards.sizes,
        crcs=np.zeros(count, np.uint32),
        deflated=np.zeros(count, bool),
    )
    told = shards.stamps, shards.left_out, rule, made
    return Dataset(shards.name, shards.labels, columns, Tars(shards.files), *told)


def _check_groups(shards: Shards, splits: np.ndarray) -> None:
    """SourceError where a group lies in two splits, as ``rules.check_groups`` has it."""
    own = np.flatnonzero(shards.groups != NONE)
    home = np.full(len(shards.grouped), NONE, np.int8)
    home[shards.groups[own]] = splits[own]
    if len(apart := own[home[shards.groups[own]] != splits[own]]):
        group = shards.groups[apart[0]]
        one, two = (SPLITS[place] for place in (splits[apart[0]], home[group]))
        raise SourceError(
            f"{shards.name}: group {shards.grouped[group]!r} lies in {one} and in {two}"
        )


def index(source: Source, stamp: tuple[int, int] = UNSEEN) -> Dataset:
    """The items of a source as columns; files of their own are asked for their size and time.

    Args:
        stamp: (bytes, time in ns) of the archive, before it was listed.
    """
    read = source.read
    assert isinstance(read, Reading)  # as everything that is opened from a disk has it
    places = [read.find(item.id) for item in source.items]
    store = read.store
    stamps: tuple[tuple[int, int], ...] = ()
    if isinstance(store, Files):
        found = [_stamp_if_there(store.holder(where)) for where in places]
        sizes, times = np.array(found, np.int64).T
    else:
        sizes, times = np.array([where.size for where in places], np.int64), np.zeros(len(places))
        stamps = (stamp,) * len(getattr(store, "files", ()))
    groups = sorted({item.group for item in source.items} - {""})
    names = {name: place for place, name in enumerate(groups)}
    ids = Texts.of(item.id for item in source.items)
    pairs = zip(places, source.items, strict=True)
    elsewhere = any(where.path not in ("", item.id) for where, item in pairs)
    columns = Columns(
        ids=ids,
        paths=Texts.of(where.path for where in places) if elsewhere else ids,
        labels=np.array([item.label for item in source.items], np.int32),
        splits=np.array([_place(item.split) for item in source.items], np.int8),
        groups=np.array([names.get(item.group, NONE) for item in source.items], np.int32),
        names=Texts.of(names),
        sizes=np.ascontiguousarray(sizes),
        times=times.astype(np.int64),
        files=np.array([where.file for where in places], np.int32),
        starts=np.array([where.start for where in places], np.int64),
        stored=np.array([where.stored for where in places], np.int64),
        crcs=np.array([where.crc for where in places], np.uint32),
        deflated=np.array([where.deflated for where in places], bool),
    )
    told = source.left_out, source.rule, source.made
    return Dataset(source.name, source.labels, columns, store, stamps, *told)


def _place(split: str) -> int:
    return SPLITS.index(split) if split else NONE


def _stamp_if_there(path: Path) -> tuple[int, int]:
    """What cannot be looked at is an unreadable item, and told where items are read."""
    try:
        return stamp_of(path)
    except OSError:
        return UNSEEN
