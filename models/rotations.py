"""Rotations from skew-symmetric generators: building, exponentiating, applying.

Shapes: T tokens, A axes, L layers, H heads, N blocks per head, K block side, B batch,
D = N * K head_dim. Everything here runs in the precision it is given and outside autocast:
rounding a generator to bfloat16 before the exponential costs two digits of the rotation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Matrix elements exponentiated at a time: small enough for a core's second-level cache.
CHUNK_ELEMENTS = 2**17
#: Largest spectral norm for which the degree-8 Taylor polynomial is exact to float32 rounding
#: (remainder theta^9 / 9! below 2^-24).
TAYLOR_RADIUS = 0.65
#: Terms of the commutator series in the backward pass; the next is below 1e-5 at that radius.
COMMUTATOR_TERMS = 9


def skew(entries: Tensor, block: int) -> Tensor:
    """Skew-symmetric matrices from their strict upper triangles.

    Args:
        entries: [..., K (K - 1) / 2], row by row.
        block: K.

    Returns:
        [..., K, K], equal to minus its transpose.
    """
    rows, columns = torch.triu_indices(block, block, offset=1, device=entries.device)
    flat = entries.new_zeros(*entries.shape[:-1], block * block)
    flat = flat.index_copy(-1, rows * block + columns, entries)
    upper = flat.unflatten(-1, (block, block))  # [..., K, K]
    return upper - upper.transpose(-1, -2)


def rotations(positions: Tensor, generators: Tensor) -> Tensor:
    """``exp(sum_a position_a * generator_a)`` for every position (LieRE, arXiv 2406.10322).

    Args:
        positions: [T, A].
        generators: [A, ..., K, K], skew-symmetric; the same dtype as the positions.

    Returns:
        [T, ..., K, K], orthogonal. Differentiable with respect to the generators; float32 uses
        a chunked Taylor exponential that keeps only its result in memory, any other dtype
        ``torch.linalg.matrix_exp``.
    """
    flat = generators.reshape(generators.shape[0], -1)  # [A, ... K K]
    exponents = (positions @ flat).unflatten(-1, generators.shape[1:])  # [T, ..., K, K]
    if exponents.dtype != torch.float32:
        return torch.linalg.matrix_exp(exponents)
    return exponential(exponents)


def apply_rotations(x: Tensor, table: Tensor) -> Tensor:
    """Turn every block of every head of every token.

    The table is shared by the whole batch, so rows of the batch share one small matrix product
    per (token, head, block) and no per-item copy of the table is ever made.

    Args:
        x: [B, T, H, D].
        table: [T, H or 1, N, K, K].

    Returns:
        [B, T, H, D]: block n of each head multiplied by table[t, h, n].
    """
    batch, tokens, heads, head_dim = x.shape
    _, _, blocks, side, _ = table.shape
    table = table.to(x.dtype).expand(tokens, heads, blocks, side, side)
    rows = x.reshape(batch, tokens * heads * blocks, side).transpose(0, 1)  # [THN, B, K]
    turned = torch.bmm(rows, table.reshape(-1, side, side).transpose(1, 2))  # [THN, B, K]
    return turned.transpose(0, 1).reshape(batch, tokens, heads, head_dim)  # [B, T, H, D]


# --- the exponential --------------------------------------------------------------------------


def exponential(matrices: Tensor) -> Tensor:
    """Exponential of many small skew-symmetric float32 matrices, [..., K, K] -> [..., K, K].

    Scaling and squaring around a degree-8 Taylor polynomial in three products (Bader, Blanes
    and Casas 2019, equation 15), in cache-sized chunks. The backward pass recomputes each chunk
    instead of storing intermediates, and works in the Lie algebra, where a squaring costs two
    products. The gradient is the skew-symmetric part: all that skew-symmetric input can see.
    """
    return _Exponential.apply(matrices)


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(matrices)
        flat = matrices.reshape(-1, *matrices.shape[-2:])  # [M, K, K]
        result = torch.empty_like(flat)
        for part, squarings in _chunks(flat):
            result[part] = _squarings(flat[part] * 2.0**-squarings, squarings)[-1]
        return result.view_as(matrices)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (matrices,) = ctx.saved_tensors
        flat = matrices.reshape(-1, *matrices.shape[-2:])  # [M, K, K]
        gradient = gradient.reshape_as(flat).contiguous()
        result = torch.empty_like(flat)
        for part, squarings in _chunks(flat):
            small = flat[part] * 2.0**-squarings
            result[part] = _pull_back(small, squarings, gradient[part]) * 2.0**-squarings
        return result.view_as(matrices)


def _chunks(flat: Tensor) -> list[tuple[slice, int]]:
    """Slices of the first axis, each with the squarings that its largest matrix asks for.

    Eigenvalues of a skew-symmetric matrix come in pairs +-i w, so its spectral norm is at most
    its Frobenius norm / sqrt(2).
    """
    step = max(1, CHUNK_ELEMENTS // flat[0].numel())
    parts = [slice(start, start + step) for start in range(0, len(flat), step)]
    squares = [flat[part].square().sum((-2, -1)).amax() for part in parts]
    norms = (torch.stack(squares) / 2).sqrt().tolist()  # one transfer from the device
    return [(part, _squarings_for(norm)) for part, norm in zip(parts, norms, strict=True)]


def _squarings_for(norm: float) -> int:
    """Halvings that bring a norm inside the radius; none help infinity, whose result is NaN."""
    if not math.isfinite(norm):
        return 0
    return max(0, math.ceil(math.log2(max(norm, 1e-30) / TAYLOR_RADIUS)))


_ROOT = math.sqrt(177.0)
_X3 = 2.0 / 3.0
_X1 = _X3 * (1 + _ROOT) / 88
_X2 = _X3 * (1 + _ROOT) / 352
_X4 = (-271 + 29 * _ROOT) / (315 * _X3)
_X5 = 11 * (-1 + _ROOT) / (1260 * _X3)
_X6 = 11 * (-9 + _ROOT) / (5040 * _X3)
_X7 = (89 - _ROOT) / (5040 * _X3**2)
_Y2 = (857 - 58 * _ROOT) / 630


def _squarings(small: Tensor, count: int) -> list[Tensor]:
    """exp(small), exp(2 small), ... exp(2^count small), each [M, K, K]."""
    identity = torch.eye(small.shape[-1], dtype=small.dtype, device=small.device)
    x2 = torch.bmm(small, small)
    x4 = torch.bmm(x2, _X1 * small + _X2 * x2)
    left = _X3 * x2 + x4
    right = _X4 * identity + _X5 * small + _X6 * x2 + _X7 * x4
    chain = [torch.baddbmm(identity + small + _Y2 * x2, left, right)]
    for _ in range(count):
        chain.append(torch.bmm(chain[-1], chain[-1]))
    return chain


def _pull_back(small: Tensor, count: int, gradient: Tensor) -> Tensor:
    """Gradient with respect to ``small`` of exp(2^count small), [M, K, K], skew-symmetric.

    With dR = R W and W skew-symmetric, R -> R R turns W into W + R^T W R, so its transpose
    takes a gradient V to V + R V R^T; and exp takes dX to the series of nested commutators
    sum_n (-1)^n [X, [X, ... dX]] / (n + 1)! (e.g. Hall, Lie Groups, theorem 5.4), whose
    transpose is the same series with plus signs.
    """
    chain = _squarings(small, count)
    value = _skew_part(torch.bmm(chain[-1].transpose(1, 2), gradient))
    for rotation in reversed(chain[:-1]):
        value = torch.baddbmm(value, torch.bmm(rotation, value), rotation.transpose(1, 2))
    series = value
    for order in range(COMMUTATOR_TERMS, 1, -1):
        product = torch.bmm(small, series)  # of skew matrices: [X, V] = XV - (XV)^T
        series = value + (product - product.transpose(1, 2)) / order
    return series


def _skew_part(x: Tensor) -> Tensor:
    return (x - x.transpose(1, 2)) / 2
