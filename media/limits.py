"""How large a still image may be: one set of limits for every type."""

from __future__ import annotations

from media.errors import MediaTooLarge

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # pixels


def check_size(size: tuple[int, int], name: str = "images") -> None:
    """Refuse a size (width, height), told by a header, that is over the limits."""
    width, height = size
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise MediaTooLarge(
            f"{name} may have at most {MAX_PIXELS} pixels and {MAX_SIDE} per side; "
            f"this one is {width}x{height}"
        )
