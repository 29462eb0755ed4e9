"""Exponentials at all positions at once: few large calls, and none that the host waits for.

How often a matrix has to be squared depends on its norm, which only the device knows. So all are
squared equally often, from a small enough start: of exp - I, which is what is squared, a start
that is smaller than it has to be loses nothing.

Shapes: T tokens, F rays, P tokens on them in the order of ``RayOrder``, A coordinates of a
position, M matrices a token, K their side.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from models.rotations.rays import RayOrder, order_by_power
from models.rotations.series import TAYLOR_RADIUS, commutators, squared, taylor

#: Squarings of every matrix; the published initialisation asks for 7 (block 8) to 10 (block 64).
SQUARINGS = 16
#: Largest Frobenius norm / sqrt(2) that those are enough for. It is never below the spectral norm,
#: whose rounding to float32 is some thousandths of a radian there.
LARGEST_NORM = TAYLOR_RADIUS * 2**SQUARINGS


def exponentials(positions: Tensor, generators: Tensor) -> Tensor:
    """[T, A], [A, ..., K, K] -> [T, ..., K, K]; NaN beyond ``LARGEST_NORM``.

    Eigenvalues of a skew-symmetric matrix come in pairs +-i w, so its spectral norm is at most
    its Frobenius norm / sqrt(2).
    """
    order = order_by_power(positions, generators.device)
    small = _small(order, generators)
    norms = torch.linalg.vector_norm(small, dim=(-2, -1), keepdim=True)  # [F M, 1, 1]
    small.masked_fill_(norms > math.sqrt(2) * TAYLOR_RADIUS, math.nan)
    firsts = squared(small, SQUARINGS).view(len(order.firsts), *generators.shape[1:])
    return _powers(firsts, order).index_select(0, order.places)


def gradient(positions: Tensor, generators: Tensor, table: Tensor, gradient: Tensor) -> Tensor:
    """With respect to the generators, [A, ..., K, K]; ``table`` is what came of them.

    With dR = R W and W skew-symmetric, R -> R R turns W into W + R^T W R, so its transpose takes
    a gradient V to V + R V R^T. The powers R of one matrix commute, so the smallest may come first
    and none has to be kept.
    """
    order = order_by_power(positions, generators.device)
    rest = taylor(_small(order, generators))  # before the values, for which its memory is then free
    values = _flat(_gather(order, table, gradient))
    values = _and_turned(values, rest)
    for _ in range(SQUARINGS - 1):
        rest = torch.baddbmm(rest, rest, rest, beta=2)
        values = _and_turned(values, rest)
    del rest
    asked = commutators(_small(order, generators), values)
    # halved for _gather, and once for every squaring
    sums = (order.firsts * 2.0 ** (-SQUARINGS - 1)).T @ asked.view(-1, generators[0].numel())
    return sums.view(generators.shape)


def _small(order: RayOrder, generators: Tensor) -> Tensor:
    """Exponents of the rays' first tokens over 2^SQUARINGS, [F M, K, K]."""
    sums = (order.firsts * 2.0**-SQUARINGS) @ generators.flatten(1)  # [F, M K K]
    return _flat(sums.view(len(sums), *generators.shape[1:]))


def _powers(firsts: Tensor, order: RayOrder) -> Tensor:
    """R, R^2 and so on of R [F, ..., K, K], then the identity: [P + 1, ..., K, K]."""
    powers = firsts.new_empty(len(order.tokens) + 1, *firsts.shape[1:])
    *parts, identity = powers.split([*order.counts, 1])
    identity.copy_(torch.eye(firsts.shape[-1], device=firsts.device))
    for part in parts[:1]:
        part.copy_(firsts)
    for before, part in itertools.pairwise(parts):
        count = len(part)
        torch.bmm(_flat(before[:count]), _flat(firsts[:count]), out=_flat(part))
    return powers


def _gather(order: RayOrder, table: Tensor, gradient: Tensor) -> Tensor:
    """Twice what every ray asks of its first token, in the Lie algebra: [F, ..., K, K].

    The k-th power of R = exp(X) turns by sum_(j < k) of R^-j W R^j; transposed, all of them
    together take their gradients V_k to sum_j R^j (sum_(k > j) V_k) R^-j, here by Horner's rule.
    """
    values = torch.bmm(_flat(table).mT, gradient.reshape(_flat(table).shape))
    values = values - values.mT  # twice its skew-symmetric part
    values = values.view(table.shape).index_select(0, order.tokens)  # [P, ..., K, K]
    parts = values.split(order.counts)
    steps = [(higher, lower[: len(higher)]) for lower, higher in itertools.pairwise(parts)][::-1]
    for higher, lower in steps:
        lower.add_(higher)
    several = order.tokens[: len(parts[1]) if steps else 0]  # firsts of rays of several tokens
    firsts = table.index_select(0, several)
    for higher, lower in steps:
        rotation = _flat(firsts[: len(higher)])
        _flat(lower).baddbmm_(torch.bmm(rotation, _flat(higher)), rotation.mT)
    return values[: len(order.firsts)]


def _and_turned(values: Tensor, rest: Tensor) -> Tensor:
    """V + R V R^T in the place of V, with R = I + ``rest``; all [F M, K, K]."""
    turned = torch.baddbmm(values, rest, values)  # R V
    return values.add_(turned).baddbmm_(turned, rest.mT)


def _flat(matrices: Tensor) -> Tensor:
    """[..., K, K] -> [M, K, K], a view."""
    return matrices.flatten(0, -3)
