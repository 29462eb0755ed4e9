"""What every encoding of position answers, and what rotary ones share.

Shapes: T tokens, A coordinates of a position, L layers, H heads, N blocks, K block side,
D head_dim, P = D / 2 channel pairs, W width.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from media.spec import Grid, SpecError
from models.rotations.apply import Rotations, planar_rotations
from models.rotations.skew import planar_generators, rotations
from models.spec import EncodingSpec, ModelSpec

#: Fields of EncodingSpec that every encoding understands, or ignores because it learns nothing.
COMMON = ("name", "per_layer", "per_head")


class Encoding(nn.Module, abc.ABC):
    """How position enters a transformer."""

    #: The options of EncodingSpec that this encoding takes, with its defaults.
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    #: Where prefix tokens are, on every axis: the origin, at which nothing is turned.
    PREFIX_POSITION: ClassVar[float] = 0.0

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.options = resolve(spec, self.OPTIONS)

    @property
    def axes(self) -> int:
        return len(self.spec.grid)

    @property
    def layers(self) -> int:
        """How many layers have parameters of their own."""
        return self.spec.depth if self.spec.encoding.per_layer else 1

    @property
    def heads(self) -> int:
        """How many heads have parameters of their own."""
        return self.spec.heads if self.spec.encoding.per_head else 1

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
        """What turns queries and keys at the positions [T, A], computed in ``dtype``, or None."""
        return None

    def adopt(self, trained: Encoding) -> None:
        """Take over what an encoding of the same kind learned on another training grid.

        Afterwards this one encodes its own training grid as ``trained`` encodes that grid.
        """
        self.load_state_dict(trained.state_dict())


class Rotary(Encoding):
    """R(p) = exp(sum_a p_a A_a): an encoding given by its generators."""

    @abc.abstractmethod
    def generators(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[A, L or 1, H or 1, N, K, K], skew-symmetric."""

    def rotations(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> Rotations:
        with torch.autocast(positions.device.type, enabled=False):
            generators = self.generators(dtype)
            table = rotations(positions.to(generators), generators)  # [T, L, H, N, K, K]
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
        with torch.autocast(positions.device.type, enabled=False):
            frequencies, basis = self.planes(dtype)
            return planar_rotations(positions, frequencies.to(positions.device), basis)


def resolve(spec: ModelSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """The encoding's options, its defaults where the spec has none.

    Raises:
        SpecError: an option of another encoding is given, a block that does not divide, or a base
            below 1.
    """
    encoding = spec.encoding
    resolved = dict(options)
    for name, default in vars(EncodingSpec()).items():
        given = getattr(encoding, name)
        if name in COMMON or given == default:
            continue
        if name not in options:
            known = ", ".join(options) or "none"
            raise SpecError(f"{encoding.name} has no {name}, got {given!r}; its options: {known}")
        resolved[name] = given
    spec.check_block(resolved.get("block"))
    if not resolved.get("base", 1.0) >= 1.0:
        raise SpecError(f"{encoding.name} needs a base of at least 1, got {resolved['base']}")
    return resolved


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
