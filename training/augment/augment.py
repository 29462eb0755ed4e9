"""What a batch goes through before a training step, each item with its own draws.

Two halves with one boundary: ``training.augment.moving`` where items are read, ``change`` on the
device. Images: shifts, flips and rectangles are index arithmetic (``training.augment.shapes``),
crops of decoded items one sampling; colours and RandAugment are kornia's
(``training.augment.rand_augment``). A clip is its frames, all with the draws of the clip. Scans:
``training.augment.volumes``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from media.spec import InputSpec
from training.augment.draws import Draws, Uniforms
from training.augment.moving import move
from training.augment.rand_augment import colour_jitter, rand_augment
from training.augment.shapes import between, erase, erase_draws, part_of
from training.augment.volumes import change_scans
from training.config import Augment
from training.transfer import to_device


def augment(
    pixels: np.ndarray,
    draws: Draws,
    spec: Augment,
    input_spec: InputSpec,
    size: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """A batch as the network trains on it: ``move``, then ``change``.

    Args:
        pixels: [B, *sides, C], in space ``spec.oversize`` times as large as ``size``.
        draws: of these B items; how many are taken depends on the specs alone.
    """
    return change(move(pixels, draws, spec, input_spec), draws, spec, input_spec, size, device)


def change(
    pixels: np.ndarray | Tensor,
    draws: Draws,
    spec: Augment,
    input_spec: InputSpec,
    size: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """What ``move`` gives, with what computes new values, on the device.

    Args:
        pixels: [B, *sides, C].
        draws: those that ``move`` has left.
        size: pixels per axis of the result.

    Returns:
        [B, *size, C] on ``device``: of the type of ``pixels`` after shifts and flips alone, else
        float32 in [0, 255].
    """
    items = to_device(pixels, device)
    if not spec.changes_values:
        return items
    if input_spec.volume:
        return change_scans(items, draws, spec, input_spec.volume, size)
    if not input_spec.video:
        return change_images(items, draws, spec, size)
    batch, frames = items.shape[:2]
    images = items.flatten(0, 1)  # [B T, H, W, C]: every frame goes through what its clip draws
    changed = change_images(images, draws.repeated(frames), spec, size[1:])
    return changed.unflatten(0, (batch, frames))  # [B, *size, C]


def change_images(images: Tensor, draws: Uniforms, spec: Augment, size: tuple[int, ...]) -> Tensor:
    """Images [B, H, W, C] -> [B, *size, C]."""
    images = images.permute(0, 3, 1, 2).float() / 255  # [B, C, H, W]
    if spec.crops:
        images = resized_crop(images, draws.take(5), spec, size)  # [B, C, *size]
    for _ in range(spec.operations):
        images = rand_augment(images, draws.take(2), spec.magnitude)
    if spec.colour:
        images = colour_jitter(images, draws.take(4), spec.colour)
    if spec.erase:
        images = erase(images, draws.take(erase_draws(2)), spec.erase)
    return (images * 255).permute(0, 2, 3, 1)  # [B, *size, C]


def resized_crop(
    images: Tensor, draws: np.ndarray, spec: Augment, size: tuple[int, ...]
) -> Tensor:
    """A random part of every image, drawn to ``size`` by bilinear sampling.

    Args:
        images: [B, C, H, W].
        draws: uniforms [B, 5]: area, shape, down, right, mirror.

    Returns:
        [B, C, *size].
    """
    area = between(spec.crop_scale, draws[:, 0])  # [B], share of the image
    wide, tall = part_of(area, spec.crop_ratio, draws[:, 1:2])
    width, height = np.minimum(wide, 1.0), np.minimum(tall, 1.0)  # [B], share of the side
    down = (1 - height) * (2 * draws[:, 2] - 1)  # [B], of the centre, in half sides
    right = (1 - width) * (2 * draws[:, 3] - 1)
    turned = np.where(spec.flip & (draws[:, 4] < 0.5), -1.0, 1.0)
    zero = np.zeros_like(area)
    rows = [[width * turned, zero, right], [zero, height, down]]  # output -> input, per item
    theta = to_device(np.array(rows), images.device, images.dtype).permute(2, 0, 1)  # [B, 2, 3]
    shape = [*images.shape[:2], *size]
    grid = functional.affine_grid(theta, shape, align_corners=False)  # [B, *size, 2]
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
