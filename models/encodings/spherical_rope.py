"""Spherical RoPE: three channels turn like a ball, by one angle for each axis."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from media.spec import Grid, SpecError
from models.encodings.base import (
    OfTrainedGrid,
    SeriesOptions,
    TransformerShape,
    option,
    token_indices,
)
from models.rotations.apply import Rotations
from models.rotations.skew import skew
from models.transfer import send

#: Entries of the skew-symmetric generator above its diagonal, by how a ball is turned; in the
#: order of the product. Yaw turns channel 0 towards 1, pitch 2 towards 0, roll 1 towards 2.
FACTORS = {"yaw": (-1.0, 0.0, 0.0), "pitch": (0.0, 1.0, 0.0), "roll": (0.0, 0.0, -1.0)}
#: The factors of one, two and three axes, last axis first.
OF_AXES = ("yaw", "roll", "pitch")


@dataclasses.dataclass(frozen=True)
class SphericalRopeOptions(SeriesOptions):
    """The series of frequencies, or that they are learned."""

    base: float = option(100.0, "frequencies go from 1 down to nearly 1 / base^(2 / 3)")
    learned: bool = option(False, "whether frequencies are parameters; the series is then unused")


class SphericalRope(OfTrainedGrid):
    """R(p) = yaw(w p_x) roll(w p_y) for every block of three channels, x the last axis.

    Three axes have yaw(w p_x) pitch(w p_z) roll(w p_y), with z the first axis and its factor
    between the published two: the common order of these angles. One axis has yaw alone and is
    relative; with more the factors do not commute, and scores depend on where two tokens lie.
    D // 3 blocks; the channels that are left pass.

    Parameters: none, and w_k = base^(-2 k / D) for block k. With ``learned`` every axis, layer,
    head and block has a frequency of its own, A L H (D // 3) numbers drawn from U(0, 1).

    Positions: the training grid spans [-pi, pi] per axis; other grids keep its step and its
    middle. An axis of one token sits at 0. The state holds ``trained``, that training grid.

    Source: van de Geijn et al., arXiv 2511.08368; frequencies and initialisation as in the
    authors' later code (CARE, Sriram et al. 2025). The third factor is ours.
    """

    OPTIONS = SphericalRopeOptions
    options: SphericalRopeOptions

    def __init__(self, options: SphericalRopeOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        if self.axes > len(OF_AXES) or shape.head_dim < len(FACTORS):
            raise SpecError(
                "needs 1 to 3 axes and a head_dim of at least 3, "
                f"got {self.axes} axes and {shape.head_dim}"
            )
        self.table: nn.Parameter | None = None
        if options.learned:
            own = (self.axes, self.layers, self.heads, shape.head_dim // 3)
            self.table = nn.Parameter(torch.rand(own))

    def positions(self, grid: Grid) -> Tensor:
        """Unit: radians of the fastest block."""
        trained = torch.tensor(self.trained_sides, dtype=torch.float64)
        spans = (trained - 1).clamp(min=1)  # [A], steps from end to end
        middle = (torch.tensor(grid.size, dtype=torch.float64) - 1) / 2  # [A]
        return (token_indices(grid) - middle) * (2 * math.pi / spans)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Angle of each block per unit of position, [A, L or 1, H or 1, N]."""
        if self.table is not None:
            return self.table.to(dtype)
        blocks = torch.arange(self.shape.head_dim // 3, dtype=torch.float64)
        series = self.options.base ** (-2 * blocks / self.shape.head_dim)  # [N]
        return series.expand(self.axes, 1, 1, -1).to(dtype)

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations:
        with torch.autocast(self.device.type, enabled=False):
            frequencies = self.frequencies(dtype)
            positions = send(positions, frequencies.device, frequencies.dtype)
            angles = torch.einsum("ta,alhn->althn", positions, frequencies)
            of_axes = dict(zip(OF_AXES, angles.flip(0), strict=False))  # the last axis first
            factors = [turned(of_axes[name], name) for name in FACTORS if name in of_axes]
            blocks = factors[0]
            for factor in factors[1:]:
                blocks = blocks @ factor
        return Rotations(blocks=blocks)  # [L or 1, T, H or 1, N, 3, 3]


def turned(angles: Tensor, factor: str) -> Tensor:
    """Rodrigues' formula, I + sin(t) G + (1 - cos(t)) G^2: [...] -> [..., 3, 3]."""
    generator = skew(torch.tensor(FACTORS[factor], dtype=angles.dtype), 3)
    generator = send(generator, angles.device)
    sine, cosine = angles.sin()[..., None, None], angles.cos()[..., None, None]
    identity = torch.eye(3, dtype=angles.dtype, device=angles.device)
    return identity + sine * generator + (1 - cosine) * (generator @ generator)
