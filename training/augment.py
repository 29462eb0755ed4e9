"""Augmentation and order, every draw a pure function of (seed, step, sample).

Nothing here keeps state: a run that is killed and resumed draws what it would have drawn.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Bits = TypeVar("Bits", np.ndarray, np.uint64)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def epoch_order(seed: int, epoch: int, items: int) -> np.ndarray:
    """The permutation of one epoch, int64 [items]."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(items)


def uniform(seed: int, step: int, samples: np.ndarray, draws: int) -> np.ndarray:
    """Independent uniforms in [0, 1) for every sample, float64 [len(samples), draws].

    A counter through the splitmix64 finaliser (Steele, Lea and Flood 2014), vectorised.
    """
    with np.errstate(over="ignore"):
        key = step_key(seed, step)
        per_sample = _mix(key ^ _mix(samples.astype(np.uint64) + _GOLDEN))  # [N]
        counters = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN  # [draws]
        bits = _mix(per_sample[:, None] + counters)  # [N, draws]
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def step_key(seed: int, step: int) -> np.uint64:
    """64 bits that belong to one step of one run."""
    with np.errstate(over="ignore"):
        return _mix(_mix(np.uint64(seed) + _GOLDEN) ^ np.uint64(step))


def _mix(x: Bits) -> Bits:
    """The finaliser: every bit of the input reaches every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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


def _mirrored(index: np.ndarray, side: int) -> np.ndarray:
    """Indices beyond an edge come back from it, without repeating the edge itself."""
    period = max(1, 2 * side - 2)
    index = np.abs(index) % period
    return np.where(index >= side, period - index, index)
