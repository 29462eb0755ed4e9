"""What every encoding of position answers, and what rotary ones share.

Shapes: T tokens, A coordinates of a position, L layers, H heads, N blocks, K block side,
D head_dim, P = D / 2 channel pairs, W width.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from media.spec import Grid, SpecError
from models.rotations.apply import Rotations, planar_rotations
from models.rotations.skew import planar_generators, rotations


def option(default: Any, meaning: str) -> Any:
    """A field of an encoding's options; ``meaning`` is what --help says of it."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclasses.dataclass(frozen=True)
class Options:
    """What every encoding can be told, or ignores because it learns nothing."""

    per_layer: bool = option(True, "whether every layer learns its own")
    per_head: bool = option(True, "whether every head learns its own")


@dataclasses.dataclass(frozen=True)
class SeriesOptions(Options):
    """Of encodings whose frequencies are a geometric series."""

    base: float = option(10000.0, "frequencies go from 1 down to nearly 1 / base")

    def __post_init__(self) -> None:
        if not self.base >= 1:
            raise SpecError(f"needs a base of at least 1, got {self.base}")


@dataclasses.dataclass(frozen=True)
class TransformerShape:
    """What an encoding has to know of the transformer that it belongs to.

    Attributes:
        grid: tokens per axis in training.
    """

    grid: Grid
    layers: int
    heads: int
    head_dim: int

    @property
    def axes(self) -> int:
        return self.grid.axes

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


class Encoding(nn.Module, abc.ABC):
    """How position enters a transformer.

    A new member is one file, which holds its options and its class, and one row of ``ENCODINGS``.
    SpecErrors of its options and its constructor say what it needs; its name is put before them.
    """

    #: What it can be told: a frozen dataclass whose fields are each an ``option``.
    OPTIONS: ClassVar[type[Options]] = Options
    #: Where prefix tokens are, on every axis: the origin, at which nothing is turned.
    PREFIX_POSITION: ClassVar[float] = 0.0

    options: Options
    shape: TransformerShape

    def __init__(self, options: Options, shape: TransformerShape) -> None:
        super().__init__()
        self.options, self.shape = options, shape

    @property
    def axes(self) -> int:
        return self.shape.axes

    @property
    def device(self) -> torch.device:
        """Where its parameters and buffers are; the CPU where it has none."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def layers(self) -> int:
        """How many layers have parameters of their own."""
        return self.shape.layers if self.options.per_layer else 1

    @property
    def heads(self) -> int:
        """How many heads have parameters of their own."""
        return self.shape.heads if self.options.per_head else 1

    @abc.abstractmethod
    def positions(self, grid: Grid) -> Tensor:
        """Where each token is: float64 [T, A], tokens in row-major order."""

    def moved(self, positions: Tensor, grid: Grid) -> Tensor:
        """The positions [T, A] of one training step; drawn from torch's generator, if at all."""
        return positions

    def token_offset(self, grid: Grid) -> Tensor | None:
        """What is added to the patch tokens, [T, W], or None."""
        return None

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations | None:
        """What turns queries and keys at the positions [T, A], computed in ``dtype``, or None.

        Positions are on the CPU, where some encodings read them; rotations are where the
        parameters are.
        """
        return None

    def adopt(self, trained: Encoding) -> None:
        """Take over what an encoding of the same kind learned on another training grid.

        Afterwards this one encodes its own training grid as ``trained`` encodes that grid.
        """
        self.load_state_dict(trained.state_dict())


class OfTrainedGrid(Encoding):
    """Whose positions follow the grid that its weights were trained on, wherever they have gone.

    The state holds it as ``trained``. It is read where it is loaded, and not of the device, for
    which every step would have to wait.
    """

    trained: Tensor  # [A], int64
    trained_sides: tuple[int, ...]

    def __init__(self, options: Options, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        self.register_buffer("trained", torch.tensor(shape.grid.size))
        self.trained_sides = shape.grid.size
        self.register_load_state_dict_post_hook(_read_trained)


def _read_trained(encoding: OfTrainedGrid, _: Any) -> None:
    encoding.trained_sides = tuple(encoding.trained.tolist())


class Rotary(Encoding):
    """R(p) = exp(sum_a p_a A_a): an encoding given by its generators."""

    @abc.abstractmethod
    def generators(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[A, L or 1, H or 1, N, K, K], skew-symmetric."""

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations:
        with torch.autocast(self.device.type, enabled=False):
            generators = self.generators(dtype)
            table = rotations(positions.to(dtype), generators)  # [T, L, H, N, K, K]
        return Rotations(blocks=table.transpose(0, 1))  # [L, T, H, N, K, K]


class Commuting(Rotary):
    """Generators that share a basis: A_a = Q (sum of plane rotations of frequency f_a) Q^T.

    R(p)^T R(q) = R(q - p), so scores depend on where tokens lie to each other alone. Such an
    encoding costs a cosine and a sine per channel pair: Q cancels between a query's and a key's
    rotation but for one factor, which belongs to the projections.
    """

    @abc.abstractmethod
    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Angle of each channel pair (2i, 2i + 1) per unit of position, [A, L or 1, H or 1, P]."""

    def basis(self, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """Q, orthogonal and block-diagonal: [L or 1, H or 1, N, K, K]; None is the identity."""
        return None

    def planes(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Frequencies and basis; together, for encodings that find both at once."""
        return self.frequencies(dtype), self.basis(dtype)

    def generators(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return planar_generators(*self.planes(dtype))

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations:
        with torch.autocast(self.device.type, enabled=False):
            frequencies, basis = self.planes(dtype)
            return planar_rotations(positions, frequencies, basis)


def check_block(block: int, head_dim: int) -> None:
    """SpecError where blocks of that side do not fill a head."""
    if block < 2 or head_dim % block:
        raise SpecError(f"block must be at least 2 and divide head_dim {head_dim}, got {block}")


def check_pairs(shape: TransformerShape, axes: int | None = None) -> None:
    """SpecError where a head has too few channels for one pair an axis, or an odd number."""
    axes = axes or shape.axes
    if shape.head_dim % 2 or shape.head_dim < 2 * axes:
        raise SpecError(
            f"needs an even head_dim of at least {2 * axes} for {axes} axes, got {shape.head_dim}"
        )


def lattice(coordinates: list[Tensor]) -> Tensor:
    """All combinations of per-axis coordinates, [T, A], last axis fastest."""
    mesh = torch.meshgrid(*coordinates, indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in mesh], dim=-1)  # [T, A]


def token_indices(grid: Grid) -> Tensor:
    """Tokens from the first one, per axis: float64 [T, A], unit: tokens."""
    return lattice([torch.arange(side, dtype=torch.float64) for side in grid.size])


def published_positions(grid: Grid, trained: Sequence[int]) -> Tensor:
    """``linspace(0, s / s0, s)`` per axis, as the published LieRE code has it: float64 [T, A].

    The training grid spans [0, 1]; at others the range grows in proportion, so the step drifts.
    """
    pairs = zip(grid.size, trained, strict=True)
    return lattice([torch.linspace(0.0, s / s0, s, dtype=torch.float64) for s, s0 in pairs])
