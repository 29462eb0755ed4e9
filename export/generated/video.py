"""Clips: colour waves that drift and a disc that circles, so that every moment looks different.

H.264 and VP9, whose decoders must all give the same pixels. Another encoder may write other bytes;
what travels in a bundle is the file.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate, cycle, islice, pairwise

import av
import numpy as np

from media.spec import InputSpec


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is encoded.

    Attributes:
        steps: milliseconds from frame to frame, over and over: several make the rate vary.
    """

    name: str
    codec: str
    width: int
    height: int
    frames: int
    steps: tuple[int, ...]


CLIPS = (
    Clip("0.mp4", "libx264", 96, 64, 48, (80,)),
    Clip("1.webm", "libvpx-vp9", 64, 112, 50, (40,)),
    Clip("2.mkv", "libx264", 80, 48, 45, (33, 33, 34)),
    Clip("3.mp4", "libx264", 56, 72, 40, (100, 450, 200)),
)
OPTIONS = {
    # with mbtree, clips of this size came out different from call to call
    "libx264": {"crf": "26", "preset": "medium", "x264-params": "mbtree=0"},
    "libvpx-vp9": {"crf": "40", "b": "0", "deadline": "good", "cpu-used": "4"},
}
MILLISECOND = Fraction(1, 1000)


def generated(_: InputSpec) -> dict[str, bytes]:
    """File name -> encoded clip; the same at every call."""
    return {clip.name: _encoded(clip, number) for number, clip in enumerate(CLIPS)}


def _encoded(clip: Clip, number: int) -> bytes:
    stream = io.BytesIO()
    format_ = clip.name.partition(".")[2].replace("mkv", "matroska")
    # bitexact: no date and no random identity in the file
    with av.open(stream, "w", format=format_, options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(clip.codec, rate=1000, options=OPTIONS[clip.codec])
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = clip.width, clip.height, "yuv420p"
        video.codec_context.time_base = MILLISECOND
        video.codec_context.thread_count = 1
        for frame in _frames(clip, number):
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return stream.getvalue()


def _frames(clip: Clip, number: int) -> Iterator[av.VideoFrame]:
    times = accumulate(islice(cycle(clip.steps), clip.frames), initial=0)  # ms
    for time, after in pairwise(times):
        pixels = _picture(clip, number, time / 1000)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.duration, frame.time_base = time, after - time, MILLISECOND
        yield frame


def _picture(clip: Clip, number: int, seconds: float) -> np.ndarray:
    """uint8 [height, width, 3] at that moment."""
    random = np.random.Generator(np.random.Philox(key=number))
    y, x = np.mgrid[0 : 1 : clip.height * 1j, 0 : 1 : clip.width * 1j]  # each [height, width]
    waves = [
        np.sin(2 * np.pi * (a * x + b * y + c + d * seconds))
        for a, b, c, d in random.uniform(-1, 1, size=(3, 4))
    ]
    picture = np.stack(waves, axis=-1) * 127 + 128  # [height, width, 3]
    angle = 2 * np.pi * (seconds / random.uniform(3, 9) + random.uniform())
    cx, cy = 0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)
    picture[(x - cx) ** 2 + (y - cy) ** 2 < 0.03] = random.uniform(0, 255, size=3)
    return picture.astype(np.uint8)
