"""Bytes -> array -> prepared array: one module per modality, one table.

A prepared array is what enters the network: uint8 ``[*pixels per axis, channels]``. Training,
export and the service all come through ``prepare``, so preprocessing exists once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.inputs import image
from models.inputs.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from models.spec import Grid, InputSpec

__all__ = ["INPUTS", "BrokenMedia", "MediaError", "MediaTooLarge", "UnsupportedMedia", "prepare"]

#: An encoded file, or an array that a data set holds already decoded.
Media = bytes | np.ndarray

INPUTS: dict[str, Callable[[Media, InputSpec, tuple[int, ...]], np.ndarray]] = {
    "image": image.prepare,
}


def prepare(media: Media, spec: InputSpec, grid: Grid, patch: tuple[int, ...]) -> np.ndarray:
    """Decode and shape one item for a model.

    Returns:
        uint8 ``[*grid.pixels(patch), channels]``.

    Raises:
        MediaError: the bytes are of an unsupported type, broken, or over a limit.
    """
    return INPUTS[spec.modality](media, spec, grid.pixels(patch))
