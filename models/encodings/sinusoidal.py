"""Fixed sines and cosines, added to the tokens once."""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings.base import Encoding, SeriesOptions, TransformerShape, token_indices
from models.transfer import send


class Sinusoidal(Encoding):
    """x + [sin(p_a w_k), cos(p_a w_k)] for every axis a, with w_k = base^(-k / m).

    m = W // (2 A) frequencies an axis, k = 0 to m - 1. Axis a has channels 2 m a to
    2 m (a + 1) - 1, sines first; channels left over get zero.

    Parameters: none. Positions: token indices, at every grid.
    Source: Vaswani et al., arXiv 1706.03762, section 3.5; an equal share of the channels for each
    axis as in He et al., arXiv 2111.06377, appendix A.
    """

    OPTIONS = SeriesOptions
    options: SeriesOptions

    like: Tensor  # [0]: where the tokens are and how precise

    def __init__(self, options: SeriesOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        if shape.width < 2 * self.axes:
            raise SpecError(
                f"needs a width of at least {2 * self.axes} for {self.axes} axes, got {shape.width}"
            )
        self.register_buffer("like", torch.empty(0), persistent=False)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def token_offset(self, grid: Grid) -> Tensor:
        count = self.shape.width // (2 * self.axes)  # m
        series = self.options.base ** (-torch.arange(count, dtype=torch.float64) / count)
        angles = self.positions(grid)[..., None] * series  # [T, A, m]
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # [T, 2 m A]
        offset = waves.new_zeros(len(waves), self.shape.width)  # [T, W]
        offset[:, : waves.shape[1]] = waves
        return send(offset, self.like.device, self.like.dtype)
