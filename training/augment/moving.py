"""What happens to items where they are read: parts, shifts, flips. No value changes.

Whole batches, each item with its own draws, on the host and in the type of the pixels; what
changes values comes after it, on the device (``training.augment.augment``).
"""

from __future__ import annotations

import numpy as np

from media.part import Part
from media.spec import AXES, InputSpec
from training.augment.draws import Draws
from training.augment.shapes import between, crop_and_flip, mirror, part_of, shape_draws
from training.config import Augment


def move(pixels: np.ndarray, draws: Draws, spec: Augment, input_spec: InputSpec) -> np.ndarray:
    """Items or parts of them [B, *sides, C], mirrored and shifted; of the same shape and type.

    Args:
        draws: of these B items; how many are taken depends on the specs alone.
    """
    names = AXES[input_spec.modality]
    axes = [1 + names.index(name) for name in spec.flip_axes]
    if spec.reads_parts and spec.flip:
        axes.append(len(names))
    if axes:
        pixels = mirror(pixels, draws.take(len(axes)), axes)
    if spec.reads_parts:
        return pixels
    if input_spec.volume:
        padding = 0 if spec.crops else spec.crop_padding
        return crop_and_flip(pixels, draws.take(4), padding, spec.flip)
    if spec.crops:  # which mirror too
        return pixels
    if not input_spec.video:
        return crop_and_flip(pixels, draws.take(3), spec.crop_padding, spec.flip)
    images = pixels.reshape(-1, *pixels.shape[2:])  # [B T, H, W, C]
    shared = draws.repeated(pixels.shape[1]).take(3)
    return crop_and_flip(images, shared, spec.crop_padding, spec.flip).reshape(pixels.shape)


def draw_views(draws: Draws, views: int) -> np.ndarray:
    """Which of its views every sample is shown by, int64 [B]; of a single one nothing is drawn."""
    uniforms = draws.take(int(views > 1)).sum(axis=1)  # [B], of one column or none
    return np.floor(uniforms * views).astype(np.int64)


def draw_parts(draws: Draws, spec: Augment, input_spec: InputSpec) -> list[Part]:
    """Which part of its item every sample is, B of them; of a clip the moment too."""
    axes = 3 if input_spec.volume else 2
    shaped = 1 + shape_draws(axes)
    uniforms = draws.take(shaped + axes + bool(input_spec.video))  # share, shape, place, moment
    share = between(spec.crop_scale, uniforms[:, 0])  # [B]
    sides = np.stack(part_of(share, spec.crop_ratio, uniforms[:, 1:shaped]), axis=1)  # [B, axes]
    if axes == 2:
        sides = sides[:, ::-1]  # which are width, height
    shapes = sides / share[:, None] ** (1 / axes)
    places = uniforms[:, shaped : shaped + axes]
    moments = uniforms[:, -1] if input_spec.video else np.full(len(share), 0.5)
    rows = zip(share.tolist(), shapes.tolist(), places.tolist(), moments.tolist(), strict=True)
    return [Part(one, tuple(shape), tuple(place), when) for one, shape, place, when in rows]
