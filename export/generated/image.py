"""Pictures: smooth colour waves with sharp discs on them, in lossless formats."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from media.spec import InputSpec

SIZES = ((96, 64), (48, 80), (200, 150), (31, 33))  # (width, height)


def generated(_: InputSpec) -> dict[str, bytes]:
    """File name -> encoded picture; the same at every call."""
    images = {}
    for number, (width, height) in enumerate(SIZES):
        image = Image.fromarray(_picture(width, height, number))
        stream = io.BytesIO()
        if number % 2:
            image.save(stream, "WEBP", lossless=True)
        else:
            image.save(stream, "PNG")
        images[f"{number}.{'webp' if number % 2 else 'png'}"] = stream.getvalue()
    return images


def _picture(width: int, height: int, number: int) -> np.ndarray:
    """uint8 [height, width, 3]."""
    random = np.random.Generator(np.random.Philox(key=number))
    y, x = np.mgrid[0:1 : height * 1j, 0:1 : width * 1j]  # each [height, width]
    waves = [
        np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in random.uniform(-3, 3, size=(3, 3))
    ]
    picture = np.stack(waves, axis=-1) * 127 + 128  # [height, width, 3]
    for cx, cy, radius, *colour in random.uniform(0, 1, size=(4, 6)):
        inside = (x - cx) ** 2 + (y - cy) ** 2 < (0.1 + 0.2 * radius) ** 2
        picture[inside] = np.array(colour) * 255
    return picture.astype(np.uint8)
