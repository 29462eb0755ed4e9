"""Which of several sizes an input gets, where its own size shall say so."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Of a difference of logarithms: two shapes that mirror each other are equally far from a square.
DIGITS = 9


def fitting(size: Sequence[float], sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The largest of ``sizes`` that is above ``size`` on no axis; the smallest if all are.

    Of equally large ones (pixels in all) the one whose shape is the nearest, of equally near ones
    the first.

    Args:
        size: of an upright input, pixels per axis, all positive.
        sizes: to choose from, pixels per axis.
    """
    within = [one for one in sizes if all(a <= b for a, b in zip(one, size, strict=True))]
    sign = -1 if within else 1
    return min(within or sizes, key=lambda one: (sign * math.prod(one), _distance(one, size)))


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    """How far apart two shapes are, whatever their scale: squares of logarithms of ratios."""
    ratios = [math.log(a / b) for a, b in zip(one, other, strict=True)]
    mean = sum(ratios) / len(ratios)
    return round(sum((ratio - mean) ** 2 for ratio in ratios), DIGITS)
