"""Skew-symmetric matrices and the rotations that they generate.

Shapes: T tokens, A coordinates of a position, L layers, H heads, N blocks per head, K block side,
P channel pairs. Rotations are computed in the precision they are asked for and outside autocast:
rounding a generator to bfloat16 before the exponential costs two digits of the rotation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.rotations.exponential import exponentials


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
        positions: [T, A], on the CPU; the same dtype as the generators.
        generators: [A, ..., K, K], skew-symmetric.

    Returns:
        [T, ..., K, K], orthogonal. Differentiable with respect to the generators; float32 uses
        ``models.rotations.exponential``, any other dtype ``torch.linalg.matrix_exp``.
    """
    if generators.dtype == torch.float32:
        return exponentials(positions, generators)
    sums = positions.to(generators.device) @ generators.flatten(1)
    exponents = sums.unflatten(1, generators.shape[1:])
    return torch.linalg.matrix_exp(exponents)  # [T, ..., K, K]


def planar_generators(frequencies: Tensor, basis: Tensor | None) -> Tensor:
    """Generators Q (sum of f J) Q^T with J = [[0, -1], [1, 0]] in each plane of two channels.

    Args:
        frequencies: [A, L or 1, H or 1, P].
        basis: Q, [L or 1, H or 1, N, K, K] with N K = 2 P, or None.

    Returns:
        [A, L, H, N, K, K]; without a basis K is 2.
    """
    if basis is None:
        basis = torch.eye(2, dtype=frequencies.dtype, device=frequencies.device)
        basis = basis.expand(1, 1, frequencies.shape[-1], 2, 2)
    blocks, side = basis.shape[-3], basis.shape[-1]
    angles = frequencies.unflatten(-1, (blocks, side // 2))[..., None, :]  # [A, L, H, N, 1, K / 2]
    even, odd = basis[..., 0::2], basis[..., 1::2]  # [L, H, N, K, K / 2] each: planes' two axes
    half = (odd * angles) @ even.mT  # [A, L, H, N, K, K]; exp turns even towards odd
    return half - half.mT
