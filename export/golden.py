"""Inputs that a server replays before it calls a bundle ready.

By default they are generated, so that no one's data travels in a bundle: smooth colour waves with
sharp shapes on them, of several sizes and both orientations, in lossless formats, so that every
decoder gives the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from models.bundle import GridEntry, Precision, Tolerance

#: A server's processor adds in another order than the exporter's; a GPU in yet another. TF32 is
#: off there, so fp32 stays fp32.
FP32_TOLERANCES = (
    Tolerance("cpu", "fp32", atol=1e-4, rtol=1e-3),
    Tolerance("cuda", "fp32", atol=1e-3, rtol=1e-3),
)
#: Times the export's own bound. Half of an fp16 error comes from the weights and is the same
#: everywhere; what another processor rounds differently is no larger than all of it. Nothing was
#: measured on a GPU: twice as much again is left to one.
FP16_FACTORS = {"cpu": 2.0, "cuda": 4.0}
SIZES = ((96, 64), (48, 80), (200, 150), (31, 33))  # (width, height)


def generated_images() -> dict[str, bytes]:
    """File name -> encoded picture; the same bytes content at every call."""
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


def tolerances(precision: Precision, entries: list[GridEntry]) -> tuple[Tolerance, ...]:
    """What a server's replay may differ by, per device; fp16 takes the widest grid's bound."""
    if precision == "fp32":
        return FP32_TOLERANCES
    atol = max(entry.parity.atol for entry in entries)
    rtol = max(entry.parity.rtol for entry in entries)
    return tuple(
        Tolerance(device, precision, factor * atol, factor * rtol)
        for device, factor in FP16_FACTORS.items()
    )


GENERATED: dict[str, Callable[[], dict[str, bytes]]] = {"image": generated_images}


def golden_files(modality: str, chosen: list[Path]) -> dict[str, bytes]:
    """File name -> bytes: the chosen files, or generated ones where none were chosen."""
    if not chosen:
        return GENERATED[modality]()
    return {f"{number}{path.suffix}": path.read_bytes() for number, path in enumerate(chosen)}
