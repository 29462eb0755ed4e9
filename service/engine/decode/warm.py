"""What a decode worker loads before its first request, for the modalities that are served.

Each warm-up reads tiny files through ``media``: the decoders, and what they build at their
first use, are then there. Nothing is loaded for what is not served: the libraries for clips and
scans take time and memory.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from media import MediaError, read
from media.images.image import FORMATS
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec


def warm_up(modalities: Iterable[str]) -> None:
    """Load the decoders of some modalities, so that the first request does not pay for it."""
    for modality in modalities:
        spec, grid = SPECS[modality]
        for media in FILES[modality]():
            with contextlib.suppress(MediaError):  # some only bring their reader in
                read(media, spec, grid, (4,) * grid.axes)


def _images() -> Iterator[bytes]:
    for name in FORMATS:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, name)
        yield encoded.getvalue()


def _clips() -> Iterator[bytes]:
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(4)]
    encoded = io.BytesIO()
    frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:], duration=100)
    yield encoded.getvalue()


def _scans() -> Iterator[bytes]:
    encoded = io.BytesIO()
    np.save(encoded, np.arange(8**3, dtype=np.int16).reshape(8, 8, 8))
    yield encoded.getvalue()
    yield bytes(128) + b"DICM"
    yield b"PK"


SPECS = {
    "image": (InputSpec(), Grid((1, 1))),
    "video": (InputSpec(modality="video", video=VideoSpec()), Grid((1, 1, 1))),
    "volume": (
        InputSpec("volume", 1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()),
        Grid((1, 1, 1)),
    ),
}
FILES: dict[str, Callable[[], Iterator[bytes]]] = {
    "image": _images,
    "video": _clips,
    "volume": _scans,
}
