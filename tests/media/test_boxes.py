"""Readers say which part of an upright original the network sees, in its own pixels or voxels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media import Sample, read
from media.clips.video import Boxes
from media.spec import Grid, InputSpec
from tests.helpers.scan_files import nifti, seen
from tests.helpers.service_fixtures import TINY, clip

CROP = InputSpec()
STRETCH = InputSpec(fit="stretch")


def see(media: Any, spec: InputSpec, pixels: tuple[int, ...]) -> Sample:
    return read(media, spec, Grid(pixels), (1,) * len(pixels))


def jpeg(picture: np.ndarray, turn: int = 1) -> bytes:
    """A picture as stored, [h, w, 3], whose EXIF data say how it is turned."""
    exif = Image.Exif()
    exif[274] = turn
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=95, subsampling=0, exif=exif)
    return encoded.getvalue()


def stored(upright: np.ndarray, turn: int) -> np.ndarray:
    """How a picture lies in a file with an EXIF orientation, by what each of them is defined as:
    where the stored first row and column belong.
    """
    return {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[::-1],
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
        8: lambda x: x.swapaxes(0, 1)[:, ::-1],
    }[turn](upright)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(60, 100), (1201, 801)])
def test_box_is_told_in_the_upright_original(turn: int, size: tuple[int, int]) -> None:
    """However a picture is turned, and scaled in its decoder, a mark is seen where the box says."""
    height, width = size
    upright = np.zeros((height, width, 3), np.uint8)
    rows, columns = (height // 2, height // 2 + height // 6), (width // 3, width // 3 + width // 6)
    upright[slice(*rows), slice(*columns)] = 255
    sample = see(jpeg(stored(upright, turn), turn), CROP, (48, 32))
    told = sample.evidence
    assert (told["size"], told["turn"]) == ([height, width], turn)
    (top, bottom), (left, right) = told["box"]
    assert (bottom - top) / (right - left) == pytest.approx(48 / 32, rel=1e-3)
    assert (top + bottom, left + right) == pytest.approx((height, width), abs=0.01)
    assert min(height - (bottom - top), width - (right - left)) == pytest.approx(0, abs=0.01)
    bright = sample.pixels[0].mean(axis=2) > 127  # [48, 32]
    for axis, (begin, end), marked in ((0, (top, bottom), rows), (1, (left, right), columns)):
        places = np.flatnonzero(bright.any(axis=1 - axis))
        step = (end - begin) / bright.shape[axis]
        found = begin + places[0] * step, begin + (places[-1] + 1) * step
        assert found == pytest.approx(marked, abs=step)


@pytest.mark.parametrize("size", [(37, 22), (1500, 999)])
def test_stretched_input_sees_all_of_a_picture(size: tuple[int, int]) -> None:
    """Its box is the whole original, exactly; so it is of a decoded array."""
    picture = np.zeros((*size, 3), np.uint8)
    for media in (jpeg(picture), picture):
        told = see(media, STRETCH, (8, 12)).evidence
        assert told == {"size": [*size], "turn": 1, "box": [[0, size[0]], [0, size[1]]]}


def test_frames_of_a_clip_have_one_box_or_none() -> None:
    """That of its frames where all have it; a size that changes inside a clip leaves no place."""
    sample = read(clip(size=(23, 17)), TINY["video"].input, Grid((4, 1, 4)), (1, 2, 3))
    assert sample.evidence["size"] == [17, 23]
    assert sample.evidence["box"] == [[6.5833, 10.4167], [0, 23]]
    boxes = Boxes(None)
    for height in (17, 17, 19):
        boxes.see(np.zeros((height, 23, 3), np.uint8), CROP, (2, 12))
    assert boxes.evidence == {"size": None, "box": None}


def test_box_of_a_scan_is_told_in_its_voxels() -> None:
    """Stretched it is the whole scan; with a spacing a part around the middle, which may reach
    beyond it; the axes are those of the one orientation.
    """
    voxels = np.zeros((10, 14, 6), np.int16)  # right, front, head
    file = nifti(voxels, np.diag([2.0, 1.0, 4.0, 1.0]))
    stretched = seen(file, (3, 4, 5))
    assert (stretched["size"], stretched["box"]) == ([6, 14, 10], [[0, 6], [0, 14], [0, 10]])
    spaced = seen(file, (6, 5, 8), spacing=(5.0, 2.0, 1.0))
    # 6 x 5 mm are 7.5 voxels of 4 mm, 5 x 2 mm are 10 of 1 mm, 8 x 1 mm are 4 of 2 mm.
    assert spaced["box"] == [[-0.75, 6.75], [2, 12], [3, 7]]
    assert spaced["spacing_mm"] == [5, 2, 1]
