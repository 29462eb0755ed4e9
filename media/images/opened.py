"""What every type's module gives: a file opened by its header, less what its pixels do not need.

Texts, profiles, thumbnails and notes of cameras are written by thousands of programs, and often
badly. They are taken out before a decoder looks at the file, unread: whatever their state, they
can neither refuse a picture whose pixels are intact nor cost time or memory. The one thing that is
kept of them is how the picture is turned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile


@dataclasses.dataclass(frozen=True)
class Opened:
    """A still image whose pixels are not loaded yet.

    Attributes:
        turn: its EXIF orientation, 1 to 8; 1 is upright.
        settle: makes its loaded picture one that other types have too. Grey of more than 8 bits
            (I;16) may say in ``info["white"]`` which level is white.
    """

    image: ImageFile
    turn: int = 1
    settle: Callable[[Any], Image.Image] = lambda image: image


def open_as(kind: str, data: bytes) -> ImageFile:
    """Open by the header with one of Pillow's decoders and no other."""
    return Image.open(BytesIO(data), formats=(kind,))
