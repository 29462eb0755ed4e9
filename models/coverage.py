"""What is left where a classifier may say that it does not know (El-Yaniv and Wiener 2010).

An answer is given where the probability of the most probable class reaches a threshold. The higher
it is, the fewer items are answered, and the more of those should be right. N items.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.figures import Coverage

#: Thresholds that are always told.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def coverage(
    highest: np.ndarray, right: np.ndarray, thresholds: Iterable[float] = THRESHOLDS
) -> tuple[Coverage, ...]:
    """What is left at each threshold, in rising order, each once.

    Args:
        highest: probability of the most probable class, float [N].
        right: whether that is the right one, bool [N].
    """
    rows = []
    for threshold in sorted(set(thresholds)):
        kept = right[highest >= threshold]
        accuracy = float(kept.mean()) if len(kept) else None
        rows.append(Coverage(threshold, len(kept) / len(right), accuracy))
    return tuple(rows)


def risk_coverage(highest: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Share answered, and share of those that are wrong, at every threshold: [T, 2].

    From the surest item on; items of the same probability are answered together, so T is the
    number of different ones.
    """
    order = np.argsort(-highest, kind="stable")
    last = np.append(np.flatnonzero(np.diff(highest[order])), len(order) - 1)  # [T], of each tie
    answered, wrong = last + 1, np.cumsum(~right[order])[last]
    return np.stack([answered / len(order), wrong / answered], axis=1)  # [T, 2]
