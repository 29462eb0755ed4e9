"""Cayley-STRING: learned frequencies in a learned basis (Schenck et al., arXiv 2502.02562)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.axial_rope import axial_frequencies
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_pairs,
    option,
    token_indices,
)
from models.encodings.masa import cayley


@dataclasses.dataclass(frozen=True)
class StringCayleyOptions(SeriesOptions):
    """The series that pairs start with."""

    base: float = option(100.0, "at the start frequencies go from 1 down to nearly 1 / base")


class StringCayley(Commuting):
    """RoPE(p) P with P = (I - S)(I + S)^-1, S skew-symmetric: R(p) = P^T RoPE(p) P (theorem 3.4).

    RoPE turns pair i by sum_a p_a f_ai; f and S are learned per layer and head. Parameters:
    L H (A D / 2 + D (D - 1) / 2). Positions are token indices.

    The published text leaves the start open and there is no public code of the authors'. Here f
    starts as axial RoPE with ``base`` 100, where a pair turns along one axis alone, and the
    entries of S are drawn from U(-1, 1) / sqrt(D), so that P is neither the identity nor far off.
    """

    OPTIONS = StringCayleyOptions
    options: StringCayleyOptions

    def __init__(self, options: StringCayleyOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)
        series = axial_frequencies(shape, options.base, torch.float32)  # [A, 1, 1, P]
        self.rates = nn.Parameter(series.repeat(1, self.layers, self.heads, 1))  # [A, L, H, P]
        side = shape.head_dim
        self.numbers = nn.Parameter(torch.empty(self.layers, self.heads, side * (side - 1) // 2))
        nn.init.uniform_(self.numbers, -(side**-0.5), side**-0.5)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rates.to(dtype)

    def basis(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Q = P^T, [L, H, 1, D, D]."""
        return cayley(-self.numbers.to(dtype), self.shape.head_dim)[:, :, None]
