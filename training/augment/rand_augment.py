"""The operations of RandAugment (Cubuk et al., arXiv 1909.13719) on a batch, by kornia.

kornia's own RandAugment picks one pair of operations for a whole batch. Here every item gets its
own operations and strengths from its own draws: items with the same operation go through it
together. The host knows the draws and so who belongs together; no device is asked.
Shapes: B items, C channels; values in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from kornia import enhance
from kornia.geometry import transform as geometry
from torch import Tensor

from training.transfer import to_device

#: images [B, C, H, W], strength [B] in [0, 1], sign [B] of -1 or 1 -> images
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

#: Strength 1 of the geometric operations, as in the paper's reference code.
DEGREES, SHEAR_DEGREES, SHARE_OF_SIDE, CONTRAST = 30.0, 16.7, 0.45, 0.9


def _identity(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return images


def _auto_contrast(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    flat = images.amin((2, 3), keepdim=True) == images.amax((2, 3), keepdim=True)  # [B, C, 1, 1]
    return torch.where(flat, images, enhance.normalize_min_max(images))  # one colour stays itself


def _equalise(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return enhance.equalize(images)


def _rotate(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return geometry.rotate(images, DEGREES * sign * strength, padding_mode="reflection")


def _shear_x(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _shear(images, torch.stack([sign * strength, 0 * sign], dim=1))


def _shear_y(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _shear(images, torch.stack([0 * sign, sign * strength], dim=1))


def _shear(images: Tensor, amounts: Tensor) -> Tensor:
    """amounts [B, 2] of x and y, in [-1, 1]."""
    slopes = torch.tan(torch.deg2rad(SHEAR_DEGREES * amounts))  # [B, 2]
    return geometry.shear(images, slopes, padding_mode="reflection")


def _translate_x(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _translate(images, torch.stack([sign * strength, 0 * sign], dim=1))


def _translate_y(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return _translate(images, torch.stack([0 * sign, sign * strength], dim=1))


def _translate(images: Tensor, amounts: Tensor) -> Tensor:
    """amounts [B, 2] of x and y, in [-1, 1]."""
    across, down = (SHARE_OF_SIDE * amounts).unbind(1)  # [B] each
    pixels = torch.stack([across * images.shape[3], down * images.shape[2]], dim=1)  # [B, 2]
    return geometry.translate(images, pixels, padding_mode="reflection")


def _solarise(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return enhance.solarize(images, thresholds=1 - strength)


def _posterise(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return enhance.posterize(images, (8 - 4 * strength).round().int())


def _brightness(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return enhance.adjust_brightness_accumulative(images, 1 + CONTRAST * sign * strength)


def _contrast(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    factor = 1 + CONTRAST * sign * strength
    return enhance.adjust_contrast_with_mean_subtraction(images, factor)


def _saturation(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images  # grey has none
    factor = 1 + CONTRAST * sign * strength
    return enhance.adjust_saturation_with_gray_subtraction(images, factor)


def _sharpness(images: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return enhance.sharpness(images, 1 + CONTRAST * sign * strength)


OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "auto_contrast": _auto_contrast,
    "equalise": _equalise,
    "rotate": _rotate,
    "solarise": _solarise,
    "saturation": _saturation,
    "posterise": _posterise,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}


def rand_augment(images: Tensor, draws: np.ndarray, magnitude: float) -> Tensor:
    """One operation for every item.

    Args:
        images: [B, C, H, W] in [0, 1].
        draws: uniforms [B, 2]: which operation, which sign.
        magnitude: strength of all operations, 0 to 1.

    Returns:
        [B, C, H, W] in [0, 1].
    """
    choice = (draws[:, 0] * len(OPERATIONS)).astype(np.int64)  # [B]
    order = np.argsort(choice, kind="stable")  # items of one operation side by side
    counts = np.bincount(choice, minlength=len(OPERATIONS)).tolist()
    device = images.device
    signs = to_device(np.where(draws[order, 1] < 0.5, -1.0, 1.0), device, images.dtype)  # [B]
    groups = images.index_select(0, to_device(order, device)).split(counts)
    results = [
        operation(group, torch.full_like(sign, magnitude), sign).clamp(0, 1)
        for operation, group, sign in zip(
            OPERATIONS.values(), groups, signs.split(counts), strict=True
        )
        if len(group)
    ]
    return torch.cat(results).index_select(0, to_device(np.argsort(order), device))


def colour_jitter(images: Tensor, draws: np.ndarray, strength: float) -> Tensor:
    """Brightness, contrast and saturation times 1 - strength to 1 + strength, and a turn of hue.

    Args:
        images: [B, C, H, W] in [0, 1].
        draws: uniforms [B, 4], one a change.
        strength: 0 to 1; hue turns by up to a quarter of it, in half circles.

    Returns:
        [B, C, H, W] in [0, 1].
    """
    change = strength * (2 * to_device(draws, images.device, images.dtype) - 1)  # [B, 4]
    images = enhance.adjust_brightness_accumulative(images, 1 + change[:, 0])
    images = enhance.adjust_contrast_with_mean_subtraction(images, 1 + change[:, 1])
    if images.shape[1] == 3:
        images = enhance.adjust_saturation_with_gray_subtraction(images, 1 + change[:, 2])
        images = enhance.adjust_hue(images, torch.pi * change[:, 3] / 4)
    return images.clamp(0, 1)
