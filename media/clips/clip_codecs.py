"""Which decoders clips get, and what is set, asked and taken away before they see a packet."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from fractions import Fraction
from typing import cast

import av
from av.bitstream import BitStreamFilterContext
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


def without_messages(codec: str, packets: list[Packet[VideoStream]]) -> list[Packet[VideoStream]]:
    """H.264 and HEVC packets less the messages in them; those that are given are empty afterwards.

    Raises:
        BrokenMedia: a packet holds nothing else.
    """
    types = "|".join(map(str, MESSAGES[codec]))
    removal = BitStreamFilterContext(f"filter_units=remove_types={types}", packets[0].stream)
    bare = [removal.filter(packet) for packet in packets]
    if any(len(left) != 1 for left in bare):
        raise BrokenMedia("the video has packets without a frame")
    return [left[0] for left in bare]


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
