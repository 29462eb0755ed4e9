"""An encoded clip, opened and looked through without decoding: packets, frame times, limits.

FFmpeg gets one demuxer, one file and nothing beside it: no network, no playlist, no second file,
whatever the content asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import NoReturn, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from media.clips.clip_codecs import (
    DECODER_LIMIT,
    DECODERS,
    MAX_PIXELS,
    coded_aspect,
    decoder_of,
    has_alpha,
)
from media.clips.clip_timeline import Coded, Timeline
from media.clips.clip_types import STREAMED, check_single, check_whole, demuxer_of
from media.clips.transport import codec_change
from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.limits import STRANGER, ClipLimits

MAX_STREAMS = 16

#: FFmpeg decodes frames to learn what headers do not tell it; those of QuickTime tell enough.
PROBING = {"mov": {"skip_frame": "all"}}


@dataclasses.dataclass(frozen=True)
class Clip:
    """What a file says of its video, before anything is decoded.

    Attributes:
        demuxer: a key of ``SIGNATURES``.
        codec: a key of ``DECODERS``.
        decoder: not open yet.
        size: width and height of a frame as its header has them, in stored pixels.
        alpha: whether its frames come with an alpha channel that every packet adds to.
        packets: in the order of decoding, from the first key frame on.
        starts: when each frame begins to be shown, rising, in ticks.
        duration: seconds from there to the end of the last.
        tick: seconds.
        pixel_aspect: width of a pixel over its height; where the file says nothing, its codec does.
        limits: that it was opened by, and is decoded by.
    """

    demuxer: str
    codec: str
    decoder: VideoCodecContext
    size: tuple[int, int]
    alpha: bool
    packets: list[Coded]
    starts: list[int]
    duration: Fraction
    tick: Fraction
    pixel_aspect: Fraction
    limits: ClipLimits

    def seconds(self, start: int) -> float:
        """A frame's time from the first one's, to the microsecond."""
        return round(float((start - self.starts[0]) * self.tick), 6)


@contextlib.contextmanager
def open_clip(data: bytes, limits: ClipLimits = STRANGER.clip) -> Iterator[Clip]:
    """Look a file through; the clip can be decoded while this context lasts.

    Raises:
        UnsupportedMedia: a type or a codec that is not read, or no video.
        MediaTooLarge: bytes, seconds, pixels, streams or packets over the limits.
        BrokenMedia: no key frame, no times, or the end is missing; FFmpeg's errors besides.
    """
    demuxer = demuxer_of(data)
    if len(data) > limits.file_bytes:
        raise MediaTooLarge(
            f"a clip may have at most {limits.file_bytes} bytes; this one has {len(data)}"
        )
    if demuxer == "mov":
        check_single(data, limits.boxes)
    elif demuxer == "mpegts":
        _check_codecs(data)
    with _open_container(data, demuxer) as container:
        stream = _choose_stream(container, demuxer in STREAMED)
        tick = stream.time_base
        if not tick:
            raise BrokenMedia("the video does not say in which unit its times are")
        packets = _scan(container, stream, Timeline(tick, demuxer, data), demuxer, limits)
        check_whole(demuxer, data, stream)
        starts, duration = _times(packets, tick, limits)
        context = stream.codec_context
        codec, size = context.codec.canonical_name, (context.width, context.height)
        alpha = has_alpha(codec, (one.packet for one in packets))
        aspect = stream.sample_aspect_ratio or coded_aspect(stream, packets[0].packet)
        decoder = decoder_of(stream, alpha)
        yield Clip(
            demuxer,
            codec,
            decoder,
            size,
            alpha,
            packets,
            starts,
            duration,
            tick,
            aspect or Fraction(1),
            limits,
        )


def _open_container(data: bytes, demuxer: str) -> InputContainer:
    return av.open(
        io.BytesIO(data),
        "r",
        format=demuxer,
        options=DECODER_LIMIT | PROBING.get(demuxer, {}),
        container_options={
            "format_whitelist": demuxer,
            "codec_whitelist": ",".join(DECODERS.values()),
            "protocol_whitelist": "none",
        },
        metadata_errors="replace",
        io_open=_refuse_to_open,
    )


def _refuse_to_open(*_: object) -> NoReturn:
    raise PermissionError("a clip is one file")


def _choose_stream(container: InputContainer, broadcast: bool) -> VideoStream:
    """The video that FFmpeg would play; cover pictures are none. The others are not read.

    Args:
        broadcast: whether where they lie in the file is to be known all the same.
    """
    streams = container.streams
    if len(streams) > MAX_STREAMS:
        raise MediaTooLarge(
            f"a clip may have at most {MAX_STREAMS} streams; this one has {len(streams)}"
        )
    videos = [one for one in streams.video if not one.disposition & Disposition.attached_pic]
    if not videos:
        raise UnsupportedMedia("expected a file with video; this one has none")
    best = streams.best("video")
    chosen = next((one for one in videos if one is best), videos[0])
    for one in streams:
        if one is not chosen and not (broadcast and one in videos):
            one.discard = Discard.all
    _check_codec(chosen)
    return chosen


def _check_codec(stream: VideoStream) -> None:
    context = stream.codec_context
    codec = context.codec.canonical_name if context else "one unknown"
    if codec not in DECODERS:
        raise UnsupportedMedia(f"expected video of {', '.join(DECODERS)}; this is {codec}")
    if context.width * context.height > MAX_PIXELS:
        raise MediaTooLarge(
            f"frames may have at most {MAX_PIXELS} pixels; "
            f"these are {context.width}x{context.height}"
        )


def _scan(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    demuxer: str,
    limits: ClipLimits,
) -> list[Coded]:
    """All packets from the first key frame on, each with a time at which it is shown.

    In a broadcast there may be others before it, because somebody tuned in late.
    """
    watched = list(container.streams.video) if demuxer in STREAMED else [stream]
    found = cast("Iterator[Packet[VideoStream]]", container.demux(watched))
    places: dict[int, list[int]] = {one.index: [] for one in watched}  # in the file, by video
    for count, packet in enumerate(found):
        if count >= limits.packets:
            raise MediaTooLarge(f"a clip may have at most {limits.packets} packets")
        if packet.pos is not None:
            places[packet.stream_index].append(packet.pos)
        if not packet.size or packet.stream_index != stream.index:
            continue  # AVI repeats a frame by an empty one, which would mean the end to a decoder
        start = packet.dts if packet.pts is None else packet.pts
        if start is None:
            raise BrokenMedia("the video has frames without a time")
        if timeline.packets or packet.is_keyframe:
            timeline.add(packet, start)
            _check_seconds(timeline.seconds, limits)
        elif demuxer not in STREAMED:
            raise BrokenMedia("the video does not begin with a key frame, or that is damaged")
    if not timeline.packets:
        raise BrokenMedia("the video has no key frame, so none can be decoded")
    _check_sequels(places, stream)
    return timeline.packets


def _check_codecs(data: bytes) -> None:
    """Refuse a broadcast behind which another was joined, whose codec its decoder cannot take."""
    change = codec_change(data)
    if change:
        first, second, place = change
        raise UnsupportedMedia(
            f"expected one codec all along; here {first} changes to {second} at byte {place} "
            f"of {len(data)}"
        )


def _check_sequels(places: dict[int, list[int]], stream: VideoStream) -> None:
    """Refuse a second video that begins where the first has ended: one of them would be unseen."""
    own = places.pop(stream.index)
    for other in filter(None, places.values()):
        if own and (min(other) > max(own) or max(other) < min(own)):
            raise UnsupportedMedia(
                "expected one video all along; here one ends, and another begins in its place"
            )


def _check_seconds(seconds: Fraction, limits: ClipLimits) -> None:
    if seconds > limits.seconds:
        raise MediaTooLarge(f"a clip may last at most {limits.seconds} seconds")


def _times(
    packets: list[Coded], tick: Fraction, limits: ClipLimits
) -> tuple[list[int], Fraction]:
    """``Clip.starts`` and ``Clip.duration``.

    What an edit list cuts away is not shown, nor what belongs before the first key frame. The last
    frame is shown for as long as its packet says, else for as long as the others are on average.
    """
    begin = packets[0].start
    shown = [one for one in packets if not one.packet.is_discard and one.start >= begin]
    starts = sorted({one.start for one in shown})
    if not starts or (len(starts) == 1 and len(shown) > 1):
        raise BrokenMedia(f"the video shows {len(shown)} frames at {len(starts)} different times")
    span = starts[-1] - starts[0]
    last = max(one.packet.duration or 0 for one in shown if one.start == starts[-1])
    if last <= 0:
        last = span // max(len(starts) - 1, 1)
    duration = (span + last) * tick
    _check_seconds(duration, limits)
    return starts, duration
