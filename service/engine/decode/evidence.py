"""What a reader says it saw of a file, checked: its process has touched untrusted bytes.

Images: ``{"size": [h, w], "turn": 1 to 8, "box": [[top, bottom], [left, right]]}``, or nothing.
Clips: ``{"seconds": [[...], ...], "size": [h, w] | null, "box": [[...], [...]] | null}``, the time
of every frame of every view. Scans: ``{"orientation": "SPL", "spacing_mm": [d, h, w] | null,
"size": [d, h, w], "box": [[from, to], ...]}``. Boxes are in pixels, or voxels, of ``size``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

#: Larger than any second, millimetre or voxel count of a file that is read.
MOST = 1e9
ORIENTATION_LETTERS = frozenset("RLAPSI")

Evidence = dict[str, Any]


def check_evidence(modality: str, shape: tuple[int, ...], seen: object) -> Evidence:
    """``seen`` itself; ValueError unless it is what the reader of this modality says.

    Args:
        shape: of the pixels, ``[views, *pixels per axis, channels]``.
    """
    if not (isinstance(seen, dict) and CHECKS[modality](shape, seen)):
        raise ValueError(f"what was seen of the {modality} has another form")
    return seen


def _is_image(shape: tuple[int, ...], seen: Evidence) -> bool:
    if not seen:
        return True
    return (
        set(seen) == {"size", "turn", "box"}
        and type(seen["turn"]) is int
        and 1 <= seen["turn"] <= 8
        and _is_size(seen["size"], 2)
        and _is_box(seen["box"], 2)
    )


def _is_clip(shape: tuple[int, ...], seen: Evidence) -> bool:
    if set(seen) != {"seconds", "size", "box"} or not isinstance(seen["seconds"], list):
        return False
    views, frames = shape[:2]
    if len(seen["seconds"]) != views or not all(_is_row(v, frames) for v in seen["seconds"]):
        return False
    if seen["size"] is None:
        return seen["box"] is None
    return _is_size(seen["size"], 2) and _is_box(seen["box"], 2)


def _is_scan(shape: tuple[int, ...], seen: Evidence) -> bool:
    if set(seen) != {"orientation", "spacing_mm", "size", "box"}:
        return False
    orientation, spacing = seen["orientation"], seen["spacing_mm"]
    return (
        isinstance(orientation, str)
        and len(orientation) == 3
        and ORIENTATION_LETTERS.issuperset(orientation)
        and (spacing is None or (_is_row(spacing, 3) and min(spacing) > 0))
        and _is_size(seen["size"], 3)
        and _is_box(seen["box"], 3)
    )


def _is_size(value: object, axes: int) -> bool:
    return _is_row(value, axes) and min(value) > 0 and all(type(side) is int for side in value)


def _is_box(value: object, axes: int) -> bool:
    """[from, to] of every axis; rounding may have left nothing between them."""
    return (
        isinstance(value, list)
        and len(value) == axes
        and all(_is_row(side, 2) and side[0] <= side[1] for side in value)
    )


def _is_row(value: object, length: int) -> TypeGuard[list[float]]:
    """A list of so many numbers, none of them infinite, NaN or beyond reason."""
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(one) in (int, float) and abs(one) <= MOST for one in value)
    )


CHECKS: dict[str, Callable[[tuple[int, ...], Evidence], bool]] = {
    "image": _is_image,
    "video": _is_clip,
    "volume": _is_scan,
}
