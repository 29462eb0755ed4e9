"""Axial RoPE: every axis turns channel pairs of its own (Chu et al., arXiv 2403.00522)."""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import Grid
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_pairs,
    token_indices,
)


class AxialRope(Commuting):
    """R(p) turns pair k of axis a by p_a base^(-k / m), with m = D // (2 A) pairs an axis.

    Axis a has pairs a m to (a + 1) m - 1; pairs that the axes cannot share evenly are not turned.
    VisionLLaMA deals its pairs out to the axes in turn: the same up to a permutation of a head's
    channels.

    Parameters: none. Positions: token indices, at every grid: those of a larger one go beyond the
    training's (the paper's AS2D, which scales them back to the training's range, is not here).
    Source: Chu et al. (VisionLLaMA), arXiv 2403.00522, base 10000. RoPE-ViT takes
    100 (Heo et al., arXiv 2403.13298), which turns fewer pairs by next to nothing.
    """

    OPTIONS = SeriesOptions
    options: SeriesOptions

    def __init__(self, options: SeriesOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return axial_frequencies(self.shape, self.options.base, dtype)


def axial_frequencies(shape: TransformerShape, base: float, dtype: torch.dtype) -> Tensor:
    """[A, 1, 1, P]: axis a turns its own run of m = P // A pairs, from frequency 1 downwards."""
    axes, pairs = shape.axes, shape.head_dim // 2
    own = pairs // axes
    series = base ** (-torch.arange(own, dtype=torch.float64) / own)  # [m]
    frequencies = torch.zeros(axes, 1, 1, pairs, dtype=torch.float64)
    for axis in range(axes):
        frequencies[axis, ..., axis * own : (axis + 1) * own] = series
    return frequencies.to(dtype)
