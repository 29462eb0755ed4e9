"""What a reader says it saw of a file, checked: its process has touched untrusted bytes.

Images say nothing. Clips: ``{"seconds": [[...], ...]}``, the time of every frame of every view.
Scans: ``{"orientation": "SPL", "spacing_mm": [d, h, w] | null, "size": [d, h, w]}``.
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
    return not seen


def _is_clip(shape: tuple[int, ...], seen: Evidence) -> bool:
    if set(seen) != {"seconds"} or not isinstance(seen["seconds"], list):
        return False
    views, frames = shape[:2]
    return len(seen["seconds"]) == views and all(_is_row(v, frames) for v in seen["seconds"])


def _is_scan(shape: tuple[int, ...], seen: Evidence) -> bool:
    if set(seen) != {"orientation", "spacing_mm", "size"}:
        return False
    orientation, spacing, size = seen["orientation"], seen["spacing_mm"], seen["size"]
    return (
        isinstance(orientation, str)
        and len(orientation) == 3
        and ORIENTATION_LETTERS.issuperset(orientation)
        and (spacing is None or (_is_row(spacing, 3) and min(spacing) > 0))
        and (_is_row(size, 3) and min(size) > 0 and all(type(side) is int for side in size))
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
