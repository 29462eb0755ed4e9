"""Circulant-STRING: generators that are circulant matrices (Schenck et al., arXiv 2502.02562)."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from media.spec import Grid, SpecError
from models.encodings.axial_rope import axial_frequencies
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_block,
    check_pairs,
    option,
    token_indices,
)
from models.transfer import send


@dataclasses.dataclass(frozen=True)
class StringCirculantOptions(SeriesOptions):
    """The series that pairs start with, and the side of a circulant matrix."""

    base: float = option(100.0, "at the start frequencies go from 1 down to nearly 1 / base")
    block: int = option(16, "side of a circulant matrix; even, at least 4, must divide head_dim")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block % 2 or self.block < 4:
            raise SpecError(
                "needs an even block of at least 4, since one plane of each is not turned, "
                f"got {self.block}"
            )


class StringCirculant(Commuting):
    """R(p) = exp(sum_a p_a L_a), each block of L_a a circulant matrix C minus its transpose.

    Entry (r, s) of a block of side b is c_m where r - s = m and -c_m where r - s = -m (mod b), for
    0 < m < b / 2: what a circulant matrix keeps of itself when its transpose is taken away. Such
    matrices commute, because all have the Fourier basis. In its real form plane j, 0 < j < b / 2,
    turns by f_j = 2 sum_m c_m sin(2 pi j m / b) per unit; the last plane, of the constant and the
    alternating vector, is not turned.

    Parameters: A L H (D / b) (b / 2 - 1) numbers c. The paper leaves their start open; here f
    starts as axial RoPE with ``base`` 100, but for the pairs that are not turned. Positions are
    token indices.
    """

    OPTIONS = StringCirculantOptions
    options: StringCirculantOptions

    def __init__(self, options: StringCirculantOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)
        check_block(options.block, shape.head_dim)
        self.block = options.block
        own = (self.axes, self.layers, self.heads, shape.head_dim // self.block, -1)
        series = axial_frequencies(shape, options.base, torch.float64)  # [A, 1, 1, P]
        wanted = series.unflatten(-1, (-1, self.block // 2))[..., :-1]  # [A, 1, 1, N, K / 2 - 1]
        numbers = wanted @ sines(self.block) / self.block  # sines(K)^2 = K I
        self.numbers = nn.Parameter(numbers.float().expand(*own).clone())

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        waves = send(sines(self.block), self.numbers.device, dtype)
        turned = self.numbers.to(dtype) @ waves  # [A, L, H, N, K / 2 - 1]
        return nn.functional.pad(turned, (0, 1)).flatten(-2)  # [A, L, H, P]

    def basis(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same in every block: [1, 1, N, K, K]."""
        blocks = self.shape.head_dim // self.block
        basis = send(fourier_basis(self.block), self.numbers.device, dtype)
        return basis.expand(1, 1, blocks, -1, -1)  # from [K, K]


def sines(block: int) -> Tensor:
    """2 sin(2 pi j m / K) for 0 < j, m < K / 2: float64 [K / 2 - 1, K / 2 - 1], symmetric."""
    index = torch.arange(1, block // 2, dtype=torch.float64)
    return 2 * torch.sin(2 * math.pi / block * torch.outer(index, index))


def fourier_basis(block: int) -> Tensor:
    """Cosines and sines of 2 pi j r / K for 0 < j < K / 2, then 1 and (-1)^r: float64 [K, K]."""
    rows = torch.arange(block, dtype=torch.float64)
    angles = 2 * math.pi / block * torch.outer(rows, rows[1 : block // 2])  # [K, K / 2 - 1]
    waves = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1) * math.sqrt(2 / block)
    still = torch.stack([torch.ones_like(rows), 1 - 2 * (rows % 2)], dim=-1) / math.sqrt(block)
    return torch.cat([waves, still], dim=1)  # [K, K]
