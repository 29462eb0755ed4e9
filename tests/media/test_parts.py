"""A part of an item is what its share, shape and place say, whatever the file and its size."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media import Part, read, read_part, reader
from media.images import image
from media.spec import Grid, InputSpec, SpecError, VideoSpec
from tests.helpers.clip_files import RATE, clip_of, number_of
from tests.helpers.scan_files import nifti, spec
from tests.media.test_boxes import jpeg, stored

CROP, STRETCH = InputSpec(), InputSpec(fit="stretch")
HALF = Part(0.25, (1.25, 0.8), (0.3, 0.9))
SIZE = (24, 16)  # height, width
RANDOM = np.random.default_rng(0)
PICTURE = np.repeat(np.repeat(RANDOM.integers(0, 256, (38, 50, 3), np.uint8), 10, 0), 10, 1)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that scaling hardly changes, [height, width, 3]."""
    rows, columns = np.mgrid[:height, :width] / (height, width)[0]
    waves = [127 + 120 * np.sin(3 * rows + k) * np.cos(2 * columns - k) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def sides(part: Part, size: tuple[int, ...]) -> list[float]:
    return [end - start for start, end in part.spans(size, size)]


@given(
    st.floats(0.01, 1), st.floats(0.5, 2), st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
)  # fmt: skip
def test_part_lies_inside_and_has_its_share(
    share: float, factor: float, place: tuple[float, float], size: tuple[int, int]
) -> None:
    """It has its share of the area wherever no side had to be cut, and never leaves the item."""
    part = Part(share, (factor, 1 / factor), place)
    for (start, end), side in zip(part.spans(size, size), size, strict=True):
        assert 0 <= start < end <= side
    if math.sqrt(share) * max(factor, 1 / factor) <= 1:
        assert math.prod(sides(part, size)) == pytest.approx(share * math.prod(size))


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_part_of_a_picture_is_the_crop_that_pillow_makes(fit: str) -> None:
    """Of a file that is not scaled in its decoder, and of an array, to the last grey level."""
    wanted = CROP if fit == "crop" else STRETCH
    height, width = PICTURE.shape[:2]
    area = 0.25 * height * width
    aspect = SIZE[0] / SIZE[1] if fit == "crop" else height / width
    down = math.sqrt(area * aspect) * 1.25
    across = math.sqrt(area / aspect) * 0.8
    top, left = 0.3 * (height - down), 0.9 * (width - across)
    box = (left, top, left + across, top + down)
    expected = Image.fromarray(PICTURE).resize(SIZE[::-1], Image.Resampling.BICUBIC, box)
    png = io.BytesIO()
    Image.fromarray(PICTURE).save(png, "PNG")
    for media in (PICTURE, png.getvalue()):
        assert np.array_equal(read_part(media, wanted, SIZE, HALF), np.asarray(expected))
        told = image.see(media, wanted, SIZE, part=HALF)[1]["box"]
        assert told == [[round(x, 4) for x in box[axis::2]] for axis in (1, 0)]


@pytest.mark.parametrize("turn", range(1, 9))
def test_part_is_one_of_the_upright_picture(turn: int) -> None:
    """However a JPEG is turned, and scaled while it is decoded, the same part of it is seen."""
    upright = smooth(1201, 801)
    small = Part(0.5, (1.1, 1 / 1.1), (0.2, 0.7))
    expected = read_part(upright, CROP, SIZE, small).astype(int)
    got = read_part(jpeg(stored(upright, turn), turn), CROP, SIZE, small)
    assert abs(got - expected).max() <= 4
    box, turned = (
        image.see(media, CROP, SIZE, part=small)[1]["box"]
        for media in (upright, jpeg(stored(upright, turn), turn))
    )
    assert np.allclose(box, turned, atol=1e-3)


@pytest.mark.parametrize(("share", "scaled"), [(1.0, 8), (0.05, 4), (0.003, 1)])
def test_jpeg_is_scaled_as_far_as_the_part_allows(
    monkeypatch: pytest.MonkeyPatch, share: float, scaled: int
) -> None:
    """It keeps twice the pixels that the part shall have."""
    sizes = []
    original = image._load

    def load(*arguments: Any) -> Any:
        loaded = original(*arguments)
        sizes.append(loaded[0].size)
        return loaded

    monkeypatch.setattr(image, "_load", load)
    part = Part(share, (1.0, 1.0), (0.5, 0.5))
    read_part(jpeg(smooth(960, 640)), STRETCH, SIZE, part)
    assert sizes == [(640 // scaled, 960 // scaled)]
    left = min(a / b for a, b in zip(sides(part, (960, 640)), SIZE, strict=True)) / scaled
    assert left >= 2 and (scaled == 8 or left < 4)


def test_whole_is_what_is_served() -> None:
    """A part with all of the area in the picture's own shape is what the InputSpec says."""
    everything = Part(1.0, (1.0, 1.0), (0.4, 0.6))
    for wanted, size in ((STRETCH, SIZE), (CROP, (19, 25))):  # the shape of the picture
        served = read(PICTURE, wanted, Grid(size), (1, 1)).pixels[0]
        assert np.array_equal(read_part(PICTURE, wanted, size, everything), served)


@pytest.mark.parametrize("stride", [0.0, 0.25])
def test_moment_moves_the_frames_of_a_clip(stride: float) -> None:
    """From the first frames that a view may have to the last ones; the middle is the served one."""
    wanted = InputSpec(modality="video", video=VideoSpec(stride=stride))
    size, clip = (4, 60, 88), clip_of("h264.mp4")
    whole = Part(1.0, (1.0, 1.0), (0.0, 0.0))
    numbers = []
    for moment in (0.0, 0.5, 1.0):
        pixels = read_part(clip, wanted, size, dataclasses.replace(whole, moment=moment))
        numbers.append([number_of(frame) for frame in pixels])
    served = read(clip, wanted, Grid(size), (1, 1, 1)).pixels[0]
    assert numbers[1] == [number_of(frame) for frame in served]
    assert numbers[0][0] == 0 and numbers[2][-1] == 47
    steps = [np.diff(one) for one in numbers]
    expected = float(stride * RATE) if stride else 48 / 4
    assert all(abs(step - expected).max() <= 1 for step in steps)


def test_frames_of_a_clip_show_one_part() -> None:
    """The same box of every frame."""
    wanted = InputSpec(modality="video", video=VideoSpec())
    frames = np.repeat(PICTURE[None, ::10, ::10], 3, 0)  # [3, 38, 50, 3]
    pixels = reader("video").read(frames, wanted, [(3, *SIZE)], 1, HALF)
    one, told = image.see(frames[0], wanted, SIZE, part=HALF)
    assert np.array_equal(pixels.pixels[0], np.stack([one] * 3))
    assert pixels.evidence["box"] == told["box"]


def test_part_of_a_scan_keeps_the_spacing_that_was_asked_for() -> None:
    """With all of the share it is a box of voxels of the scan, wherever its place says."""
    voxels = RANDOM.integers(0, 256, (9, 12, 15)).astype(np.uint8)
    wanted = spec(spacing=(1.0, 1.0, 1.0), window=(0.0, 255.0))
    scan = nifti(voxels, np.eye(4))
    oriented = read(scan, wanted, Grid((15, 12, 9)), (1, 1, 1)).pixels[0, ..., 0]
    part = Part(1.0, (1.0, 1.0, 1.0), (0.0, 0.5, 1.0))
    sample = reader("volume").read(scan, wanted, [(5, 4, 3)], 1, part)
    assert np.array_equal(sample.pixels[0, ..., 0], oriented[:5, 4:8, 6:])
    assert sample.evidence["box"] == [[0.0, 5.0], [4.0, 8.0], [6.0, 9.0]]
    assert sample.evidence["spacing_mm"] == [1.0, 1.0, 1.0]
    smaller = dataclasses.replace(part, share=0.125)
    finer = reader("volume").read(scan, wanted, [(6, 4, 2)], 1, smaller).evidence
    assert finer["box"] == [[0.0, 3.0], [5.0, 7.0], [8.0, 9.0]]
    assert finer["spacing_mm"] == [0.5, 0.5, 0.5]


def test_scan_that_is_smaller_than_the_input_stays_in_its_middle() -> None:
    """As it is served, wherever the part would begin."""
    wanted = spec(spacing=(2.0, 2.0, 2.0), window=(0.0, 255.0))
    scan = nifti(RANDOM.integers(0, 256, (5, 6, 7)).astype(np.uint8), np.eye(4))
    served = read(scan, wanted, Grid((8, 6, 4)), (1, 1, 1)).pixels[0]
    part = Part(1.0, (1.0, 1.0, 1.0), (0.1, 0.9, 0.3))
    assert np.array_equal(read_part(scan, wanted, (8, 6, 4), part), served)


def test_part_of_a_scan_without_spacing_is_one_of_its_voxels() -> None:
    """Half of each side of an array, stretched to the input."""
    voxels = RANDOM.integers(0, 256, (8, 12, 4)).astype(np.uint8)
    part = Part(0.125, (1.0, 1.0, 1.0), (1.0, 0.0, 0.5))
    wanted = spec(window=(0.0, 255.0))
    assert np.array_equal(
        read_part(voxels, wanted, (4, 6, 2), part)[..., 0], voxels[4:, :6, 1:3]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.0}, {"share": 1.5}, {"share": math.nan}, {"shape": (1.0,)},
        {"shape": (0.0, 1.0)}, {"shape": (math.inf, 1.0)}, {"place": (0.5, 1.1)}, {"moment": -0.1},
    ],
)  # fmt: skip
def test_part_that_cannot_be_is_refused(wrong: dict) -> None:
    """It says what was expected."""
    with pytest.raises(SpecError, match="part|places"):
        dataclasses.replace(HALF, **wrong)
