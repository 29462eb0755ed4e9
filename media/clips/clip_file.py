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
from typing import NoReturn

import av
from av.codec.context import Flags, ThreadType
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from media.clips.clip_types import STREAMED, check_whole, demuxer_of
from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia

MAX_BYTES = 100 * 2**20
MAX_SECONDS = 60
MAX_PIXELS = 8_300_000  # of a frame; 3840x2160 has 8,294,400
MAX_STREAMS = 16
MAX_PACKETS = 100_000  # looked at; ``clip_decode`` says how many may be decoded

#: Codec -> its decoder. No other is ever opened, not even to look at a stream's headers.
DECODERS = {
    "h264": "h264",
    "hevc": "hevc",
    "vp8": "vp8",
    "vp9": "vp9",
    "av1": "libdav1d",
    "mpeg1video": "mpeg1video",
    "mpeg2video": "mpeg2video",
    "mpeg4": "mpeg4",
    "mjpeg": "mjpeg",
    "gif": "gif",
}
#: A decoder rounds sizes up before it compares them; shown frames are checked to the pixel.
DECODER_LIMIT = {"max_pixels": str(2 * MAX_PIXELS)}
#: FFmpeg decodes frames to learn what headers do not tell it; those of QuickTime tell enough.
PROBING = {"mov": {"skip_frame": "all"}}
#: Faults end the decoding: a frame that had to be made up is never handed out.
STRICT = {"err_detect": "explode"}


@dataclasses.dataclass(frozen=True)
class Coded:
    """A packet, and the tick at which its frame begins to be shown."""

    packet: Packet[VideoStream]
    start: int


@dataclasses.dataclass(frozen=True)
class Clip:
    """What a file says of its video, before anything is decoded.

    Attributes:
        demuxer: a key of ``SIGNATURES``.
        codec: a key of ``DECODERS``.
        decoder: not open yet; one thread, and the same pixels on every processor.
        packets: in the order of decoding, from the first key frame on.
        starts: when each frame begins to be shown, rising, in ticks.
        duration: seconds from there to the end of the last.
        tick: seconds.
        pixel_aspect: width of a pixel over its height.
    """

    demuxer: str
    codec: str
    decoder: VideoCodecContext
    packets: list[Coded]
    starts: list[int]
    duration: Fraction
    tick: Fraction
    pixel_aspect: Fraction

    def seconds(self, start: int) -> float:
        """A frame's time from the first one's, to the microsecond."""
        return round(float((start - self.starts[0]) * self.tick), 6)


@contextlib.contextmanager
def open_clip(data: bytes) -> Iterator[Clip]:
    """Look a file through; the clip can be decoded while this context lasts.

    Raises:
        UnsupportedMedia: a type or a codec that is not read, or no video.
        MediaTooLarge: bytes, seconds, pixels, streams or packets over the limits.
        BrokenMedia: no key frame, no times, or the end is missing; FFmpeg's errors besides.
    """
    demuxer = demuxer_of(data)
    if len(data) > MAX_BYTES:
        raise MediaTooLarge(f"a clip may have at most {MAX_BYTES} bytes; this one has {len(data)}")
    with _open_container(data, demuxer) as container:
        stream = _choose_stream(container)
        tick = stream.time_base
        if not tick:
            raise BrokenMedia("the video does not say in which unit its times are")
        packets = _scan(container, stream, tick, joined=demuxer in STREAMED)
        check_whole(demuxer, data, stream)
        starts, duration = _times(packets, tick)
        yield Clip(
            demuxer,
            stream.codec_context.codec.canonical_name,
            _set_up(stream.codec_context),
            packets,
            starts,
            duration,
            tick,
            stream.sample_aspect_ratio or Fraction(1),
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


def _choose_stream(container: InputContainer) -> VideoStream:
    """The video that FFmpeg would play; cover pictures are none. The others are not read."""
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
        if one is not chosen:
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
    container: InputContainer, stream: VideoStream, tick: Fraction, joined: bool
) -> list[Coded]:
    """All packets from the first key frame on, each with a time at which it is shown.

    Args:
        joined: whether there may be others before it, because a broadcast was joined late.
    """
    packets: list[Coded] = []
    for count, packet in enumerate(container.demux(stream)):
        if count >= MAX_PACKETS:
            raise MediaTooLarge(f"a clip may have at most {MAX_PACKETS} packets")
        if not packet.size:  # AVI repeats a frame so; to a decoder it would mean the end
            continue
        start = packet.dts if packet.pts is None else packet.pts
        if start is None:
            raise BrokenMedia("the video has frames without a time")
        if not (packets or joined or packet.is_keyframe):
            raise BrokenMedia("the video does not begin with a key frame, or that is damaged")
        if packets or packet.is_keyframe:
            packet.pts = start  # from here the decoder takes the times of its frames
            packets.append(Coded(packet, start))
            _check_seconds((start - packets[0].start) * tick)
    if not packets:
        raise BrokenMedia("the video has no key frame, so none can be decoded")
    return packets


def _check_seconds(seconds: Fraction) -> None:
    if seconds > MAX_SECONDS:
        raise MediaTooLarge(f"a clip may last at most {MAX_SECONDS} seconds")


def _times(packets: list[Coded], tick: Fraction) -> tuple[list[int], Fraction]:
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
    _check_seconds(duration)
    return starts, duration


def _set_up(decoder: VideoCodecContext) -> VideoCodecContext:
    decoder.thread_count = 1
    decoder.thread_type = ThreadType.NONE
    decoder.flags |= Flags.bitexact
    decoder.options = DECODER_LIMIT | STRICT
    return decoder
