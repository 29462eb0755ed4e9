"""What a batch of images goes through before a training step, each item with its own draws.

The crops, flips and rectangles are index arithmetic and one sampling; colours and RandAugment are
kornia's (``training.operations``).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.config import Augment
from training.draws import Draws
from training.operations import colour_jitter, rand_augment

#: Smallest and largest share of the area, and of height over width, of an erased rectangle.
ERASED_SHARE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def augment(
    pixels: np.ndarray, draws: Draws, spec: Augment, size: tuple[int, int], device: torch.device
) -> Tensor:
    """A batch as the network trains on it.

    Args:
        pixels: uint8 [B, H, W, C], ``spec.oversize`` times as large as ``size``.
        draws: of these B items; how many are taken depends on ``spec`` alone.
        size: height and width of the result.

    Returns:
        [B, *size, C] on ``device``: uint8 after shift and flip alone, else float32 in [0, 255].
    """
    if not spec.crops:
        pixels = crop_and_flip(pixels, draws.take(3), spec.crop_padding, spec.flip)
    images = torch.from_numpy(pixels).to(device)  # [B, H, W, C]
    if not spec.changes_values:
        return images
    images = images.permute(0, 3, 1, 2).float() / 255  # [B, C, H, W]
    if spec.crops:
        images = resized_crop(images, draws.take(5), spec, size)  # [B, C, *size]
    for _ in range(spec.operations):
        images = rand_augment(images, torch.from_numpy(draws.take(2)).to(device), spec.magnitude)
    if spec.colour:
        images = colour_jitter(images, torch.from_numpy(draws.take(4)).to(device), spec.colour)
    if spec.erase:
        images = erase(images, draws.take(5), spec.erase)
    return (images * 255).permute(0, 2, 3, 1)  # [B, *size, C]


def crop_and_flip(pixels: np.ndarray, draws: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    """Shift by up to ``padding`` pixels per axis, edges mirrored; mirror half left to right.

    Args:
        pixels: uint8 [B, H, W, C].
        draws: uniforms [B, 3]: down, right, mirror.

    Returns:
        uint8 [B, H, W, C].
    """
    batch, height, width, _ = pixels.shape
    shifts = np.floor(draws[:, :2] * (2 * padding + 1)).astype(np.int64) - padding  # [B, 2]
    rows = _mirrored(np.arange(height) + shifts[:, :1], height)  # [B, H]
    columns = _mirrored(np.arange(width) + shifts[:, 1:], width)  # [B, W]
    if flip:
        columns = np.where(draws[:, 2:] < 0.5, columns[:, ::-1], columns)
    items = np.arange(batch)[:, None, None]
    return pixels[items, rows[:, :, None], columns[:, None, :]]


def resized_crop(images: Tensor, draws: np.ndarray, spec: Augment, size: tuple[int, int]) -> Tensor:
    """A random part of every image, drawn to ``size`` by bilinear sampling.

    Args:
        images: [B, C, H, W].
        draws: uniforms [B, 5]: area, shape, down, right, mirror.

    Returns:
        [B, C, *size].
    """
    area = _between(spec.crop_scale, draws[:, 0])  # [B], share of the image
    ratio = np.exp(_between(np.log(spec.crop_ratio), draws[:, 1]))  # [B], width over height
    width = np.minimum(np.sqrt(area * ratio), 1.0)  # [B], share of the side
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    down = (1 - height) * (2 * draws[:, 2] - 1)  # [B], of the centre, in half sides
    right = (1 - width) * (2 * draws[:, 3] - 1)
    mirror = np.where(spec.flip & (draws[:, 4] < 0.5), -1.0, 1.0)
    zero = np.zeros_like(area)
    rows = [[width * mirror, zero, right], [zero, height, down]]  # output -> input, per item
    theta = torch.from_numpy(np.array(rows)).permute(2, 0, 1).to(images)  # [B, 2, 3]
    shape = [*images.shape[:2], *size]
    grid = functional.affine_grid(theta, shape, align_corners=False)  # [B, *size, 2]
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def erase(images: Tensor, draws: np.ndarray, probability: float) -> Tensor:
    """A rectangle of some items is filled with the item's own mean colour (arXiv 1708.04896).

    Args:
        images: [B, C, H, W].
        draws: uniforms [B, 5]: whether, area, shape, down, right.

    Returns:
        [B, C, H, W].
    """
    height, width = images.shape[2:]
    area = _between(ERASED_SHARE, draws[:, 1])  # [B], share of the image
    ratio = np.exp(_between(np.log(ERASED_RATIO), draws[:, 2]))  # [B], height over width
    tall, wide = np.sqrt(area * ratio), np.sqrt(area / ratio)  # [B], share of the side
    inside = rectangles((height, width), tall, wide, draws[:, 3:])  # [B, H, W]
    inside &= (draws[:, 0] < probability)[:, None, None]
    mask = torch.from_numpy(inside).to(images.device)[:, None]  # [B, 1, H, W]
    return torch.where(mask, images.mean(dim=(2, 3), keepdim=True), images)


def rectangles(
    size: tuple[int, int], tall: np.ndarray, wide: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """One rectangle an item, wholly inside: bool [B, H, W].

    Args:
        size: H and W.
        tall, wide: shares of the sides, [B]; above 1 they are cut to 1.
        places: uniforms [B, 2]: down, right.
    """
    axes = []
    for side, share, place in zip(size, (tall, wide), places.T, strict=True):
        length = np.rint(np.minimum(share, 1.0) * side)  # [B], pixels
        start = np.floor(place * (side - length + 1))  # [B]
        index = np.arange(side)
        axes.append((index >= start[:, None]) & (index < (start + length)[:, None]))  # [B, side]
    return axes[0][:, :, None] & axes[1][:, None, :]


def _between(ends: tuple[float, ...] | np.ndarray, draws: np.ndarray) -> np.ndarray:
    return ends[0] + (ends[1] - ends[0]) * draws


def _mirrored(index: np.ndarray, side: int) -> np.ndarray:
    """Indices beyond an edge come back from it, without repeating the edge itself."""
    period = max(1, 2 * side - 2)
    index = np.abs(index) % period
    return np.where(index >= side, period - index, index)
