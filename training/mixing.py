"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), each item with its share and partner."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from training.augment import rectangles
from training.config import Augment
from training.draws import Draws


def mix(
    pixels: Tensor, labels: np.ndarray, classes: int, draws: Draws, spec: Augment
) -> tuple[Tensor, Tensor]:
    """Every item blended with another one of the batch, or with a part of it pasted in.

    Where both are on, each item draws which of them it goes through.

    Args:
        pixels: [B, H, W, C], values in [0, 255].
        labels: int64 [B].
        draws: of these B items.

    Returns:
        pixels float32 [B, H, W, C] and targets float32 [B, classes], each row a distribution.
    """
    uniforms = draws.take(5)  # [B, 5]: partner, kind, share, down, right
    partner = partners(uniforms[:, 0])  # [B]
    pasted = uniforms[:, 1] < _share_of_cutmix(spec)  # [B]
    alpha = np.where(pasted, spec.cutmix, spec.mixup)
    own = betaincinv(alpha, alpha, uniforms[:, 2])  # [B], Beta(alpha, alpha)
    side = np.sqrt(1 - own)
    inside = rectangles((pixels.shape[1], pixels.shape[2]), side, side, uniforms[:, 3:])
    kept = np.where(pasted[:, None, None], ~inside, own[:, None, None])  # [B, H, W]
    share = torch.from_numpy(kept).to(pixels.device, torch.float32)[..., None]  # [B, H, W, 1]
    others = torch.from_numpy(partner).to(pixels.device)
    mixed = share * pixels.float() + (1 - share) * pixels[others].float()  # [B, H, W, C]
    own = torch.from_numpy(kept.mean(axis=(1, 2))).to(pixels.device, torch.float32)[:, None]
    target = functional.one_hot(torch.from_numpy(labels), classes).to(own)  # [B, classes]
    return mixed, own * target + (1 - own) * target[others]


def partners(draws: np.ndarray) -> np.ndarray:
    """A random circle: everyone has a partner other than themselves, and is one; int64 [B]."""
    circle = np.argsort(draws, kind="stable")
    partner = np.empty(len(draws), dtype=np.int64)
    partner[circle] = np.roll(circle, -1)
    return partner


def _share_of_cutmix(spec: Augment) -> float:
    """How many of the items are cut rather than blended."""
    if spec.cutmix and spec.mixup:
        return 0.5
    return 1.0 if spec.cutmix else 0.0
