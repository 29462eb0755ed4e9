"""One exponential of small skew-symmetric matrices, and what its gradient is a series of.

Shapes: M matrices, K their side. Memory: what is not needed any more is written over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Largest spectral norm for which the degree-8 Taylor polynomial is exact to float32 rounding
#: (remainder theta^9 / 9! below 2^-24).
TAYLOR_RADIUS = 0.65
#: Terms of the commutator series in the backward pass; the next is below 1e-5 at that radius.
COMMUTATOR_TERMS = 9

_ROOT = math.sqrt(177.0)
_X3 = 2.0 / 3.0
_X1 = _X3 * (1 + _ROOT) / 88
_X2 = _X3 * (1 + _ROOT) / 352
_X4 = (-271 + 29 * _ROOT) / (315 * _X3)
_X5 = 11 * (-1 + _ROOT) / (1260 * _X3)
_X6 = 11 * (-9 + _ROOT) / (5040 * _X3)
_X7 = (89 - _ROOT) / (5040 * _X3**2)
_Y2 = (857 - 58 * _ROOT) / 630


def taylor(small: Tensor) -> Tensor:
    """exp(small) - I, [M, K, K]; three times the memory of ``small`` beside it."""
    x2 = torch.bmm(small, small)
    x4 = torch.bmm(x2, (_X1 * small).add_(x2, alpha=_X2))
    right = (_X7 * x4).add_(x2, alpha=_X6).add_(small, alpha=_X5)
    right.diagonal(dim1=1, dim2=2).add_(_X4)
    left = x4.add_(x2, alpha=_X3)
    return torch.add(small, x2, alpha=_Y2, out=x2).baddbmm_(left, right)


def squared(small: Tensor, count: int) -> Tensor:
    """exp(2^count small), [M, K, K].

    (I + E)^2 = I + 2 E + E^2: without the ones on the diagonal, whose rounding every squaring
    would double, the result is several times as exact.
    """
    rest = taylor(small)
    for _ in range(count):
        rest = torch.baddbmm(rest, rest, rest, beta=2)
    rest.diagonal(dim1=1, dim2=2).add_(1.0)
    return rest


def commutators(small: Tensor, value: Tensor) -> Tensor:
    """From exp(small) to ``small``: what a gradient in the Lie algebra asks of it, [M, K, K].

    exp takes dX to the series of nested commutators sum_n (-1)^n [X, [X, ... dX]] / (n + 1)!
    (e.g. Hall, Lie Groups, theorem 5.4), whose transpose is the same series with plus signs.
    """
    half, series = torch.empty_like(value), value.clone()
    for order in range(COMMUTATOR_TERMS, 1, -1):
        # of skew matrices [X, V] = XV - (XV)^T
        torch.baddbmm(value, small, series, beta=0.5, alpha=1 / order, out=half)
        torch.sub(half, half.mT, out=series)
    return series
