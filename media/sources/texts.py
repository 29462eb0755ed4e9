"""Many texts as one row of bytes: a few bytes each, and nothing to copy where it is mapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Self, overload

import numpy as np

#: Texts that are picked or read at a time: meanwhile a letter takes 16 bytes, an offset 44.
PIECE = 2**13


@dataclasses.dataclass(frozen=True, eq=False)
class Texts(Sequence[str]):
    """N texts.

    Attributes:
        data: all of them in UTF-8, end to end, uint8 [bytes].
        offsets: where each begins, and where the last ends, int64 [N + 1].
    """

    data: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """UnicodeEncodeError for a text that UTF-8 cannot hold."""
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)  # [N + 1]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def picked(self, places: np.ndarray) -> Self:
        """Those at some places, whole numbers [M], in their order."""
        lengths = np.diff(self.offsets)[places]
        offsets = np.concatenate([[0], np.cumsum(lengths)])  # [M + 1]
        data = np.empty(offsets[-1], np.uint8)
        for start in range(0, len(places), PIECE):
            own = slice(start, start + PIECE)
            first, last = offsets[start], offsets[min(start + PIECE, len(places))]
            moved = np.repeat(self.offsets[places[own]] - offsets[:-1][own], lengths[own])
            data[first:last] = self.data[moved + np.arange(first, last)]
        return type(self)(data, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), PIECE):
            offsets = self.offsets[start : start + PIECE + 1].tolist()
            data = self.data[offsets[0] : offsets[-1]].tobytes()
            for begin, end in pairwise(offsets):
                yield data[begin - offsets[0] : end - offsets[0]].decode()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # IndexError outside; -1 is the last one
        return self.data[self.offsets[place] : self.offsets[place + 1]].tobytes().decode()
