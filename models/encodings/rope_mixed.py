"""RoPE with learned directions: every pair of channels turns along an axis of its own."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from media.spec import Grid
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_pairs,
    option,
    token_indices,
)


@dataclasses.dataclass(frozen=True)
class RopeMixedOptions(SeriesOptions):
    """The series that pairs start with."""

    base: float = option(10.0, "at the start frequencies go from 1 down to nearly 1 / base")


class RopeMixed(Commuting):
    """R(p) turns pair i by sum_a f_ai p_a; the frequencies f are learned.

    Parameters: A L H D / 2, for every axis, layer, head and pair. Initialisation: with
    m = D / (2 A) pairs a direction, pair k of direction j starts at base^(-k / m) u_j, where
    u_1 .. u_A is a random rotation of the axes for each layer and head. For two axes that is one
    random angle for half of the pairs and the same plus 90 degrees for the others. Where A does
    not divide the pairs, m is rounded up and the last direction lacks its slowest ones.

    Positions: token indices, at every grid.
    Source: Heo et al., arXiv 2403.13298, and naver-ai/rope-vit, base 10. The LieRE paper calls its
    own block 2 by this name, which starts otherwise and has another unit of position.
    """

    OPTIONS = RopeMixedOptions
    options: RopeMixedOptions

    def __init__(self, options: RopeMixedOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)
        pairs = shape.head_dim // 2
        own = -(-pairs // self.axes)  # m
        series = self.options.base ** (-torch.arange(own) / own)  # [m]
        frames = random_frames(self.axes, self.layers, self.heads)  # [L, H, A, A]
        frequencies = frames[..., None] * series  # [L, H, A, direction, m]
        frequencies = frequencies.flatten(-2)[..., :pairs]  # [L, H, A, P]
        self.table = nn.Parameter(frequencies.permute(2, 0, 1, 3).contiguous())  # [A, L, H, P]

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.table.to(dtype)


def random_frames(axes: int, layers: int, heads: int) -> Tensor:
    """Rotations of the axes, uniformly distributed: [layers, heads, axes, axes].

    The orthogonal factor of a Gaussian matrix is uniform once the signs of the triangular one are
    positive (Mezzadri, arXiv math-ph/0609050); a reflection then becomes a rotation.
    """
    orthogonal, triangular = torch.linalg.qr(torch.randn(layers, heads, axes, axes))
    frames = orthogonal * triangular.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    frames[..., -1] *= torch.linalg.det(frames).sign()[..., None]  # the last direction
    return frames
