"""Augmentation of scans: parts cut out and turned in space, intensities, noise.

Shapes: B items, C channels (one); values in [0, 1]. Axes: depth, height, width.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from media.spec import VolumeSpec
from training.augment.draws import Draws
from training.augment.shapes import between, erase, erase_draws, part_of
from training.config import Augment
from training.transfer import to_device


def change_scans(
    scans: Tensor, draws: Draws, spec: Augment, volume: VolumeSpec, size: tuple[int, ...]
) -> Tensor:
    """Scans [B, D, H, W, C] -> [B, *size, C], as ``training.augment.augment`` says of all."""
    scans = scans.permute(0, 4, 1, 2, 3).float() / 255  # [B, C, D, H, W]
    if spec.crops or spec.rotate:
        scans = cut_and_turn(scans, draws.take(10), spec, size, volume.spacing)  # [B, C, *size]
    if spec.intensity:
        scans = change_intensity(scans, draws.take(3), spec.intensity)
    if spec.noise:
        scans = add_noise(scans, draws.take(2), spec.noise)
    if spec.erase:
        scans = erase(scans, draws.take(erase_draws(3)), spec.erase)
    return (scans * 255).permute(0, 2, 3, 4, 1)  # [B, *size, C]


def cut_and_turn(
    scans: Tensor,
    draws: np.ndarray,
    spec: Augment,
    size: tuple[int, ...],
    spacing: tuple[float, ...] = (),
) -> Tensor:
    """A random part of every scan, turned about its centre, drawn to ``size`` trilinearly.

    What lies outside the scan is taken from its edge.

    Args:
        scans: [B, C, D, H, W].
        draws: uniforms [B, 10]: volume, shape (3), place (3), angles (3).
        spacing: millimetres along each axis, so that what is turned keeps its shape; empty where
            nobody knows: voxels are then taken for cubes.

    Returns:
        [B, C, *size].
    """
    volume = between(spec.crop_scale, draws[:, 0])  # [B], share of the scan
    shares = np.stack(part_of(volume, spec.crop_ratio, draws[:, 1:4]), axis=1)  # [B, 3]
    shares = np.minimum(shares if spec.crops else np.ones_like(shares), 1.0)
    centre = (1 - shares) * (2 * draws[:, 4:7] - 1)  # [B, 3], in half sides
    angles = spec.rotate * (2 * draws[:, 7:] - 1)  # [B, 3]
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()  # [B, 3, 3]
    lengths = np.array(scans.shape[2:]) * (spacing or 1.0)  # of the sides, [3]
    # output -> part -> turned where lengths are comparable -> input, in half sides of it
    matrix = turn * (shares * lengths)[:, None, :] / lengths[:, None]  # [B, 3, 3]
    theta = np.concatenate([matrix, centre[:, :, None]], axis=2)  # [B, 3, 4]
    theta = theta[:, ::-1][:, :, [2, 1, 0, 3]]  # torch wants width first
    shape = [*scans.shape[:2], *size]
    moved = to_device(theta.copy(), scans.device, scans.dtype)
    grid = functional.affine_grid(moved, shape, align_corners=False)  # [B, *size, 3]
    return functional.grid_sample(scans, grid, padding_mode="border", align_corners=False)


def change_intensity(scans: Tensor, draws: np.ndarray, strength: float) -> Tensor:
    """value ** gamma * scale + offset, cut to [0, 1].

    Args:
        scans: [B, C, D, H, W] in [0, 1].
        draws: uniforms [B, 3]: gamma from 2 ** -strength to 2 ** strength, scale from
            1 - strength / 2 to 1 + strength / 2, offset from -strength / 4 to strength / 4.

    Returns:
        [B, C, D, H, W] in [0, 1].
    """
    change = strength * (2 * to_device(draws, scans.device, scans.dtype) - 1)  # [B, 3]
    gamma, scale, offset = change[:, :, None, None, None, None].unbind(1)  # each [B, 1, 1, 1, 1]
    return (scans.clamp(0, 1) ** 2**gamma * (1 + scale / 2) + offset / 4).clamp(0, 1)


def add_noise(scans: Tensor, draws: np.ndarray, most: float) -> Tensor:
    """Normal noise of a standard deviation from 0 to ``most``, cut to [0, 1].

    Args:
        scans: [B, C, D, H, W] in [0, 1].
        draws: uniforms [B, 2]: standard deviation, and what the noise itself is drawn from.

    Returns:
        [B, C, D, H, W] in [0, 1].
    """
    drawn = np.stack([_normal(scans.shape[1:], seed) for seed in draws[:, 1]])
    noise, deviation = (
        to_device(one, scans.device, scans.dtype) for one in (drawn, most * draws[:, 0])
    )
    return (scans + deviation[:, None, None, None, None] * noise).clamp(0, 1)


def _normal(shape: torch.Size, seed: float) -> np.ndarray:
    """Drawn on the CPU: the same for one seed on every device."""
    random = torch.Generator().manual_seed(int(seed * 2**53))
    return torch.randn(shape, generator=random).numpy()
