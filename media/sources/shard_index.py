"""What lies in one shard, found once and kept beside it: ``SHARD.tar.index``.

An index is only what can be found again: one that is damaged, or of a shard of another size or
time, is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from media.files import write_atomic
from media.sources.items import SPLITS, SourceError
from media.sources.shard_members import NONE, Advance, Listing, ShardIndex
from media.sources.texts import Texts

#: Of what is found in a shard; 1 took one that was cut in some places for a whole one.
VERSION = 2
#: A file that becomes an index, and for how long that may take.
REMAINS, REMAINS_SECONDS = re.compile(r"\..+\.tar\.([0-9a-f]{16}\.)?index\.[a-z0-9_]{8}"), 3600.0


def shard_index(
    path: Path,
    cache: Path | None = None,
    advance: Advance = lambda count: None,
    labelled: bool = True,
) -> ShardIndex:
    """The index of a shard: the kept one, or made now and kept.

    Args:
        cache: a folder for it, where nothing can be written beside the shard.
        advance: called with the number of bytes that were looked through.
        labelled: whether every item has to have a label.

    Raises:
        SourceError: what is wrong with the shard.
        OSError: it cannot be read.
    """
    found = path.stat()
    stamp = found.st_size, found.st_mtime_ns
    places = [path.with_name(f"{path.name}.index")]
    if cache:
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
        places.append(cache / f"{path.name}.{name}.index")
    for place in places:
        if kept := _load(place, stamp):
            advance(found.st_size)
            return _labelled(path, kept) if labelled else kept
    made = Listing(path).made(advance, stamp)
    if labelled:
        _labelled(path, made)
    _keep(_packed(made), places)
    return made


def _keep(data: bytes, places: list[Path]) -> None:
    """Write an index to the first place that takes it; a warning says where none does."""
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, data)
        except OSError as error:  # a full disk, another's folder, one that is read-only
            reason = error.strerror or error
        else:
            return
    warnings.warn(
        f"no index of shards can be kept in {' or '.join(str(place.parent) for place in places)} "
        f"({reason}): they are looked through whenever they are opened",
        stacklevel=2,
    )


def clear_remains(folder: Path) -> None:
    """Remove what killed writes of indexes left in a folder, as far as this user may."""
    old = time.time() - REMAINS_SECONDS
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if REMAINS.fullmatch(path.name) and path.stat().st_mtime < old:
                path.unlink()


def _labelled(path: Path, index: ShardIndex) -> ShardIndex:
    """The index, in which every item has a label."""
    if len(lacking := np.flatnonzero(index.labels == NONE)):
        raise SourceError(
            f"{path.name}: {index.names[int(lacking[0])]!r} has no label: expected a .cls of the "
            'same key, or a .json with "label"'
        )
    return index


def _packed(index: ShardIndex) -> bytes:
    stream = io.BytesIO()
    told = {"said": index.said, "grouped": index.grouped, "left_out": dict(index.left_out)}
    np.savez(
        stream,
        stamp=np.array([VERSION, *index.stamp], np.int64),
        told=np.frombuffer(json.dumps(told).encode(), np.uint8),
        names=index.names.data,
        offsets=index.names.offsets,
        numbers=np.stack([index.starts, index.sizes, index.labels, index.splits, index.groups]),
    )
    return stream.getvalue()


def _load(path: Path, stamp: tuple[int, int]) -> ShardIndex | None:
    """None where there is none, or one that does not fit the shard."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            fits = kept["stamp"].tolist() == [VERSION, *stamp]
            return _unpacked(kept, stamp) if fits else None
    except Exception:  # damaged bytes raise nearly every type there is; it can be found again
        return None


def _unpacked(kept: Mapping[str, np.ndarray], stamp: tuple[int, int]) -> ShardIndex | None:
    """What ``_packed`` wrote; None, or any error, for what cannot be so of such a shard."""
    names, numbers = Texts(kept["names"], kept["offsets"]), kept["numbers"]
    told = json.loads(kept["told"].tobytes())
    starts, sizes, labels, splits, groups = numbers
    said, grouped, left_out = tuple(told["said"]), tuple(told["grouped"]), dict(told["left_out"])
    ", ".join((*said, *grouped, *left_out)).encode()
    sound = (
        numbers.dtype == np.int64
        and names.data.dtype == np.uint8
        and (numbers.shape, names.data.ndim) == ((5, len(names)), 1)
        and _are_texts(names)
        and _lie_within(starts, stamp[0] + 1)
        and bool(((sizes >= 0) & (sizes <= stamp[0] - starts)).all())
        and _lie_within(labels - NONE, len(said) + 1)
        and _lie_within(splits - NONE, len(SPLITS) + 1)
        and _lie_within(groups - NONE, len(grouped) + 1)
        and all(type(count) is int and count > 0 for count in left_out.values())
    )
    if not sound:
        return None
    codes = labels.astype(np.int32), said, splits.astype(np.int8), groups.astype(np.int32)
    return ShardIndex(names, starts, sizes, *codes, grouped, left_out, stamp)


def _are_texts(names: Texts) -> bool:
    """Whether offsets part a text in UTF-8 into names, none of them empty."""
    data, offsets = names.data, names.offsets
    data.tobytes().decode()
    rising = offsets.dtype == np.int64 and (np.diff(offsets) > 0).all()
    whole = rising and offsets[0] == 0 and offsets[-1] == len(data)
    return bool(whole and ((data[offsets[:-1]] & 0xC0) != 0x80).all())  # none begins in a letter


def _lie_within(numbers: np.ndarray, end: int) -> bool:
    return bool(((numbers >= 0) & (numbers < end)).all())
