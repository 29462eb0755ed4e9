"""The grid that fits: the rule itself, and the size that each reader goes by."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media import read, read_fitting
from media.clips.clip_decode import first_frame
from media.clips.clip_file import open_clip
from media.clips.clip_times import moments_within, view_times
from media.clips.video import read_clip
from media.fitting import fitting
from media.images import image
from media.images.opened import Opened
from media.spec import Grid, InputSpec, VideoSpec
from tests.helpers.clip_files import clip_of, encode, picture
from tests.helpers.scan_files import LPS, nifti, numbered, spec
from tests.media.test_field_clips import MATRICES, plain, with_matrix

Size = tuple[int, ...]
SIDES = st.integers(1, 12)
SIZES = st.integers(1, 3).flatmap(
    lambda axes: st.tuples(
        st.tuples(*[SIDES] * axes),
        st.lists(st.tuples(*[SIDES] * axes), min_size=1, max_size=6, unique=True),
    )
)


# --- the rule --------------------------------------------------------------------------------


@given(SIZES)
def test_fitting_equals_trying_them_all(case: tuple[Size, list[Size]]) -> None:
    """One of the list; no other that could be taken is better by the rule's own words."""
    size, sizes = case
    chosen = fitting(size, sizes)
    assert chosen in sizes
    fits = [one for one in sizes if all(one[axis] <= size[axis] for axis in range(len(size)))]
    wanted = max(map(math.prod, fits)) if fits else min(map(math.prod, sizes))
    tied = [one for one in fits or sizes if math.prod(one) == wanted]
    nearest = min(off_shape(one, size) for one in tied)
    assert chosen in tied
    assert off_shape(chosen, size) <= nearest + 1e-6
    earlier = tied[: tied.index(chosen)]
    assert all(off_shape(one, size) > nearest + 1e-10 for one in earlier)


def off_shape(one: Size, size: Size) -> float:
    """Variance of the logarithms of the ratios, which no common scale changes."""
    return float(np.var(np.log(np.array(one) / np.array(size)))) * len(one)


@given(SIZES, st.data())
def test_a_larger_input_never_gets_a_smaller_size(
    case: tuple[Size, list[Size]], data: st.DataObject
) -> None:
    """Whatever side grows."""
    size, sizes = case
    larger = tuple(side + data.draw(SIDES) - 1 for side in size)
    assert math.prod(fitting(larger, sizes)) >= math.prod(fitting(size, sizes))


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((300, 300), (224, 224)),
        ((224, 224), (224, 224)),
        ((223, 999), (96, 160)),  # a side too short for the largest; wide as the picture is
        ((999, 223), (160, 96)),
        ((100, 100), (96, 96)),  # neither of the longer ones is below it
        ((96, 160), (96, 160)),
        ((10, 12), (96, 96)),
        ((160, 160), (96, 160)),  # equally near: the first
    ],
)
def test_largest_that_is_not_above_the_input(size: Size, chosen: Size) -> None:
    """By hand."""
    sizes = [(96, 96), (96, 160), (160, 96), (224, 224)]
    assert fitting(size, sizes) == chosen


# --- images ----------------------------------------------------------------------------------

GRIDS = [Grid.parse(text) for text in ("8x4", "4x8", "2x2")]
PATCH = (4, 4)


def photo(height: int, width: int, kind: str, orientation: int) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(picture(3, height, width)).save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_image_goes_by_its_upright_size(kind: str, orientation: int) -> None:
    """A photo that a camera stored lying gets the grid of one that stands, and its very pixels."""
    data = photo(16, 40, kind, orientation)
    sample, grid = read_fitting(data, InputSpec(), GRIDS, PATCH)
    assert str(grid) == ("8x4" if orientation >= 5 else "4x8")
    np.testing.assert_array_equal(sample.pixels, read(data, InputSpec(), grid, PATCH).pixels)


