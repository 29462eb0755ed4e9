"""How large the picture of a map is: as the guide says, and no larger than it has to tell."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.engine.decode.evidence import Evidence
from service.engine.explain.overlay import GAP, draw


@pytest.mark.parametrize(
    ("modality", "shape", "cells", "seen", "thorough", "quick"),
    [
        ("image", (8, 12, 3), (2, 3), {}, (512, 341), (48, 32)),
        ("image", (100, 200, 3), (2, 4), {}, (512, 256), (256, 128)),
        # A square was cut from an upright photograph: the picture has the photograph's shape.
        ("image", (8, 8, 3), (2, 2), {"size": (60, 40), "box": [(10, 50), (0, 40)]},
         (341, 512), (21, 32)),
        ("video", (4, 6, 10, 3), (2, 3, 5), {}, (2 * 160 + GAP, 96), (2 * 40 + GAP, 24)),
        ("volume", (3, 4, 5, 1), (3, 2, 5), {},
         (320 + 320 + 256 + 2 * GAP, 256), (20 + 20 + 16 + 2 * GAP, 16)),
    ],
)  # fmt: skip
def test_quick_picture_makes_little_of_little(
    modality: str, shape: tuple[int, ...], cells: tuple[int, ...], seen: Evidence,
    thorough: tuple[int, int], quick: tuple[int, int],
) -> None:
    """A pixel that the model saw becomes four in a row at most; planes of a scan keep one scale."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, *shape), dtype=np.uint8)
    values = rng.normal(size=(1, *cells) if modality == "video" else cells)
    edges = [
        [*range(0, side + 1, side // count)]
        for side, count in zip(shape, cells, strict=False)
    ]
    for is_quick, size in ((False, thorough), (True, quick)):
        drawn = draw(modality, pixels, values, edges, seen, quick=is_quick)
        assert Image.open(io.BytesIO(drawn)).size == size
