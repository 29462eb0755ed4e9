"""Grey of more than 8 bits, scaled to 8: white stays white, and nothing is clipped."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def levels(white: int) -> np.ndarray:
    """uint8 ``[white + 1]``: each level times 255 / white, rounded to the nearest whole number."""
    wide = np.arange(white + 1, dtype=np.uint64)
    return ((wide * 255 + white // 2) // white).astype(np.uint8)
