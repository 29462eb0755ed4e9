"""What a header says of each frame: where it lies, and how its stored values become intensities.

A tag is looked up in the frame's own functional groups, then in the shared ones, then in the file.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from media.errors import BrokenMedia, UnsupportedMedia

#: Tag -> the functional group that holds it.
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
LONE_SLICE_MM = 1.0  # thickness of a single slice whose file does not tell one
MAX_MM = 1e5  # of a place or a distance
OFFSET_MM = 0.01  # between a first frame's place and what its file says of it

Sources = list[Dataset]  # where to look a tag up, first to last


class Plane(NamedTuple):
    """Where one slice lies, in millimetres to the patient's left, back and head (LPS)."""

    position: tuple[float, ...]  # of the first pixel's centre
    orientation: tuple[float, ...]  # unit vectors along a row, then down a column
    spacing: tuple[float, ...]  # between rows, then between columns
    thickness: float


class Rescale(NamedTuple):
    """Intensity = slope * stored value + intercept."""

    slope: float
    intercept: float


class Frame(NamedTuple):
    """One slice without its pixels; plane is None where the file says nothing of places."""

    plane: Plane | None
    rescale: Rescale


def read_frames(tags: Dataset, count: int) -> list[Frame]:
    """The frames of a file in its order.

    Raises:
        BrokenMedia: numbers that are none, or not as many as there must be.
        UnsupportedMedia: a mosaic, or a table in place of slope and intercept.
    """
    if "MOSAIC" in (tags.get("ImageType") or ()):
        raise UnsupportedMedia("expected one slice per frame, got a mosaic of many slices")
    if tags.get("ModalityLUTSequence"):
        raise UnsupportedMedia("expected RescaleSlope and RescaleIntercept, got a Modality LUT")
    sources = _sources(tags, count)
    planes = _planes(tags, sources)
    return [Frame(plane, _rescale(one)) for plane, one in zip(planes, sources, strict=True)]


def _sources(tags: Dataset, count: int) -> list[Sources]:
    shared = list(tags.get("SharedFunctionalGroupsSequence") or ())[:1]
    own = list(tags.get("PerFrameFunctionalGroupsSequence") or ())
    if own and len(own) != count:
        raise BrokenMedia(f"expected functional groups of {count} frames, got {len(own)}")
    return [[item, *shared, tags] for item in own] or [[*shared, tags]] * count


def _planes(tags: Dataset, sources: list[Sources]) -> list[Plane] | list[None]:
    """Several frames need places of their own: a clip has one, and so would lie on itself."""
    if len(sources) == 1 or "PerFrameFunctionalGroupsSequence" in tags:
        planes = [_plane(one) for one in sources]
    elif tags.get("GridFrameOffsetVector"):
        planes = _stacked(tags, len(sources))
    else:
        return [None] * len(sources)
    placed = [plane for plane in planes if plane]
    if len(placed) not in (0, len(planes)):
        raise BrokenMedia(f"expected places of {len(planes)} frames, got {len(placed)}")
    return placed or [None] * len(planes)


def _plane(sources: Sources) -> Plane | None:
    position = _numbers(sources, "ImagePositionPatient", 3)
    orientation = _numbers(sources, "ImageOrientationPatient", 6)
    spacing = _numbers(sources, "PixelSpacing", 2)
    if not (position and orientation and spacing):
        return None
    thickness = _numbers(sources, "SliceThickness", 1) or (LONE_SLICE_MM,)
    if min(spacing) <= 0:
        raise BrokenMedia(f"expected PixelSpacing above 0 mm, got {spacing[0]} and {spacing[1]}")
    return Plane(position, orientation, spacing, max(thickness[0], 0) or LONE_SLICE_MM)


def _stacked(tags: Dataset, count: int) -> list[Plane | None]:
    """The frames of a dose grid, which lie along the normal of the first one."""
    first = _plane([tags])
    offsets = _numbers([tags], "GridFrameOffsetVector", count)
    if first is None or offsets is None:
        return [None] * count
    along_row, down_column = np.reshape(first.orientation, (2, 3))
    normal = np.cross(along_row, down_column)
    if abs(offsets[0]) > OFFSET_MM:  # then they are not distances but places, feet to head
        if abs(offsets[0] - first.position[2]) > OFFSET_MM or abs(abs(normal[2]) - 1) > 1e-3:
            raise BrokenMedia("expected GridFrameOffsetVector to begin at 0 or at the first frame")
        offsets = tuple((z - first.position[2]) * normal[2] for z in offsets)
    places = [tuple(np.add(first.position, offset * normal).tolist()) for offset in offsets]
    return [first._replace(position=place) for place in places]


def _rescale(sources: Sources) -> Rescale:
    slope = _numbers(sources, "RescaleSlope", 1) or _numbers(sources, "DoseGridScaling", 1)
    intercept = _numbers(sources, "RescaleIntercept", 1, bound=math.inf)
    rescale = Rescale((slope or (1.0,))[0], (intercept or (0.0,))[0])
    if rescale.slope == 0:
        raise BrokenMedia("expected a RescaleSlope other than 0")
    return rescale


def _numbers(
    sources: Sources, keyword: str, count: int, bound: float = MAX_MM
) -> tuple[float, ...] | None:
    """The values of a tag, as many as there must be; None where it is missing or empty."""
    value = _find(sources, keyword)
    if value is None or value == "":
        return None
    numbers = tuple(map(float, [value] if isinstance(value, (int, float)) else value))
    if len(numbers) != count or not all(abs(number) < bound for number in numbers):
        raise BrokenMedia(f"expected {count} usual numbers in {keyword}, got {len(numbers)}")
    return numbers


def _find(sources: Sources, keyword: str) -> Any:
    """The value of a tag in the first source that has it."""
    for source in sources:
        group = source.get(GROUPS.get(keyword, ""))
        value = group[0].get(keyword) if group else source.get(keyword)
        if value is not None:
            return value
    return None
