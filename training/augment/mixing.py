"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), each item with its share and partner."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from training.augment.draws import Draws
from training.augment.shapes import boxes
from training.augment.transfer import to_device
from training.config import Augment


def mix(
    pixels: Tensor, labels: np.ndarray, classes: int, draws: Draws, spec: Augment
) -> tuple[Tensor, Tensor]:
    """Every item blended with another one of the batch, or with a part of it pasted in.

    Where both are on, each item draws which of them it goes through. A part is a box along
    all axes, of a clip in time too.

    Args:
        pixels: [B, *sides, C], values in [0, 255].
        labels: int64 [B].
        draws: of these B items.

    Returns:
        pixels float32 [B, *sides, C] and targets float32 [B, classes], each row a distribution.
    """
    sides = pixels.shape[1:-1]
    axes = len(sides)
    uniforms = draws.take(3 + axes)  # [B, 3 + axes]: partner, kind, share, place
    partner = partners(uniforms[:, 0])  # [B]
    pasted = uniforms[:, 1] < _share_of_cutmix(spec)  # [B]
    alpha = np.where(pasted, spec.cutmix, spec.mixup)
    own = betaincinv(alpha, alpha, uniforms[:, 2])  # [B], Beta(alpha, alpha)
    inside = boxes(sides, [(1 - own) ** (1 / axes)] * axes, uniforms[:, 3:])  # [B, *sides]
    ones = (1,) * axes
    kept = np.where(pasted.reshape(-1, *ones), ~inside, own.reshape(-1, *ones))  # [B, *sides]
    share = to_device(kept, pixels.device).float()[..., None]  # [B, *sides, 1]
    others = to_device(partner, pixels.device)
    mixed = share * pixels.float() + (1 - share) * pixels[others].float()  # [B, *sides, C]
    whole = kept.mean(axis=tuple(range(1, kept.ndim)))  # [B]
    own = to_device(whole, pixels.device).float()[:, None]
    every = torch.arange(classes, device=pixels.device)
    target = (to_device(labels, pixels.device)[:, None] == every).float()  # [B, classes]
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
