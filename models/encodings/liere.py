"""LieRE: learned rotations of queries and keys (Ostmeier et al., arXiv 2406.10322, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.encodings.base import BlockRotary, Encoding, lattice
from models.rotations import skew
from models.spec import Grid, ModelSpec, SpecError


class Liere(BlockRotary):
    """R(p) = exp(sum_a p_a A_a), each A_a block-diagonal with skew-symmetric blocks.

    Blocks above 2 do not commute between axes, so R(p)^T R(q) depends on p and q, not on q - p
    alone: the encoding is relative only for block 2 or one axis.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        block = spec.encoding.block
        if block is None:
            raise SpecError("liere needs a block (2 to head_dim), got none")
        self.block = block
        layers = spec.depth if spec.encoding.per_layer else 1
        heads = spec.heads if spec.encoding.per_head else 1
        blocks = spec.head_dim // block
        shape = (len(spec.patch), layers, heads, blocks, block * (block - 1) // 2)
        self.entries = nn.Parameter(torch.empty(shape))
        nn.init.uniform_(self.entries, 0.0, 2 * math.pi)  # as published; all of one sign

    def positions(self, grid: Grid) -> Tensor:
        """The training grid spans [0, 1] per axis, ends included; unitless.

        Other grids keep the step (``constant-step``), so neighbours stay equally far apart, or
        follow ``linspace(0, s / s0, s)`` (``published``), whose step drifts a little.
        """
        rule = _published if self.spec.encoding.position_rule == "published" else _constant_step
        pairs = zip(grid.size, self.spec.grid, strict=True)
        return lattice([rule(side, trained) for side, trained in pairs])

    def generators(self) -> Tensor:
        return skew(self.entries, self.block)

    @torch.no_grad()
    def adopt(self, trained: Encoding) -> None:
        """Positions are linear in the index, so another unit only scales the generators.

        p' = c p per axis with the new training grid's own [0, 1], so A' = A / c turns alike. An
        axis of one token has no unit to tell: its generators stay.
        """
        assert isinstance(trained, Liere)
        grid = self.spec.training_grid
        ends, new = trained.positions(grid)[-1], self.positions(grid)[-1]  # [A] each
        scale = torch.where(new > 0, ends / new.clamp(min=1e-12), 1.0)  # [A]
        self.entries.copy_(trained.entries * scale.to(self.entries)[:, None, None, None, None])


def _constant_step(side: int, trained: int) -> Tensor:
    step = 1.0 / max(1, trained - 1)
    return torch.arange(side, dtype=torch.float64) * step


def _published(side: int, trained: int) -> Tensor:
    return torch.linspace(0.0, side / trained, side, dtype=torch.float64)
