"""What all volume files share: how a size is checked, which numbers there may be, raw voxels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.limits import ScanLimits

MAX_AXES = 16  # that a header may count, of length one or not; NRRD's own limit

#: Bytes of a file: what came in, or a part of it, or what it inflates to.
Bytes = bytes | memoryview


def volume_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Which three axes of ``shape`` are the volume's; the others have length one.

    The last axes go first, as a channel or a time stands behind the volume; then those before and
    between, where it makes no difference which (of 1x5x1x4 either 1 might be a side).

    Returns:
        All axes where there are no such three: ``check_shape`` then refuses them by their sides.
    """
    axes = kept = tuple(range(len(shape)))
    if len(axes) > MAX_AXES:
        return axes
    while len(kept) > 3 and shape[kept[-1]] == 1:
        kept = kept[:-1]
    long = [axis for axis in kept if shape[axis] != 1]
    if len(long) > 3 or len(kept) < 3:
        return axes
    ones = [axis for axis in kept if shape[axis] == 1]
    found = {
        tuple(shape[axis] for axis in three): three
        for some in itertools.combinations(ones, 3 - len(long))
        for three in [tuple(sorted((*long, *some)))]
    }
    return next(iter(found.values())) if len(found) == 1 else axes


def check_shape(shape: Sequence[int], kind: str, limits: ScanLimits) -> tuple[int, int, int]:
    """The three sides of a scan.

    Raises:
        UnsupportedMedia: not three axes, as of several volumes in one file.
        BrokenMedia: a side that is not positive.
        MediaTooLarge: over the limits; nothing has been allocated yet.
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) != 3:
        raise UnsupportedMedia(f"expected a {kind} file of one volume with 3 axes; got {_x(shape)}")
    if min(sides) < 1:
        raise BrokenMedia(f"expected at least one voxel per side in {kind}; got {_x(shape)}")
    if math.prod(sides) > limits.voxels or max(sides) > limits.side:
        raise MediaTooLarge(
            f"scans may have at most {limits.voxels} voxels and {limits.side} per side; "
            f"this one is {_x(sides)}"
        )
    return sides[0], sides[1], sides[2]


def _x(sides: Sequence[int]) -> str:
    return "x".join(str(side)[:12] for side in sides[:8]) or "none"


def check_dtype(dtype: np.dtype, kind: str) -> np.dtype:
    """Whole and floating point numbers of at most 64 bits, and booleans as 0 and 1."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnsupportedMedia(
            f"expected a {kind} file of whole or floating point numbers of at most 64 bits; "
            f"got {str(dtype)[:40]}"
        )
    return dtype


def byte_count(shape: tuple[int, int, int], dtype: np.dtype, limits: ScanLimits) -> int:
    """Bytes that the voxels take; MediaTooLarge where no file may hold that many."""
    size = math.prod(shape) * dtype.itemsize
    if size > (most := limits.most_bytes):
        own = "" if limits.inflated_bytes else ", half of the memory that there is"
        raise MediaTooLarge(
            f"the voxels of a scan may take at most {most} bytes{own}; "
            f"these are {_x(shape)} {dtype.name}, which takes {size}"
        )
    return size


def view(
    content: Bytes,
    offset: int,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    order: str,
    limits: ScanLimits,
) -> np.ndarray:
    """Voxels that lie unpacked in ``content``, without a copy; BrokenMedia where some are missing.

    Args:
        order: "F" where the first axis runs fastest, "C" where the last one does.
    """
    size, found = byte_count(shape, dtype, limits), len(content) - offset
    if found < size:
        raise BrokenMedia(
            f"the scan is truncated: its header tells of {size} bytes of voxels, "
            f"the file holds {max(found, 0)}"
        )
    flat = np.frombuffer(content, dtype, count=math.prod(shape), offset=offset)
    return flat.reshape(shape, order="F" if order == "F" else "C")
