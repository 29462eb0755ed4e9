"""PNG: the chunks that its pixels need, and the transparent colour in the file's own depth.

Handed over to the decoder are IHDR, PLTE, tRNS and IDAT. All others are left out unread, with
whatever checksum and length: of an animation the default image is shown, text is not inflated. The
significant bits that an sBIT tells change nothing: samples fill the whole range in any case.

A tRNS decides what is seen, so a broken one (its checksum, or too short) is damage of the pixels.
It counts where the colour type allows it. Of a PLTE only the palette of colour type 3 counts, which
must be there. A critical chunk of an unknown name and a wrong checksum may have been one of these.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from media.errors import BrokenMedia
from media.images.opened import Opened, open_as
from media.images.orientation import turn_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks without which there is no picture. A search for them goes on where a length is wrong.
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
SEARCHED = re.compile(rb"PLTE|tRNS|IDAT|IEND")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
#: Texts that tell how a picture is turned: ImageMagick's EXIF data in hexadecimal, and XMP.
RAW_EXIF, XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
MAX_TEXT = 2**20  # bytes of such a text once inflated; the rest of it is not
GREY, COLOUR, PALETTE = 0, 2, 3
PALETTE_DEPTHS = (1, 2, 4, 8)
DEPTH, COLOUR_TYPE = 16, 17  # where IHDR has them, in a chunk with its length and name


class Chunk(NamedTuple):
    """A chunk by its name, and all of it: length, name, what is in it, checksum."""

    name: bytes
    whole: bytes

    @property
    def body(self) -> bytes:
        return self.whole[8:-4]


def open_png(data: bytes) -> Opened:
    """Open by the header alone.

    Raises:
        BrokenMedia: the transparent colour is damaged; Pillow's errors besides.
    """
    chunks: dict[bytes, list[Chunk]] = {}
    for chunk in _chunks(data):
        if chunk.name[:1].isupper() and chunk.name not in NEEDED and not _is_sound(chunk):
            raise BrokenMedia("a chunk of the PNG that may be one of its pixels is damaged")
        chunks.setdefault(chunk.name, []).append(chunk)
    turn = turn_of(*_turning_data(chunks))
    header, *palette = (part for name in (b"IHDR", b"PLTE") for part in chunks.get(name, [])[:1])
    pixels = chunks.get(b"IDAT", [])
    if header.whole[COLOUR_TYPE] == PALETTE and not palette:
        raise BrokenMedia("the PNG has lost its palette")
    if b"tRNS" not in chunks:
        return Opened(open_as("PNG", _joined(header, *palette, *pixels)), turn)
    return _open_transparent(header, palette, chunks[b"tRNS"][-1], pixels, turn)


def _open_transparent(
    header: Chunk, palette: list[Chunk], transparency: Chunk, pixels: list[Chunk], turn: int
) -> Opened:
    """A PNG with a tRNS, which has a meaning of its own for every colour type."""
    depth, kind = header.whole[DEPTH], header.whole[COLOUR_TYPE]
    samples = {GREY: 1, COLOUR: 3}.get(kind, 0)
    body = transparency.body
    if kind in (GREY, COLOUR, PALETTE):
        if not _is_sound(transparency) or len(body) < 2 * samples:
            raise BrokenMedia("the transparent colour of the PNG is damaged")
        body = body[: 2 * samples or 256]
    clear = [level % 2**depth for level in struct.unpack(f">{samples}H", body[: 2 * samples])]
    if kind == GREY and depth in PALETTE_DEPTHS:
        header, *palette = _as_palette(header, depth)
        body = bytes(255 * (level != clear[0]) for level in range(2**depth))
    elif samples:
        body = struct.pack(f">{samples}H", *clear)
    keyed = kind == COLOUR and depth == 16  # Pillow would compare the high bytes alone
    marked = [] if keyed or kind not in (GREY, COLOUR, PALETTE) else [_chunk(b"tRNS", body)]
    file = _joined(header, *palette, *marked, *pixels)
    if not keyed:
        return Opened(open_as("PNG", file), turn)
    return Opened(open_as("PNG", file), turn, partial(_with_clear_colour, file=file, clear=clear))


def _chunks(data: bytes) -> Iterator[Chunk]:
    """What has the form of a chunk, in order.

    A chunk of no use that ends in the wrong place is passed over, up to the next that is needed.
    Behind one that is needed and ends there nothing is looked for: the pixels are damaged.
    """
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if name in NEEDED or (_is_chunk(data, place) and _goes_on(data, end)):
            yield Chunk(name, data[place:end])
            place = end
        elif name.isalpha():
            found = (one.start() - 4 for one in SEARCHED.finditer(data, place + 8))
            place = next((one for one in found if _is_chunk(data, one)), len(data))
        else:
            return


def _goes_on(data: bytes, place: int) -> bool:
    """Whether the file ends here, or another chunk begins; one of pixels may be cut off."""
    needed = data[place + 4 : place + 8] in NEEDED
    return needed or place == len(data) or _is_chunk(data, place)


def _is_chunk(data: bytes, place: int) -> bool:
    length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
    return len(name) == 4 and name.isalpha() and place + 12 + length <= len(data)


def _joined(*chunks: Chunk) -> bytes:
    """A file without an end of its own: behind pixels that are cut off there must be nothing."""
    return b"".join([SIGNATURE, *(chunk.whole for chunk in chunks)])


def _chunk(name: bytes, body: bytes) -> Chunk:
    return Chunk(name, struct.pack(">I", len(body)) + name + body + _checksum(name + body))


def _is_sound(chunk: Chunk) -> bool:
    return _checksum(chunk.whole[4:-4]) == chunk.whole[-4:]


def _checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def _as_palette(header: Chunk, depth: int) -> tuple[Chunk, Chunk]:
    """Grey of at most 8 bits as a palette of its levels, each of which may then be clear."""
    step = 255 // (2**depth - 1)
    levels = bytes(level * step for level in range(2**depth) for _ in range(3))
    body = header.body[: COLOUR_TYPE - 8] + bytes([PALETTE]) + header.body[COLOUR_TYPE - 7 :]
    return _chunk(b"IHDR", body), _chunk(b"PLTE", levels)


def _with_clear_colour(image: PngImageFile, file: bytes, clear: list[int]) -> Image.Image:
    """Loaded RGB of 16 bits, of which Pillow keeps the high bytes; a second pass has the low."""
    low = open_as("PNG", file)
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
    wide = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)  # [h, w, 3]
    shown = image.convert("RGB")
    opaque = (wide != np.array(clear, np.uint16)).any(axis=2)  # [h, w]
    shown.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return shown


def _turning_data(chunks: dict[bytes, list[Chunk]]) -> tuple[bytes, bytes]:
    """EXIF data and XMP data, the first of each; empty where there are none."""
    exif = chunks[b"eXIf"][0].body if b"eXIf" in chunks else b""
    texts = [chunk for name in TEXTS for chunk in chunks.get(name, [])]
    if not exif and (raw := next((one for one in texts if one.body.startswith(RAW_EXIF)), None)):
        lines = _text(raw).split(b"\n")[3:]  # a newline, the name, the length
        digits = re.sub(rb"[^0-9a-fA-F]", b"", b"".join(lines))
        exif = bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    xmp = next((_text(one) for one in texts if one.body.startswith(XMP)), b"")
    return exif, xmp


def _text(chunk: Chunk) -> bytes:
    """The text of a chunk, inflated as far as the limit; empty where that fails."""
    rest = chunk.body.partition(b"\0")[2]
    packed = chunk.name == b"zTXt"
    if packed:
        rest = rest[1:]
    elif chunk.name == b"iTXt":
        packed = rest[:1] != b"\0"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind two names of languages
    try:
        return zlib.decompressobj().decompress(rest, MAX_TEXT) if packed else rest[:MAX_TEXT]
    except zlib.error:
        return b""
