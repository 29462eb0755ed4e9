"""How a graph turns queries and keys by constants, at any batch.

Shapes: B batch, S sequence, H heads, H' = H, or 1 where heads share rotations, D head_dim, N blocks
per head, K block side, J blocks joined, P = D / 2 planes, M = H' N / J matrices a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Neighbouring blocks are joined into block-diagonal matrices of about this side: a matrix
#: product that small is dominated by its call, and four times the zeros cost less than four calls.
JOINED_SIDE = 32


# --- planes -------------------------------------------------------------------------------------


def halves(head_dim: int) -> Tensor:
    """Which channel of a head stands where, [D]: the first of every pair, then the second.

    Pairs side by side would have to be picked apart at every turn; halves are two plain slices.
    """
    return torch.arange(head_dim).unflatten(0, (-1, 2)).T.flatten()


def turn_planes(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Channels i and D / 2 + i turned by one angle: [B, S, H, D] -> [B, H, S, D].

    Args:
        cosine, sine: [S, H', P].
    """
    first, second = x.chunk(2, dim=-1)  # [B, S, H, P] each
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat(turned, dim=-1).transpose(1, 2)


# --- blocks -------------------------------------------------------------------------------------


def joined_blocks(count: int, block: int) -> int:
    """How many of a head's ``count`` neighbouring blocks make one constant matrix."""
    side = max(block, JOINED_SIDE)
    return max(n for n in range(1, count + 1) if count % n == 0 and n * block <= side)


def joined(table: Tensor) -> Tensor:
    """[S, H', N, K, K] -> block-diagonal [S, M, J K, J K]; transposed before, as it stands right.

    The graph holds the small blocks (of tables above 8192 numbers; smaller ones torch.onnx joins
    itself) and the runtime folds this when it loads them: the file stays as small as the
    rotations are.
    """
    sequence, _, count, block, _ = table.shape
    join = joined_blocks(count, block)
    parts = table.reshape(-1, join, block, 1, block)  # [S M, J, K, 1, K]
    spread = parts * torch.eye(join).reshape(join, 1, join, 1)  # [S M, J, K, J, K]
    return spread.reshape(sequence, -1, join * block, join * block)


def turn_blocks(x: Tensor, table: Tensor, turned_dim: int) -> Tensor:
    """Every piece of a head multiplied by its matrix: [B, S, H, D] -> [B, H, S, D].

    The rows of all images that meet one matrix stand in one product, so the table is read once a
    batch. Where heads share their rotations, the rows of all heads do.

    Args:
        table: [S, M, side, side], joined.
        turned_dim: channels of a head that the blocks cover, N K; those after them pass.
    """
    heads, head_dim = x.shape[2:]
    sequence, matrices, side, _ = table.shape
    pieces = turned_dim // side  # of a head
    own = matrices // pieces  # H'
    rows = x[..., :turned_dim] if turned_dim < head_dim else x
    rows = rows.reshape(-1, sequence, heads // own, matrices, side).permute(1, 3, 0, 2, 4)
    turned = torch.matmul(rows.flatten(2, 3), table)  # [S, M, B H / H', side]
    turned = turned.reshape(sequence, own, pieces, -1, heads // own, side)
    turned = turned.permute(3, 1, 4, 0, 2, 5).flatten(4).flatten(1, 2)  # [B, H, S, N K]
    if turned_dim == head_dim:
        return turned
    return torch.cat([turned, x[..., turned_dim:].transpose(1, 2)], dim=-1)
