"""Axial RoPE on coordinates that span [-1, 1] at every grid, as DINOv3 has it."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from media.spec import Grid, SpecError
from models.encodings.axial_rope import axial_frequencies, axial_series
from models.encodings.base import (
    Commuting,
    SeriesOptions,
    TransformerShape,
    check_pairs,
    lattice,
    option,
)


@dataclasses.dataclass(frozen=True)
class Dinov3RopeOptions(SeriesOptions):
    """The series of frequencies, the unit of positions, and how they move in training."""

    base: float = option(100.0, "frequencies go from 1 down to nearly 1 / base")
    normalise: Literal["separate", "max", "min"] = option(
        "separate", "by which side of the grid positions become [-1, 1]: each its own, the "
        "longest, the shortest"
    )  # fmt: skip
    periods: Literal["base", "stored"] = option(
        "base", "whether the series follows from its base, or its periods lie with the weights, as "
        "in the files of DINOv3's authors, where they are rounded to bfloat16"
    )  # fmt: skip
    shift: float = option(0.0, "in training, how far each axis is moved at most; 0 is off")
    jitter: float = option(1.0, "in training, by what each axis is stretched at most; 1 is off")
    rescale: float = option(2.0, "in training, by what all axes are stretched at most; 1 is off")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("shift", 0.0), ("jitter", 1.0), ("rescale", 1.0)):
            if not least <= getattr(self, name) < math.inf:
                raise SpecError(
                    f"needs a {name} of at least {least:g}, got {getattr(self, name)}"
                )


class Dinov3Rope(Commuting):
    """R(c) turns pair k of axis a by 2 pi c_a / base^(k / m), m = D // (2 A) pairs an axis.

    Parameters: none; of ``periods`` stored, base^(k / m) is part of the state, so that a file's own
    can be loaded: the original code uses what the file holds. The origin, where prefix tokens are,
    is the middle of the picture.

    Positions: patch centres, 2 (i + 1/2) / s - 1, where s is the axis' own side (``normalise``
    separate), the longest side (max) or the shortest (min); with these two an axis of another
    length spans [-1, 2 side / s - 1]. In training they are moved, all of an axis alike: first
    ``shift`` adds a number of U(-shift, shift) to each axis, then ``jitter`` multiplies each axis
    by a factor that is log-uniform in [1 / jitter, jitter], then ``rescale`` all axes by one such
    factor. Shift 0, jitter 1 and rescale 1 are off; the defaults are those of the released models.

    Source: Simeoni et al. (DINOv3), arXiv 2508.10104, and facebookresearch/dinov3,
    dinov3/layers/rope_position_encoding.py. There channel j is turned with channel j + D / 2,
    here 2 j with 2 j + 1: the same up to that permutation of a head's channels.
    """

    OPTIONS = Dinov3RopeOptions
    options: Dinov3RopeOptions
    periods: Tensor | None  # [m], in positions, of a whole turn of each pair

    def __init__(self, options: Dinov3RopeOptions, shape: TransformerShape) -> None:
        super().__init__(options, shape)
        check_pairs(shape)
        own = shape.head_dim // 2 // shape.axes
        exponents = torch.arange(own, dtype=torch.float64) / own
        stored = (options.base**exponents).float() if options.periods == "stored" else None
        self.register_buffer("periods", stored)

    def positions(self, grid: Grid) -> Tensor:
        """Unit: half of the side that normalises."""
        longest, shortest = max(grid.size), min(grid.size)
        whole = {"separate": None, "max": longest, "min": shortest}[self.options.normalise]
        centres = (torch.arange(side, dtype=torch.float64) + 0.5 for side in grid.size)
        sides = (whole or side for side in grid.size)
        return lattice([2 * i / side - 1 for i, side in zip(centres, sides, strict=True)])

    def moved(self, positions: Tensor, grid: Grid) -> Tensor:
        shift = self.options.shift * uniform(positions, self.axes)  # [A]
        jitter = self.options.jitter ** uniform(positions, self.axes)  # [A]
        rescale = self.options.rescale ** uniform(positions, 1)  # [1]
        return (positions + shift) * jitter * rescale

    def frequencies(self, dtype: torch.dtype = torch.float32) -> Tensor:
        turns = axial_frequencies(self.shape, self.options.base, torch.float64)
        if self.periods is not None:
            turns = axial_series(self.shape, 1 / self.periods.double())
        return (2 * math.pi * turns).to(dtype)


def uniform(like: Tensor, count: int) -> Tensor:
    """Numbers of U(-1, 1), [count]."""
    return like.new_empty(count).uniform_(-1.0, 1.0)
