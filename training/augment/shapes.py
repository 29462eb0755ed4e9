"""Moving and filling parts of items, for any number of axes: index arithmetic on a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from training.transfer import to_device

#: Smallest and largest share of the area, and of height over width, of what is erased.
ERASED_SHARE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def mirror(pixels: np.ndarray, draws: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Half of the items mirrored along each axis, each for itself.

    Args:
        pixels: [B, *sides, C].
        draws: uniforms [B, number of axes].
        axes: of ``pixels``.

    Returns:
        [B, *sides, C].
    """
    whole = whole_pixels(pixels)  # [B, *sides]
    moved = np.empty_like(whole)
    for item, turned in enumerate(draws < 0.5):  # each is copied once
        steps = [slice(None)] * whole[item].ndim
        for axis in compress(axes, turned):
            steps[axis - 1] = slice(None, None, -1)
        moved[item] = whole[item][tuple(steps)]
    return moved.view(pixels.dtype).reshape(pixels.shape)


def crop_and_flip(pixels: np.ndarray, draws: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    """Shift by up to ``padding`` pixels per axis, edges mirrored; mirror half along the last axis.

    Args:
        pixels: [B, *sides, C].
        draws: uniforms [B, axes + 1]: the shifts in the order of the axes, mirror.

    Returns:
        [B, *sides, C].
    """
    batch, *sides, _ = pixels.shape
    axes = len(sides)
    shifts = np.floor(draws[:, :axes] * (2 * padding + 1)).astype(np.int64) - padding  # [B, axes]
    index = [np.arange(batch).reshape(-1, *(1,) * axes)]
    for axis, side in enumerate(sides):
        places = _mirrored(np.arange(side) + shifts[:, axis : axis + 1], side)  # [B, side]
        if flip and axis == axes - 1:
            places = np.where(draws[:, axes:] < 0.5, places[:, ::-1], places)
        shape = [1] * axes
        shape[axis] = side
        index.append(places.reshape(batch, *shape))
    moved = np.ascontiguousarray(whole_pixels(pixels)[tuple(index)])  # [B, *sides]
    return moved.view(pixels.dtype).reshape(pixels.shape)


def whole_pixels(pixels: np.ndarray) -> np.ndarray:
    """[B, *sides, C] as [B, *sides]: numpy moves a pixel at once, and not every channel of it."""
    whole = np.dtype((np.void, pixels.shape[-1] * pixels.itemsize))
    return np.ascontiguousarray(pixels).view(whole)[..., 0]


def erase(items: Tensor, draws: np.ndarray, probability: float) -> Tensor:
    """A box in some items is filled with the item's own mean colour (arXiv 1708.04896).

    Args:
        items: [B, C, *sides].
        draws: uniforms [B, erase_draws(axes)]: whether, area, shape, place.

    Returns:
        [B, C, *sides].
    """
    sides = items.shape[2:]
    axes = len(sides)
    area = between(ERASED_SHARE, draws[:, 1])  # [B], share of the item
    shares = part_of(area, ERASED_RATIO, draws[:, 2:-axes])
    edges = boxes(sides, shares, draws[:, -axes:])  # [B, axes, 2]
    edges[draws[:, 0] >= probability] = 0
    mask = filled(edges, sides, items.device)[:, None]  # [B, 1, *sides]
    mean = items.mean(dim=tuple(range(2, items.dim())), keepdim=True)  # [B, C, 1, ...]
    return torch.where(mask, mean, items)


def erase_draws(axes: int) -> int:
    """How many uniforms ``erase`` needs for every item."""
    return 2 + shape_draws(axes) + axes


def part_of(
    area: np.ndarray, ratio: tuple[float, ...], draws: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Shares of the sides, each [B], whose product is the area, before any is cut to 1.

    Args:
        area: [B].
        ratio: smallest and largest of the first side over the second; with three sides, of each
            over the mean of all.
        draws: uniforms [B, shape_draws(axes)].
    """
    stretch = between(np.log(ratio), draws)  # [B, 1 or 3]
    if draws.shape[1] == 1:
        (factor,) = np.exp(stretch).T
        return np.sqrt(area * factor), np.sqrt(area / factor)
    sides = np.cbrt(area)[:, None] * np.exp(stretch - stretch.mean(axis=1, keepdims=True))
    return tuple(sides.T)  # of [B, 3]


def shape_draws(axes: int) -> int:
    """How many uniforms decide the shape of a part."""
    return 1 if axes == 2 else axes


def boxes(size: Sequence[int], shares: Sequence[np.ndarray], places: np.ndarray) -> np.ndarray:
    """One box an item, wholly inside: its first pixel and the one after its last, [B, axes, 2].

    Args:
        shares: of each side, [B]; above 1 they are cut to 1.
        places: uniforms [B, axes].
    """
    sides = np.array(size)  # [axes]
    lengths = np.rint(np.minimum(np.stack(shares, axis=1), 1.0) * sides)  # [B, axes], pixels
    starts = np.floor(places * (sides - lengths + 1))  # [B, axes]
    return np.stack([starts, starts + lengths], axis=2)


def filled(edges: np.ndarray, size: Sequence[int], device: torch.device) -> Tensor:
    """Where the boxes with the edges [B, axes, 2] are: bool [B, *size]."""
    starts, ends = to_device(edges, device, torch.int32).unbind(2)  # [B, axes] each
    inside = torch.ones((len(edges), *(1,) * len(size)), dtype=torch.bool, device=device)
    for axis, side in enumerate(size):
        index = torch.arange(side, device=device)
        along = (index >= starts[:, axis, None]) & (index < ends[:, axis, None])  # [B, side]
        shape = [1] * len(size)
        shape[axis] = side
        inside = inside & along.reshape(-1, *shape)
    return inside


def between(ends: tuple[float, ...] | np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Uniforms as numbers from the first end to the second."""
    return ends[0] + (ends[1] - ends[0]) * draws


def _mirrored(index: np.ndarray, side: int) -> np.ndarray:
    """Indices beyond an edge come back from it, without repeating the edge itself."""
    period = max(1, 2 * side - 2)
    index = np.abs(index) % period
    return np.where(index >= side, period - index, index)
