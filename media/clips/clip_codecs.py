"""Which decoders clips get, and what is set, asked and taken away before they see a packet."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
from av.codec.context import Flags, ThreadType
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from media.errors import BrokenMedia, UnsupportedMedia

MAX_PIXELS = 8_300_000  # of a frame; 3840x2160 has 8,294,400

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
#: Decoders that read the second picture beside each packet, which is the alpha of the first.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
ALPHA = 1  # BlockAddID of that picture, in Matroska
#: A decoder rounds sizes up before it compares them; shown frames are checked to the pixel.
DECODER_LIMIT = {"max_pixels": str(2 * MAX_PIXELS)}
#: Faults end the decoding: a frame that had to be made up is never handed out.
STRICT = {"err_detect": "explode"}
#: Types of the units that hold messages beside the pixels (SEI): captions, times, a camera's notes.
MESSAGES = {"h264": (6,), "hevc": (39, 40)}
FRAMES = {"h264": range(1, 6), "hevc": range(32)}  # types of the units with pixels
START = b"\0\0\0\1"
LENGTH_SIZE = {"h264": 4, "hevc": 21}  # where a header says how long the lengths of units are
HVCC_ARRAYS = 22  # where the header of HEVC counts its arrays of units; they follow


def decoder_of(stream: VideoStream, alpha: bool) -> VideoCodecContext:
    """Not open yet; one thread, and the same pixels on every processor."""
    decoder = stream.codec_context
    if alpha:
        name = ALPHA_DECODERS[decoder.codec.canonical_name]
        decoder = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    if decoder.codec.canonical_name == "hevc" and decoder.extradata:
        decoder.extradata = _header_without_messages(decoder.extradata)
    return _set_up(decoder, DECODER_LIMIT | STRICT)


def _set_up(decoder: VideoCodecContext, options: dict[str, str]) -> VideoCodecContext:
    decoder.thread_count = 1
    decoder.thread_type = ThreadType.NONE
    decoder.flags |= Flags.bitexact
    decoder.options = options
    return decoder


def has_alpha(codec: str, packets: Iterable[Packet[VideoStream]]) -> bool:
    """Whether each packet brings its alpha as a second picture (VP8, VP9 in Matroska).

    Raises:
        UnsupportedMedia: some do and some do not.
    """
    if codec not in ALPHA_DECODERS:
        return False
    found = {_brings_alpha(packet) for packet in packets}
    if len(found) > 1:
        raise UnsupportedMedia("expected alpha with every frame or with none; here some have it")
    return found == {True}


def _brings_alpha(packet: Packet[VideoStream]) -> bool:
    if not packet.has_sidedata("matroska_block_additional"):
        return False
    addition = bytes(packet.get_sidedata("matroska_block_additional"))
    return int.from_bytes(addition[:8], "big") == ALPHA


def coded_aspect(stream: VideoStream, first: Packet[VideoStream]) -> Fraction | None:
    """Width of a pixel over its height as the codec has it; decoders learn it with a first frame.

    Args:
        first: a key frame. Damage in it is no reason to stop: it may not be needed.
    """
    name = DECODERS[stream.codec_context.codec.canonical_name]
    decoder = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    decoder.extradata = stream.codec_context.extradata
    _set_up(decoder, DECODER_LIMIT)
    with contextlib.suppress(av.FFmpegError):
        decoder.decode(first)
        decoder.decode(None)
    return decoder.sample_aspect_ratio


def without_messages(
    codec: str, header: bytes, packet: Packet[VideoStream]
) -> Packet[VideoStream]:
    """A copy of a packet of H.264 or HEVC less the messages in it.

    Args:
        header: of the stream; it tells how units are set apart.

    Raises:
        BrokenMedia: the packet holds no frame, or not all of it.
    """
    length_bytes = (header[LENGTH_SIZE[codec]] & 3) + 1 if header[:1] == b"\1" else 0
    units = [(_kind(codec, unit), unit) for unit in _units(bytes(packet), length_bytes)]
    kept = [unit for kind, unit in units if kind not in MESSAGES[codec]]
    if not any(kind in FRAMES[codec] for kind, _ in units):
        raise BrokenMedia("the video has packets without a frame")
    starts = (len(unit).to_bytes(length_bytes, "big") if length_bytes else START for unit in kept)
    bare = cast("Packet[VideoStream]", Packet(b"".join(map(bytes.__add__, starts, kept))))
    bare.pts, bare.dts, bare.time_base = packet.pts, packet.dts, packet.time_base
    bare.is_keyframe = packet.is_keyframe
    return bare


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The units of a packet, each behind its length, or behind a start code where that is 0."""
    if not length_bytes:
        yield from filter(None, (part.rstrip(b"\0") for part in data.split(START[1:])))
        return
    place = 0
    while place < len(data):
        begin = place + length_bytes
        place = begin + int.from_bytes(data[place:begin], "big")
        if not begin < place <= len(data):
            raise BrokenMedia("the video has packets that are cut off")
        yield data[begin:place]


def _kind(codec: str, unit: bytes) -> int:
    return unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F


def _header_without_messages(header: bytes) -> bytes:
    """The header of HEVC (hvcC) less its arrays of messages: a broken one would open no decoder."""
    if header[0] != 1 or len(header) <= HVCC_ARRAYS:  # units one after another, or nothing at all
        return header
    kept, place = [], HVCC_ARRAYS + 1
    for _ in range(header[HVCC_ARRAYS]):
        start, (units,) = place, struct.unpack_from(">H", header, place + 1)
        place += 3
        for _ in range(units):
            place += 2 + struct.unpack_from(">H", header, place)[0]
        if header[start] & 0x3F not in MESSAGES["hevc"]:
            kept.append(header[start:place])
    return header[:HVCC_ARRAYS] + bytes([len(kept)]) + b"".join(kept)
