"""LieRE: learned rotations of queries and keys (Ostmeier et al., arXiv 2406.10322, section 4)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.base import (
    Encoding,
    Options,
    Rotary,
    TransformerShape,
    check_block,
    option,
    published_positions,
    token_indices,
)
from models.rotations.apply import Rotations, planar_rotations
from models.rotations.skew import skew


@dataclasses.dataclass(frozen=True)
class LiereOptions(Options):
    """Which rotations there are, and where tokens stand at other grids than the training's."""

    block: int = option(8, "side of one rotation; must divide head_dim")
    position_rule: Literal["constant-step", "published", "index", "centred"] = option(
        "constant-step",
        "constant-step keeps the training grid's spacing at every grid; published is the spacing "
        "of the published code, for imported checkpoints; index counts tokens, as RoPE does; "
        "centred spans [-1, 1] at every grid, as DINOv3 does",
    )


class Liere(Rotary):
    """R(p) = exp(sum_a p_a A_a), each A_a block-diagonal with skew-symmetric blocks.

    Blocks above 2 do not commute between axes, so R(p)^T R(q) depends on p and q, not on q - p
    alone: the encoding is relative only for block 2 or one axis.

    Parameters: the strict upper triangles, A L H D (K - 1) / 2 numbers, drawn from U(0, 2 pi) as
    published, all of one sign. Where positions have another unit they are drawn so much smaller
    that the training grid is turned as far.
    """

    OPTIONS = LiereOptions
    options: LiereOptions

    def __init__(self, options: LiereOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_block(options.block, shape.head_dim)
        self.block = options.block
        blocks = shape.head_dim // self.block
        numbers = self.block * (self.block - 1) // 2
        self.entries = nn.Parameter(
            torch.empty(self.axes, self.layers, self.heads, blocks, numbers)
        )
        nn.init.uniform_(self.entries, 0.0, 2 * math.pi)
        with torch.no_grad():
            for axis, side in enumerate(shape.grid.size):
                self.entries[axis] /= self._spans(side)

    def _spans(self, side: int) -> float:
        """How far a side of the training grid reaches, in the unit of positions."""
        match self.options.position_rule:
            case "index":
                return max(1, side - 1)
            case "centred":
                return 2.0
        return 1.0

    def positions(self, grid: Grid) -> Tensor:
        """Per axis, by ``position_rule``; prefix tokens are at 0, where nothing is turned.

        * ``constant-step``: the training grid spans [0, 1], ends included; other grids keep the
          step, so neighbours stay equally far apart.
        * ``published``: the same on the training grid; others follow ``linspace(0, s / s0, s)``,
          whose step drifts a little.
        * ``index``: tokens from the first one. Generators are then frequencies per token, those of
          RoPE where blocks are pairs.
        * ``centred``: the middles of patches where the grid spans [-1, 1], whatever its size, as
          in DINOv3: 2 (i + 1/2) / s - 1. The origin is the middle of the picture.
        """
        match self.options.position_rule:
            case "published":
                return published_positions(grid, self.shape.grid.size)
            case "index":
                return token_indices(grid)
            case "centred":
                sides = torch.tensor(grid.size, dtype=torch.float64)
                return (2 * token_indices(grid) + 1) / sides - 1  # [T, A]
        steps = [1.0 / max(1, trained - 1) for trained in self.shape.grid.size]
        return token_indices(grid) * torch.tensor(steps, dtype=torch.float64)

    def generators(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return skew(self.entries.to(dtype), self.block)

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations:
        if self.block > 2:
            return super().rotations(positions, dtype)
        with torch.autocast(self.device.type, enabled=False):
            entries = self.entries[..., 0].to(dtype)  # [A, L, H, N]
            # skew() puts an entry above the diagonal, which turns backwards
            return planar_rotations(positions, -entries)

    @torch.no_grad()
    def adopt(self, trained: Encoding) -> None:
        """Where the unit follows the training grid, another one only scales the generators.

        p' = c p per axis with the new training grid's own [0, 1], so A' = A / c turns alike. An
        axis of one token has no unit to tell: its generators stay. So do all of ``index`` and
        ``centred``, whose units know nothing of the training grid.
        """
        assert isinstance(trained, Liere)
        grid = self.shape.grid
        ends, new = trained.positions(grid)[-1], self.positions(grid)[-1]  # [A] each
        scale = torch.where(new > 0, ends / new.clamp(min=1e-12), 1.0)  # [A]
        self.entries.copy_(trained.entries * scale.to(self.entries)[:, None, None, None, None])
