"""What every encoding of position answers, and what all rotary ones share."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from models.rotations import rotations
from models.spec import Grid, ModelSpec


class Encoding(nn.Module, abc.ABC):
    """How position enters a transformer. Shapes: T tokens, A axes, W width."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec

    @abc.abstractmethod
    def positions(self, grid: Grid) -> Tensor:
        """Where each token is: float64 [T, A], tokens in row-major order."""

    def token_offset(self, grid: Grid) -> Tensor | None:
        """What is added to the patch tokens, [T, W], or None."""
        return None

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """What turns queries and keys, [L or 1, T, H or 1, N, K, K], or None."""
        return None

    @abc.abstractmethod
    def adopt(self, trained: Encoding) -> None:
        """Take over what an encoding of the same kind learned on another training grid.

        Afterwards this one encodes its own training grid as ``trained`` encodes that grid.
        """


class BlockRotary(Encoding):
    """A rotary encoding given by its generators, one skew-symmetric matrix per axis."""

    @abc.abstractmethod
    def generators(self) -> Tensor:
        """[A, L or 1, H or 1, N, K, K], skew-symmetric."""

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        generators = self.generators().to(dtype)
        with torch.autocast(generators.device.type, enabled=False):
            table = rotations(positions.to(generators), generators)  # [T, L, H, N, K, K]
        return table.transpose(0, 1)  # [L, T, H, N, K, K]


def lattice(coordinates: list[Tensor]) -> Tensor:
    """All combinations of per-axis coordinates, [T, A], last axis fastest."""
    mesh = torch.meshgrid(*coordinates, indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in mesh], dim=-1)  # [T, A]
