"""Generators that commute: one basis of planes for all of them, folded into the projections.

With A_a = Q (plane rotations) Q^T for every axis a, R(p) = Q turns(p) Q^T. The outer Q cancels
between a query's and a key's rotation, Q^T is linear and belongs to their projections, and what is
left for a graph is a cosine and a sine per channel pair (STRING, arXiv 2502.02562, theorem 3.4).

Shapes: A axes, L layers, H heads, N blocks, K block side, P = N K / 2 planes, W width, D head_dim,
C combinations. Everything here is float64.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from models.rotations.apply import fold_basis
from models.rotations.planes import skew_planes
from models.rotations.skew import planar_generators

#: Largest ||[A_k, A_l]|| over ||A_k|| ||A_l||, and largest part of an A_k outside its planes over
#: ||A_k|| (Frobenius norms), of generators that count as commuting. Families that commute by
#: construction have 4e-15 and 2e-13 in float64; one that was rounded to float32 has 1e-8.
TOLERANCE = 1e-11
#: Combinations of the generators that are tried for their planes; each block takes its best one.
#: Planes whose angles lie near each other in one combination by chance do not in another.
COMBINATIONS = 4


class FoldError(ValueError):
    """Rotations that do not become planes. The message says what was found, and where."""


def shared_planes(generators: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """The planes that all generators of a block share, and how fast each axis turns them.

    Args:
        generators: float64 [A, L, H, N, K, K], skew-symmetric.
        tolerance: see ``TOLERANCE``.

    Returns:
        frequencies [A, L, H, P] of channel pairs (2i, 2i + 1) after Q^T, and Q [L, H, N, K, K].

    Raises:
        FoldError: generators that do not commute, or an odd K.
    """
    if generators.shape[-1] % 2:
        raise FoldError(f"blocks of odd side {generators.shape[-1]} are not made of planes")
    check_commuting(generators, tolerance)
    norms = _norms(generators)[..., None, None]
    alike = generators / norms.clamp(min=_tiny(norms))  # of norm 1 or 0
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randn(COMBINATIONS, len(generators), generator=drawn, dtype=torch.float64)
    _, bases = skew_planes(torch.einsum("ca,alhnij->clhnij", weights, alike))  # [C, L, H, N, K, K]
    left = torch.stack([_outside(generators, basis).amax(0) for basis in bases])  # [C, L, H, N]
    best = left.argmin(0)[None, ..., None, None]  # [1, L, H, N, 1, 1]
    basis = bases.take_along_dim(best, 0)[0]  # [L, H, N, K, K]
    check_planes(generators, basis, tolerance)
    return frequencies_in(generators, basis), basis


def check_commuting(generators: Tensor, tolerance: float = TOLERANCE) -> float:
    """The largest relative commutator of generators [A, L, H, N, K, K].

    Raises:
        FoldError: it is above the tolerance; the message says between which and where.
    """
    norms, worst = _norms(generators), 0.0
    for first, second in itertools.combinations(range(len(generators)), 2):
        product = generators[first] @ generators[second]  # its transpose is the other order's
        both = norms[first] * norms[second]
        share = _norms(product - product.mT) / both.clamp(min=_tiny(both))  # [L, H, N]
        if not float(share.max()) <= tolerance:
            raise FoldError(
                f"generators of axes {first} and {second} do not commute: ||[A, B]|| is "
                f"{share.max():.2g} of ||A|| ||B|| in {_place(share)}, at most {tolerance:g} folds"
            )
        worst = max(worst, float(share.max()))
    return worst


def check_planes(generators: Tensor, basis: Tensor, tolerance: float = TOLERANCE) -> None:
    """FoldError where a part of a generator [A, L, H, N, K, K] lies outside the basis' planes."""
    left = _outside(generators, basis).amax(0)  # [L, H, N]
    if not float(left.max()) <= tolerance:
        raise FoldError(
            f"{left.max():.2g} of a generator's norm lies outside the planes that were found for "
            f"{_place(left)}, at most {tolerance:g} folds"
        )


def frequencies_in(generators: Tensor, basis: Tensor) -> Tensor:
    """How fast each axis turns the planes of a basis [L, H, N, K, K]: [A, L, H, P]."""
    even, odd = basis[..., 0::2], basis[..., 1::2]  # [L, H, N, K, K / 2] each
    return (odd * (generators @ even)).sum(-2).flatten(-2)


def folded(rows: Tensor, heads: int, basis: Tensor | None, order: Tensor | None) -> Tensor:
    """A projection whose queries and keys come out as Q^T x, and in another order of channels.

    Args:
        rows: weight [3 W, W] of queries, keys and values, or its bias [3 W].
        basis: Q of this layer, [H or 1, N, K, K], or None.
        order: [D], which channel of a head stands where; None leaves them.

    Returns:
        float64, of the shape of ``rows``; scores that are taken from it are the same.
    """
    query, key, value = rows.double().chunk(3)
    pair = [query, key] if basis is None else [fold_basis(part, basis) for part in (query, key)]
    if order is not None:
        pair = [part.unflatten(0, (heads, -1))[:, order].flatten(0, 1) for part in pair]
    return torch.cat([*pair, value])


def _outside(generators: Tensor, basis: Tensor) -> Tensor:
    """The share of each generator's norm that lies outside the planes, [A, L, H, N]."""
    inside = planar_generators(frequencies_in(generators, basis), basis)
    norms = _norms(generators)
    return _norms(generators - inside) / norms.clamp(min=_tiny(norms))


def _norms(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices)


def _tiny(values: Tensor) -> float:
    """So small that 0 / tiny is 0 and nothing else changes."""
    return torch.finfo(values.dtype).tiny


def _place(shares: Tensor) -> str:
    """Where the largest of [L, H, N] is."""
    index = torch.unravel_index(shares.argmax(), shares.shape)
    return ", ".join(
        f"{name} {int(number)}"
        for name, number in zip(("layer", "head", "block"), index, strict=True)
    )
