"""Scans in space: the one orientation, and resampling to the voxels that a model wants.

Orientation is "SPL": depth runs to the patient's head (superior), height to the back (posterior),
width to the left. Each axis of a scan becomes the one of these that it is nearest to; a scan that
lies oblique is not turned further. Spacing is the length of one step along each axis.

Resampling is separable and anti-aliased as in Pillow: a triangle (bilinear) or a cubic with
a = -0.5 (bicubic), stretched where the scan shrinks, cut and made to sum to 1 at its edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from media.errors import BrokenMedia
from media.scans.scan import Scan

ORIENTATION = "SPL"
#: Towards the head, the back, the left: which axis of RAS+ that is, and whether along or against.
SPL = np.array([[2, 1], [1, -1], [0, -1]])
MIN_STEP_MM, MAX_STEP_MM = 1e-6, 1e6
MIN_VOLUME = 1e-3  # of the three directions of unit length; 1 where they are orthogonal
BLOCK_VOXELS = 2**20  # worked on at once, as float64 and float32
EDGE = 1e-6  # voxels; what rounding may put the edge of a scan off by
DIGITS = 6  # of a voxel, in what is told


class Oriented(NamedTuple):
    """Voxels [depth, height, width], a view, and millimetres per step; None where unknown."""

    voxels: np.ndarray
    spacing: tuple[float, ...] | None


def orient(scan: Scan) -> Oriented:
    """A scan with its axes in the one orientation; without an affine it is taken as it is.

    Raises:
        BrokenMedia: the affine has no three directions.
    """
    if scan.affine is None:
        return Oriented(scan.voxels, None)
    steps = _steps(scan.affine)
    axes = io_orientation(scan.affine)  # [axis of the scan, (axis of RAS+, direction)]
    turn = ornt_transform(axes, SPL)
    order = np.argsort(turn[:, 0])
    return Oriented(apply_orientation(scan.voxels, turn), tuple(steps[order].tolist()))


def _steps(affine: np.ndarray) -> np.ndarray:
    """Millimetres per step along each axis of the scan, float64 [3]."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not (np.isfinite(affine).all() and np.abs(columns).max() <= MAX_STEP_MM):
        raise BrokenMedia("expected an affine of finite numbers, in millimetres")
    steps = np.linalg.norm(columns, axis=0)
    if steps.min() < MIN_STEP_MM or abs(np.linalg.det(columns / steps)) < MIN_VOLUME:
        raise BrokenMedia("expected an affine with three directions; it lays the scan flat")
    return steps


# --- resampling ------------------------------------------------------------------------------


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5, zero from 2 on."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0))


FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": _triangle,
    "bicubic": _cubic,
}


def axis_weights(
    size: int, target: int, step: float, middle: float, interpolation: str
) -> np.ndarray:
    """What each voxel of an axis gives to each of ``target`` voxels.

    Args:
        size: voxels of the scan along the axis.
        step: of the target, in voxels of the scan; ``size / target`` stretches the whole axis.
        middle: of the target, in voxels of the scan; ``size / 2`` is that of the scan.
        interpolation: a key of ``FILTERS``.

    Returns:
        float32 ``[target, size]``; each row sums to 1, or to 0 where it lies outside the scan.
    """
    centres = (np.arange(target) + 0.5 - target / 2) * step + middle
    places = np.arange(size) + 0.5
    weights = FILTERS[interpolation]((places - centres[:, None]) / max(step, 1.0))
    weights[(centres < -EDGE) | (centres > size + EDGE)] = 0
    sums = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, sums, where=sums != 0, out=weights).astype(np.float32)


def span(target: int, step: float, middle: float) -> list[float]:
    """Where the voxels of ``axis_weights`` begin and end, in voxels of the scan; told, not used."""
    half = target * step / 2
    return [round(middle - half, DIGITS), round(middle + half, DIGITS)]


def resample(
    voxels: np.ndarray,
    weights: list[np.ndarray],
    convert: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Weighted sums along all three axes, block by block: the scan stays in its stored type.

    Args:
        voxels: [depth, height, width] of any type.
        weights: of each axis, from ``axis_weights``.
        convert: stored values -> float32 in C order, called once per block.

    Returns:
        float32, one side per row count of ``weights``.
    """
    used = tuple(_used(one) for one in weights)
    voxels = voxels[used]
    weights = [one[:, part] for one, part in zip(weights, used, strict=True)]
    result = np.zeros([len(one) for one in weights], np.float32)  # [d, h, w]
    order = sorted((2, 1, 0), key=lambda axis: len(weights[axis]) / max(1, voxels.shape[axis]))
    for block in _blocks(voxels.shape):
        shares = [one[:, part] for one, part in zip(weights, block, strict=True)]
        targets = tuple(_used(one.T) for one in shares)
        values = convert(voxels[block])
        for axis in order:  # what shrinks most comes first: nothing grows on the way
            values = _weigh(values, shares[axis][targets[axis]], axis)
        result[targets] += values
    return result


def _weigh(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Weighted sums along one axis of [d, h, w]; ``weights`` is [target, size]."""
    if axis == 0:
        flat = weights @ values.reshape(len(values), -1)  # [target, h * w]
        return flat.reshape(len(weights), *values.shape[1:])  # [target, h, w]
    if axis == 1:
        return weights @ values  # [d, target, w]
    return values @ weights.T  # [d, h, target]


def _used(weights: np.ndarray) -> slice:
    """The columns that hold anything: voxels that give to a target; transposed, targets."""
    places = np.flatnonzero(weights.any(axis=0))
    return slice(places[0], places[-1] + 1) if len(places) else slice(0, 0)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """Planes, rows and columns that cover a scan, about BLOCK_VOXELS at once."""
    depth, height, width = shape
    rows = max(1, min(height, BLOCK_VOXELS // max(1, width)))
    planes = max(1, BLOCK_VOXELS // max(1, rows * width))
    for plane in range(0, depth, planes):
        for row in range(0, height, rows):
            yield slice(plane, plane + planes), slice(row, row + rows), slice(0, width)
