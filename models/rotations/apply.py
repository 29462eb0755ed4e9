"""Rotations of a sequence, and turning queries and keys by them.

Shapes: T tokens, S = prefix + T sequence, A coordinates of a position, L layers, H heads, N blocks
per head, K block side, B batch, D head_dim, P = D / 2 channel pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.rotations.turned_blocks import turn_blocks
from models.transfer import send


class Rotations(NamedTuple):
    """How queries and keys are turned: by ``blocks``, or by ``turns`` after a change of basis.

    Attributes:
        blocks: [L or 1, S, H or 1, N, K, K], orthogonal; they turn the first N K channels of a
            head, any others pass as they are.
        turns: [L or 1, S, H or 1, P, 2], cosine and sine of the angle by which each pair of
            channels (2i, 2i + 1) turns.
        basis: Q, [L or 1, H or 1, N, K, K] with N K = D, orthogonal, beside ``turns`` only: the
            rotation is Q turns Q^T. The outer Q cancels between query and key, so what applies the
            rotations applies turns Q^T.
    """

    blocks: Tensor | None = None
    turns: Tensor | None = None
    basis: Tensor | None = None

    def by_layer(self, layers: int) -> list[Rotations]:
        """Of every layer, without the leading axis; one row may serve all layers.

        All at once, because the gradient of one row taken out of a table is a whole table.
        """
        rows = [[None] if tensor is None else [*tensor] for tensor in self]
        return [Rotations(*(row[layer % len(row)] for row in rows)) for layer in range(layers)]


def planar_rotations(
    positions: Tensor, frequencies: Tensor, basis: Tensor | None = None
) -> Rotations:
    """Every pair of channels turned by the angle sum_a position_a * frequency_a.

    Args:
        positions: [T, A], on the CPU or beside the frequencies.
        frequencies: [A, L or 1, H or 1, P], in the precision to compute in.
        basis: passed on.
    """
    positions = send(positions, frequencies.device, frequencies.dtype)
    angles = torch.einsum("ta,alhp->lthp", positions, frequencies)
    turns = torch.stack([angles.cos(), angles.sin()], dim=-1)  # [L, T, H, P, 2]
    return Rotations(turns=turns, basis=basis)


# --- turning ----------------------------------------------------------------------------------


def turn(parts: Sequence[Tensor], rotations: Rotations) -> Sequence[Tensor]:
    """Every head of every token turned; a basis is not applied, see ``fold_basis``.

    Args:
        parts: queries and keys, or any others, each [B, S, H, D]; together they cost less.
        rotations: of one layer.
    """
    if rotations.blocks is not None:
        return turn_blocks(parts, rotations.blocks)
    if rotations.turns is not None:
        return [turn_pairs(part, rotations.turns) for part in parts]
    return parts


def turn_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """Channel pairs (2i, 2i + 1) as complex numbers, times one of length 1 for each.

    Args:
        x: [B, S, H, D].
        turns: float32 [S, H or 1, P, 2].

    Returns:
        Like x.
    """
    if torch.compiler.is_compiling():  # which fuses real numbers and no complex ones
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # [B, S, H, P] each
        cosine, sine = turns.unbind(-1)  # [S, H or 1, P] each
        both = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return both.flatten(-2).to(x.dtype)  # [B, S, H, D]
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # [B, S, H, P]
    turned = pairs * torch.view_as_complex(turns)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)  # [B, S, H, D]


def fold_basis(weight: Tensor, basis: Tensor) -> Tensor:
    """A projection that gives Q^T x in place of x, in every head.

    Args:
        weight: of the projection [H D, W], or its bias [H D].
        basis: Q, [H or 1, N, K, K].
    """
    _, blocks, side, _ = basis.shape
    rows = weight.reshape(-1, blocks, side, weight[0].numel())  # [H, N, K, W or 1]
    return (basis.mT @ rows).reshape(weight.shape)


def to_basis(x: Tensor, basis: Tensor) -> Tensor:
    """Q^T of every token and head: [B, S, H, D], basis [H or 1, N, K, K] -> [B, S, H, D]."""
    blocks, side = basis.shape[1], basis.shape[-1]
    wide = basis.to(x.dtype).expand(x.shape[2], -1, -1, -1)  # [H, N, K, K]
    return torch.einsum("bshni,hnij->bshnj", x.unflatten(-1, (blocks, side)), wide).flatten(-2)
