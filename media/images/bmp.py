"""BMP: what a header must hold, and three things that Pillow would get wrong or slowly."""

from __future__ import annotations

import struct

from PIL import Image
from PIL.ImageFile import ImageFile

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.images.opened import Opened, open_as

#: Sizes of the information header, by which its versions are told apart.
HEADERS = (12, 40, 52, 56, 64, 108, 124)
OS2_HEADER = 12
DEPTHS = (1, 4, 8, 16, 24, 32)  # bits
PLAIN, RUN_LENGTHS, BIT_FIELDS = 0, (1, 2), 3  # compressions; 1 is of 8 bits, 2 is of 4
COMPRESSIONS = (PLAIN, *RUN_LENGTHS, BIT_FIELDS)
#: Where a palette is the row of greys 0, 1, 2, ... Pillow drops it, and so has 8 bits or 1 in mind.
GREY_BITS = {"1": 1, "L": 8}
#: Run lengths are decoded in Python, at about 10 million pixels or 4 million codes a second.
MAX_RUN_LENGTH_PIXELS = 2**22
SLACK_BYTES = 2**20  # header, palette, colour profile
COLOURS = 46  # where the number of palette entries stands


def is_bmp(data: bytes) -> bool:
    """Two letters alone would take in many a text: the header's size must be a known one too."""
    return data.startswith(b"BM") and len(data) >= 18 and _header_size(data) in HEADERS


def open_bmp(data: bytes) -> Opened:
    """Open by the header alone.

    Raises:
        UnsupportedMedia: a depth, a compression, bit fields or a palette that are not read.
        MediaTooLarge, BrokenMedia: run lengths that would take too long to decode.
    """
    if _header_size(data) == OS2_HEADER:
        (bits,), compression = struct.unpack_from("<H", data, 24), PLAIN
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        if compression in RUN_LENGTHS:
            _check_run_lengths(width * abs(height), len(data))
        if bits in (4, 8):
            data = _with_full_palette(data)
    if bits not in DEPTHS or compression not in COMPRESSIONS:
        raise UnsupportedMedia(
            f"expected a BMP of {', '.join(map(str, DEPTHS))} bits, plain, of run lengths or of "
            f"bit fields; got {bits} bits and compression {compression}"
        )
    image = _open(data, compression)
    if GREY_BITS.get(image.mode, bits) != bits:
        raise UnsupportedMedia(f"expected a BMP whose {bits} bits choose more than steps of grey")
    return Opened(image, settle=settle)


def _open(data: bytes, compression: int) -> ImageFile:
    try:
        return open_as("BMP", data)
    except OSError as error:
        if compression != BIT_FIELDS:
            raise
        raise UnsupportedMedia("expected a BMP with usual bit fields; these are others") from error


def settle(image: Image.Image) -> Image.Image:
    """A loaded BMP; alpha that is zero everywhere was never filled in, and means nothing."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image


def _header_size(data: bytes) -> int:
    return int.from_bytes(data[14:18], "little")


def _with_full_palette(data: bytes) -> bytes:
    """A palette of one or two colours declared as a full one.

    Pillow takes pixels of 4 or 8 bits for single bits where the palette is black and white. With
    the full number of entries it reads on into the pixels, and no pixel points there.
    """
    (colours,) = struct.unpack_from("<I", data, COLOURS)
    return data[:COLOURS] + bytes(4) + data[COLOURS + 4 :] if colours in (1, 2) else data


def _check_run_lengths(pixels: int, file_bytes: int) -> None:
    """Pixels bound what is written, bytes bound what is read: a code may write nothing."""
    if pixels > MAX_RUN_LENGTH_PIXELS:
        raise MediaTooLarge(
            f"a BMP of run lengths may have at most {MAX_RUN_LENGTH_PIXELS} pixels; "
            f"this one has {pixels}"
        )
    if file_bytes > 2 * pixels + SLACK_BYTES:
        raise BrokenMedia("the BMP has more run lengths than pixels")
