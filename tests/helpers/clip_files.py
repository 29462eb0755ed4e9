"""Small clips for tests, made in memory: every frame shows its own number and a pattern.

And a reader of its own: all frames in a row with PyAV, resampled by Pillow, nothing of ``models``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from PIL import Image

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder would print to stderr
HEIGHT, WIDTH = 60, 88
RATE = 12  # frames a second
BITS = 6  # of a frame's number
#: AV_CODEC_FLAG_BITEXACT: MPEG-4 has several inverse transforms, and this is the portable one.
BITEXACT = 0x800000
EXACT = (
    Interpolation.BILINEAR
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
)
#: Name -> container, encoder, its options. With B-frames and several key frames where there are
#: such things, so that the order of packets is not that of the frames.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("mp4", "libx264", {"g": "12", "bf": "3"}),
    "h264.mov": ("mov", "libx264", {"g": "12", "bf": "3"}),
    "h264_open.mkv": ("matroska", "libx264", {"bf": "3", "x264-params": "open-gop=1:keyint=9"}),
    "h264_refresh.mkv": ("matroska", "libx264", {"x264-params": "intra-refresh=1:keyint=9"}),
    "h264.ts": ("mpegts", "libx264", {"g": "12", "bf": "3"}),
    "h264.avi": ("avi", "libx264", {"g": "12", "bf": "2"}),
    "hevc.mp4": ("mp4", "libx265", {"x265-params": "keyint=12:bframes=4:log-level=none"}),
    "hevc_layers.mp4": (
        "mp4",
        "libx265",
        {"x265-params": "keyint=12:bframes=4:temporal-layers=3:log-level=none"},
    ),
    "vp8.webm": ("webm", "libvpx", {"g": "12", "lag-in-frames": "12", "auto-alt-ref": "1"}),
    "vp9.webm": ("webm", "libvpx-vp9", {"g": "12", "lag-in-frames": "12", "auto-alt-ref": "1"}),
    "av1.mp4": ("mp4", "libsvtav1", {"g": "12", "preset": "12", "svtav1-params": "lp=1"}),
    "mpeg1.mpeg": ("mpeg", "mpeg1video", {"g": "12", "bf": "2"}),
    "mpeg2.mpeg": ("mpeg", "mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg2.ts": ("mpegts", "mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg2.mkv": ("matroska", "mpeg2video", {"g": "12", "bf": "2"}),
    "mpeg4.mp4": ("mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.avi": ("avi", "mpeg4", {"g": "12", "bf": "2"}),
    "mjpeg.mov": ("mov", "mjpeg", {}),
    "mjpeg.avi": ("avi", "mjpeg", {}),
    "palette.gif": ("gif", "gif", {}),
}
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width, 3]: a pattern that moves, its number in squares along the top."""
    y, x = np.mgrid[0:height, 0:width]
    colours = (x * 3 + number * 7, y * 3 + number * 13, x + y + number * 29)
    canvas = np.stack(colours, axis=-1).astype(np.uint8)  # [height, width, 3]
    for bit in range(BITS):
        canvas[2:14, 2 + 14 * bit : 14 + 14 * bit] = 255 * (number >> bit & 1)
    return canvas


def number_of(shown: np.ndarray) -> int:
    """The number in a picture that was neither cropped nor turned."""
    squares = [shown[5:11, 5 + 14 * bit : 11 + 14 * bit].mean() > 127 for bit in range(BITS)]
    return sum(2**bit for bit, square in enumerate(squares) if square)


def encode(
    container: str,
    codec: str,
    options: dict[str, str] | None = None,
    *,
    pictures: Sequence[np.ndarray] | None = None,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, RATE),
    pixel_format: str | None = None,
    prepare: Callable[[VideoStream], Any] = lambda stream: None,
    keep: Callable[[av.Packet[Any]], Any] = lambda packet: True,
) -> bytes:
    """A clip of ``pictures``, RGB of one size.

    Args:
        times: of the frames, in units of ``time_base``; one after another if not given.
        prepare: called with the stream before anything is encoded.
        keep: called with each packet; what it denies is left out of the file.
    """
    pictures = pictures if pictures is not None else [picture(number) for number in range(48)]
    pixel_format = pixel_format or PIXEL_FORMATS.get(codec, "yuv420p")
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        rate = 25 if codec in ("mpeg1video", "mpeg2video") else Fraction(1) / time_base
        video = cast(VideoStream, file.add_stream(codec, rate=rate, options=options))
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = pixel_format
        video.codec_context.thread_count = 1
        prepare(video)
        for number, one in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(one, format="rgb24")
            frame = frame.reformat(format=pixel_format, interpolation=EXACT)
            frame.pts = times[number] if times else number
            file.mux([packet for packet in video.encode(frame) if keep(packet)])
        file.mux([packet for packet in video.encode(None) if keep(packet)])
    return stream.getvalue()


@cache
def clip_of(name: str) -> bytes:
    """A clip of ``KINDS``: 48 frames, numbered from 0."""
    container, codec, options = KINDS[name]
    return encode(container, codec, options)


def linear(data: bytes) -> list[tuple[Fraction, np.ndarray]]:
    """Every frame of the best video, in a row: seconds from the first, and RGB as it is stored."""
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as file:
        video = cast(VideoStream, file.streams.best("video"))
        video.codec_context.thread_count = 1
        video.codec_context.flags |= BITEXACT
        decoded = [
            (frame.pts, frame.to_ndarray(format="rgb24", interpolation=EXACT))
            for frame in file.decode(video)
        ]
        tick = cast(Fraction, video.time_base)
    starts = sorted(cast(int, pts) for pts, _ in decoded)  # in AVI they come out of order
    return [
        ((start - starts[0]) * tick, rgb) for start, (_, rgb) in zip(starts, decoded, strict=True)
    ]


def stretched(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]."""
    size = (width, height)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
