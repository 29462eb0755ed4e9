"""The axial baseline of the published LieRE code, for its checkpoints alone."""

from __future__ import annotations

import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings.base import (
    Commuting,
    OfTrainedGrid,
    Options,
    TransformerShape,
    check_pairs,
    published_positions,
)


class PublishedAxial(OfTrainedGrid, Commuting):
    """R(p) turns pair k of axis a by p_a exp(-4 k / (m - 1)), with m = D // (2 A) pairs an axis.

    Called VisionLLaMA there ("tiled"), and weaker than it: positions span [0, 1], so the fastest
    pair turns by one radian across a whole picture. Use ``axial_rope`` for anything new.

    Channels lie as here: pair i is channels (2 i, 2 i + 1), axis 0 has pairs 0 to m - 1, axis 1
    the next m, and what is left passes (three axes turn 60 of 64 channels). Nothing is permuted
    at import.

    ``per_head`` is what the published code makes of its switch of that name, which was meant for
    learned rotations: the A m turns are dealt out, head h turns its first A m / H pairs by turns
    h A m / H and following, and its other channels pass. With two heads and two axes the first
    head knows rows alone, the second columns alone. Without it every head has all turns.

    Parameters: none. Positions: ``linspace(0, s / s0, s)`` per axis, s0 the side of the training
    grid, which the state holds as ``trained``.
    Source: StanfordMIMI/LieRE, models/rope_vit.py (TiledPositionEncoder, apply_transforms).
    """

    def __init__(self, options: Options, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)
        turns = self.axes * (shape.head_dim // (2 * self.axes))
        if turns % self.heads:
            raise SpecError(
                f"with per_head deals out {turns} turns to the heads, which must divide them, "
                f"got {shape.heads} heads; per_head=false gives all turns to each"
            )

    def positions(self, grid: Grid) -> Tensor:
        return published_positions(grid, self.trained_sides)

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        own = self.shape.head_dim // (2 * self.axes)  # m
        series = torch.exp(-4 * torch.linspace(0, 1, own, dtype=torch.float64))
        turns = torch.block_diag(*[series[None]] * self.axes)  # [A, A m]
        dealt = turns.unflatten(-1, (self.heads, -1))  # [A, H or 1, turns of a head]
        rest = self.shape.head_dim // 2 - dealt.shape[-1]
        return torch.nn.functional.pad(dealt, (0, rest))[:, None].to(dtype)  # [A, 1, H, P]
