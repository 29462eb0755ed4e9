"""TIFF: which of its layouts are read, and what their numbers mean.

Read are pictures: whole numbers without a sign of 1, 2, 4, 8, 12 or 16 bits, as grey of either
polarity, palette, RGB, CMYK, YCbCr or Lab, in strips or tiles, with channels side by side or in
planes; also BigTIFF of little-endian order. Of several pages the first one counts.

Refused with a reason: floating point, signed numbers and 32 bits, because nothing in such a file
says which number is white, and any guess would clip or darken; compressions not in the table.

Everything that a decoder would allocate or loop over is checked here first, from the directory.
The decoder then gets a directory of only those tags that its pixels need; whatever the others hold,
they are not looked at.

Grey of fewer bits in a file of 16 is told by MaxSampleValue, or else by SMaxSampleValue, where that
is the largest number of so many bits and no pixel is above it.
"""

from __future__ import annotations

import contextlib
import struct
from functools import partial
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from media.errors import BrokenMedia, UnsupportedMedia
from media.images.directory import (
    BIGTIFF,
    MAX_ENTRIES,
    Form,
    entries,
    first_value,
    place_of,
)
from media.images.grey import white_of
from media.images.opened import Opened
from media.images.orientation import turn_of
from media.limits import check_size

#: Pillow's own reader of uncompressed files takes planes of 16 bits for planes of 8.
TiffImagePlugin.READ_LIBTIFF = True

SIGNATURES = (b"II*\0", b"MM\0*", BIGTIFF)
COMPRESSIONS = {
    1: "none", 2: "CCITT RLE", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 7: "JPEG",
    8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "Zstandard",
}  # fmt: skip
MAX_BITS = 16
#: Numbers in one entry, which are unpacked one by one: strips and tiles, a palette.
MAX_VALUES = 2**18
#: Types whose values are taken as one string of bytes: BYTE, ASCII, UNDEFINED.
OPAQUE = (1, 2, 7)

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANES, COLOUR_MAP, SAMPLE_FORMAT = 277, 284, 320, 339
STRIPS, TILE_WIDTH, TILE_HEIGHT, TILES = (273, 279), 322, 323, (324, 325)  # offsets, byte counts
WHITE_IS_ZERO, PALETTE, UNSIGNED = 0, 3, 1
LARGEST = (281, 341)  # MaxSampleValue, SMaxSampleValue: the first that is there counts
#: Tags without which pixels cannot be decoded: those above, the order of bits, rows per strip,
#: options of the fax codes, predictor, inks, extra samples, tables of JPEG, and what YCbCr needs.
NEEDED = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, COLOUR_MAP, SAMPLE_FORMAT}
NEEDED |= {*STRIPS, TILE_WIDTH, TILE_HEIGHT, *TILES}
NEEDED |= {266, 278, 292, 293, 317, 332, 338, 347, 529, 530, 531, 532}
XMP = 700


def open_tiff(data: bytes) -> Opened:
    """Open the first page, after its directory alone has shown that it may be decoded.

    Raises:
        UnsupportedMedia: a layout that is not read; the message says what came.
        MediaTooLarge: the picture or one of its tiles is over the limits.
        BrokenMedia: the directory contradicts itself or the length of the file.
    """
    pared = _pared(data)
    tags = _check(pared, len(data))
    try:
        image = TiffImageFile(BytesIO(pared))
    except SyntaxError as error:
        bits, photometric = _numbers(tags, BITS, 1), _number(tags, PHOTOMETRIC)
        raise UnsupportedMedia(
            "expected a TIFF of grey, palette, RGB, CMYK, YCbCr or Lab of a usual depth; "
            f"got photometric {photometric} with samples of {', '.join(map(str, bits))} bits"
        ) from error
    xmp, largest = _told(data)
    return Opened(image, turn_of(data, xmp), partial(settle, largest=largest))


def _pared(data: bytes) -> bytes:
    """The file with a new first directory behind its end, which lists only tags that are needed.

    Raises:
        BrokenMedia: the directory has too many entries.
    """
    form = Form.of(data)
    listed = list(islice(entries(data), MAX_ENTRIES + 1))
    if len(listed) > MAX_ENTRIES:
        raise BrokenMedia(f"expected a TIFF directory of at most {MAX_ENTRIES} entries")
    kept = [entry.raw for entry in listed if entry.tag in NEEDED]
    gap = bytes(len(data) % 2)  # a directory begins at a word
    place = struct.pack(form.offset, len(data) + len(gap))
    header = data[: len(place)] + place  # the first offset is as long as what is before it
    count, end = struct.pack(form.number, len(kept)), struct.pack(form.offset, 0)
    return b"".join([header, data[len(header) :], gap, count, *kept, end])


