"""Queries and keys times a table of blocks, and what that asks of both backwards.

Shapes: B batch, S sequence, H heads, D head_dim, N blocks per head, K block side, H' heads of the
table (H, or 1 for all), J neighbouring blocks joined, M = N / J of them per head, R parts turned
together (queries and keys), C tokens worked on at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

#: Neighbouring blocks are joined up to this side: a product of side 8 takes twice the time of one
#: of side 16, for a quarter of the work.
JOINED_SIDE = 16
#: Numbers that a CPU works on at a time: they stay in the cores' second-level caches.
CHUNK_ELEMENTS = 2**19


def turn_blocks(parts: Sequence[Tensor], table: Tensor) -> Sequence[Tensor]:
    """Block n of each head multiplied by table[s, h, n]; channels beyond the blocks pass.

    The table is shared by the whole batch, so rows of the batch share one small matrix product
    per (token, head, block) and no per-item copy of the table is ever made.

    Args:
        parts: each [B, S, H, D].
        table: float32 [S, H or 1, N, K, K].

    Returns:
        Each like its part; products are float32.
    """
    turned_dim, head_dim = table.shape[-3] * table.shape[-1], parts[0].shape[-1]
    if turned_dim == head_dim:
        return _TurnedBlocks.apply(table, *parts)
    sizes = turned_dim, head_dim - turned_dim
    blocks, rests = zip(*(part.split(sizes, dim=-1) for part in parts), strict=True)
    turned = _TurnedBlocks.apply(table, *blocks)
    return [torch.cat(both, dim=-1) for both in zip(turned, rests, strict=True)]


class _TurnedBlocks(torch.autograd.Function):
    """Keeps its inputs alone, and asks for one product per gradient."""

    @staticmethod
    def forward(ctx, table: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(table, *parts)
        result = _empty_like(parts)
        with torch.autocast(table.device.type, enabled=False):
            for tokens in _chunks(parts):
                own = table[tokens]
                product = torch.bmm(_rows(parts, tokens, own), joined(own).mT)
                _write(product, result, tokens, own)
        return result

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, *parts = ctx.saved_tensors
        result = _empty_like(parts)
        of_table = torch.empty_like(table) if ctx.needs_input_grad[0] else None
        with torch.autocast(table.device.type, enabled=False):
            for tokens in _chunks(parts):
                own = table[tokens]
                rows = _rows(gradients, tokens, own)
                _write(torch.bmm(rows, joined(own)), result, tokens, own)
                if of_table is not None:
                    product = torch.bmm(rows.mT, _rows(parts, tokens, own))
                    of_table[tokens] = parted(product, own)
        return of_table, *result


def joined(table: Tensor) -> Tensor:
    """Neighbouring blocks [C, H', N, K, K] as block-diagonal matrices [C H' M, J K, J K]."""
    join, side = _join(table), table.shape[-1]
    parts = table.reshape(-1, join, side, 1, side)  # [C H' M, J, K, 1, K]
    eye = torch.eye(join, dtype=table.dtype, device=table.device)
    spread = parts * eye[:, None, :, None] if join > 1 else parts  # [C H' M, J, K, J, K]
    return spread.flatten(3).flatten(1, 2)


def parted(matrices: Tensor, table: Tensor) -> Tensor:
    """The blocks on the diagonals of [C H' M, J K, J K]: like the table, [C, H', N, K, K]."""
    join, side = _join(table), table.shape[-1]
    wide = matrices.view(-1, join, side, join, side)  # [C H' M, J, K, J, K]
    blocks = torch.stack([wide[:, place, :, place] for place in range(join)], dim=1)
    return blocks.reshape(table.shape)


def _join(table: Tensor) -> int:
    """How many neighbouring blocks make one matrix."""
    blocks, side = table.shape[-3], table.shape[-1]
    fitting = [n for n in range(1, blocks + 1) if blocks % n == 0 and n * side <= JOINED_SIDE]
    return fitting[-1] if fitting else 1


def _chunks(parts: Sequence[Tensor]) -> Iterator[slice]:
    """Slices of the sequence; one is all where calls cost more than they save."""
    sequence = step = parts[0].shape[1]
    if parts[0].device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, CHUNK_ELEMENTS * sequence // (len(parts) * parts[0].numel()))
    for start in range(0, sequence, step):
        yield slice(start, start + step)


def _empty_like(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Side by side in memory, each [B, S, H, N K]."""
    return parts[0].new_empty(len(parts), *parts[0].shape).unbind()


def _rows(parts: Sequence[Tensor], tokens: slice, table: Tensor) -> Tensor:
    """Float32 [C H' M, R B H / H', J K]: what meets one matrix side by side."""
    views = [_by_matrix(part[:, tokens], table) for part in parts]
    outer, inner = views[0].shape[:3], views[0].shape[3:]
    rows = table.new_empty(*outer, len(parts), *inner)
    for target, view in zip(rows.unbind(3), views, strict=True):
        target.copy_(view)
    return rows.flatten(3, 5).flatten(0, 2)


def _write(rows: Tensor, parts: Sequence[Tensor], tokens: slice, table: Tensor) -> None:
    """The way back from ``_rows``."""
    views = [_by_matrix(part[:, tokens], table) for part in parts]
    outer, inner = views[0].shape[:3], views[0].shape[3:]
    for source, view in zip(rows.view(*outer, len(parts), *inner).unbind(3), views, strict=True):
        view.copy_(source)


def _by_matrix(x: Tensor, table: Tensor) -> Tensor:
    """A view of x [B, C, H, N K] as [C, H', M, B, H / H', J K]."""
    side = _join(table) * table.shape[-1]
    parts = x.unflatten(-1, (-1, side)).unflatten(2, (table.shape[1], -1))
    return parts.permute(1, 2, 4, 0, 3, 5)  # from [B, C, H', H / H', M, J K]
