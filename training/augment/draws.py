"""Order and random draws, each a pure function of (seed, step, sample).

Nothing here keeps state: a run that is killed and resumed draws what it would have drawn.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np

Bits = TypeVar("Bits", np.ndarray, np.uint64)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def epoch_order(seed: int, epoch: int, items: int) -> np.ndarray:
    """The permutation of one epoch, int64 [items]."""
    return _generator(seed, epoch).permutation(items)


def sharded_order(seed: int, epoch: int, shards: np.ndarray, window: int) -> np.ndarray:
    """The permutation of one epoch where items lie in shards, int64 [items].

    Shards are permuted, and the items of ``window`` shards that follow each other are shuffled
    among themselves: whoever reads on is in few files at a time.

    Args:
        shards: that each item lies in, whole numbers [items].
        window: shards.
    """
    random = _generator(seed, epoch)
    present, own = np.unique(shards, return_inverse=True)
    turn = random.permutation(len(present))[own] // window  # [items]
    return np.lexsort((random.permutation(len(shards)), turn))


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """As many indices as there are labels [N], every class as often as any other, give or take one.

    A class goes through all of its items before one of them comes again within the epoch.
    """
    random = _generator(seed, epoch)
    classes = random.permutation(np.unique(labels))  # who gets the odd ones is drawn
    share, odd = divmod(len(labels), len(classes))
    picked = [
        _cycle(random, np.flatnonzero(labels == label), share + (rank < odd))
        for rank, label in enumerate(classes)
    ]
    return random.permutation(np.concatenate(picked))  # [N]


def _cycle(random: np.random.Generator, items: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the items: whole permutations, and a part of the last one."""
    rounds = -(-count // len(items))
    return np.concatenate([random.permutation(items) for _ in range(rounds)])[:count]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))


class Uniforms(Protocol):
    """Something that uniforms are taken from, some columns at a time."""

    def take(self, columns: int) -> np.ndarray:
        """The next draws of every row, float64 [rows, columns]."""
        ...


class Draws:
    """Independent uniforms in [0, 1) for the samples of one step, handed out column by column.

    A counter through the splitmix64 finaliser (Steele, Lea and Flood 2014), vectorised. A sample
    draws the same whatever the others of its batch are; one that comes twice in a batch draws
    anew the second time.

    Args:
        samples: of the whole batch, [B].
        rows: those of the batch that draw here.

    Attributes:
        taken: columns that were handed out; who goes on elsewhere begins there.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        samples: np.ndarray,
        taken: int = 0,
        rows: slice = slice(None),
    ) -> None:
        with np.errstate(over="ignore"):
            again = occurrences(samples).astype(np.uint64) << np.uint64(40)  # [B]
            own = _mix((samples.astype(np.uint64) ^ again)[rows] + _GOLDEN)  # [N]
            self._keys = _mix(step_key(seed, step) ^ own)  # [N]
        self.taken = taken

    def take(self, columns: int) -> np.ndarray:
        """The next draws of every sample, float64 [N, columns]."""
        numbers = np.arange(self.taken + 1, self.taken + columns + 1, dtype=np.uint64)
        self.taken += columns
        with np.errstate(over="ignore"):
            bits = _mix(self._keys[:, None] + numbers * _GOLDEN)  # [N, columns]
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def keys(self) -> np.ndarray:
        """64 bits of every sample, for what a device draws of them by itself; int64 [N]."""
        with np.errstate(over="ignore"):
            return _mix(~self._keys).view(np.int64)

    def repeated(self, times: int) -> Uniforms:
        """The draws of every sample, for so many rows side by side: those of a clip's frames."""
        return _Repeated(self, times)


class _Repeated:
    """Rows that share the draws of their sample."""

    def __init__(self, draws: Draws, times: int) -> None:
        self._draws, self._times = draws, times

    def take(self, columns: int) -> np.ndarray:
        return np.repeat(self._draws.take(columns), self._times, axis=0)  # [N * times, columns]


def occurrences(samples: np.ndarray) -> np.ndarray:
    """How many times each sample came before in the batch, int64 [N]: 3 5 3 3 -> 0 0 1 2."""
    order = np.argsort(samples, kind="stable")
    ordered = samples[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))  # of every run of equals
    lengths = np.diff(starts, append=len(samples))
    counts = np.empty(len(samples), dtype=np.int64)
    counts[order] = np.arange(len(samples)) - np.repeat(starts, lengths)
    return counts


def step_key(seed: int, step: int) -> np.uint64:
    """64 bits that belong to one step of one run."""
    with np.errstate(over="ignore"):
        return _mix(_mix(np.uint64(seed) + _GOLDEN) ^ np.uint64(step))


def _mix(x: Bits) -> Bits:
    """The finaliser: every bit of the input reaches every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
