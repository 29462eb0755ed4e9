"""Axial RoPE: every axis turns channel pairs of its own (Chu et al., arXiv 2403.00522)."""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings.base import Commuting, token_indices
from models.spec import ModelSpec


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

    OPTIONS = {"base": 10000.0}

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        check_pairs(spec)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return axial_frequencies(self.spec, self.options["base"], dtype)


def axial_frequencies(spec: ModelSpec, base: float, dtype: torch.dtype) -> Tensor:
    """[A, 1, 1, P]: axis a turns its own run of m = P // A pairs, from frequency 1 downwards."""
    axes, pairs = len(spec.grid), spec.head_dim // 2
    own = pairs // axes
    series = base ** (-torch.arange(own, dtype=torch.float64) / own)  # [m]
    frequencies = torch.zeros(axes, 1, 1, pairs, dtype=torch.float64)
    for axis in range(axes):
        frequencies[axis, ..., axis * own : (axis + 1) * own] = series
    return frequencies.to(dtype)


def check_pairs(spec: ModelSpec, axes: int | None = None) -> None:
    """SpecError where a head has too few channels for one pair an axis, or an odd number."""
    axes = axes or len(spec.grid)
    if spec.head_dim % 2 or spec.head_dim < 2 * axes:
        raise SpecError(
            f"{spec.encoding.name} needs an even head_dim of at least {2 * axes} for {axes} axes, "
            f"got {spec.head_dim}"
        )
