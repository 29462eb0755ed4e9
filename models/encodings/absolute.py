"""Learned absolute positions: one vector per token of the training grid, added once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.encodings.base import Encoding, lattice
from models.spec import Grid, ModelSpec, SpecError

#: How the table is resized to another grid, by number of axes.
RESIZE = {1: "linear", 2: "bicubic", 3: "trilinear"}


class Absolute(Encoding):
    """x + E[position] (Dosovitskiy et al., arXiv 2010.11929); other grids interpolate E."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.encoding.block is not None:
            raise SpecError(f"absolute positions have no block, got block {spec.encoding.block}")
        self.table = nn.Parameter(torch.empty(spec.training_grid.tokens, spec.width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def positions(self, grid: Grid) -> Tensor:
        """Token indices per axis, unit: tokens."""
        return lattice([torch.arange(side, dtype=torch.float64) for side in grid.size])

    def token_offset(self, grid: Grid) -> Tensor:
        trained = self.spec.training_grid
        if grid == trained:
            return self.table
        table = self.table.T.reshape(1, self.spec.width, *trained.size)  # [1, W, *trained]
        resized = nn.functional.interpolate(
            table, size=grid.size, mode=RESIZE[grid.axes], align_corners=False
        )  # [1, W, *grid]
        return resized.flatten(2)[0].T  # [T, W]

    @torch.no_grad()
    def adopt(self, trained: Encoding) -> None:
        """The table as it is interpolated to this training grid."""
        assert isinstance(trained, Absolute)
        self.table.copy_(trained.token_offset(self.spec.training_grid))
