"""Clips: that frames look as they should, whatever camera, codec and processor made them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from media.clips.video import read
from media.errors import UnsupportedMedia
from media.images import image
from media.spec import InputSpec, VideoSpec
from tests.helpers.clip_files import (
    HEIGHT,
    KINDS,
    RATE,
    WIDTH,
    clip_of,
    encode,
    linear,
    number_of,
    picture,
    stretched,
)

STRETCH = InputSpec(modality="video", fit="stretch", video=VideoSpec())
CROP = InputSpec(modality="video", video=VideoSpec())
SIZE = (HEIGHT, WIDTH)
LOSSLESS = {"qp": "0"}  # of libx264


def frames_of(data: bytes, count: int, spec: InputSpec = STRETCH) -> np.ndarray:
    """One view, [count, HEIGHT, WIDTH, channels]."""
    return read(data, spec, [(count, *SIZE)], 1).pixels[0]


def upright(data: bytes, height: int, width: int, spec: InputSpec = STRETCH) -> np.ndarray:
    """The first frame, [height, width, channels], as numbers that can be subtracted."""
    return read(data, spec, [(1, height, width)], 1).pixels[0, 0].astype(int)


def still(prepare: Callable[[VideoStream], Any], pixel_format: str = "yuv444p") -> bytes:
    """One frame without loss."""
    return encode(
        "mp4",
        "libx264",
        LOSSLESS,
        pictures=[picture(5)],
        pixel_format=pixel_format,
        prepare=prepare,
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_frames_are_turned_upright(degrees: int, mirrored: bool) -> None:
    """Quarter turns against the clock, then mirrored: the eight ways to hold a camera."""
    plain = upright(still(lambda stream: None), *SIZE)
    turned = still(lambda stream: stream.set_display_rotation(degrees, hflip=mirrored))
    expected = np.rot90(plain, degrees // 90)  # [h, w, 3], or [w, h, 3]
    expected = expected[:, ::-1] if mirrored else expected
    np.testing.assert_array_equal(upright(turned, *expected.shape[:2]), expected)


def test_other_turns_are_refused() -> None:
    """A frame turned by 45 degrees has no right rectangle."""
    with pytest.raises(UnsupportedMedia, match="turned by quarters"):
        upright(still(lambda stream: stream.set_display_rotation(45)), *SIZE)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
def test_pixels_become_square(container: str, aspect: Fraction) -> None:
    """A frame of wide or narrow pixels is shown as if it had been stretched before the crop."""

    def squeeze(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([x * 2 + 20, y * 4, x + y], axis=-1).astype(np.uint8)
    data = encode(
        container,
        "libx264",
        LOSSLESS,
        pictures=[smooth],
        pixel_format="yuv444p",
        prepare=squeeze,
    )
    wide = round(WIDTH * aspect) if aspect > 1 else WIDTH
    high = HEIGHT if aspect > 1 else round(HEIGHT / aspect)
    expected = image.prepare(stretched(smooth, high, wide), CROP, (40, 50)).astype(int)
    assert np.abs(upright(data, 40, 50, CROP) - expected).max() <= 4  # two ways to interpolate
    plain = upright(still(lambda stream: None), 40, 50, CROP)
    assert np.abs(plain - expected).max() > 40


#: Kr, Kb of the matrices, by the number that a file names them with; 2 is "unspecified".
MATRICES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_follow_matrix_and_range(matrix: int, full: bool, pixel_format: str) -> None:
    """One colour in Y, Cb and Cr becomes the RGB of the standard's formula, 8 bits or 10."""
    scale = 4 if pixel_format.endswith("10le") else 1
    values = (120, 90, 200)  # of 8 bits
    frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        depth = np.uint16 if scale == 4 else np.uint8
        count = plane.buffer_size // np.dtype(depth).itemsize
        plane.update(np.full(count, value * scale, depth).tobytes())
    shown = upright(flat_clip(frame, matrix, full), *SIZE)
    assert np.abs(shown - formula(values, matrix, full)).max() <= 1
    assert (shown == shown[0, 0]).all()


def flat_clip(frame: av.VideoFrame, matrix: int, full: bool) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as file:
        video = file.add_stream("libx264", rate=RATE, options=LOSSLESS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, frame.format.name
        video.codec_context.colorspace, video.codec_context.color_range = matrix, 1 + full
        frame.colorspace, frame.color_range, frame.pts = matrix, 1 + full, 0
        file.mux(video.encode(frame))
        file.mux(video.encode(None))
    return stream.getvalue()


def formula(values: tuple[int, int, int], matrix: int, full: bool) -> np.ndarray:
    """ITU-R BT.601, BT.709, BT.2020: R, G and B from 0 to 255."""
    red, blue = MATRICES[matrix]
    scales, offset = ((255, 255), 0) if full else ((219, 224), 16)
    luma = (values[0] - offset) / scales[0]
    cb, cr = ((value - 128) / scales[1] for value in values[1:])
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.array([r, g, b]), 0, 255)


