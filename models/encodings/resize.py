"""A learned table of positions at another grid than its own.

Shapes: T tokens, W width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from media.spec import Grid
from models.spec import TableRule

#: What ``plain`` does, by number of axes; more than three are linear in each in turn.
PLAIN = {1: "linear", 2: "bicubic", 3: "trilinear"}
#: What ``scale-factor`` adds to the number of tokens of a side before it divides.
OFFSET = 0.1


def table_at(table: Tensor, trained: Grid, grid: Grid, rule: TableRule) -> Tensor:
    """The table [T, W] of ``trained`` as it is at ``grid``, [T', W]; tokens in row-major order.

    Tokens are taken as the middles of their patches. Rules:

    * ``plain``: by cubics in two axes, linearly in any other number of them, no antialiasing.
    * ``bicubic``: the last two axes by cubics (coefficient -3/4), any before them linearly;
      transformers' ``vit``, ``dinov2`` and the published code of RoPE-ViT.
    * ``bicubic-antialias``: the same with an antialiasing filter (coefficient -1/2, wider where
      the grid is smaller); timm, DINOv2 with registers.
    * ``scale-factor``: cubics at steps of s0 / (s + 0.1) instead of s0 / s, so that the grid does
      not quite span the table; the published code of DINOv2 without registers.
    """
    if grid == trained:
        return table
    axes = table.T.reshape(1, table.shape[1], *trained.size)  # [1, W, *trained]
    if rule == "plain" and grid.axes in PLAIN:
        mode = PLAIN[grid.axes]
        axes = interpolate(axes, size=grid.size, mode=mode, align_corners=False)  # [1, W, *grid]
        return axes.flatten(2)[0].T  # [T', W]
    planar = 0 if rule == "plain" or grid.axes < 2 else 2  # axes that are resized by cubics
    for axis, side in enumerate(grid.size[: grid.axes - planar], start=2):
        axes = _along(axes, axis, side)
    if planar:
        axes = _in_planes(axes, grid, rule)
    return axes.flatten(2)[0].T  # [T', W]


def _along(table: Tensor, axis: int, side: int) -> Tensor:
    """[1, W, ...] -> the same with ``side`` tokens on one axis, linearly."""
    lines = table.movedim(axis, -1)  # [1, W, *others, trained side]
    line = interpolate(lines.flatten(1, -2), size=side, mode="linear")  # [1, W others, side]
    return line.unflatten(1, lines.shape[1:-1]).movedim(-1, axis)


def _in_planes(table: Tensor, grid: Grid, rule: TableRule) -> Tensor:
    """[1, W, *before, height, width] -> the same with the grid's height and width, by cubics."""
    planes = table.flatten(1, -3) if grid.axes > 2 else table  # [1, W before, height, width]
    sides = grid.size[-2:]
    if rule == "scale-factor":
        pairs = zip(sides, planes.shape[-2:], strict=True)
        factors = tuple((side + OFFSET) / trained for side, trained in pairs)
        planes = interpolate(planes, scale_factor=factors, mode="bicubic")
    else:
        antialias = rule == "bicubic-antialias"
        planes = interpolate(planes, size=sides, mode="bicubic", antialias=antialias)
    return planes.unflatten(1, table.shape[1:-2])  # [1, W, *before, *sides]
