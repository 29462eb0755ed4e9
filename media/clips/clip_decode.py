"""The frames that are asked for, decoding as little as that takes.

A plan is made from the packets alone: for each frame the last key frame at or before it, unless
the decoder has passed that already. Inside such a stretch, frames that nothing refers to and nobody
asked for are dropped by the decoder unread.

Where a plan does not hold (key frames that are none, a frame that does not come out), the clip is
decoded once more, from its start and with nothing dropped. So is every clip of a type without an
index of its own, and every one with alpha, whose key frames are not those of its colours. Where
that fails, H.264 and HEVC are decoded without the messages (SEI) that they carry beside frames.
What then fails is broken: every fault that a decoder notices. Files carry no checksums, so it does
not notice all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.clips.clip_codecs import MESSAGES, without_messages
from media.clips.clip_file import Clip
from media.clips.clip_types import INDEXED
from media.errors import BrokenMedia, MediaTooLarge

MAX_DELAY = 32  # packets that a decoder takes before it gives its first frame; it may hold back 16
#: Codecs whose unreferenced frames leave nothing behind: no probabilities, no motion vectors.
DROPPABLE = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video")

Shape = Callable[[VideoFrame], np.ndarray]


@dataclasses.dataclass
class Stretch:
    """Packets ``first`` to ``last`` decoded in a row, for the frames that start at ``wanted``."""

    first: int
    last: int
    wanted: list[int]


@dataclasses.dataclass
class Decoded:
    """What came of it.

    Attributes:
        pictures: for each start that was wanted, the shaped frame that is shown then.
        starts: for each, when that frame began; earlier, where a packet had no frame of its own.
        decoded: frames that the decoder gave, all in all.
    """

    pictures: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    starts: dict[int, int] = dataclasses.field(default_factory=dict)
    decoded: int = 0

    @property
    def used(self) -> int:
        """Frames that were shaped, each once."""
        return len(self.pictures)


class NotShownError(Exception):
    """A frame that the packets promise did not come out of the decoder."""


def decode(clip: Clip, wanted: Sequence[int], shape: Shape) -> Decoded:
    """Decode and shape the frames that begin at ``wanted`` (values of ``clip.starts``).

    Args:
        shape: called with one frame at a time; what it gives is kept, the frame is not.

    Raises:
        MediaTooLarge: too much would have to be decoded for them.
        BrokenMedia: a frame is damaged or missing; FFmpeg's errors besides.
    """
    wanted, result = sorted(set(wanted)), Decoded()
    try:
        return _decode_soundly(clip, wanted, shape, result)
    except (av.FFmpegError, BrokenMedia):
        if clip.codec not in MESSAGES:
            raise
        return _decode_soundly(_without_messages(clip), wanted, shape, result)


def first_frame(clip: Clip) -> VideoFrame | None:
    """The first frame that the decoder gives, and no more is decoded; None if it fails before.

    It says how the clip is turned, which no header does, and is needed for nothing else: that it
    is damaged does not yet make the clip broken.
    """
    with contextlib.suppress(av.FFmpegError, NotShownError):
        for packet in _fed(clip, Stretch(0, min(len(clip.packets), MAX_DELAY) - 1, [])):
            clip.decoder.skip_frame = "DEFAULT"
            for frame in clip.decoder.decode(packet):
                return frame
    return None


def _without_messages(clip: Clip) -> Clip:
    """The clip less what its packets carry beside their frames."""
    header = clip.decoder.extradata or b""
    packets = [
        dataclasses.replace(one, packet=without_messages(clip.codec, header, one.packet))
        for one in clip.packets
    ]
    return dataclasses.replace(clip, packets=packets)


def _decode_soundly(clip: Clip, wanted: list[int], shape: Shape, result: Decoded) -> Decoded:
    """By the plan where there is one and it holds, else from the start."""
    planned = (clip.demuxer in INDEXED or clip.codec == "mjpeg") and not clip.alpha
    if planned:
        with contextlib.suppress(av.FFmpegError, NotShownError):
            return _decode(clip, _plan(clip, wanted), shape, result, sparing=True)
    try:
        return _decode(clip, [_from_the_start(clip, wanted)], shape, result, sparing=False)
    except NotShownError as error:
        raise BrokenMedia("the video has damaged frames, or lacks some") from error


def _plan(clip: Clip, wanted: list[int]) -> list[Stretch]:
    """Runs from key frame to key frame, in order of time."""
    packets = clip.packets
    place = {one.start: index for index, one in enumerate(packets)}  # the last of equal ones
    keys = [index for index, one in enumerate(packets) if one.packet.is_keyframe]
    stretches: list[Stretch] = []
    for start in wanted:
        last = place[start]
        key = bisect_right(keys, last) - 1
        while packets[keys[key]].start > start:  # a frame that is decoded after it and shown before
            key -= 1
        if stretches and keys[key] <= stretches[-1].last:
            stretches[-1].last = max(stretches[-1].last, last)
            stretches[-1].wanted.append(start)
        else:
            stretches.append(Stretch(keys[key], last, [start]))
    return stretches


def _from_the_start(clip: Clip, wanted: list[int]) -> Stretch:
    """One run; with one packet more, because the second field of a frame may be in that."""
    starts, everything = set(wanted), len(clip.packets) - 1
    last = 1 + max(index for index, one in enumerate(clip.packets) if one.start in starts)
    return Stretch(0, everything if _by_order(clip) else min(last, everything), wanted)


def _by_order(clip: Clip) -> bool:
    """AVI has no times of showing: with reordered frames, what comes out first is shown first."""
    starts = [one.start for one in clip.packets]
    return clip.demuxer == "avi" and clip.decoder.has_b_frames and starts == sorted(starts)


def _decode(
    clip: Clip, stretches: list[Stretch], shape: Shape, result: Decoded, sparing: bool
) -> Decoded:
    """Decode the stretches into ``result``.

    Args:
        sparing: drop what nobody asked for, and take nothing but the very frames that were.
    """
    packets = sum(stretch.last - stretch.first + 1 for stretch in stretches)
    if packets > (most := clip.limits.decoded):
        raise MediaTooLarge(
            f"at most {most} packets of a clip are decoded; this one would need {packets}"
        )
    for stretch in stretches:
        frames = _frames(clip, stretch, result, dropping=sparing and _droppable(clip))
        begin = clip.packets[stretch.first].start
        for start, began, frame in _shown(frames, stretch.wanted, begin):
            if sparing and began != start:
                raise NotShownError
            result.pictures[start] = shape(frame)
            result.starts[start] = began
    return result


def _droppable(clip: Clip) -> bool:
    """Of HEVC with layers in time, a frame that its own layer needs no more may serve the next."""
    if clip.codec == "hevc":
        header = clip.decoder.extradata or b""  # hvcC: three bits of byte 21 count the layers
        return len(header) > 21 and header[0] == 1 and header[21] >> 3 & 7 == 1
    return clip.codec in DROPPABLE


def _frames(clip: Clip, stretch: Stretch, result: Decoded, dropping: bool) -> Iterator[VideoFrame]:
    """The frames of a run as they are shown, one after another, each with its time."""
    wanted = set(stretch.wanted)
    in_order = iter(clip.starts) if _by_order(clip) else None
    for packet in _fed(clip, stretch):
        needed = packet is None or packet.pts in wanted
        clip.decoder.skip_frame = "NONREF" if dropping and not needed else "DEFAULT"
        for frame in clip.decoder.decode(packet):
            result.decoded += 1
            if in_order:
                frame.pts = next(in_order, clip.starts[-1])
            yield frame


def _fed(clip: Clip, stretch: Stretch) -> Iterator[Packet[VideoStream] | None]:
    """The packets of a run; None, which asks for all that is left, at the end of every part."""
    coded = clip.packets[stretch.first : stretch.last + 1]
    for _, part in itertools.groupby(coded, key=lambda one: one.part):
        clip.decoder.flush_buffers()
        for one in part:
            if one.damaged:
                raise NotShownError
            yield one.packet
        yield None


def _shown(
    frames: Iterator[VideoFrame], wanted: list[int], begin: int
) -> Iterator[tuple[int, int, VideoFrame]]:
    """Each wanted start, when the frame that is shown then began (the last that has), the frame.

    Args:
        begin: of the key frame; what comes before it refers to frames that were not decoded.

    Raises:
        NotShownError: a frame was patched up; what was built on it would not tell.
    """
    waiting = wanted[::-1]
    shown: tuple[int, VideoFrame] | None = None
    for frame in frames:
        if frame.pts is None or frame.pts < begin:
            continue
        if frame.is_corrupt:
            raise NotShownError
        while waiting and waiting[-1] < frame.pts:
            yield waiting.pop(), *_found(shown)
        shown = frame.pts, frame
    while waiting:
        yield waiting.pop(), *_found(shown)


def _found(shown: tuple[int, VideoFrame] | None) -> tuple[int, VideoFrame]:
    if shown is None:
        raise NotShownError
    return shown
