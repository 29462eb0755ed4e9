"""Which files are taken for a clip, told by their first bytes, and whether one is all there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from av.video.stream import VideoStream

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.images.heif import none_of_them, still_named

QUICKTIME_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
FRAGMENT = 20  # where a fragment (moof) has its number: in a box (mfhd) that comes first
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"  # the two outer elements of Matroska
#: Bytes of a packet of MPEG-TS, and before the letter G in it; M2TS puts a time in front of each.
TRANSPORT_PACKETS = ((188, 0), (192, 4))


def _is_quicktime(data: bytes) -> bool:
    return data[4:8] in QUICKTIME_BOXES and not still_named(data)


def _is_transport(data: bytes) -> bool:
    return any(data[begin : begin + 3 * size : size] == b"GGG" for size, begin in TRANSPORT_PACKETS)


#: FFmpeg's demuxer -> what its files begin with; everything else is refused unread.
SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "mov": _is_quicktime,
    "matroska": lambda data: data.startswith(EBML),
    "avi": lambda data: data.startswith(b"RIFF") and data[8:12] == b"AVI ",
    "gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "mpeg": lambda data: data.startswith(b"\0\0\1\xba"),
    "mpegts": _is_transport,
}
#: Types in which a packet holds whole frames, and key flags are the encoder's own.
INDEXED = ("mov", "matroska")
#: Types that are broadcast: they begin and end anywhere.
STREAMED = ("mpeg", "mpegts")
TYPES = "MP4, QuickTime, Matroska, WebM, AVI, GIF, MPEG or MPEG-TS"


def demuxer_of(data: bytes) -> str:
    """The key of ``SIGNATURES`` for a file; UnsupportedMedia where there is none."""
    for demuxer, begins in SIGNATURES.items():
        if begins(data):
            return demuxer
    raise UnsupportedMedia(f"expected {TYPES} bytes; {none_of_them(data)}")


def check_single(data: bytes, most: int) -> None:
    """Refuse an MP4 with a second movie behind the first, before FFmpeg mixes their frames.

    Args:
        most: outer boxes that it may have.

    Raises:
        UnsupportedMedia: it has one.
        MediaTooLarge: it has more boxes than a movie needs.
    """
    if _is_joined(data, most):
        raise UnsupportedMedia("expected one movie in a file; here several were joined")


def check_whole(demuxer: str, data: bytes, stream: VideoStream) -> None:
    """Refuse a file of which a part would not be seen; streamed types promise nothing.

    Args:
        stream: looked through to its end: some types have their index by then only.

    Raises:
        BrokenMedia: it promises more than it holds.
    """
    if demuxer in ENDS:
        end = ENDS[demuxer](data)
    else:
        end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    promised = stream.frames if demuxer == "avi" else 0
    if end > len(data) or promised > len(stream.index_entries):
        raise BrokenMedia("the video is cut off: it promises more than there is")


def _is_joined(data: bytes, most: int) -> bool:
    """Whether a second movie begins in an MP4.

    Between fragments the first may be said again, as players store it; then their numbers go on.
    """
    movie, last, repeated = b"", -1, False
    for kind, place, end in _boxes(data, most):
        if kind == b"moov":
            repeated = bool(movie)
            if repeated and (last < 0 or data[place:end] != movie):
                return True
            movie = data[place:end]
        elif kind == b"moof":
            number = int.from_bytes(data[place + FRAGMENT : place + FRAGMENT + 4], "big")
            if repeated and number <= last:
                return True
            last, repeated = number, False
    return False


def _boxes(data: bytes, most: int) -> Iterator[tuple[bytes, int, int]]:
    """The name, the begin and the end of each outer box of an MP4."""
    place = count = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:  # it does not fit into four bytes
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        end = place + size if size else len(data)  # without a size: all the rest
        if end < place + 8:  # not one of a movie
            return
        if (count := count + 1) > most:
            raise MediaTooLarge(f"a clip may have at most {most} boxes")
        yield data[place + 4 : place + 8], place, end
        place = end


def _segment_end(data: bytes) -> int:
    """Where the element that holds all of a Matroska file ends; 0 if a recorder left that open."""
    header, _, place = _size(data, len(EBML))
    place += header + len(SEGMENT)
    size, bits, place = _size(data, place)
    return 0 if size == 2**bits - 1 else place + size


def _size(data: bytes, place: int) -> tuple[int, int, int]:
    """A size in EBML: its value, its bits, and the place behind it."""
    length = 9 - data[place].bit_length()  # bytes: one, and one for each leading zero
    bits = 7 * length
    value = int.from_bytes(data[place : place + length], "big") & (2**bits - 1)
    return value, bits, place + length


def _last_block_end(data: bytes) -> int:
    """Where the last block of a GIF ends, or would; many files lack the closing semicolon."""
    place = 13 + _palette(data[10])
    while place < len(data) and (kind := data[place : place + 1]) in (b"!", b","):
        place += 2 if kind == b"!" else 11 + _palette(data[place + 9])
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1  # the empty part that ends a block
    return place


def _palette(flags: int) -> int:
    """Bytes of the palette that a header's flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


#: Where the bytes that a file announces end, for the types whose index does not tell.
ENDS: dict[str, Callable[[bytes], int]] = {"matroska": _segment_end, "gif": _last_block_end}
