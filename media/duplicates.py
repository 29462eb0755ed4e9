"""The same bytes more than once: in two splits they let a model be judged on what it knows.

Files are compared by their digests alone, so that a picture that was stored anew is another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from media.contents import Contents
from media.index.dataset import Dataset
from media.sources import Source, SourceError
from media.sources.stores import Files

#: Pairs that are named.
TOLD = 10


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Which items of some splits have the bytes of another item.

    Attributes:
        across: how many contents lie in more than one split.
        named: (split, id, split, id) of the first of them.
        within: how many items repeat another one of their own split, by split.
    """

    across: int
    named: tuple[tuple[str, str, str, str], ...]
    within: Mapping[str, int]

    def check(self, source: Source | Dataset) -> None:
        """SourceError that names what lies in two splits of the source, and what to do."""
        if not self.across:
            return
        told = "; ".join(f"{a!r} in {one} and {b!r} in {two}" for one, a, two, b in self.named)
        more = f"; and {self.across - len(self.named)} more" * (self.across > len(self.named))
        raise SourceError(
            f"{source.name}: the same bytes lie in two splits: {told}{more}. "
            f"{self._advice(source)}--allow-duplicates goes on, and report and card say so"
        )

    def _advice(self, source: Source | Dataset) -> str:
        """What keeps splits apart: what is made can be made otherwise, what is given cannot."""
        movable = {"train", *source.made} if source.made else set()
        among = [{one, two} <= movable for one, _, two, _ in self.named]
        split = "python -m training split DATA --out CSV puts equal bytes into one split. "
        if isinstance(source, Dataset) and not isinstance(source.store, Files):
            split = (
                'Give them one "group" in their .json, in tar shards, or unpack the data: '
                "python -m training split FOLDER --out CSV puts equal bytes into one split. "
            )
        remove = "Remove one of each where splits are given. "
        return split * any(among) + remove * (not all(among))

    def public(self) -> dict[str, Any]:
        """As plain JSON, without ids: they may be paths."""
        return {"across": self.across, "within": dict(self.within)}

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.public() | {"named": [list(pair) for pair in self.named]}


def let_through(notes: Mapping[str, Any]) -> bool:
    """Whether a run's notes say to go on where bytes lie in two splits, or nobody looked then.

    What was begun before anybody looked keeps its splits.
    """
    allowed = notes.get("config", {}).get("allow_duplicates", False)
    return bool(allowed) or "duplicates" not in notes.get("data", {})


def find_duplicates(contents: Mapping[str, Contents]) -> Duplicates:
    """Compare all items of some splits, given by name; that takes about 30 bytes for each.

    Half of a digest tells nearly all items apart; only those that share it are looked at whole.
    """
    splits = list(contents)
    ends = np.cumsum([0, *(len(contents[split].ids) for split in splits)])  # [S + 1]
    halves = np.concatenate([_words(contents[split].digests)[:, 0] for split in splits])  # [N]
    order = np.argsort(halves)
    halves = halves[order]
    again = halves[1:] == halves[:-1]
    shared = np.sort(order[np.append(again, False) | np.append(False, again)])  # [M]
    del halves, order, again
    split_of = np.searchsorted(ends, shared, side="right") - 1  # [M]
    place = shared - ends[split_of]  # [M], in its split
    whole = np.empty((len(shared), 2), np.uint64)
    for number, split in enumerate(splits):
        own = split_of == number
        whole[own] = _words(contents[split].digests)[place[own]]
    order = np.lexsort((shared, whole[:, 1], whole[:, 0]))
    order = order[whole[order].any(axis=1)]  # without those that have no bytes
    same = (whole[order[1:]] == whole[order[:-1]]).all(axis=1)
    apart = split_of[order[1:]] != split_of[order[:-1]]
    repeats = split_of[order[1:]][same & ~apart]
    pairs = np.flatnonzero(same & apart)
    named = []
    for pair in pairs[:TOLD]:
        one, two = order[pair], order[pair + 1]
        named.append((
            splits[split_of[one]], contents[splits[split_of[one]]].ids[place[one]],
            splits[split_of[two]], contents[splits[split_of[two]]].ids[place[two]],
        ))  # fmt: skip
    counts = np.bincount(repeats, minlength=len(splits)).tolist()
    within = {split: count for split, count in zip(splits, counts, strict=True) if count}
    return Duplicates(len(pairs), tuple(sorted(named)), within)


def _words(digests: np.ndarray) -> np.ndarray:
    """Digests [N, 16] as two whole numbers each, [N, 2]."""
    return np.ascontiguousarray(digests).view(np.uint64)
