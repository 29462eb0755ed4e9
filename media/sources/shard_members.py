"""What lies in one shard, found by looking through it once.

A shard is a tar in webdataset's convention: members that share a key belong together, the key being
the path up to the first dot of its last part. ``KEY.jpg``, or any other ending that is read, is the
medium; ``KEY.cls`` holds its class, by number or name; ``KEY.json`` may hold ``label``, ``split``
and ``group``, and whatever else. All other members are left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from media.formats import ENDINGS, FOREIGN
from media.sources.items import ALIASES, SPLITS, SourceError
from media.sources.names import is_junk, kind_of, kind_of_junk
from media.sources.tar_walk import BLOCK, Entry, walk_tar
from media.sources.texts import Texts

MEDIA = frozenset(ending.removeprefix(".") for ending in ENDINGS + FOREIGN)
#: Of a .cls or a .json; what is larger says something else.
MAX_NOTE_BYTES = 2**20
#: What a .json may say of its item.
FIELDS = ("label", "split", "group")
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


class Listing:
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
