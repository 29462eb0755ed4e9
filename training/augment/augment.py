"""What a batch goes through before a training step, each item with its own draws.

Images: crops, flips and rectangles are index arithmetic (``training.augment.shapes``) and one
sampling; colours and RandAugment are kornia's (``training.augment.rand_augment``). A clip is its
frames, all with the draws of the clip. Scans: ``training.augment.volumes``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from media.spec import AXES, InputSpec
from training.augment.draws import Draws, Uniforms
from training.augment.rand_augment import colour_jitter, rand_augment
from training.augment.shapes import between, crop_and_flip, erase, erase_draws, mirror, part_of
from training.augment.volumes import augment_scans
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
    """A batch as the network trains on it.

    Args:
        pixels: [B, *sides, C], in space ``spec.oversize`` times as large as ``size``.
        draws: of these B items; how many are taken depends on the specs alone.
        size: pixels per axis of the result.

    Returns:
        [B, *size, C] on ``device``: of the type of ``pixels`` after shifts and flips alone, else
        float32 in [0, 255].
    """
    if spec.flip_axes:
        axes = [1 + AXES[input_spec.modality].index(name) for name in spec.flip_axes]
        pixels = mirror(pixels, draws.take(len(axes)), axes)
    if input_spec.volume:
        return augment_scans(pixels, draws, spec, input_spec.volume, size, device)
    if input_spec.video:
        return augment_clips(pixels, draws, spec, size, device)
    return augment_images(pixels, draws, spec, size, device)


def augment_clips(
    pixels: np.ndarray, draws: Draws, spec: Augment, size: tuple[int, ...], device: torch.device
) -> Tensor:
    """Clips [B, T, H, W, C] -> [B, *size, C]; every frame goes through what its clip draws."""
    batch, frames = pixels.shape[:2]
    images = pixels.reshape(-1, *pixels.shape[2:])  # [B T, H, W, C]
    changed = augment_images(images, draws.repeated(frames), spec, size[1:], device)
    return changed.unflatten(0, (batch, frames))  # [B, *size, C]


def augment_images(
    pixels: np.ndarray, draws: Uniforms, spec: Augment, size: tuple[int, ...], device: torch.device
) -> Tensor:
    """Images [B, H, W, C] -> [B, *size, C]."""
    if not spec.crops:
        pixels = crop_and_flip(pixels, draws.take(3), spec.crop_padding, spec.flip)
    images = to_device(pixels, device)  # [B, H, W, C]
    if not spec.changes_values:
        return images
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
