"""Axial RoPE: every axis turns channel pairs of its own (Chu et al., arXiv 2403.00522)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_pairs,
    option,
    token_indices,
)


@dataclasses.dataclass(frozen=True)
class AxialRopeOptions(SeriesOptions):
    """The series of frequencies, and where tokens stand at other grids."""

    reference: int | None = option(
        None,
        "tokens that every side of every grid is squeezed or stretched to, as EVA-02 has it; null "
        "counts tokens",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is not None and self.reference < 1:
            raise SpecError(f"needs a reference of at least 1 token, got {self.reference}")


class AxialRope(Commuting):
    """R(p) turns pair k of axis a by p_a base^(-k / m), with m = D // (2 A) pairs an axis.

    Axis a has pairs a m to (a + 1) m - 1; pairs that the axes cannot share evenly are not turned.
    VisionLLaMA deals its pairs out to the axes in turn: the same up to a permutation of a head's
    channels.

    Parameters: none. Positions: token indices, at every grid: those of a larger one go beyond the
    training's, unless there is a ``reference``: then a side of s tokens has i reference / s, so
    that every grid covers what one of ``reference`` tokens a side does (EVA-02, arXiv 2303.11331).
    Source: Chu et al. (VisionLLaMA), arXiv 2403.00522, base 10000. RoPE-ViT takes
    100 (Heo et al., arXiv 2403.13298), which turns fewer pairs by next to nothing.
    """

    OPTIONS = AxialRopeOptions
    options: AxialRopeOptions

    def __init__(self, options: AxialRopeOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)

    def positions(self, grid: Grid) -> Tensor:
        """Unit: tokens, of the grid itself or of the reference."""
        indices, reference = token_indices(grid), self.options.reference
        if reference is None:
            return indices
        return indices * reference / torch.tensor(grid.size, dtype=torch.float64)  # [T, A]

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return axial_frequencies(self.shape, self.options.base, dtype)


def axial_frequencies(shape: TransformerShape, base: float, dtype: torch.dtype) -> Tensor:
    """[A, 1, 1, P]: axis a turns its own run of m = P // A pairs, from frequency 1 downwards."""
    own = shape.head_dim // 2 // shape.axes
    series = base ** (-torch.arange(own, dtype=torch.float64) / own)  # [m]
    return axial_series(shape, series).to(dtype)


def axial_series(shape: TransformerShape, series: Tensor) -> Tensor:
    """[A, 1, 1, P]: every axis turns its own run of m pairs by the series [m]."""
    axes, pairs, own = shape.axes, shape.head_dim // 2, len(series)
    frequencies = series.new_zeros(axes, 1, 1, pairs)
    for axis in range(axes):
        frequencies[axis, ..., axis * own : (axis + 1) * own] = series
    return frequencies
