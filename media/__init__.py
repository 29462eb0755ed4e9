"""Bytes -> array -> prepared array: one module per modality, one table.

A prepared array is what enters the network: ``[*pixels per axis, channels]``, uint8 unless the
InputSpec says float32. Training, export and the service all come through ``read``, so
preprocessing exists once.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.limits import STRANGER, Limits
from media.part import Part
from media.sample import Media, Sample
from media.spec import Grid, InputSpec

__all__ = [
    "INPUTS",
    "BrokenMedia",
    "Media",
    "MediaError",
    "MediaTooLarge",
    "Part",
    "Sample",
    "UnsupportedMedia",
    "prepare",
    "read",
    "read_fitting",
    "read_part",
    "reader",
]

#: Modality -> module with its reader. They are loaded when first used: nobody who serves images
#: pays for the decoders of videos.
INPUTS = {
    "image": "media.images.image",
    "video": "media.clips.video",
    "volume": "media.scans.volume",
}


class Reader(Protocol):
    """What a module of ``INPUTS`` offers."""

    def read(
        self,
        media: Media,
        spec: InputSpec,
        sizes: Sequence[tuple[int, ...]],
        views: int,
        part: Part | None = None,
        limits: Limits = STRANGER,
    ) -> Sample:
        """One item as arrays of one of ``sizes``, pixels per axis; MediaError if that cannot be.

        Of several it is the one that ``media.fitting`` chooses for the upright input, as soon as
        the reader knows its size.
        """
        ...


def reader(modality: str) -> Reader:
    """The module that reads a modality."""
    return cast(Reader, importlib.import_module(INPUTS[modality]))


def read(
    media: Media,
    spec: InputSpec,
    grid: Grid,
    patch: tuple[int, ...],
    views: int | None = None,
    limits: Limits = STRANGER,
) -> Sample:
    """Decode and shape one item for a model.

    Args:
        views: of a clip; None for as many as the InputSpec says.
        limits: on what a file may ask for (``media.limits``).

    Returns:
        ``pixels`` is ``[views, *grid.pixels(patch), channels]``.

    Raises:
        MediaError: the bytes are of an unsupported type, broken, or over a limit.
    """
    return read_fitting(media, spec, [grid], patch, views, limits)[0]


def read_fitting(
    media: Media,
    spec: InputSpec,
    grids: Sequence[Grid],
    patch: tuple[int, ...],
    views: int | None = None,
    limits: Limits = STRANGER,
) -> tuple[Sample, Grid]:
    """``read`` with the grid that fits the item's own size, and which one that is.

    It is the largest whose pixels are above the upright input on no axis, or the smallest if all
    are. The size of an image is that of its pixels; of a clip the number of moments that it has
    (``clip_times.moments_within``) and the size of its frames; of a scan its voxels in SPL, counted
    in the model's own voxels where these have a spacing.
    """
    sizes = {grid.pixels(patch): grid for grid in grids}
    read_sizes = reader(spec.modality).read
    sample = read_sizes(media, spec, list(sizes), views or spec.views, limits=limits)
    return sample, sizes[sample.pixels.shape[1:-1]]


def read_part(
    media: Media,
    spec: InputSpec,
    size: tuple[int, ...],
    part: Part,
    limits: Limits = STRANGER,
) -> np.ndarray:
    """A part of one item, ``[*size, channels]``; raises as ``read`` does."""
    return reader(spec.modality).read(media, spec, [size], 1, part, limits).pixels[0]


def prepare(media: Media, spec: InputSpec, grid: Grid, patch: tuple[int, ...]) -> np.ndarray:
    """The pixels of one view, ``[*grid.pixels(patch), channels]``; raises as ``read`` does."""
    return read(media, spec, grid, patch, views=1).pixels[0]
