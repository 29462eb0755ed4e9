"""Fixed sines and cosines, added to the tokens once."""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings.base import Encoding, token_indices
from models.spec import ModelSpec


class Sinusoidal(Encoding):
    """x + [sin(p_a w_k), cos(p_a w_k)] for every axis a, with w_k = base^(-k / m).

    m = W // (2 A) frequencies an axis, k = 0 to m - 1. Axis a has channels 2 m a to
    2 m (a + 1) - 1, sines first; channels left over get zero.

    Parameters: none. Positions: token indices, at every grid.
    Source: Vaswani et al., arXiv 1706.03762, section 3.5; an equal share of the channels for each
    axis as in He et al., arXiv 2111.06377, appendix A.
    """

    OPTIONS = {"base": 10000.0}

    like: Tensor  # [0]: where the tokens are and how precise

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.width < 2 * self.axes:
            raise SpecError(
                f"{spec.encoding.name} needs a width of at least {2 * self.axes} for {self.axes} "
                f"axes, got {spec.width}"
            )
        self.register_buffer("like", torch.empty(0), persistent=False)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def token_offset(self, grid: Grid) -> Tensor:
        count = self.spec.width // (2 * self.axes)  # m
        series = self.options["base"] ** (-torch.arange(count, dtype=torch.float64) / count)
        angles = self.positions(grid)[..., None] * series  # [T, A, m]
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # [T, 2 m A]
        offset = waves.new_zeros(len(waves), self.spec.width)  # [T, W]
        offset[:, : waves.shape[1]] = waves
        return offset.to(self.like)
