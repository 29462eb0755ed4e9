"""RoPE along the raster: the grid read like a line of text."""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import Grid
from models.encodings.base import Commuting, SeriesOptions, TransformerShape, check_pairs


class Rope1d(Commuting):
    """R(t) turns pair k of channels by t base^(-2 k / D), t the token's number in the grid.

    Relative in t, which is the wrong geometry: the last token of a row and the first of the next
    are neighbours, and one step down is as far as a row is long, at every grid another distance.

    Parameters: none. Positions: [T, 1], row by row, unit: tokens.
    Source: Su et al. (RoFormer), arXiv 2104.09864, equation 15.
    """

    OPTIONS = SeriesOptions
    options: SeriesOptions

    def __init__(self, options: SeriesOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape, axes=1)

    def positions(self, grid: Grid) -> Tensor:
        return torch.arange(grid.tokens, dtype=torch.float64)[:, None]  # [T, 1]

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        pairs = self.shape.head_dim // 2
        series = self.options.base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        return series.expand(1, 1, 1, -1).to(dtype)  # [1, 1, 1, P]
