"""Queries and keys times a table of blocks, and what that asks of both backwards.

Shapes: B batch, S sequence, H heads, D head_dim, N blocks per head, K block side, H' heads of the
table (H, or 1 for all), J neighbouring blocks joined, M = N / J of them per head, R parts turned
together (queries and keys), C of the S tokens worked on at a time.
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
        matrices = joined(table).mT
        with torch.autocast(table.device.type, enabled=False):
            for tokens, rows, products in _chunks(parts, matrices):
                _read(parts, tokens, rows)
                torch.bmm(_flat(rows), matrices[tokens].flatten(0, 2), out=_flat(products))
                _write(products, result, tokens)
        return result

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, *parts = ctx.saved_tensors
        result = _empty_like(parts)
        matrices = joined(table)
        of_matrices = matrices.new_empty(matrices.shape) if ctx.needs_input_grad[0] else None
        with torch.autocast(table.device.type, enabled=False):
            for tokens, rows, others in _chunks(parts, matrices):
                _read(gradients, tokens, rows)
                torch.bmm(_flat(rows), matrices[tokens].flatten(0, 2), out=_flat(others))
                _write(others, result, tokens)
                if of_matrices is not None:
                    _read(parts, tokens, others)
                    of_tokens = of_matrices[tokens].view(-1, *of_matrices.shape[3:])
                    torch.bmm(_flat(rows).mT, _flat(others), out=of_tokens)
        return None if of_matrices is None else parted(of_matrices, table), *result


def joined(table: Tensor) -> Tensor:
    """Neighbouring blocks [S, H', N, K, K] as block-diagonal matrices [S, H', M, J K, J K]."""
    join = _join(table)
    if join == 1:
        return table
    parts = table.unflatten(2, (-1, join)).unsqueeze(-2)  # [S, H', M, J, K, 1, K]
    eye = torch.eye(join, dtype=table.dtype, device=table.device)
    spread = parts * eye[:, None, :, None]  # [S, H', M, J, K, J, K]
    return spread.flatten(5).flatten(3, 4)


def parted(matrices: Tensor, table: Tensor) -> Tensor:
    """The blocks on the diagonals of [S, H', M, J K, J K]: like the table, [S, H', N, K, K]."""
    join, side = _join(table), table.shape[-1]
    wide = matrices.unflatten(4, (join, side)).unflatten(3, (join, side))
    blocks = torch.stack([wide[:, :, :, i, :, i] for i in range(join)], dim=3)
    return blocks.flatten(2, 3)  # from [S, H', M, J, K, K]


def _join(table: Tensor) -> int:
    """How many neighbouring blocks make one matrix."""
    blocks, side = table.shape[-3], table.shape[-1]
    fitting = [n for n in range(1, blocks + 1) if blocks % n == 0 and n * side <= JOINED_SIDE]
    return fitting[-1] if fitting else 1


def _chunks(parts: Sequence[Tensor], matrices: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of the sequence, and room for what meets their matrices: twice the same shape.

    One slice is all where calls cost more than they save. The room is taken once: the system
    hands out fresh memory page by page, which costs as much as a product.

    Yields:
        Tokens; two float32 [C, H', M, R, B, H / H', J K], overwritten by the next ones.
    """
    batch, sequence, heads, turned_dim = parts[0].shape
    step = sequence
    if parts[0].device.type == "cpu" and not torch.compiler.is_compiling():
        step = min(step, max(1, CHUNK_ELEMENTS // (len(parts) * batch * heads * turned_dim)))
    tables, places, side = matrices.shape[1:4]
    room = (step, tables, places, len(parts), batch, heads // tables, side)
    first, second = matrices.new_empty(room), matrices.new_empty(room)
    for start in range(0, sequence, step):
        count = min(step, sequence - start)
        yield slice(start, start + count), first[:count], second[:count]


def _flat(rows: Tensor) -> Tensor:
    """[C, H', M, R, B, H / H', J K] -> [C H' M, R B H / H', J K], a view."""
    return rows.view(rows.shape[:3].numel(), rows.shape[3:6].numel(), rows.shape[6])


def _empty_like(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Side by side in memory, each [B, S, H, N K]."""
    return parts[0].new_empty(len(parts), *parts[0].shape).unbind()


def _read(parts: Sequence[Tensor], tokens: slice, rows: Tensor) -> None:
    """What meets one matrix, side by side and in float32: to [C, H', M, R, B, H / H', J K]."""
    for target, part in zip(rows.unbind(3), parts, strict=True):
        target.copy_(_by_matrix(part[:, tokens], rows))


def _write(rows: Tensor, parts: Sequence[Tensor], tokens: slice) -> None:
    """The way back from ``_read``."""
    for source, part in zip(rows.unbind(3), parts, strict=True):
        _by_matrix(part[:, tokens], rows).copy_(source)


def _by_matrix(x: Tensor, rows: Tensor) -> Tensor:
    """A view of x [B, C, H, N K] as [C, H', M, B, H / H', J K]."""
    parts = x.unflatten(-1, (-1, rows.shape[-1])).unflatten(2, (rows.shape[1], -1))
    return parts.permute(1, 2, 4, 0, 3, 5)  # from [B, C, H', H / H', M, J K]
