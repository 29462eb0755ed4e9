"""Tensors that nobody trained: what they must be by the formula that they were made by."""

from __future__ import annotations

import torch
from torch import Tensor

from models.checkpoint import CheckpointError
from models.pretrained.family import Found

#: Half a step of bfloat16, whose numbers have eight binary digits.
BFLOAT16 = 2.0**-8


def check_buffers(found: Found) -> None:
    """CheckpointError that names a buffer which its formula does not give."""
    for name, which in (("token_rows", 0), ("token_columns", 1)):
        tensor = found.tensor(name)
        if tensor is not None and not torch.equal(tensor.double(), _indices(found, tensor)[which]):
            raise CheckpointError(
                f"{found.matched.theirs[name]}: expected the {'column' if which else 'row'} of "
                "every token of one grid, rows first, got other numbers"
            )
    _check_masks(found)


def check_periods(name: str, periods: Tensor, base: float) -> None:
    """CheckpointError unless they are base^(k / m), k = 0 .. m - 1, to bfloat16."""
    count = len(periods)
    wanted = base ** (torch.arange(count, dtype=torch.float64) / count)  # [m]
    error = (periods.double() / wanted - 1).abs().max().item()
    if error > BFLOAT16:
        raise CheckpointError(
            f"{name}: expected {base:g}^(k / {count}), at most {BFLOAT16:.2g} of it away, as "
            f"rounding to bfloat16 leaves it; got {error:.2g}"
        )


def _indices(found: Found, like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every token of the grid that the columns tell: float64 [T] each."""
    columns = found.tensor("token_columns")
    width = 1 if columns is None else max(int(columns.max()) + 1, 1)
    tokens = torch.arange(like.numel(), dtype=torch.float64)
    return tokens.div(width, rounding_mode="floor"), tokens % width


def _check_masks(found: Found) -> None:
    """A mask of the projection's bias takes away that of the keys and no other."""
    for ours, theirs in found.matched.theirs.items():
        if not ours.endswith(".key_mask"):
            continue
        mask = found.source.tensors[theirs]  # [3 W]
        wanted = torch.ones(3, len(mask) // 3, dtype=mask.dtype)
        wanted[1] = 0
        if not torch.equal(mask, wanted.flatten()):
            raise CheckpointError(f"{theirs}: expected 1 for queries and values and 0 for keys")
