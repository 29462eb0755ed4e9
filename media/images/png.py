"""PNG: the chunks that its pixels need, and the transparent colour in the file's own depth.

Handed over to the decoder are IHDR, PLTE, tRNS and IDAT. All others are left out unread, with
whatever checksum and length: of an animation the default image is shown, text is not inflated. The
significant bits that an sBIT tells change nothing: samples fill the whole range in any case.

Ancillary chunks with a wrong checksum are dropped, as libpng does: a turn that they tell, and the
transparent colour of a tRNS, which must also have the length that its colour type asks for; without
it the picture is opaque. Of a PLTE only the palette of colour type 3 counts, which must be there;
that of another is a suggestion. A critical chunk of an unknown name and a wrong checksum may have
been one that the pixels need.
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
HEAD = struct.Struct(">I4s")  # length and name
#: What a search looks for where a length is wrong.
SEARCHED = re.compile(rb"PLTE|tRNS|IDAT|IEND")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
#: Texts that tell how a picture is turned: ImageMagick's EXIF data in hexadecimal, and XMP.
RAW_EXIF, XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
MAX_TEXT = 2**20  # bytes of such a text once inflated; the rest of it is not
GREY, COLOUR, PALETTE = 0, 2, 3
SAMPLES = {GREY: 1, COLOUR: 3}  # of a pixel, whose colour a tRNS may tell to be clear
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
        BrokenMedia: the palette is missing, or what may have been pixels; Pillow's errors besides.
    """
    chunks, pixels = _collect(data)
    turn, header = turn_of(*_turning_data(chunks)), chunks[b"IHDR"]
    indexed = header.whole[COLOUR_TYPE] == PALETTE
    palette = [chunks[b"PLTE"]] if indexed and b"PLTE" in chunks else []
    if indexed and not palette:
        raise BrokenMedia("the PNG has lost its palette")
    clear = chunks.get(b"tRNS")
    if clear is None or not _is_possible(clear, header, palette):
        return Opened(open_as("PNG", _joined(header, *palette, *pixels)), turn)
    return _open_transparent(header, palette, clear.body, pixels, turn)


def _is_possible(transparency: Chunk, header: Chunk, palette: list[Chunk]) -> bool:
    """Whether a tRNS tells a level, a colour, or the alpha of some of a palette, as it has to."""
    length, kind = len(transparency.body), header.whole[COLOUR_TYPE]
    if kind == PALETTE:
        return 1 <= length <= len(palette[0].body) // 3
    return length == 2 * SAMPLES.get(kind, 0) > 0


def _open_transparent(
    header: Chunk, palette: list[Chunk], body: bytes, pixels: list[Chunk], turn: int
) -> Opened:
    """A PNG with a tRNS, which has a meaning of its own for every colour type."""
    depth, kind = header.whole[DEPTH], header.whole[COLOUR_TYPE]
    samples = SAMPLES.get(kind, 0)
    clear = [level % 2**depth for level in struct.unpack(f">{samples}H", body[: 2 * samples])]
    if kind == GREY and depth in PALETTE_DEPTHS:
        header, *palette = _as_palette(header, depth)
        body = bytes(255 * (level != clear[0]) for level in range(2**depth))
    elif samples:
        body = struct.pack(f">{samples}H", *clear)
    keyed = kind == COLOUR and depth == 16  # Pillow would compare the high bytes alone
    marked = [] if keyed else [_chunk(b"tRNS", body)]
    file = _joined(header, *palette, *marked, *pixels)
    if not keyed:
        return Opened(open_as("PNG", file), turn)
    return Opened(open_as("PNG", file), turn, partial(_with_clear_colour, file=file, clear=clear))


