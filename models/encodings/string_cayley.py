"""Cayley-STRING: learned frequencies in a learned basis (Schenck et al., arXiv 2502.02562)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.axial_rope import axial_frequencies, check_pairs
from models.encodings.base import Commuting, token_indices
from models.encodings.masa import cayley
from models.spec import ModelSpec


class StringCayley(Commuting):
    """RoPE(p) P with P = (I - S)(I + S)^-1, S skew-symmetric: R(p) = P^T RoPE(p) P (theorem 3.4).

    RoPE turns pair i by sum_a p_a f_ai; f and S are learned per layer and head. Parameters:
    L H (A D / 2 + D (D - 1) / 2). Positions are token indices.

    The published text leaves the start open and there is no public code of the authors'. Here f
    starts as axial RoPE with ``base`` 100, where a pair turns along one axis alone, and the
    entries of S are drawn from U(-1, 1) / sqrt(D), so that P is neither the identity nor far off.
    """

    OPTIONS = {"base": 100.0}

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        check_pairs(spec)
        series = axial_frequencies(spec, self.options["base"], torch.float32)  # [A, 1, 1, P]
        self.rates = nn.Parameter(series.repeat(1, self.layers, self.heads, 1))  # [A, L, H, P]
        side = spec.head_dim
        self.numbers = nn.Parameter(torch.empty(self.layers, self.heads, side * (side - 1) // 2))
        nn.init.uniform_(self.numbers, -(side**-0.5), side**-0.5)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rates.to(dtype)

    def basis(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Q = P^T, [L, H, 1, D, D]."""
        return cayley(-self.numbers.to(dtype), self.spec.head_dim)[:, :, None]