def settle(image: TiffImageFile, largest: float) -> Image.Image:
    """A loaded TIFF in a mode that other types have too.

    Args:
        largest: value of a sample that the file tells; 0 where it tells none.
    """
    if image.mode.startswith("I;16"):
        return _with_white(image, largest)
    if image.mode == "La":
        return image.convert("LA")
    if image.mode == "LAB":
        return image.convert("RGB")
    if image.mode in ("P", "PA") and max(image.tag_v2[COLOUR_MAP]) < 256:
        image.putpalette(bytes(image.tag_v2[COLOUR_MAP]), "RGB;L")  # some writers use 8 bits
    return image


def _with_white(image: TiffImageFile, largest: float) -> Image.Image:
    """Grey of 12 or 16 bits that says which level is white, where that is known, and its polarity.

    A largest value that a pixel exceeds is none.
    """
    bits = _number(image.tag_v2, BITS)
    white = 2**bits - 1 if bits < MAX_BITS else white_of(largest)
    if white and np.asarray(image).max() <= white:
        image.info["white"] = white
    image.info["inverted"] = _number(image.tag_v2, PHOTOMETRIC) == WHITE_IS_ZERO
    return image


def _told(data: bytes) -> tuple[bytes, float]:
    """XMP data, and the largest value of a sample: empty and 0 where they are not told plainly."""
    xmp, largest = b"", dict[int, float]()
    with contextlib.suppress(struct.error):
        for entry in entries(data):
            if entry.tag == XMP and entry.type in OPAQUE:
                held, place = place_of(data, entry, 1)
                xmp = held[place : place + entry.values]
            elif entry.tag in LARGEST:
                largest[entry.tag] = first_value(data, entry)
    return xmp, next((largest[tag] for tag in LARGEST if tag in largest), 0)


def _check(data: bytes, file_bytes: int) -> ImageFileDirectory_v2:
    """The tags of a pared file, once nothing in them is out of bounds."""
    for entry in entries(data):
        if entry.values > MAX_VALUES and entry.type not in OPAQUE:
            raise BrokenMedia(f"TIFF tag {entry.tag} has {entry.values} values, over {MAX_VALUES}")
    tags = _tags(data)
    size = _number(tags, WIDTH), _number(tags, HEIGHT)
    if min(size) < 1:
        raise BrokenMedia(f"expected a TIFF with pixels, got {size[0]}x{size[1]}")
    check_size(size)
    _check_layout(tags)
    _check_pieces(tags, size, file_bytes)
    return tags


def _tags(data: bytes) -> ImageFileDirectory_v2:
    header = data[:16] if data.startswith(BIGTIFF) else data[:8]
    tags, stream = ImageFileDirectory_v2(header), BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _check_layout(tags: ImageFileDirectory_v2) -> None:
    compression = _number(tags, COMPRESSION, 1)
    if compression not in COMPRESSIONS:
        known = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise UnsupportedMedia(f"expected a TIFF compressed by {known}; got code {compression}")
    formats = set(_numbers(tags, SAMPLE_FORMAT, UNSIGNED))
    bits = max(_numbers(tags, BITS, 1))
    if formats != {UNSIGNED} or bits > MAX_BITS:
        raise UnsupportedMedia(
            f"expected a TIFF of unsigned whole numbers of at most {MAX_BITS} bits; got "
            f"sample format {min(formats)} (2 is signed, 3 is floating point) of {bits} bits"
        )
    if _number(tags, PHOTOMETRIC) == PALETTE:
        _numbers(tags, COLOUR_MAP)


def _check_pieces(tags: ImageFileDirectory_v2, size: tuple[int, int], file_bytes: int) -> None:
    """Strips and tiles: of a sane size and number, and each inside the file."""
    tiled = TILE_WIDTH in tags
    if tiled:
        tile = _number(tags, TILE_WIDTH), _number(tags, TILE_HEIGHT)
        check_size(tile, "tiles of a TIFF")
        across, down = (-(-side // step) for side, step in zip(size, tile, strict=True))
        planes = _number(tags, SAMPLES, 1) if _number(tags, PLANES, 1) == 2 else 1
        if across * down * planes > MAX_VALUES:
            raise BrokenMedia(f"expected a TIFF of at most {MAX_VALUES} tiles")
    offsets, counts = (_numbers(tags, tag) for tag in (TILES if tiled else STRIPS))
    if any(start + length > file_bytes for start, length in zip(offsets, counts, strict=False)):
        raise BrokenMedia("the image is truncated: a part of the TIFF lies behind its end")


def _numbers(tags: ImageFileDirectory_v2, tag: int, default: int | None = None) -> tuple[int, ...]:
    """The values of a tag; BrokenMedia where it is missing or holds anything but whole numbers."""
    value = tags.get(tag, default)
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(isinstance(one, int) for one in values):
        raise BrokenMedia(f"expected whole numbers in TIFF tag {tag}")
    return values


def _number(tags: ImageFileDirectory_v2, tag: int, default: int | None = None) -> int:
    return _numbers(tags, tag, default)[0]
