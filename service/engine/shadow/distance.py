"""How far apart the answers of two versions are, whose labels need not be the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Distance:
    """Between probabilities of some labels and of others; a label that one lacks has 0 there."""

    def __init__(self, labels: Sequence[str], candidates: Sequence[str]) -> None:
        places = {label: place for place, label in enumerate(dict.fromkeys((*labels, *candidates)))}
        self._own = len(labels)
        self._all = len(places)
        self._places = np.array([places[label] for label in candidates])

    def between(self, answered: np.ndarray, candidate: np.ndarray) -> float:
        """The largest difference of the probabilities of any label, float64 of each version."""
        apart = np.zeros(self._all)
        apart[: self._own] = answered
        apart[self._places] -= candidate
        return float(np.abs(apart).max())
