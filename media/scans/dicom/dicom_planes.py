"""From where slices lie to their order and the affine of the volume."""

from __future__ import annotations

import numpy as np

from media.errors import BrokenMedia
from media.scans.dicom.dicom_frames import Plane
from media.scans.scan import LPS_TO_RAS

SAME_PLACE_MM = 1e-3
#: How far a slice may lie from where even spacing puts it, as a part of the spacing. Positions
#: are written with few decimals; a missing slice is further off than a third.
UNEVEN = 0.1
SAME_COSINE = 1e-3
NEARLY_UNIT = 2e-2  # of products of cosines, which some write with two decimals
SAME_SPACING = 1e-3  # relative


def arrange(planes: list[Plane]) -> tuple[np.ndarray, np.ndarray]:
    """Order slices along their normal.

    Returns:
        The index into ``planes`` of every slice of the volume, and the affine from (slice, row,
        column) to millimetres, RAS+. Slices that are shifted within their plane (a tilted
        gantry) give an affine with a shear, which is where they lie.

    Raises:
        BrokenMedia: they are not parallel, of different spacing, at the same place, or unevenly
            far from each other.
    """
    positions = np.array([plane.position for plane in planes])  # [slices, 3]
    along_row, down_column, normal = _directions(planes)
    rows_mm, columns_mm = _spacing(planes)
    heights = positions @ normal  # [slices]
    order = np.argsort(heights, kind="stable")
    step = normal * planes[0].thickness
    if len(planes) > 1:
        step = _step(positions[order], heights[order])
    affine = np.eye(4)
    affine[:3] = np.column_stack(
        [step, down_column * rows_mm, along_row * columns_mm, positions[order[0]]]
    )
    return order, LPS_TO_RAS @ affine


def _directions(planes: list[Plane]) -> np.ndarray:
    """Unit vectors along a row, down a column and across, [3, 3], the same for all slices."""
    orientations = np.array([plane.orientation for plane in planes])  # [slices, 6]
    kinds = _kinds(orientations, SAME_COSINE)
    if kinds > 1:
        raise BrokenMedia(f"expected parallel slices, got {kinds} orientations")
    pair = orientations[0].reshape(2, 3)
    if not np.allclose(pair @ pair.T, np.eye(2), atol=NEARLY_UNIT):
        raise BrokenMedia("expected ImageOrientationPatient to be two unit vectors at right angles")
    three = np.vstack([pair, np.cross(*pair)])
    return three / np.linalg.norm(three, axis=1, keepdims=True)


def _spacing(planes: list[Plane]) -> np.ndarray:
    """Millimetres between rows and between columns, [2], the same for all slices."""
    spacings = np.array([plane.spacing for plane in planes])
    kinds = _kinds(np.log(spacings), SAME_SPACING)
    if kinds > 1:
        raise BrokenMedia(f"expected one PixelSpacing for all slices, got {kinds}")
    first: np.ndarray = spacings[0]
    return first


def _kinds(vectors: np.ndarray, tolerance: float) -> int:
    """How many of the vectors [n, k] differ by more than a tolerance."""
    count = 0
    while len(vectors):
        vectors = vectors[np.abs(vectors - vectors[0]).max(axis=1) > tolerance]
        count += 1
    return count


def _step(positions: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The vector from one slice to the next, [3]; both arguments are ordered."""
    gaps = np.diff(heights)
    places = 1 + int((gaps > SAME_PLACE_MM).sum())
    if places < len(heights):
        raise BrokenMedia(
            f"expected one slice at each place, got {len(heights)} slices at {places} places: "
            "a scan over time, of several contrasts, or of copies is not one volume"
        )
    steps = np.arange(len(heights))[:, None]
    step: np.ndarray = (positions[-1] - positions[0]) / (len(heights) - 1)
    off = np.linalg.norm(positions - positions[0] - steps * step, axis=1)
    if off.max() > UNEVEN * gaps.mean():
        raise BrokenMedia(
            f"expected slices evenly far apart, got gaps from {gaps.min():.3f} to "
            f"{gaps.max():.3f} mm, and one slice {off.max():.3f} mm off its place: some are "
            "missing, or they do not belong together"
        )
    return step
