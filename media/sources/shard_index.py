"""What lies in one shard, found once and kept beside it: ``SHARD.tar.index``.

A shard is a tar in webdataset's convention: members that share a key belong together, the key being
the path up to the first dot of its last part. ``KEY.jpg``, or any other ending that is read, is the
medium; ``KEY.cls`` holds its class, by number or name; ``KEY.json`` may hold ``label``, ``split``
and ``group``, and whatever else. All other members are left out.

An index is only what can be found again: one that is damaged, or of a shard of another size or
time, is made anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from media.files import write_atomic
from media.formats import ENDINGS, FOREIGN
from media.sources.items import ALIASES, SPLITS, SourceError
from media.sources.names import is_junk, kind_of, kind_of_junk
from media.sources.tar_walk import BLOCK, Entry, walk_tar
from media.sources.texts import Texts

VERSION = 1
MEDIA = frozenset(ending.removeprefix(".") for ending in ENDINGS + FOREIGN)
#: Of a .cls or a .json; what is larger says something else.
MAX_NOTE_BYTES = 2**20
#: What a .json may say of its item.
FIELDS = ("label", "split", "group")
#: A file that becomes an index, and for how long that may take.
REMAINS, REMAINS_SECONDS = re.compile(r"\..+\.tar\.([0-9a-f]{16}\.)?index\.[a-z0-9_]{8}"), 3600.0
#: What an item has no label, split or group by.
NONE = -1

Advance = Callable[[int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class ShardIndex:
    """N items of one shard, in the order of their bytes.

    Attributes:
        names: of their members.
        starts, sizes: of their bytes in the tar, int64 [N].
        labels: places in ``said``, the labels as they stand there, or ``NONE``, int32 [N].
        splits: places in ``SPLITS``, or ``NONE``, int8 [N].
        groups: places in ``grouped``, or ``NONE``, int32 [N].
        left_out: how many members were passed over, by kind.
        stamp: (bytes, time in ns) of the shard before it was looked through.
    """

    names: Texts
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    said: tuple[str, ...]
    splits: np.ndarray
    groups: np.ndarray
    grouped: tuple[str, ...]
    left_out: Mapping[str, int]
    stamp: tuple[int, int]


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
    made = _Listing(path).made(advance, stamp)
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
        (numbers.dtype, names.data.dtype) == (np.int64, np.uint8)
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


class _Listing:
    """The members of a shard by their keys, while they are found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.media: dict[str, tuple[str, int, int]] = {}  # key -> name, start, size
        self.told: dict[str, dict[str, str]] = {field: {} for field in FIELDS}  # key -> word
        self.left_out: Counter[str] = Counter()

    def made(self, advance: Advance, stamp: tuple[int, int]) -> ShardIndex:
        """All of it; SourceError where a label stands alone."""
        for entry in walk_tar(self.path, advance):
            self._add(entry)
        for field, words in self.told.items():
            for key in sorted(words.keys() - self.media.keys())[:1]:
                raise SourceError(
                    f"{self.path.name}: the {field} of {key!r} names a missing member: expected "
                    f"{key}.jpg or another medium beside it"
                )
        keys, rows = list(self.media), list(self.media.values())
        labels, splits, groups = self.told.values()
        said, grouped = tuple(dict.fromkeys(labels.values())), tuple(dict.fromkeys(groups.values()))
        return ShardIndex(
            Texts.of(name for name, _, _ in rows),
            np.array([start for _, start, _ in rows], np.int64),
            np.array([size for _, _, size in rows], np.int64),
            _codes(keys, labels, said).astype(np.int32),
            said,
            _codes(keys, splits, SPLITS).astype(np.int8),
            _codes(keys, groups, grouped).astype(np.int32),
            grouped,
            self.left_out,
            stamp,
        )

    def _add(self, entry: Entry) -> None:
        name = entry.name
        doubtful = name[:1] in "._" or "/." in name or "/__" in name  # few are
        if doubtful and any(map(is_junk, name.split("/"))):
            self.left_out[kind_of_junk(name)] += 1
            return
        dot = name.find(".", name.rfind("/") + 1)
        key, ending = name[:dot], name[dot + 1 :].lower()
        if dot < 0:
            self.left_out[kind_of(name)] += 1
        elif ending in MEDIA:
            if key in self.media:
                raise SourceError(
                    f"{self.path.name}: two items with one key: {self.media[key][0]!r} and {name!r}"
                )
            self.media[key] = (name, entry.start, entry.size)
        elif ending == "cls":
            self._say("label", key, name, self._note(entry).strip())
        elif ending == "json":
            self._take(key, name, self._note(entry))
        else:
            self.left_out[kind_of(name)] += 1

    def _say(self, field: str, key: str, name: str, word: str) -> None:
        """Take what a member says of its item; SourceError where another one says otherwise."""
        words = self.told[field]
        if not word or words.setdefault(key, word) != word:
            raise SourceError(
                f"{self.path.name}: {name!r}: expected one {field}, got {word!r}"
                + f" after {words[key]!r}" * (key in words)
            )
        if field == "split" and word not in SPLITS:
            raise SourceError(
                f"{self.path.name}: {name!r}: split must be one of {', '.join(SPLITS)}, "
                f"got {word!r}"
            )
        try:
            word.encode()
        except UnicodeEncodeError:
            raise SourceError(
                f"{self.path.name}: {name!r}: expected a {field} in UTF-8, got {word!a}"
            ) from None

    def _note(self, entry: Entry) -> str:
        """The text of a short member."""
        if entry.size <= BLOCK:
            data = bytes(entry.head[: entry.size])
        elif entry.size > MAX_NOTE_BYTES:
            raise SourceError(
                f"{self.path.name}: {entry.name!r} has {entry.size} bytes; expected at most "
                f"{MAX_NOTE_BYTES}"
            )
        else:
            with self.path.open("rb") as stream:
                stream.seek(entry.start)
                data = stream.read(entry.size)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise SourceError(f"{self.path.name}: {entry.name!r}: expected UTF-8") from None

    def _take(self, key: str, name: str, text: str) -> None:
        """What a .json says of label, split and group."""
        try:
            told: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.path.name}: {name!r}: expected JSON: {error}") from error
        if not isinstance(told, dict):
            raise SourceError(f"{self.path.name}: {name!r}: expected a JSON object")
        for field in FIELDS:
            value = told.get(field)
            if not isinstance(value, str | int | None) or isinstance(value, bool):
                raise SourceError(
                    f"{self.path.name}: {name!r}: {field} must be a text or a number, got {value!r}"
                )
            if value is not None and (word := str(value)):
                self._say(field, key, name, ALIASES.get(word, word) if field == "split" else word)


def _codes(keys: list[str], words: dict[str, str], table: tuple[str, ...]) -> np.ndarray:
    """The place in a table of what is said of each key, or ``NONE``, int64 [keys]."""
    places = {word: place for place, word in enumerate(table)}
    return np.array([places[words[key]] if key in words else NONE for key in keys], np.int64)
