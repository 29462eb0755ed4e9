"""LieRE: learned rotations of queries and keys (Ostmeier et al., arXiv 2406.10322, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.base import Encoding, Rotary, published_positions, token_indices
from models.rotations.apply import Rotations, planar_rotations
from models.rotations.skew import skew
from models.spec import ModelSpec


class Liere(Rotary):
    """R(p) = exp(sum_a p_a A_a), each A_a block-diagonal with skew-symmetric blocks.

    Blocks above 2 do not commute between axes, so R(p)^T R(q) depends on p and q, not on q - p
    alone: the encoding is relative only for block 2 or one axis.

    Parameters: the strict upper triangles, A L H D (K - 1) / 2 numbers, drawn from U(0, 2 pi) as
    published, all of one sign.
    """

    OPTIONS = {"block": 8, "position_rule": "constant-step"}

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.block = self.options["block"]
        blocks = spec.head_dim // self.block
        shape = (self.axes, self.layers, self.heads, blocks, self.block * (self.block - 1) // 2)
        self.entries = nn.Parameter(torch.empty(shape))
        nn.init.uniform_(self.entries, 0.0, 2 * math.pi)

    def positions(self, grid: Grid) -> Tensor:
        """The training grid spans [0, 1] per axis, ends included; unitless.

        Other grids keep the step (``constant-step``), so neighbours stay equally far apart, or
        follow ``linspace(0, s / s0, s)`` (``published``), whose step drifts a little.
        """
        if self.options["position_rule"] == "published":
            return published_positions(grid, self.spec.grid)
        steps = [1.0 / max(1, trained - 1) for trained in self.spec.grid]
        return token_indices(grid) * torch.tensor(steps, dtype=torch.float64)

    def generators(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return skew(self.entries.to(dtype), self.block)

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations:
        if self.block > 2:
            return super().rotations(positions, dtype)
        with torch.autocast(positions.device.type, enabled=False):
            entries = self.entries[..., 0].to(dtype)  # [A, L, H, N]
            # skew() puts an entry above the diagonal, which turns backwards
            return planar_rotations(positions, -entries)

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

