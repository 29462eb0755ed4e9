"""Pictures that are resized and cut, as public models want them: ``InputSpec.crop_ratio``."""

from __future__ import annotations

import io
import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from media.images.image import FILTERS, MAX_ENLARGED, prepare, see
from media.part import Part
from media.spec import InputSpec, SpecError, VideoSpec, VolumeSpec


def noise(height: int, width: int) -> Image.Image:
    """Neighbouring pixels have nothing in common, so that a shift of a tenth of one shows."""
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def whole_sides(
    image: Image.Image, target: tuple[int, int], spec: InputSpec
) -> tuple[int, int]:
    """What the libraries of public models resize a picture to before they cut it."""
    height, width = (math.floor(side / spec.crop_ratio + 1e-6) for side in target)
    if spec.fit == "crop":
        if height * image.width >= width * image.height:
            width = image.width * height // image.height
        else:
            height = image.height * width // image.width
    return height, width


def resized_and_cut(image: Image.Image, target: tuple[int, int], spec: InputSpec) -> np.ndarray:
    """Pillow's resize to whole sides, then its crop."""
    height, width = whole_sides(image, target, spec)
    top, left = round((height - target[0]) / 2), round((width - target[1]) / 2)
    large = image.resize((width, height), FILTERS[spec.interpolation])
    return np.asarray(large.crop((left, top, left + target[1], top + target[0])))


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@given(
    st.one_of(*(st.tuples(st.integers(a, b), st.integers(a, b)) for a, b in ((9, 45), (60, 300)))),
    st.sampled_from([(24, 24), (16, 28), (35, 14)]),
    st.sampled_from([0.9, 224 / 256, 0.95, 16 / 18, 0.5]),
    st.sampled_from(["crop", "stretch"]),
    st.sampled_from(["bicubic", "bilinear"]),
)
def test_a_crop_ratio_is_pillows_resize_and_cut(
    size: tuple[int, int],
    target: tuple[int, int],
    ratio: float,
    fit: Literal["crop", "stretch"],
    interpolation: Literal["bicubic", "bilinear"],
) -> None:
    """To the last bit, of noise of any shape, smaller or larger than the target, but for strips."""
    spec = InputSpec(fit=fit, crop_ratio=ratio, interpolation=interpolation)
    image = noise(*size)
    assume(math.prod(whole_sides(image, target, spec)) <= MAX_ENLARGED * math.prod(target))
    assert (prepare(png(image), spec, target) == resized_and_cut(image, target, spec)).all()


@given(st.integers(1, 6), st.integers(900, 4000), st.booleans())
def test_a_strip_is_not_enlarged_as_a_whole(short: int, long: int, upright: bool) -> None:
    """It is resampled where it is cut: each of the two passes rounds once, in either order.

    Bilinear weights are positive and sum to one, so the first pass's half a level is no more after
    the second: all of it is within one level of what floats come to.
    """
    image = noise(long, short) if upright else noise(short, long)
    spec = InputSpec(crop_ratio=0.8, interpolation="bilinear")
    ours = prepare(png(image), spec, (16, 28))
    bands = [resized_and_cut(band.convert("F"), (16, 28), spec) for band in image.split()]
    assert np.abs(ours - np.stack(bands, -1)).max() <= 1 + 1e-3  # weights of 22 bits


@pytest.mark.parametrize(("ratio", "whole"), [(0.9, 248), (224 / 256, 256), (1.0, 224)])
def test_the_sides_before_the_cut(ratio: float, whole: int) -> None:
    """0.9 of 224 resizes the short side to 248, 224 of 256 to 256: what is seen says so."""
    image = noise(whole, 2 * whole)  # resized by nothing, so the box is the cut
    _, seen = see(png(image), InputSpec(crop_ratio=ratio), (224, 224))
    start = (whole - 224) / 2
    assert seen["box"] == [[start, start + 224], [whole / 2 + start, whole / 2 + start + 224]]


def test_a_turned_jpeg_is_cut_upright() -> None:
    """EXIF turns it first; a JPEG that is scaled while it is decoded shows the same part."""
    upright = Image.fromarray(np.asarray(noise(12, 20).resize((800, 480))))
    spec = InputSpec(crop_ratio=0.8)
    exif = Image.Exif()
    exif[0x112] = 6
    stream = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stream, "JPEG", exif=exif, quality=95)
    pixels, seen = see(stream.getvalue(), spec, (24, 32))
    whole, told = see(np.asarray(upright), spec, (24, 32))
    assert seen["box"] == told["box"]
    assert np.abs(pixels.astype(int) - whole).mean() < 4  # another decoder's rounding, not a shift


def test_a_random_part_is_of_the_whole_picture() -> None:
    """The ratio says what an untouched item shows; what training draws is drawn from all of it."""
    image, part = png(noise(40, 60)), Part(0.3, (1.0, 1.0), (0.0, 1.0))
    cut = prepare_part(image, InputSpec(crop_ratio=0.5), part)
    assert (cut == prepare_part(image, InputSpec(), part)).all()


def prepare_part(image: bytes, spec: InputSpec, part: Part) -> np.ndarray:
    return see(image, spec, (12, 20), part=part)[0]


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_a_ratio_beyond_one_is_refused(ratio: float) -> None:
    """And one that leaves nothing; the message has the number."""
    with pytest.raises(SpecError, match=f"crop_ratio must be above 0 and up to 1.*{ratio}"):
        InputSpec(crop_ratio=ratio)


def test_scans_are_not_cut_and_clips_are() -> None:
    """A scan is stretched or has a spacing; the frames of a clip are pictures."""
    with pytest.raises(SpecError, match="1 for volumes"):
        InputSpec(
            "volume", 1, fit="stretch", crop_ratio=0.9, mean=(0.5,), std=(0.5,),
            volume=VolumeSpec(),
        )  # fmt: skip
    assert InputSpec("video", crop_ratio=0.9, video=VideoSpec()).crop_ratio == 0.9
