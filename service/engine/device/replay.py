"""Goldens, decoded once: what a session must give for them, at start and whenever it is doubted."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from models.bundle import BundleError
from models.manifest import Golden, Tolerance
from service.engine.device.session import Session


@dataclass(slots=True, eq=False)
class Replay:
    """Goldens of one grid and the session that must give their logits.

    Attributes:
        most_rows: of one run, as of a request's.
        seconds: of its newest run that succeeded, of the wall; 0 before.
        succeeded: when that was, monotonic.
    """

    session: Session
    pixels: np.ndarray  # [goldens, views, *pixels per axis, channels] of the graph's dtype
    goldens: tuple[Golden, ...]
    grid: str
    tolerance: Tolerance
    most_rows: int
    seconds: float = 0.0
    succeeded: float = -math.inf

    @property
    def rows(self) -> np.ndarray:
        """``[goldens * views, *pixels per axis, channels]``."""
        return self.pixels.reshape(-1, *self.pixels.shape[2:])

    @property
    def first(self) -> Replay:
        """The same of the first golden alone, holding no memory of the others."""
        return replace(self, pixels=self.pixels[:1].copy(), goldens=self.goldens[:1])

    def run(self) -> None:
        """Run all of them in as few batches as may be, in this thread.

        Raises:
            BundleError: the logits are not the stored ones.
            Exception: whatever the session raises.
        """
        started = time.monotonic()
        starts = range(0, len(self.rows), self.most_rows)
        parts = [self.session.run(self.rows[start : start + self.most_rows]) for start in starts]
        logits = np.concatenate(parts)
        self._compare(_of_items(logits, self.pixels))
        self.succeeded = time.monotonic()
        self.seconds = self.succeeded - started

    def _compare(self, logits: np.ndarray) -> None:
        """BundleError unless all of ``[goldens, classes]`` are within tolerance of the stored."""
        stored = np.array([golden.logits[self.grid] for golden in self.goldens])
        if logits.shape != stored.shape:
            expected, got = list(stored.shape), list(logits.shape)
            raise BundleError(f"grid {self.grid}: expected logits {expected}, got {got}")
        allowed = self.tolerance.atol + self.tolerance.rtol * np.abs(stored)
        difference = np.abs(logits - stored)
        for golden, row, limits in zip(self.goldens, difference, allowed, strict=True):
            if not (row <= limits).all():  # NaN must not pass
                worst = np.argmax(row - limits)  # NaN is the worst
                raise BundleError(
                    f"{golden.file} at grid {self.grid} differs from its stored logits by "
                    f"{row[worst]:.3g}; {limits[worst]:.3g} is allowed"
                )


def _of_items(logits: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Logits of every view of ``[items, views, ...]`` -> means over the views, [items, classes]."""
    if logits.ndim != 2 or len(logits) != len(items) * items.shape[1]:
        return logits  # of another shape than they should be: nothing will fit them
    return logits.reshape(*items.shape[:2], -1).mean(axis=1, dtype=np.float64)
