"""Media that the rows send, made from seeds: photographs, clips, scans."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
from PIL import Image

from benchmarks.decode_volume import Case, write_scan

PHOTOGRAPHS = 8
PHOTOGRAPH_SIZE = (640, 427)  # width, height
THUMBNAIL_SIZE = (96, 64)
CLIP_SIZE, CLIP_FRAMES = (320, 240), 96
#: 99 MB of int16 as they are.
SCAN = Case((512, 512, 189), np.int16, packed=False)


def photographs(folder: Path) -> list[Path]:
    """JPEGs of 640x427 pixels and about 100 kB, written into a folder."""
    paths = [folder / f"{seed}.jpg" for seed in range(PHOTOGRAPHS)]
    for seed, path in enumerate(paths):
        path.write_bytes(photograph(seed))
    return paths


def thumbnails(folder: Path) -> list[Path]:
    """The same at 96x64 pixels: next to nothing to decode."""
    paths = []
    for whole in photographs(folder):
        paths.append(whole.with_suffix(".small.jpg"))
        Image.open(whole).resize(THUMBNAIL_SIZE).save(paths[-1], quality=85)
    return paths


def photograph(seed: int) -> bytes:
    """Smooth colours with the noise of a sensor: 98 kB."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(PHOTOGRAPH_SIZE, Image.Resampling.BICUBIC)
    noise = generator.normal(0, 12, (*PHOTOGRAPH_SIZE[::-1], 1))
    pixels = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def clip(path: Path) -> Path:
    """An MPEG-4 clip of soft shapes that move, 24 frames a second."""
    width, height = CLIP_SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(CLIP_FRAMES):
            phases = [(rows + step * columns + 4 * number) / 23 for step in (1, 2, 3)]
            waves = np.sin(np.stack(phases, axis=-1))  # [height, width, 3]
            frame = av.VideoFrame.from_ndarray((127 + 120 * waves).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def scan(path: Path) -> Path:
    """A NIfTI file of 99 MB."""
    with path.open("wb") as stream:
        write_scan(cast(BinaryIO, stream), SCAN)
    return path


def encode_png(seed: int, side: int) -> bytes:
    """A square PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()
