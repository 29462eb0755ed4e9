"""Clips: bytes of a known type -> frames at stated times -> uint8 [views, time, height, width, C].

What is decided here and in the ``clip_*`` modules, once: frames are chosen by time, not by number
(``clip_times``), and the frame at a moment is the last that has begun; a clip begins with its
first key frame; a single frame repeats; each frame is turned upright and stretched to square
pixels (``clip_picture``), then shaped as a still image would be, so that a size which changes
inside a clip does no harm; transparency, of GIF and of VP8 and VP9 in WebM, is blended onto
``InputSpec.background``; a GIF is played once; clips that were joined, or whose clock jumps, are
seen whole (``clip_timeline``). A frame that is damaged or cut off makes the clip broken if it is
needed, and is never replaced by grey. Sound and messages beside the frames are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from media.clips.clip_decode import Decoded, decode, first_frame
from media.clips.clip_file import Clip, open_clip
from media.clips.clip_picture import Painter, is_turned
from media.clips.clip_times import frame_at, moments_within, view_times
from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.fitting import fitting
from media.images import image
from media.limits import STRANGER, Limits
from media.part import Part
from media.sample import Media, Sample
from media.spec import InputSpec, VideoSpec


class Boxes:
    """Which part of its frames a clip was seen in, where that is the same of all of them."""

    def __init__(self, part: Part | None) -> None:
        self._part = part
        self._all: list[dict[str, Any]] = []  # that differ

    def see(self, frame: np.ndarray, spec: InputSpec, size: tuple[int, ...]) -> np.ndarray:
        """A frame, upright and of square pixels, as uint8 ``[*size, channels]``."""
        pixels, seen = image.see(frame, spec, size, part=self._part)
        if seen not in self._all[:1]:
            self._all.append(seen)
        return pixels

    @property
    def evidence(self) -> dict[str, Any]:
        """``size`` and ``box``; None where frames differ."""
        one = self._all[0] if len(self._all) == 1 else {}
        return {name: one.get(name) for name in ("size", "box")}


def read(
    media: Media,
    spec: InputSpec,
    sizes: Sequence[tuple[int, ...]],
    views: int,
    part: Part | None = None,
    limits: Limits = STRANGER,
) -> Sample:
    """One clip as the network's input.

    Args:
        media: an encoded file, or decoded frames: uint8 ``[time, h, w]`` or
            ``[time, h, w, 1|3]``, which have no times and are chosen by number.
        spec: which moments, and how each frame is shaped.
        sizes: frames, height and width of a view; of several the one that fits the clip: its
            moments (``moments_within``) and the upright size of its frames.
        views: at how many moments each frame of the input is looked for.
        part: of every frame, the same one, and its moments; with a single view.
        limits: of its file.

    Returns:
        uint8 ``[views, frames, height, width, channels]``; ``seconds``: when each frame began, a
        list for each view, None for decoded frames; ``size`` and ``box`` of its frames as
        ``image.read`` has them, None where they change inside the clip.

    Raises:
        MediaError: see its subclasses.
    """
    if isinstance(media, np.ndarray):
        return _read_array(media, spec, sizes, views, part)
    try:
        with open_clip(media, limits.clip) as clip:
            return read_clip(clip, spec, sizes, views, part)[0]
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaTooLarge("the video needs more memory than its decoder may use") from error
    except Exception as error:  # FFmpeg raises nearly every type there is on hostile bytes
        raise BrokenMedia("the video is truncated or corrupt and cannot be decoded") from error


def read_clip(
    clip: Clip,
    spec: InputSpec,
    sizes: Sequence[tuple[int, ...]],
    views: int,
    part: Part | None = None,
) -> tuple[Sample, Decoded]:
    """``read`` for a clip that is open, and what it took."""
    painter = Painter(clip.pixel_aspect)
    pixels, boxes = _fitting(clip, painter, _video(spec).stride, sizes), Boxes(part)

    def shape(frame: VideoFrame) -> np.ndarray:
        return boxes.see(painter.picture(frame), spec, pixels[1:])  # [height, width, C]

    moment = part.moment if part else None
    times = view_times(clip.duration, _video(spec).stride, pixels[0], views, moment)
    wanted = [
        [clip.starts[frame_at(time, clip.starts, clip.tick)] for time in view] for view in times
    ]
    decoded = decode(clip, [start for view in wanted for start in view], shape)
    frames = np.stack([[decoded.pictures[start] for start in view] for view in wanted])
    seconds = [[clip.seconds(decoded.starts[start]) for start in view] for view in wanted]
    return Sample(frames, {"seconds": seconds, **boxes.evidence}), decoded


def _fitting(
    clip: Clip, painter: Painter, stride: float, sizes: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """The size that fits; only where it hangs on how the clip is turned a frame is looked at."""
    if len(sizes) == 1:
        return sizes[0]
    moments = moments_within(clip.duration, stride, len(clip.starts))
    width, height = painter.square(*clip.size)
    stored = fitting((moments, height, width), sizes)
    turned = fitting((moments, width, height), sizes)
    if stored == turned:
        return stored
    frame = first_frame(clip)
    return turned if frame is not None and is_turned(frame) else stored


def _read_array(
    array: np.ndarray,
    spec: InputSpec,
    sizes: Sequence[tuple[int, ...]],
    views: int,
    part: Part | None,
) -> Sample:
    """Frames that are decoded already, as if each lasted a second."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise BrokenMedia(
            "expected a uint8 array [time, h, w] or [time, h, w, 1|3]; "
            f"got {array.dtype} {list(array.shape)}"
        )
    if _video(spec).stride:
        raise UnsupportedMedia("a stride in seconds needs a file with times; got an array")
    count = len(array)
    pixels = fitting(array.shape[:3], sizes)
    moment = part.moment if part else None
    times = view_times(Fraction(count), 0, pixels[0], views, moment)
    places = [[frame_at(time, list(range(count)), Fraction(1)) for time in view] for view in times]
    boxes = Boxes(part)
    shaped = {
        place: boxes.see(array[place], spec, pixels[1:])
        for place in {place for view in places for place in view}
    }
    frames = np.stack([[shaped[place] for place in view] for view in places])
    return Sample(frames, {"seconds": None, **boxes.evidence})


def _video(spec: InputSpec) -> VideoSpec:
    assert spec.video is not None  # InputSpec sees to it
    return spec.video
