"""Learned absolute positions: one vector per token of the training grid, added once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.base import Encoding, Options, TransformerShape, token_indices

#: How the table is resized to another grid, by number of axes.
RESIZE = {1: "linear", 2: "bicubic", 3: "trilinear"}


class Absolute(Encoding):
    """x + E[position]; other grids interpolate E, by cubics in two axes, linearly in any other.

    Parameters: E, T W numbers for the T tokens of the training grid. Initialisation: normal, with
    a standard deviation of 0.02. Positions: token indices.
    Source: Dosovitskiy et al., arXiv 2010.11929, sections 3.1 and 3.2.
    """

    def __init__(self, options: Options, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        self.table = nn.Parameter(torch.empty(shape.grid.tokens, shape.width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def positions(self, grid: Grid) -> Tensor:
        """Token indices per axis, unit: tokens."""
        return token_indices(grid)

    def token_offset(self, grid: Grid) -> Tensor:
        trained = self.shape.grid
        if grid == trained:
            return self.table
        table = self.table.T.reshape(1, self.shape.width, *trained.size)  # [1, W, *trained]
        return resized(table, grid).flatten(2)[0].T  # [T, W]

    @torch.no_grad()
    def adopt(self, trained: Encoding) -> None:
        """The table as it is interpolated to this training grid."""
        assert isinstance(trained, Absolute)
        self.table.copy_(trained.token_offset(self.shape.grid))


def resized(table: Tensor, grid: Grid) -> Tensor:
    """[1, W, *trained] -> [1, W, *grid], tokens taken as the middles of their patches."""
    if grid.axes in RESIZE:
        return nn.functional.interpolate(
            table, size=grid.size, mode=RESIZE[grid.axes], align_corners=False
        )
    for axis, side in enumerate(grid.size, start=2):  # linear in all is linear in each in turn
        lines = table.movedim(axis, -1)  # [1, W, *others, trained side]
        line = nn.functional.interpolate(lines.flatten(1, -2), size=side, mode="linear")
        table = line.unflatten(1, lines.shape[1:-1]).movedim(-1, axis)
    return table
