"""Rotations as matrices, however an encoding gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from models.rotations.apply import Rotations


def blocks_of(rotations: Rotations | None) -> Tensor:
    """[L or 1, T, H or 1, N, K, K]; pairs of channels are blocks of 2. No basis is applied."""
    assert rotations is not None
    if rotations.blocks is not None:
        return rotations.blocks
    assert rotations.turns is not None
    cosine, sine = rotations.turns.unbind(-1)  # [L, T, H, P] each
    rows = torch.stack([cosine, -sine]), torch.stack([sine, cosine])
    return torch.stack(rows).movedim((0, 1), (-2, -1))  # [L, T, H, P, 2, 2]


def full_rotations(rotations: Rotations | None, head_dim: int) -> Tensor:
    """R = Q turns Q^T, or the blocks, of whole heads: [L or 1, T, H or 1, D, D]."""
    assert rotations is not None
    turned = diagonal(blocks_of(rotations), head_dim)
    if rotations.basis is None:
        return turned
    basis = diagonal(rotations.basis, head_dim)[:, None]  # [L, 1, H, D, D]
    return basis @ turned @ basis.mT


def diagonal(blocks: Tensor, side: int) -> Tensor:
    """[..., N, K, K] -> [..., side, side], with ones where no block is."""
    *outer, number, block, _ = blocks.shape
    matrix = torch.eye(side, dtype=blocks.dtype).repeat(*outer, 1, 1)
    for index in range(number):
        own = slice(index * block, (index + 1) * block)
        matrix[..., own, own] = blocks[..., index, :, :]
    return matrix
