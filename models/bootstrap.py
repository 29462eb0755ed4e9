"""Intervals: the middle 95 % of what a figure is on splits drawn again from one (Efron 1979).

A draw takes as many items as the split has, with replacement. Items that belong together (photos of
one person, slices of one patient) are drawn together: they err together, and drawing them one by
one would promise too much. What is drawn, an item or a group of them, is a *unit*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from models.figures import Estimate

DRAWS = 1000
#: Fewer units than this show too little of the spread for an interval.
FEW = 10


def with_interval(value: float, drawn: np.ndarray, units: int) -> Estimate:
    """The value with the middle 95 % of the draws that define it; NaN stands for undefined."""
    if math.isnan(value):
        return Estimate(None, reason="it needs items of two classes, and all are of one")
    if units < FEW:
        return Estimate(value, reason=f"no interval: {units} to draw from, fewer than {FEW}")
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Estimate(value, reason="no interval: no draw defines it")
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(defined))


def draw_weights(unit_of: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each item counts, float64 [N, draws of one piece], piece by piece.

    Args:
        unit_of: the unit that each item is drawn with, int [N], as ``number_units`` gives it.
    """
    units = int(unit_of.max()) + 1
    piece = max(1, 2**19 // len(unit_of))  # 4 MiB of weights stay in the cache
    random = np.random.default_rng(seed)
    for start in range(0, draws, piece):
        rows = min(piece, draws - start)
        taken = random.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        times = np.bincount(taken.ravel(), minlength=rows * units).reshape(rows, units)
        yield times.T[unit_of].astype(np.float64)  # [N, rows]


def number_units(groups: Sequence[str] | None, items: int) -> np.ndarray:
    """The unit, 0 to units - 1, of each item, int64 [N]; an item with the group "" is one."""
    if groups is None:
        return np.arange(items)
    names = [(group, 0 if group else index) for index, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])
