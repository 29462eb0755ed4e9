"""Stored values -> intensities -> the window -> 0 to 255.

The window is the InputSpec's, or two percentiles of the scan itself: exact for stored types of at
most 16 bits, which are counted, and for scans of at most SAMPLE_VOXELS; of larger ones every n-th
voxel is taken, at least a third as many. Where the two are one value (a small mask is mostly
background) the lowest and the highest intensity take their place. A scan of one intensity has no
window and becomes 0 everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from media.errors import BrokenMedia
from media.scans.scan import Scan
from media.spec import VolumeSpec

SAMPLE_VOXELS = 2**23
PIECE_VOXELS = 2**20  # counted at once
COUNTED_TYPES = ("i1", "u1", "i2", "u2")
MIN_WIDTH = 1e-290  # of a window; below it 255 / width is no number


@dataclasses.dataclass(frozen=True)
class Window:
    """A straight line from stored values to 0..255, clipped at both ends."""

    scale: float
    shift: float

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """float32 from 0 to 255, in C order; computed in float64."""
        with np.errstate(over="ignore"):  # far outside the window
            values = np.multiply(stored, self.scale, dtype=np.float64, order="C")
            values += self.shift
        return np.clip(values, 0, 255, out=values).astype(np.float32)


def window(scan: Scan, spec: VolumeSpec) -> Window:
    """The window of a scan; BrokenMedia where some of its intensities are no numbers."""
    flat = scan.voxels.ravel(order="K")  # [voxels]
    with np.errstate(all="ignore"):
        ends = _intensities(scan, np.array([flat.min(), flat.max()]))
        if not np.isfinite(ends).all():  # every other voxel lies between
            raise BrokenMedia(
                f"expected finite intensities; {_count_not_finite(scan, flat)} of the "
                f"{flat.size} voxels are NaN or infinite"
            )
        low, high = np.sort(spec.window or _percentiles(scan, flat, spec.percentiles))
        if not spec.window and low == high:
            low, high = np.sort(ends)
        width = high - low
    if not np.isfinite(width):
        raise BrokenMedia("expected intensities whose range is a finite number")
    scale = 255 / width if width >= MIN_WIDTH else 0.0
    return Window(scan.slope * scale, (scan.intercept - low) * scale)


def _intensities(scan: Scan, stored: np.ndarray) -> np.ndarray:
    return scan.slope * stored.astype(np.float64) + scan.intercept


def _pieces(flat: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, flat.size, PIECE_VOXELS):
        yield flat[start : start + PIECE_VOXELS]


def _count_not_finite(scan: Scan, flat: np.ndarray) -> int:
    return sum(int((~np.isfinite(_intensities(scan, one))).sum()) for one in _pieces(flat))


def _percentiles(scan: Scan, flat: np.ndarray, percentiles: tuple[float, ...]) -> np.ndarray:
    """Intensities that so many percent of the voxels do not exceed; in between, interpolated."""
    shares = np.array(percentiles if scan.slope >= 0 else [100 - one for one in percentiles])
    if flat.dtype.str[1:] in COUNTED_TYPES:
        return _intensities(scan, _counted_percentiles(flat, shares))
    step = 1 if flat.size <= SAMPLE_VOXELS else -(-flat.size // SAMPLE_VOXELS) | 1
    sample = flat[::step].astype(np.float64)  # odd steps meet every column of an even scan
    return _intensities(scan, np.percentile(sample, shares, overwrite_input=True))


def _counted_percentiles(flat: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """``np.percentile`` of whole numbers of few bits, without a copy of them all."""
    lowest, highest = int(flat.min()), int(flat.max())
    counts = np.zeros(highest - lowest + 1, np.int64)
    for piece in _pieces(flat):
        counts += np.bincount(piece.astype(np.int64) - lowest, minlength=len(counts))
    ranks, upto = shares / 100 * (flat.size - 1), counts.cumsum()
    below, above = (
        lowest + np.searchsorted(upto, edge(ranks), side="right") for edge in (np.floor, np.ceil)
    )
    return below + (above - below) * (ranks - np.floor(ranks))