def test_large_jpeg_is_scaled_for_the_grid_that_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice comes before the pixels: they are loaded once, in the scale of that grid."""
    loaded: list[float] = []
    load = image._load

    def counting(opened: Opened, ratio: float) -> object:
        loaded.append(ratio)
        return load(opened, ratio)

    monkeypatch.setattr(image, "_load", counting)
    data, grids = photo(600, 640, "JPEG", 1), [Grid((1, 1)), Grid((20, 20)), Grid((200, 200))]
    sample, grid = read_fitting(data, InputSpec(), grids, PATCH)
    assert (loaded, str(grid)) == ([160 / 600], "20x20")
    np.testing.assert_array_equal(sample.pixels, read(data, InputSpec(), grid, PATCH).pixels)


def test_array_goes_by_its_own_size() -> None:
    """A picture that is decoded already."""
    assert str(read_fitting(picture(1, 33, 17), InputSpec(), GRIDS, PATCH)[1]) == "8x4"


# --- clips -----------------------------------------------------------------------------------

CLIPS = InputSpec("video", video=VideoSpec())
CLIP_PATCH = (1, 4, 4)
CLIP_GRIDS = [
    Grid.parse(text) for text in ("4x8x4", "4x4x8", "2x2x2", "16x4x6", "16x6x4", "64x1x1")
]


@pytest.mark.parametrize(
    "name",
    ["h264.mp4", "h264.avi", "h264_open.mkv", "h264.ts", "mpeg2.mpeg", "vp9.webm", "palette.gif"],
)
def test_clip_goes_by_its_frames_and_their_number(name: str) -> None:
    """48 frames of 60 by 88 are enough for 16 of 16 by 24, and not for 64 of 4 by 4.

    The frame that is looked at first changes nothing of those that are decoded then.
    """
    data = clip_of(name)
    sample, grid = read_fitting(data, CLIPS, CLIP_GRIDS, CLIP_PATCH, 2)
    assert str(grid) == "16x4x6"
    same = read(data, CLIPS, grid, CLIP_PATCH, 2)
    np.testing.assert_array_equal(sample.pixels, same.pixels)
    assert sample.evidence == same.evidence


@pytest.mark.parametrize("matrix", MATRICES)
def test_clip_goes_by_its_upright_size(matrix: tuple[int, int, int, int]) -> None:
    """A phone that was held upright stores its frames lying; one frame is all there is here."""
    data = with_matrix(plain(), matrix)
    sizes = [(1, 40, 60), (1, 60, 40), (1, 8, 8)]
    with open_clip(data) as clip:
        sample, decoded = read_clip(clip, CLIPS, sizes, 1)
    stands = MATRICES[matrix](picture(5)).shape[0] > picture(5).shape[0]
    assert sample.pixels.shape[2:4] == ((60, 40) if stands else (40, 60))
    assert decoded.decoded == 1
    with open_clip(data) as clip:
        same = read_clip(clip, CLIPS, [sample.pixels.shape[1:4]], 1)[0]
    np.testing.assert_array_equal(sample.pixels, same.pixels)


def test_frame_is_looked_at_only_where_the_turn_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square inputs are what they are, however a clip is turned."""
    monkeypatch.setattr("media.clips.video.first_frame", lambda clip: pytest.fail("looked at"))
    with open_clip(clip_of("h264.mp4")) as clip:
        sample, _ = read_clip(clip, CLIPS, [(2, 16, 16), (4, 32, 32), (4, 300, 300)], 1)
    assert sample.pixels.shape[1:4] == (4, 32, 32)


def test_first_frame_that_is_damaged_does_not_decide() -> None:
    """Nobody needs it: the size in the header counts, and the clip is as good as with one grid."""
    options = {"g": "1", "qp": "20"}
    data = bytearray(encode("mp4", "libx264", options, pictures=[picture(n) for n in range(9)]))
    with open_clip(bytes(data)) as clip:
        first = clip.packets[0].packet
        place, size = first.pos or 0, first.size
    data[place + size // 2 : place + size] = bytes(size - size // 2)
    with open_clip(bytes(data)) as clip:
        assert first_frame(clip) is None
    sizes = [(1, 40, 60), (1, 60, 40)]
    with open_clip(bytes(data)) as clip:
        assert read_clip(clip, CLIPS, sizes, 1)[0].pixels.shape[1:4] == (1, 40, 60)


def test_decoded_frames_go_by_their_array() -> None:
    """As if each lasted a second."""
    frames = np.stack([picture(n, 16, 32) for n in range(5)])
    assert str(read_fitting(frames, CLIPS, CLIP_GRIDS, CLIP_PATCH)[1]) == "4x4x8"


@given(
    st.fractions(Fraction(1, 10), 20), st.sampled_from([0, 0.04, 0.5, 3.0]), st.integers(1, 60)
)
def test_moments_of_a_clip_are_all_that_lie_in_it(
    duration: Fraction, stride: float, frames: int
) -> None:
    """So many are apart by the whole stride; one more would have to be moved into the clip."""
    count = moments_within(duration, stride, frames)
    assert 1 <= count <= frames
    (times,) = view_times(duration, stride, count, 1)
    assert len(set(times)) == count
    if stride and count < frames:
        (moved,) = view_times(duration, stride, count + 1, 1)
        assert moved[-1] - moved[0] < count * Fraction(str(stride))


# --- scans -----------------------------------------------------------------------------------

SCAN_GRIDS = [Grid.parse(text) for text in ("5x4x3", "3x4x5", "2x2x2", "9x9x9")]
VOXEL = (1, 1, 1)


@pytest.mark.parametrize(("affine", "grid"), [(LPS, "5x4x3"), (LPS[[2, 1, 0, 3]], "3x4x5")])
def test_scan_goes_by_its_size_in_spl(affine: np.ndarray, grid: str) -> None:
    """3 by 4 by 5 voxels: depth is the axis that runs to the head, wherever the file has it."""
    data = nifti(numbered(), affine)
    sample, chosen = read_fitting(data, spec(), SCAN_GRIDS, VOXEL)
    assert str(chosen) == grid
    assert sample.evidence["size"] == list(chosen.size)
    np.testing.assert_array_equal(sample.pixels, read(data, spec(), chosen, VOXEL).pixels)


def test_scan_is_counted_in_the_voxels_of_the_model() -> None:
    """Twice as fine, they are twice as many, and an input is never larger than the scan."""
    affine = np.diag([-0.7, -0.7, 0.7, 1.0])
    grids = [*SCAN_GRIDS, Grid((10, 8, 6)), Grid((11, 8, 6))]
    for spacing, grid in (((0.35,) * 3, "10x8x6"), ((0.7,) * 3, "5x4x3"), ((7.0,) * 3, "2x2x2")):
        data = nifti(numbered(), affine)
        assert str(read_fitting(data, spec(spacing=spacing), grids, VOXEL)[1]) == grid