def _collect(data: bytes) -> tuple[dict[bytes, Chunk], list[Chunk]]:
    """What is used of a file: a chunk for each name or keyword that counts, and those of pixels.

    The first of its kind counts. Pieces of pixels become one, so that millions of them cost little;
    one that is cut off stays as it is.
    """
    kept: dict[bytes, Chunk] = {}
    whole, cut = bytearray(), list[Chunk]()
    for name, place, end in _chunks(data):
        if name == b"IDAT" and end <= len(data):
            whole += data[place + 8 : end - 4]
        elif name == b"IDAT":
            cut.append(Chunk(name, data[place:end]))
        elif name[:1].islower():
            key = _key(name, data, place)
            if key and key not in kept and _is_sound(data, place, end):
                kept[key] = Chunk(name, data[place:end])
        elif name in (b"IHDR", b"PLTE"):
            if name not in kept:
                kept[name] = Chunk(name, data[place:end])
        elif not _is_sound(data, place, end):
            raise BrokenMedia("a chunk of the PNG that may be one of its pixels is damaged")
    return kept, [_chunk(b"IDAT", bytes(whole)), *cut] if whole else cut


def _key(name: bytes, data: bytes, place: int) -> bytes:
    """What an ancillary chunk is kept for; nothing for most."""
    if name not in TEXTS:
        return name if name in (b"tRNS", b"eXIf") else b""
    if data.startswith(RAW_EXIF, place + 8):
        return RAW_EXIF
    return XMP if data.startswith(XMP, place + 8) else b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name, the begin and the end of what has the form of a chunk, in order.

    One that the pixels can do without and that ends in the wrong place is passed over, up to the
    next that may be of use. Behind any other that does, nothing is looked for: they are damaged.
    """
    indexed = data[len(SIGNATURE) + COLOUR_TYPE :][:1] == bytes([PALETTE])
    needed = (b"IHDR", b"IDAT", b"PLTE") if indexed else (b"IHDR", b"IDAT")
    place, size = len(SIGNATURE), len(data)
    while place + 8 <= size:
        length, name = HEAD.unpack_from(data, place)
        end = place + 12 + length
        if name not in needed and not (name.isalpha() and _goes_on(data, end, needed)):
            if not name.isalpha():
                return
            # By its length the one before may have ended too early, and this be a part of the next.
            found = (one.start() - 4 for one in SEARCHED.finditer(data, place + 5))
            place = next((one for one in found if _is_chunk(data, one)), size)
            continue
        yield name, place, end
        place = end


def _goes_on(data: bytes, place: int, needed: tuple[bytes, ...]) -> bool:
    """Whether the file ends here, or another chunk begins; one of pixels may be cut off."""
    if place + 8 > len(data):
        return place == len(data)
    length, name = HEAD.unpack_from(data, place)
    return name in needed or (name.isalpha() and place + 12 + length <= len(data))


def _is_chunk(data: bytes, place: int) -> bool:
    length, _ = HEAD.unpack_from(data, place)
    return place + 12 + int(length) <= len(data)


def _joined(*chunks: Chunk) -> bytes:
    """A file without an end of its own: behind pixels that are cut off there must be nothing."""
    return b"".join([SIGNATURE, *(chunk.whole for chunk in chunks)])


def _chunk(name: bytes, body: bytes) -> Chunk:
    return Chunk(name, struct.pack(">I", len(body)) + name + body + _checksum(name + body))


def _is_sound(data: bytes, place: int, end: int) -> bool:
    return _checksum(data[place + 4 : end - 4]) == data[end - 4 : end]


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


def _turning_data(chunks: dict[bytes, Chunk]) -> tuple[bytes, bytes]:
    """EXIF data and XMP data; empty where there are none."""
    exif = chunks[b"eXIf"].body if b"eXIf" in chunks else b""
    if not exif and RAW_EXIF in chunks:
        lines = _text(chunks[RAW_EXIF]).split(b"\n")[3:]  # a newline, the name, the length
        digits = re.sub(rb"[^0-9a-fA-F]", b"", b"".join(lines))
        exif = bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    return exif, _text(chunks[XMP]) if XMP in chunks else b""


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
