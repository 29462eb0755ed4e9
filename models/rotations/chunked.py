"""Exponentials a cacheful at a time, each matrix with as many squarings as its own norm asks for.

For a CPU: norms and positions are read by the host, which then loops over rays and chunks.

Shapes: T tokens, F rays, A coordinates of a position, M matrices a token, K their side. A chunk
is the number of matrix elements worked on at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from models.rotations.rays import find_rays
from models.rotations.series import TAYLOR_RADIUS, commutators, squared

#: Matrix elements that the backward pass has room for beside the table and its gradient.
GROUP_ELEMENTS = 2**22
#: Squarings that bring any finite float32 norm inside the radius are fewer.
MANY = 140


def exponentials(positions: Tensor, generators: Tensor, chunk: int) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, ..., K, K]."""
    rays = find_rays(positions)
    table = _exponents(positions, generators)  # [T, M, K, K]; exponentials take their place
    flat = table.flatten(0, 1)  # [T M, K, K]
    for rows, squarings in _alike(flat, _rows([ray[0] for ray in rays], table), chunk):
        small = flat.index_select(0, rows).mul_(2.0**-squarings)
        flat.index_copy_(0, rows, squared(small, squarings))
    for ray in rays:
        for before, token in itertools.pairwise(ray):
            torch.bmm(table[before], table[ray[0]], out=table[token])
    table[~positions.any(1)] = torch.eye(table.shape[-1], device=table.device)
    return table.view(-1, *generators.shape[1:])


def gradient(
    positions: Tensor, generators: Tensor, table: Tensor, gradient: Tensor, chunk: int
) -> Tensor:
    """With respect to the generators, [A, ..., K, K]; ``table`` is what came of them."""
    rays = find_rays(positions)
    result = torch.zeros_like(generators).flatten(1)  # [A, M K K]
    step = max(1, GROUP_ELEMENTS // table[0].numel())
    for start in range(0, len(rays), step):
        group = rays[start : start + step]
        firsts = positions[[ray[0] for ray in group]]  # [F, A]
        values = _gather_all(group, table, gradient, chunk)  # [F, M, K, K]
        asked = _pull_all(_exponents(firsts, generators), values, chunk)
        result.addmm_(firsts.T.to(result.device), asked.flatten(1))
    return result.view(generators.shape)


def _pull_all(exponents: Tensor, values: Tensor, chunk: int) -> Tensor:
    """From values of the Lie algebra to exponents, in whose place they come; [F, M, K, K]."""
    flat, values = exponents.flatten(0, 1), values.flatten(0, 1)  # [F M, K, K]
    for rows, squarings in _alike(flat, torch.arange(len(flat), device=flat.device), chunk):
        small = flat.index_select(0, rows).mul_(2.0**-squarings)
        pulled = _pull_back(small, squarings, values.index_select(0, rows))
        flat.index_copy_(0, rows, pulled.mul_(2.0**-squarings))
    return exponents


def _exponents(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, M, K, K]."""
    sums = positions.to(generators.device) @ generators.flatten(1)
    return sums.view(len(positions), -1, *generators.shape[-2:])


# --- rays -------------------------------------------------------------------------------------


def _gather_all(rays: list[list[int]], table: Tensor, gradient: Tensor, chunk: int) -> Tensor:
    """What every ray asks of its first token's exponents: of [T, ..., K, K] each, [F, M, K, K].

    Token by token and a chunk at a time: a gradient whose layers come first stays as it is.
    """
    side = table.shape[-1]
    values = table.new_empty(len(rays), table[0].numel() // side**2, side, side)
    step = max(1, chunk // side**2)
    for value, ray in zip(values, rays, strict=True):
        rotations, asked = ([x[token].flatten(0, -3) for token in ray] for x in (table, gradient))
        for start in range(0, len(value), step):
            part = slice(start, start + step)
            value[part] = _gather([r[part] for r in rotations], [g[part] for g in asked])
    return values


def _gather(powers: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """What the powers of R = exp(X) ask of X, as a value of its Lie algebra.

    With dR = R W, the k-th power turns by sum_(j < k) of R^-j W R^j; transposed, all of them
    together take their gradients V_k to sum_j R^j (sum_(k > j) V_k) R^-j, here by Horner's rule.

    Args:
        powers, gradients: of R, R^2, R^3 and so on, each [M, K, K].

    Returns:
        [M, K, K], skew-symmetric.
    """
    first = powers[0]
    total = value = _in_algebra(powers.pop(), gradients.pop())
    while powers:
        total = total + _in_algebra(powers.pop(), gradients.pop())
        value = torch.baddbmm(total, torch.bmm(first, value), first.mT)
    return value


def _in_algebra(rotation: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to the skew-symmetric W, where dR = R W; [M, K, K]."""
    product = torch.bmm(rotation.mT, gradient)
    return (product - product.mT).mul_(0.5)


# --- one exponential ----------------------------------------------------------------------------


def _rows(tokens: Iterable[int], table: Tensor) -> Tensor:
    """Where the matrices of some tokens are among those of all, [T M, K, K]."""
    count = table.shape[1]
    starts = count * torch.tensor([*tokens], dtype=torch.long, device=table.device)
    return (starts[:, None] + torch.arange(count, device=table.device)).flatten()


def _alike(flat: Tensor, rows: Tensor, chunk: int) -> Iterator[tuple[Tensor, int]]:
    """Those rows of [M, K, K] that need the same number of squarings, a chunk at a time.

    Eigenvalues of a skew-symmetric matrix come in pairs +-i w, so its spectral norm is at most
    its Frobenius norm / sqrt(2). Nothing helps what is not finite, whose result is NaN.
    """
    norms = torch.linalg.vector_norm(flat, dim=(-2, -1))[rows] / (math.sqrt(2) * TAYLOR_RADIUS)
    halvings = torch.frexp(norms).exponent.clamp(min=0)  # norm = mantissa below 1 * 2^exponent
    ordered, order = torch.where(norms.isfinite(), halvings, 0).sort()
    limits = torch.arange(MANY, dtype=ordered.dtype, device=ordered.device)
    ends = torch.searchsorted(ordered, limits, right=True).tolist()  # one transfer from the device
    step = max(1, chunk // flat.shape[-1] ** 2)
    for squarings, (start, end) in enumerate(itertools.pairwise([0, *ends])):
        for first in range(start, end, step):
            yield rows[order[first : min(first + step, end)]], squarings


def _chain(small: Tensor, count: int) -> list[Tensor]:
    """exp(small), exp(2 small), exp(4 small), ``count`` of them, each [M, K, K]."""
    chain = [squared(small, 0)] if count else []
    while len(chain) < count:
        chain.append(torch.bmm(chain[-1], chain[-1]))
    return chain


def _pull_back(small: Tensor, count: int, value: Tensor) -> Tensor:
    """From exp(2^count small), as ``_in_algebra`` has it, to ``small``; all [M, K, K] and skew.

    With dR = R W and W skew-symmetric, R -> R R turns W into W + R^T W R, so its transpose
    takes a gradient V to V + R V R^T.
    """
    chain = _chain(small, count)
    while chain:
        rotation = chain.pop()
        value = torch.baddbmm(value, torch.bmm(rotation, value), rotation.mT)
    return commutators(small, value)