@pytest.mark.parametrize(("height", "width"), [(61, 89), (45, 31), (17, 96)])
def test_odd_sizes_keep_every_pixel(height: int, width: int) -> None:
    """No row or column is lost or invented where chroma has half as many and a bit."""
    exact = picture(3, height, width)
    data = encode("mp4", "libx264", LOSSLESS, pictures=[exact], pixel_format="yuv444p")
    assert np.abs(upright(data, height, width) - exact).max() <= 3  # RGB to YUV and back
    halved = encode("matroska", "mpeg4", {"qscale": "1"}, pictures=[exact])
    assert linear(halved)[0][1].shape == (height, width, 3)
    np.testing.assert_array_equal(upright(halved, height, width), linear(halved)[0][1])


def test_grey_is_the_grey_of_still_images() -> None:
    """One channel comes out as it would for a picture of the frame."""
    grey = InputSpec(
        modality="video", channels=1, fit="stretch", mean=(0.5,), std=(0.5,), video=VideoSpec()
    )
    data = clip_of("h264.mp4")
    frame = frames_of(data, 1)[0]
    expected = np.asarray(Image.fromarray(frame).convert("L"))
    np.testing.assert_array_equal(frames_of(data, 1, grey)[0, :, :, 0], expected)


def test_frames_are_cropped_as_still_images_are() -> None:
    """The centre is cut from every frame, as from a photograph."""
    data = clip_of("h264.mp4")
    whole, cropped = frames_of(data, 3), read(data, CROP, [(3, 40, 32)], 1).pixels[0]
    for one, other in zip(whole, cropped, strict=True):
        np.testing.assert_array_equal(image.prepare(one, CROP, (40, 32)), other)


def test_transparency_of_a_gif_shows_the_background() -> None:
    """Frames are laid over each other and cleared as the file says, over the spec's background."""
    background = (10, 200, 90)
    spec = InputSpec(modality="video", fit="stretch", video=VideoSpec(), background=background)
    frames = []
    for number in range(5):
        frame = Image.new("RGBA", (WIDTH, HEIGHT))
        frame.paste((200, 10 * number, 50, 255), (8 * number, 3, 8 * number + 16, 30))
        frames.append(frame)
    for disposal in (1, 2):
        stream = io.BytesIO()
        frames[0].save(
            stream, "GIF", save_all=True, append_images=frames[1:], duration=70, disposal=disposal
        )
        sample = read(stream.getvalue(), spec, [(5, *SIZE)], 1)
        assert sample.evidence["seconds"][0] == [0.0, 0.07, 0.14, 0.21, 0.28]
        with Image.open(stream) as animation:
            for number, shown in enumerate(sample.pixels[0]):
                animation.seek(number)
                canvas = Image.new("RGBA", animation.size, (*background, 255))
                composed = Image.alpha_composite(canvas, animation.convert("RGBA"))
                np.testing.assert_array_equal(shown, np.asarray(composed.convert("RGB")))


def two_sizes(container: str, codec: str) -> bytes:
    """Six frames, then six that are twice as high, in one stream."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        video: Any = file.add_stream(codec, rate=RATE)
        for half, height in enumerate((HEIGHT, 2 * HEIGHT)):
            encoder: Any = av.CodecContext.create(codec, "w") if half else video.codec_context
            encoder.width, encoder.height, encoder.pix_fmt = WIDTH, height, "yuv420p"
            encoder.time_base = Fraction(1, RATE)
            for number in range(6 * half, 6 * half + 6):
                frame = av.VideoFrame.from_ndarray(picture(number, height), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                _mux(file, video, encoder.encode(frame))
            _mux(file, video, encoder.encode(None))
    return stream.getvalue()


def _mux(file: Any, video: Any, packets: list[Any]) -> None:
    for packet in packets:
        packet.stream = video
        file.mux(packet)


@pytest.mark.parametrize(("container", "codec"), [("webm", "libvpx"), ("mpegts", "libx264")])
def test_size_may_change_inside_a_clip(container: str, codec: str) -> None:
    """Every frame is shaped on its own, so the half of another size looks right too."""
    data = two_sizes(container, codec)
    everything = linear(data)
    assert [rgb.shape[0] for _, rgb in everything] == [60] * 6 + [120] * 6
    assert [number_of(rgb) for _, rgb in everything] == list(range(12))
    expected = np.stack([stretched(rgb, *SIZE) for _, rgb in everything])
    np.testing.assert_array_equal(frames_of(data, 12), expected)


PLAIN_PROCESSOR = """
import ctypes, hashlib, sys
import av
path = next(line.split()[-1] for line in open("/proc/self/maps") if "libavutil" in line)
if sys.argv[1] == "plain":
    ctypes.CDLL(path).av_force_cpu_flags(0)
from media.clips.video import read
from media.spec import InputSpec, VideoSpec
spec = InputSpec(modality="video", video=VideoSpec())
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        pixels = read(file.read(), spec, [(5, 40, 32)], 1).pixels
    print(hashlib.sha256(pixels.tobytes()).hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks its libraries up in /proc")
def test_pixels_do_not_depend_on_the_processor(tmp_path: Path, repo_root: Path) -> None:
    """With every vector instruction of FFmpeg switched off the pixels are the same."""
    paths = []
    for name in KINDS:
        paths.append(tmp_path / name)
        paths[-1].write_bytes(clip_of(name))
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PLAIN_PROCESSOR, mode, *map(str, paths)],
            check=True,
            capture_output=True,
            text=True,
            cwd=repo_root,
        ).stdout
        for mode in ("plain", "full")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) > len(KINDS) / 2
