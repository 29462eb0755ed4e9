"""Grey of more than 8 bits, scaled to 8: white stays white.

Which level is white a file seldom says. Scanners and cameras of 10, 12 or 14 bits write them into
files of 16, which would come out nearly black: where neither the file nor the InputSpec knows
better, white is the largest number of the file's depth, and nothing is clipped.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image


@cache
def levels(white: int) -> np.ndarray:
    """uint8 ``[white + 1]``: each level times 255 / white, rounded to the nearest whole number."""
    wide = np.arange(white + 1, dtype=np.uint64)
    return ((wide * 255 + white // 2) // white).astype(np.uint8)


def white_of(largest: float) -> int | None:
    """The level that is white where a file of 16 bits tells a largest value; None for all 16.

    Only the largest number of 8 to 15 bits tells a depth; any other is that of this one picture,
    which must not be stretched by it.
    """
    whites = (2**bits - 1 for bits in range(8, 16))
    return next((white for white in whites if white == largest), None)


def eight_bits(image: Image.Image, grey_bits: int) -> Image.Image:
    """A picture of the mode I;16 as L, or as LA where one of its levels is transparent.

    Args:
        image: its ``info`` may hold ``white``, a level, and ``inverted``, whether that is 0.
        grey_bits: of the InputSpec, for a picture that does not know its ``white``.
    """
    wide = np.asarray(image)  # [h, w]
    white = image.info.get("white") or 2 ** (grey_bits or 16) - 1
    table = 255 - levels(white) if image.info.get("inverted") else levels(white)
    grey = Image.fromarray(table[np.minimum(wide, white)])
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    alpha = np.where(wide == transparent, 0, 255).astype(np.uint8)  # [h, w]
    return Image.merge("LA", (grey, Image.fromarray(alpha)))
