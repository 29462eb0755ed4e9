"""Learned absolute positions: one vector per token of the training grid, added once."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.base import Encoding, Options, TransformerShape, option, token_indices
from models.encodings.resize import table_at
from models.spec import TableRule


@dataclasses.dataclass(frozen=True)
class AbsoluteOptions(Options):
    """How the table gets to another grid."""

    resize: TableRule = option(
        "plain",
        "how other grids interpolate: plain (by cubics in two axes, else linearly), bicubic, "
        "bicubic-antialias (timm) or scale-factor (the published code of DINOv2)",
    )


class Absolute(Encoding):
    """x + E[position]; other grids interpolate E, as ``resize`` says.

    Parameters: E, T W numbers for the T tokens of the training grid. Initialisation: normal, with
    a standard deviation of 0.02. Positions: token indices.
    Source: Dosovitskiy et al., arXiv 2010.11929, sections 3.1 and 3.2.
    """

    OPTIONS = AbsoluteOptions
    options: AbsoluteOptions

    def __init__(self, options: AbsoluteOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        self.table = nn.Parameter(torch.empty(shape.grid.tokens, shape.width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def positions(self, grid: Grid) -> Tensor:
        """Token indices per axis, unit: tokens."""
        return token_indices(grid)

    def token_offset(self, grid: Grid) -> Tensor:
        return table_at(self.table, self.shape.grid, grid, self.options.resize)  # [T, W]

    @torch.no_grad()
    def adopt(self, trained: Encoding) -> None:
        """The table as it is interpolated to this training grid."""
        assert isinstance(trained, Absolute)
        self.table.copy_(trained.token_offset(self.shape.grid))
