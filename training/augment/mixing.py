"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), each item with its share and partner."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from training.augment.draws import Draws
from training.augment.shapes import boxes, filled
from training.config import Augment
from training.transfer import to_device


def mix(
    pixels: Tensor,
    labels: np.ndarray,
    classes: int,
    draws: Draws,
    spec: Augment,
    circle: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Every item blended with another one of the batch, or with a part of it pasted in.

    Where both are on, each item draws which of them it goes through. A part is a box along
    all axes, of a clip in time too.

    Args:
        pixels: [B, *sides, C], values in [0, 255].
        labels: int64 [B].
        draws: of these B items.
        circle: items of one circle (``partners``), where these B are a part of a larger batch.

    Returns:
        pixels float32 [B, *sides, C] and targets float32 [B, classes], each row a distribution.
    """
    device, sides = pixels.device, pixels.shape[1:-1]
    axes = len(sides)
    uniforms = draws.take(3 + axes)  # [B, 3 + axes]: partner, kind, share, place
    others = to_device(partners(uniforms[:, 0], circle), device)  # [B]
    pasted = uniforms[:, 1] < _share_of_cutmix(spec)  # [B]
    alpha = np.where(pasted, spec.cutmix, spec.mixup)
    own = betaincinv(alpha, alpha, uniforms[:, 2])  # [B], Beta(alpha, alpha)
    edges = boxes(sides, [(1 - own) ** (1 / axes)] * axes, uniforms[:, 3:])  # [B, axes, 2]
    edges[~pasted] = 0
    taken = np.diff(edges).prod((1, 2)) / np.prod(sides)  # [B], share of the partner's pixels
    values = np.stack([np.where(pasted, 1.0, own), np.where(pasted, 1 - taken, own)])
    outside, whole = to_device(values, device, torch.float32)[..., None]  # [B, 1] each
    share = outside.reshape(-1, *(1,) * (axes + 1))  # [B, 1, ..., 1]
    share = share.where(~filled(edges, sides, device)[..., None], 0.0)  # [B, *sides, 1]
    mixed = share * pixels.float() + (1 - share) * pixels[others].float()  # [B, *sides, C]
    each = torch.arange(classes, device=device)
    target = (to_device(labels, device)[:, None] == each).float()  # [B, classes]
    return mixed, whole * target + (1 - whole) * target[others]


def partners(draws: np.ndarray, circle: int | None = None) -> np.ndarray:
    """Random circles: everyone has a partner other than themselves, and is one; int64 [B].

    Each circle is of ``circle`` items side by side, by default ``circle_of`` these B.
    """
    size = circle or circle_of(len(draws))
    order = np.argsort(draws.reshape(-1, size), axis=1, kind="stable")  # [B / size, size]
    order += np.arange(0, len(draws), size)[:, None]
    partner = np.empty(len(draws), dtype=np.int64)
    partner[order] = np.roll(order, -1, axis=1)
    return partner


def circle_of(batch: int) -> int:
    """Items of a batch that are mixed among themselves: an eighth of it, wherever it is computed.

    Where eight parts cannot be equal or would have single items, four or two, or else the whole.
    So as many processes as have equal parts of two items or more, 1, 2, 4 or 8, mix alike, and
    nobody's partner is with another process.
    """
    return next(batch // n for n in (8, 4, 2, 1) if n == 1 or batch % n == 0 and batch >= 2 * n)


def _share_of_cutmix(spec: Augment) -> float:
    """How many of the items are cut rather than blended."""
    if spec.cutmix and spec.mixup:
        return 0.5
    return 1.0 if spec.cutmix else 0.0
