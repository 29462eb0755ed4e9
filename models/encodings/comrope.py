"""ComRoPE: learned generators that commute by construction (Yu et al., arXiv 2506.03737)."""

from __future__ import annotations

import abc
import dataclasses
import math

import torch
from torch import Tensor, nn

from media.spec import Grid, SpecError
from models.encodings.base import (
    Commuting,
    Options,
    TransformerShape,
    check_block,
    lattice,
    option,
)
from models.rotations.planes import skew_planes
from models.rotations.skew import skew


@dataclasses.dataclass(frozen=True)
class ComRopeOptions(Options):
    """Which rotations there are, and how positions move in training."""

    block: int = option(8, "side of one rotation; even, must divide head_dim")
    jitter: float = option(1.0, "how far a coordinate moves in training, in deviations of half a "
        "patch; 0 for not at all")  # fmt: skip

    def __post_init__(self) -> None:
        if self.block % 2:
            raise SpecError(f"needs an even block, which is made of planes, got {self.block}")
        if not 0 <= self.jitter < math.inf:
            raise SpecError(f"needs a jitter of at least 0, got {self.jitter}")


class ComRope(Commuting):
    """What both share: one skew-symmetric matrix B a block, of which all axes turn by multiples.

    A_a = c_a B with multipliers c, so the generators of a block commute (theorem 1). B is P - P^T
    with P from N(0, 1); its strict upper triangle is kept, L H D (K - 1) / 2 numbers from N(0, 2).

    Positions are the centres of patches as a share of the extent, (i + 0.5) / s, so every grid
    lies in [0, 1]; prefix tokens are at 0.5. In training each coordinate moves by ``jitter`` times
    half a patch times N(0, 1), by no more than half a patch. The authors' code keeps the time of
    frames still; which axis is time is not known here, and all axes move.
    """

    OPTIONS = ComRopeOptions
    options: ComRopeOptions
    PREFIX_POSITION = 0.5

    def __init__(self, options: ComRopeOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_block(options.block, shape.head_dim)
        self.block = options.block
        numbers = self.block * (self.block - 1) // 2
        self.entries = nn.Parameter(torch.empty(self.layers, self.heads, self.blocks, numbers))
        nn.init.normal_(self.entries, std=math.sqrt(2))

    @property
    def blocks(self) -> int:
        return self.shape.head_dim // self.block

    @abc.abstractmethod
    def multipliers(self, dtype: torch.dtype) -> Tensor:
        """[A, L or 1, H or 1, N]."""

    def positions(self, grid: Grid) -> Tensor:
        return lattice([(torch.arange(s, dtype=torch.float64) + 0.5) / s for s in grid.size])

    def moved(self, positions: Tensor, grid: Grid) -> Tensor:
        patches = self.options.jitter / 2 * torch.randn_like(positions)  # [T, A]
        return positions + patches.clamp(-0.5, 0.5) / positions.new_tensor(grid.size)

    def planes(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles, basis = skew_planes(skew(self.entries.to(dtype), self.block))
        each = self.multipliers(dtype)[..., None] * angles  # [A, L, H, N, K / 2]
        return each.flatten(-2), basis  # [A, L, H, P], [L, H, N, K, K]

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.planes(dtype)[0]

    def basis(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.planes(dtype)[1]


class ComRopeAp(ComRope):
    """ComRoPE-AP, axial partition: block j turns along axis j mod A alone.

    No other parameters. D / K must be divisible by A.
    """

    def __init__(self, options: ComRopeOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        if self.blocks % self.axes:
            fitting = _fitting_blocks(shape.head_dim, self.axes)
            raise SpecError(
                f"needs head_dim / block divisible by {self.axes} axes, "
                f"got {shape.head_dim} / {self.block}; {fitting}"
            )

    def multipliers(self, dtype: torch.dtype) -> Tensor:
        own = torch.arange(self.blocks, device=self.entries.device) % self.axes  # [N]
        return nn.functional.one_hot(own, self.axes).to(dtype).T[:, None, None]  # [A, 1, 1, N]


class ComRopeLd(ComRope):
    """ComRoPE-LD, linearly dependent: A_a = theta_a B with theta learned.

    A L H D / K multipliers from N(0, 1) besides, as the paper counts; its code shares them among
    the heads.
    """

    def __init__(self, options: ComRopeOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        self.theta = nn.Parameter(torch.empty(self.axes, self.layers, self.heads, self.blocks))
        nn.init.normal_(self.theta)

    def multipliers(self, dtype: torch.dtype) -> Tensor:
        return self.theta.to(dtype)


def _fitting_blocks(head_dim: int, axes: int) -> str:
    """What to choose instead, in words."""
    sides = [side for side in range(2, head_dim + 1, 2) if head_dim % (side * axes) == 0]
    if not sides:
        return f"no block fits: head_dim must be a multiple of {2 * axes}"
    return f"blocks that fit: {', '.join(map(str, sides))}"
