"""Axial RoPE in a learned orthogonal basis (Liu et al., Rethinking RoPE, arXiv 2504.06308)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from media.spec import Grid, SpecError
from models.encodings.axial_rope import axial_frequencies
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_pairs,
    option,
    token_indices,
)
from models.rotations.exponential import exponential
from models.rotations.skew import skew
from models.transfer import send


@dataclasses.dataclass(frozen=True)
class MasaOptions(SeriesOptions):
    """The series of frequencies, and how the basis is written."""

    base: float = option(100.0, "frequencies go from 1 down to nearly 1 / base")
    basis: Literal["cayley", "exponential", "givens", "householder"] = option(
        "cayley", "how the learned orthogonal basis is written"
    )
    factors: int | None = option(
        None, "of givens and householder, turns or reflections: null for 16 and 6"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factors is not None and not FORMS[self.basis].factors:
            raise SpecError(f"basis {self.basis} has no factors, got {self.factors}")


class Masa(Commuting):
    """R(p) = Q axial(p) Q^T, Q orthogonal and learned per layer and head.

    The generators span part of a maximal abelian subalgebra (MASA) of so(D), and Q lets the axes
    interact (first version, equations 25 to 30). The frequencies are those of ``AxialRope`` with
    base 100, fixed. Positions are token indices. The encoding is reversible, whatever Q: the first
    frequency of an axis is 1, and no two whole numbers differ by a multiple of 2 pi.

    ``basis`` says how Q is written. Parameters, L H times:

    * cayley: (I + S)^-1 (I - S) with S skew-symmetric; D (D - 1) / 2 numbers from N(0, 2);
    * exponential: exp(S); S as before;
    * givens: ``factors`` (16) turns in the planes of channels (0, 1), (0, 2), ... in that order;
      as many angles, from 0.01 N(0, 1);
    * householder: ``factors`` (6) reflections, D numbers each from N(0, 1); an even number of
      them, so that det Q = 1.

    Initialised as in the authors' code, whose S is W - W^T with W from N(0, 1) and which has no
    exponential. One snapshot of it turns first and changes the basis after, where Q cancels
    between query and key; here, as in a later one, Q^T comes first.
    """

    OPTIONS = MasaOptions
    options: MasaOptions

    def __init__(self, options: MasaOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)
        self.form = FORMS[options.basis]
        own = self.form.shape(shape.head_dim, self._factors())
        self.numbers = nn.Parameter(torch.empty(self.layers, self.heads, *own))
        nn.init.normal_(self.numbers, std=self.form.deviation)

    def positions(self, grid: Grid) -> Tensor:
        return token_indices(grid)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        fixed = axial_frequencies(self.shape, self.options.base, dtype)  # [A, 1, 1, P]
        return send(fixed, self.numbers.device)

    def basis(self, dtype: torch.dtype = torch.float32) -> Tensor:
        whole = self.form.build(self.numbers.to(dtype), self.shape.head_dim)  # [L, H, D, D]
        return whole[:, :, None]  # [L, H, 1, D, D]

    def _factors(self) -> int:
        """How many turns or reflections; 0 for a basis without any."""
        name, given, side = self.options.basis, self.options.factors, self.shape.head_dim
        factors = self.form.factors if given is None else given
        if name == "householder" and (factors % 2 or not 2 <= factors <= side):
            raise SpecError(f"householder factors must be even, from 2 to {side}, got {factors}")
        if name == "givens" and not 1 <= factors <= side * (side - 1) // 2:
            most = side * (side - 1) // 2
            raise SpecError(f"givens factors must be from 1 to {most}, got {factors}")
        return factors


# --- orthogonal matrices [..., D, D] from unconstrained numbers ----------------------------------


def cayley(numbers: Tensor, side: int) -> Tensor:
    """(I + S)^-1 (I - S) with S = skew(numbers [..., D (D - 1) / 2])."""
    generator = skew(numbers, side)  # [..., D, D]
    identity = torch.eye(side, dtype=numbers.dtype, device=numbers.device)
    # solve() would wait for a GPU to say whether I + S is singular, which it never is
    return torch.linalg.solve_ex(identity + generator, identity - generator).result


def exponential_of(numbers: Tensor, side: int) -> Tensor:
    """exp(S) with S = skew(numbers [..., D (D - 1) / 2])."""
    generator = skew(numbers, side)  # [..., D, D]
    exact = generator.dtype != torch.float32
    return torch.linalg.matrix_exp(generator) if exact else exponential(generator)


def givens(numbers: Tensor, side: int) -> Tensor:
    """Turns by numbers [..., F], in order, in the planes (0, 1), (0, 2), ..., (1, 2), ..."""
    identity = torch.eye(side, dtype=numbers.dtype, device=numbers.device)
    rows = list(identity.expand(*numbers.shape[:-1], side, side).unbind(-2))  # D of [..., D]
    planes = itertools.combinations(range(side), 2)
    turns = zip(numbers.cos().split(1, dim=-1), numbers.sin().split(1, dim=-1), strict=True)
    for (cosine, sine), (i, j) in zip(turns, planes, strict=False):  # more planes than turns
        rows[i], rows[j] = cosine * rows[i] + sine * rows[j], cosine * rows[j] - sine * rows[i]
    return torch.stack(rows, dim=-2)  # [..., D, D]


def householder(numbers: Tensor, side: int) -> Tensor:
    """Product of the reflections I - 2 v v^T / |v|^2 of vectors [..., F, D].

    It is I - V^T U^-1 V with U the upper triangle of V V^T and half of its diagonal (compact WY
    form; Joffrain et al. 2006, Accumulating Householder transformations, revisited).
    """
    gram = numbers @ numbers.mT  # [..., F, F]
    upper = gram.triu(1) + torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1) / 2)
    solved = torch.linalg.solve_triangular(upper, numbers, upper=True)  # [..., F, D]
    identity = torch.eye(side, dtype=numbers.dtype, device=numbers.device)
    return identity - numbers.mT @ solved  # [..., D, D]


class Form(NamedTuple):
    """A way to write an orthogonal matrix.

    Attributes:
        build: numbers [..., *shape] and D -> Q [..., D, D].
        shape: of the numbers, from D and the number of factors.
        deviation: of the numbers at the start.
        factors: their default number; 0 where Q is not a product.
    """

    build: Callable[[Tensor, int], Tensor]
    shape: Callable[[int, int], tuple[int, ...]]
    deviation: float
    factors: int = 0


def _triangle(side: int, _: int) -> tuple[int, ...]:
    return (side * (side - 1) // 2,)


FORMS = {
    "cayley": Form(cayley, _triangle, math.sqrt(2)),
    "exponential": Form(exponential_of, _triangle, math.sqrt(2)),
    "givens": Form(givens, lambda _, factors: (factors,), 0.01, factors=16),
    "householder": Form(householder, lambda side, factors: (factors, side), 1.0, factors=6),
}
