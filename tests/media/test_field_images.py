"""Still images of kinds that people have reported: each kind by its file, and by others made here.

What stands beside the pixels refuses nothing; a transparent colour counts in the file's own depth;
grey of fewer bits in a file of 16; types that are refused by name.
"""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from media.errors import BrokenMedia, UnsupportedMedia
from media.images.image import prepare
from media.spec import InputSpec, SpecError
from tests.media.test_gif import frame as gif_frame
from tests.media.test_gif import gif, indices
from tests.media.test_tiff import (
    ASCII,
    BYTE,
    LONG,
    RATIONAL,
    SHORT,
    UNDEFINED,
    layout,
    packed,
    tiff,
)

HEIGHT, WIDTH = 32, 48
RGB = InputSpec()
BACKGROUND = (10, 200, 90)
GREEN = InputSpec(background=BACKGROUND)


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Red to the right, green downwards, blue at the top left: uint8 [h, w, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = columns * 255 // (width - 1)
    pixels[:, :, 1] = rows * 255 // (height - 1)
    pixels[: height // 4, : width // 3, 2] = 255
    return pixels


def encode(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def shown(data: bytes, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return prepare(data, RGB, size)


# --- PNG -------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, body: bytes, crc: int | None = None, length: int | None = None) -> bytes:
    """A chunk; with another checksum or length than it should have where one is given."""
    crc = zlib.crc32(name + body) if crc is None else crc
    return (
        struct.pack(">I", len(body) if length is None else length)
        + name
        + body
        + crc.to_bytes(4, "big")
    )


#: Adam7: first row and column, step down and to the right, of each pass.
PASSES = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


def png(
    levels: np.ndarray, depth: int, beside: Sequence[bytes] = (), interlaced: bool = False
) -> bytes:
    """A file from numbers [h, w] or [h, w, 3] of ``depth`` bits; ``beside`` comes before IDAT."""
    height, width = levels.shape[:2]
    colour_type = 2 if levels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, right in passes:
        part = levels[top::down, left::right]
        for row in part if part.size else ():
            rows += b"\0" + bits_of(row.reshape(-1), depth)
    idat = chunk(b"IDAT", zlib.compress(rows))
    return PNG + chunk(b"IHDR", header) + b"".join(beside) + idat + chunk(b"IEND", b"")


def bits_of(row: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8)  # [n, depth]
    return np.packbits(bits.reshape(-1)).tobytes()


def with_chunks(front: Sequence[bytes], behind: Sequence[bytes] = ()) -> bytes:
    """The picture with further chunks after IHDR, and others between IDAT and IEND."""
    file = encode(picture(), "PNG")
    first, last = file.index(b"IDAT") - 4, file.index(b"IEND") - 4
    return file[:first] + b"".join(front) + file[first:last] + b"".join(behind) + file[last:]


GARBAGE = bytes(range(7, 180))
ANCILLARY = (
    *(b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"bKGD", b"hIST", b"pHYs", b"sPLT", b"tIME"),
    *(b"iTXt", b"tEXt", b"zTXt", b"eXIf", b"cICP", b"acTL", b"fcTL", b"fdAT", b"caBX", b"prVt"),
)
STATES = {
    "garbage": lambda name: chunk(name, GARBAGE),
    "empty": lambda name: chunk(name, b""),
    "one-byte": lambda name: chunk(name, b"\1"),
    "wrong-checksum": lambda name: chunk(name, b"Comment\0what it is", crc=0x12345678),
    "announces-less": lambda name: chunk(name, GARBAGE, length=20),
    "announces-more": lambda name: chunk(name, GARBAGE, length=len(GARBAGE) + 30),
    "announces-gigabytes": lambda name: chunk(name, GARBAGE, length=0x7FFFFFFF),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ANCILLARY)
def test_ancillary_chunks_in_any_state_change_nothing(name: bytes, state: str) -> None:
    """In front of the pixels, behind them, and at the very end, where the file may stop in one."""
    extra = STATES[state](name)
    for file in (
        with_chunks([extra]),
        with_chunks([], [extra]),
        with_chunks([extra, extra], [extra]),
        with_chunks([], [extra])[: -12 - len(extra) // 2],
    ):
        np.testing.assert_array_equal(shown(file), picture())


@given(
    extras=st.lists(
        st.tuples(
            st.sampled_from(ANCILLARY),
            st.binary(max_size=60),
            st.one_of(st.none(), st.integers(0, 2**32 - 1)),
            st.one_of(st.none(), st.integers(0, 100)),
        ),
        max_size=4,
    ),
    behind=st.booleans(),
)
@example(extras=[(b"cHRM", b"\0", 0, 0)], behind=False)  # and a chunk seems to follow: \x46IDA
def test_no_ancillary_chunk_ever_changes_a_pixel(extras: list[Any], behind: bool) -> None:
    """Whatever bytes, checksum and length they have."""
    chunks = [chunk(*extra) for extra in extras]
    file = with_chunks([], chunks) if behind else with_chunks(chunks)
    np.testing.assert_array_equal(shown(file), picture())


@cache
def packed_zeros() -> bytes:
    """100 MiB in 100 kB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("keyword", [b"workflow", b"XML:com.adobe.xmp", b"Raw profile type exif"])
def test_text_that_inflates_costs_nothing(name: bytes, keyword: bytes) -> None:
    """Beside the pixels, or where a turn is looked for: the picture is read without its memory."""
    head = b"\0\1\0\0\0" if name == b"iTXt" else b"\0\0"
    file = with_chunks([chunk(name, keyword + head + packed_zeros())])
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(shown(file), picture())
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_damage_in_the_pixels_of_a_png_is_still_refused() -> None:
    """A header, a palette or pixels that are wrong or cut off are no data beside them."""
    file = encode(picture(), "PNG")
    pixels = file.index(b"IDAT")
    inside = bytearray(file)
    inside[pixels + 40 : pixels + 60] = bytes(20)
    header = bytearray(file)
    header[30] ^= 1  # in the checksum of IHDR
    shorter = file[: pixels - 4] + struct.pack(">I", 20) + file[pixels:]
    for broken in (bytes(inside), bytes(header), shorter, file[: pixels + 60], file[: pixels - 4]):
        with pytest.raises(BrokenMedia, match="truncated or corrupt"):
            shown(broken)
    palette = io.BytesIO()
    Image.fromarray(picture()).quantize(16).save(palette, "PNG")
    spoilt = bytearray(palette.getvalue())
    spoilt[spoilt.index(b"PLTE") + 6] ^= 0xFF
    with pytest.raises(BrokenMedia, match="truncated or corrupt"):
        shown(bytes(spoilt))


#: States of a tRNS -> its chunk, from a body as it should be.
BROKEN_CLEAR = {
    "wrong-checksum": lambda body: chunk(b"tRNS", body, crc=1),
    "cut": lambda body: chunk(b"tRNS", body[:-1]),
    "empty": lambda body: chunk(b"tRNS", b""),
    "too-long": lambda body: chunk(b"tRNS", body + b"\0"),
    "announces-less": lambda body: chunk(b"tRNS", body, length=len(body) - 1),
    "announces-more": lambda body: chunk(b"tRNS", body, length=len(body) + 9),
    "announces-gigabytes": lambda body: chunk(b"tRNS", body, length=0x7FFFFFFF),
}


@pytest.mark.parametrize("state", BROKEN_CLEAR)
@pytest.mark.parametrize(("depth", "samples"), [(2, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_broken_transparent_colour_is_dropped(depth: int, samples: int, state: str) -> None:
    """It is ancillary: the picture is shown opaque, as libpng does, in every colour type."""
    levels = np.full((HEIGHT, WIDTH, samples), 2**depth - 1)  # the colour that would be clear
    levels[:, ::3] = 0
    levels = levels if samples == 3 else levels[..., 0]
    body = struct.pack(f">{samples}H", *[2**depth - 1] * samples)
    whole = prepare(png(levels, depth, [chunk(b"tRNS", body)]), GREEN, (HEIGHT, WIDTH))
    assert (whole[:, 1] == BACKGROUND).all()
    pixels = prepare(png(levels, depth, [BROKEN_CLEAR[state](body)]), GREEN, (HEIGHT, WIDTH))
    expected = np.where(np.arange(WIDTH) % 3 == 0, 0, 255)[:, None]  # [w, 1]
    assert (pixels == expected).all()


@pytest.mark.parametrize("body", [b"", bytes(17)], ids=["empty", "more-than-colours"])
@pytest.mark.parametrize("crc", [None, 1])
def test_broken_alpha_of_a_palette_is_dropped(body: bytes, crc: int | None) -> None:
    """All zeros would leave nothing of the picture."""
    stream = io.BytesIO()
    Image.fromarray(picture()).quantize(16).save(stream, "PNG")
    file = stream.getvalue()
    place = file.index(b"IDAT") - 4
    for extra in (chunk(b"tRNS", body, crc), chunk(b"tRNS", bytes(16), crc=1)):
        np.testing.assert_array_equal(shown(file[:place] + extra + file[place:]), shown(file))
    clear = shown(file[:place] + chunk(b"tRNS", bytes(16)) + file[place:])
    assert (clear == 255).all()


@pytest.mark.parametrize("state", STATES)
def test_palette_that_is_only_suggested_changes_nothing(state: str) -> None:
    """RGB has colours of its own."""
    np.testing.assert_array_equal(shown(with_chunks([STATES[state](b"PLTE")])), picture())


def test_turn_with_a_wrong_checksum_is_dropped() -> None:
    """As any ancillary chunk; the next that is sound counts."""
    upright = chunk(b"eXIf", exif_of(SHORT, 1, b"\1\0"))
    quarter = chunk(b"eXIf", exif_of(SHORT, 1, b"\6\0"), crc=1)
    np.testing.assert_array_equal(shown(with_chunks([quarter, upright])), picture())
    np.testing.assert_array_equal(shown(with_chunks([], [quarter])), picture())


@pytest.mark.parametrize("name", [b"IDAT", b"tEXt", b"tRNS", b"PLTE"])
def test_chunks_without_end_take_no_memory_of_their_own(name: bytes) -> None:
    """Of a megabyte of them, empty or of a byte, a few copies are made and no objects."""
    file = with_chunks([])
    place = file.index(b"IDAT") - 4
    bodies = b"" if name == b"IDAT" else b"a"
    data = file[:place] + chunk(name, bodies) * 80_000 + file[place:]
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(shown(data), picture())
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


def test_pixels_in_pieces_of_any_size_are_joined() -> None:
    """Some programs write one for each row, or of a byte."""
    levels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    file = png(levels, 8)
    place, end = file.index(b"IDAT") - 4, file.index(b"IEND") - 4
    body = file[place + 8 : end - 4]
    for size in (1, 7, 1000):
        pieces = [chunk(b"IDAT", body[at : at + size]) for at in range(0, len(body), size)]
        data = file[:place] + b"".join(pieces) + file[end:]
        np.testing.assert_array_equal(shown(data), levels)
        with pytest.raises(BrokenMedia, match="truncated or corrupt"):
            shown(data[: place + len(b"".join(pieces)) // 2])


def test_chunk_whose_name_is_damaged_is_not_passed_over() -> None:
    """A palette or pixels under another name are lost, and no note that may be left out."""
    stream = io.BytesIO()
    Image.fromarray(picture()).quantize(16).save(stream, "PNG")
    file = stream.getvalue()
    for name, other in ((b"PLTE", b"QLTE"), (b"PLTE", b"pLTE"), (b"IDAT", b"IDIT")):
        with pytest.raises(BrokenMedia, match="damaged|lost its palette|corrupt"):
            shown(file.replace(name, other))


def test_transparent_colour_beside_alpha_means_nothing() -> None:
    """Colour types with an alpha channel have none; whatever its state, it is left out."""
    rgba = np.dstack([picture(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    file = encode(rgba, "PNG")
    place = file.index(b"IDAT") - 4
    for extra in (chunk(b"tRNS", b"\0\0\0\0\0\0"), chunk(b"tRNS", b"\0", crc=5)):
        np.testing.assert_array_equal(shown(file[:place] + extra + file[place:]), picture())


@pytest.mark.parametrize("name", ["exif_garbage", "text_crc", "ztxt_1_4MB"])
def test_field_png_shows_its_pixels(field_dir: Path, name: str) -> None:
    """EXIF data that are none, a text with a wrong checksum, one that inflates: all are shown."""
    data = (field_dir / f"img_png_{name}.png").read_bytes()
    np.testing.assert_array_equal(shown(data), picture())


# --- the transparent colour of a PNG ---------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_counts_in_the_depth_of_the_file(depth: int, interlaced: bool) -> None:
    """One level is clear, no other of the same 8 bits; bits above the depth are not looked at."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    levels = (rows * WIDTH + columns) * 43 % 2**depth  # [h, w]
    levels[5, 7:9] = 2**depth - 1, 2**depth - 2
    clear = int(levels[20, 11])
    above = 0 if depth == 16 else 0x5A << 8 & ~(2**depth - 1) & 0xFFFF
    file = png(levels, depth, [chunk(b"tRNS", struct.pack(">H", clear | above))], interlaced)
    expected = np.rint(levels * 255 / (2**depth - 1))[:, :, None].repeat(3, axis=2)
    expected[levels == clear] = BACKGROUND
    np.testing.assert_array_equal(prepare(file, GREEN, (HEIGHT, WIDTH)), expected)
    one_channel = InputSpec(channels=1, mean=(0.5,), std=(0.5,))
    expected = np.where(levels == clear, 255, np.rint(levels * 255 / (2**depth - 1)))
    np.testing.assert_array_equal(prepare(file, one_channel, (HEIGHT, WIDTH))[..., 0], expected)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour_counts_in_the_depth_of_the_file(depth: int, interlaced: bool) -> None:
    """Of 16 bits all are compared: a neighbour with the same high bytes is not clear."""
    colour = np.array([0x1234, 0x5678, 0x9ABC]) if depth == 16 else np.array([0x12, 0x56, 0x9A])
    levels = np.empty((HEIGHT, WIDTH, 3), dtype=np.int64)
    levels[:] = colour
    levels[:, WIDTH // 2 :, 2] += 1
    levels[3] = colour[::-1]
    above = 0 if depth == 16 else 0x7700
    file = png(levels, depth, [chunk(b"tRNS", struct.pack(">3H", *(colour | above)))], interlaced)
    expected = (levels >> (depth - 8)).astype(np.uint8)
    expected[(levels == colour).all(axis=2)] = BACKGROUND
    np.testing.assert_array_equal(prepare(file, GREEN, (HEIGHT, WIDTH)), expected)


def test_transparent_colour_of_a_turned_picture_turns_with_it() -> None:
    """The eXIf chunk turns colour and transparency alike."""
    levels = np.full((6, 9, 3), 0x4000, dtype=np.int64)
    levels[0] = 0x1234
    exif = chunk(b"eXIf", exif_of(SHORT, 1, b"\6\0"))
    file = png(levels, 16, [chunk(b"tRNS", struct.pack(">3H", *[0x1234] * 3)), exif])
    turned = prepare(file, GREEN, (9, 6))
    assert (turned[:, -1] == BACKGROUND).all()  # the first row, to the right
    assert (turned[:, :-1] == 0x40).all()


def test_field_transparent_colours_show_the_background(field_dir: Path) -> None:
    """RGB of 16 bits and grey of 4 bits: the left half is clear, the right half stays."""
    for name, right in (("img_png16_rgb_trns", (128, 64, 32)), ("img_png4_grey_trns", (85,) * 3)):
        data = (field_dir / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
        pixels = shown(data, (height, width))
        assert (pixels[:, : width // 2] == 255).all()
        assert (pixels[:, width // 2 :] == right).all()


# --- orientation -----------------------------------------------------------------------------

SLONG, FLOAT = 9, 11


def exif_of(kind: int, values: int, field: bytes, order: str = "<", before: int = 0) -> bytes:
    """EXIF data of one Orientation, behind ``before`` entries of garbage."""
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    garbage = struct.pack(order + "HHII", 33434, 77, 2**31, 2**31) * before
    entry = struct.pack(order + "HHI", 274, kind, values) + field.ljust(4, b"\0")
    return head + struct.pack(order + "H", before + 1) + garbage + entry + bytes(4)


#: EXIF data -> the turn that they plainly tell, 1 where they tell none.
ORIENTATIONS = {
    "byte-1": (exif_of(BYTE, 1, b"\1"), 1),
    "byte": (exif_of(BYTE, 1, b"\6"), 6),
    "byte-mm": (exif_of(BYTE, 1, b"\6", ">"), 6),
    "undefined": (exif_of(UNDEFINED, 1, b"\6"), 6),
    "long": (exif_of(LONG, 1, b"\6\0\0\0"), 6),
    "long-mm": (exif_of(LONG, 1, b"\0\0\0\6", ">"), 6),
    "signed-long": (exif_of(SLONG, 1, b"\6\0\0\0"), 6),
    "letter": (exif_of(ASCII, 2, b"6\0"), 6),
    "word": (exif_of(ASCII, 4, b"top\0"), 1),
    "float": (exif_of(FLOAT, 1, struct.pack("<f", 6)), 6),
    "no-number": (exif_of(FLOAT, 1, struct.pack("<f", np.nan)), 1),
    "fraction-away": (exif_of(RATIONAL, 1, struct.pack("<I", 10**6)), 1),
    "two-values": (exif_of(SHORT, 2, b"\6\0\1\0"), 6),
    "no-value": (exif_of(SHORT, 0, b"\6\0"), 1),
    "values-away": (exif_of(SHORT, 9, struct.pack("<I", 10**6)), 1),
    "zero": (exif_of(SHORT, 1, b"\0\0"), 1),
    "nine": (exif_of(SHORT, 1, b"\x09\0"), 1),
    "huge": (exif_of(SHORT, 1, b"\xff\xff"), 1),
    "minus-one": (exif_of(8, 1, b"\xff\xff"), 1),
    "unknown-type": (exif_of(99, 1, b"\6\0"), 1),
    "behind-garbage": (exif_of(SHORT, 1, b"\6\0", before=3), 6),
    "cut": (exif_of(SHORT, 1, b"\6\0")[:-7], 1),
    "cut-behind": (exif_of(SHORT, 1, b"\6\0")[:-3], 6),
    "directory-away": (b"II*\0\xff\xff\xff\x7f", 1),
    "no-tiff": (GARBAGE, 1),
    "nothing": (b"", 1),
}


def in_jpeg(pixels: np.ndarray, exif: bytes) -> bytes:
    file = encode(pixels, "JPEG", quality=100, subsampling=0)
    body = b"Exif\0\0" + exif
    return file[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + file[2:]


def in_png(pixels: np.ndarray, exif: bytes) -> bytes:
    file = encode(pixels, "PNG")
    return file[:-12] + chunk(b"eXIf", exif) + file[-12:]


def in_webp(pixels: np.ndarray, exif: bytes) -> bytes:
    """Extended, as a file with EXIF data is; what is odd stands behind the pixels."""
    simple = encode(pixels, "WEBP", lossless=True)
    sides = [(side - 1).to_bytes(3, "little") for side in pixels.shape[1::-1]]
    flags = riff(b"VP8X", b"\x08\0\0\0" + b"".join(sides))
    body = b"WEBP" + flags + simple[12:] + riff(b"EXIF", exif)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


HOLDERS = {"JPEG": in_jpeg, "PNG": in_png, "WEBP": in_webp}


@pytest.mark.parametrize("state", ORIENTATIONS)
@pytest.mark.parametrize("kind", HOLDERS)
def test_orientation_is_read_where_it_plainly_tells_a_turn(kind: str, state: str) -> None:
    """Of whatever type and number of values; else the picture is shown as it is stored."""
    exif, turn = ORIENTATIONS[state]
    stored = np.rot90(picture(), 1) if turn == 6 else picture()
    pixels = shown(HOLDERS[kind](np.ascontiguousarray(stored), exif))
    difference = np.abs(pixels.astype(int) - picture())
    assert difference.mean() < 4 if kind == "JPEG" else not difference.any()


ONE_ENTRY = [state for state, (exif, _) in ORIENTATIONS.items() if len(exif) == 26]


@pytest.mark.parametrize("state", ONE_ENTRY)
def test_orientation_of_a_tiff_is_read_the_same_way(state: str) -> None:
    """There it is a tag among those of the pixels, and just as often odd."""
    exif, turn = ORIENTATIONS[state]
    order = "<" if exif.startswith(b"II") else ">"
    kind, values, field = struct.unpack(order + "HI4s", exif[-14:-4])
    grey = picture()[:, :, 0]
    stored = np.ascontiguousarray(np.rot90(grey, 1) if turn == 6 else grey)
    file = bytearray(
        tiff(layout(1, [8], *stored.shape) | {274: (SHORT, [1])}, [stored.tobytes()], order)
    )
    place = file.index(struct.pack(order + "HHI", 274, SHORT, 1))
    struct.pack_into(order + "HHI4s", file, place, 274, kind, values, field)
    np.testing.assert_array_equal(shown(bytes(file)), np.dstack([grey] * 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG-packed", "WEBP", "TIFF"])
def test_orientation_of_xmp_data_is_read(kind: str) -> None:
    """Where there are no EXIF data, a packet of XMP may tell the turn."""
    xmp = b"<x:xmpmeta><rdf:Description tiff:Orientation='6'/></x:xmpmeta>"
    stored = np.ascontiguousarray(np.rot90(picture(), 1))
    key = b"XML:com.adobe.xmp\0"
    if kind == "JPEG":
        file = encode(stored, "JPEG", quality=100, subsampling=0)
        body = b"http://ns.adobe.com/xap/1.0/\0" + xmp
        file = file[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + file[2:]
    elif kind == "WEBP":
        file = in_webp(stored, b"").replace(riff(b"EXIF", b""), riff(b"XMP ", xmp))
    elif kind == "TIFF":
        file = encode(stored, "TIFF", tiffinfo={700: xmp})
    else:
        text = b"\1\0\0\0" + zlib.compress(xmp) if kind == "PNG-packed" else b"\0\0\0\0" + xmp
        file = encode(stored, "PNG")
        file = file[:33] + chunk(b"iTXt", key + text) + file[33:]
    assert np.abs(shown(file).astype(int) - picture()).mean() < 4


def test_orientation_in_the_hexadecimal_text_of_a_png_is_read() -> None:
    """ImageMagick writes EXIF data so; inflated as far as they are needed."""
    exif = b"Exif\0\0" + exif_of(SHORT, 1, b"\6\0")
    text = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"
    stored = encode(np.ascontiguousarray(np.rot90(picture(), 1)), "PNG")
    body = b"Raw profile type exif\0\0" + zlib.compress(text)
    np.testing.assert_array_equal(
        shown(stored[:33] + chunk(b"zTXt", body) + stored[33:]), picture()
    )


def test_field_jpeg_with_an_odd_orientation_is_shown_as_stored(field_dir: Path) -> None:
    """Orientation 1 as a BYTE: a plain reading without any EXIF data gives the same pixels."""
    data = (field_dir / "img_orientation_byte.jpg").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    np.testing.assert_array_equal(shown(data, expected.shape[:2]), expected)


# --- JPEG, WebP, GIF, TIFF -------------------------------------------------------------------


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2 if length is None else length) + body


JPEG_NOTES = {
    "comment": segment(0xFE, GARBAGE),
    "empty-comment": segment(0xFE, b""),
    "no-length": segment(0xFE, b"", 0),
    "short-jfif": segment(0xE0, b"JFIF\0\1"),
    "thumbnail": segment(0xE0, b"JFXX\0\x10" + GARBAGE),
    "profile": segment(0xE2, b"ICC_PROFILE\0\7\3" + GARBAGE),
    "pictures": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + GARBAGE),
    "photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\xff\xff\xff"),
    "adobe-cut": segment(0xEE, b"Adobe\0"),
    "unknown": segment(0xEB, GARBAGE),
    "xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>many"),
    "filler": b"\xff\xff\xff" + segment(0xFE, b"x"),
    "junk": segment(0xFE, b"x") + b"some junk",
}


@pytest.mark.parametrize("note", JPEG_NOTES)
def test_notes_in_a_jpeg_change_nothing(note: str) -> None:
    """Comments and APPn segments in any state, wherever they stand before the pixels."""
    file = encode(picture(), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(file)))
    table = file.index(b"\xff\xc0")
    for place in (2, table):
        data = file[:place] + JPEG_NOTES[note] + file[place:]
        np.testing.assert_array_equal(shown(data), expected)


def test_colours_of_a_jpeg_stay_those_of_its_adobe_segment() -> None:
    """Adobe's segment says that the inks of CMYK are inverted: it is kept, without its notes."""
    smooth = np.array(picture())
    smooth[:, :, 2] = 90
    stream = io.BytesIO()
    Image.fromarray(smooth).convert("CMYK").save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    expected = np.asarray(Image.open(stream).convert("RGB"))
    np.testing.assert_array_equal(shown(data[:2] + segment(0xFE, GARBAGE) + data[2:]), expected)


@pytest.mark.parametrize("name", [b"ICCP", b"EXIF", b"XMP ", b"ABCD"])
@pytest.mark.parametrize("cut", [0, 3, 100])
def test_notes_in_a_webp_change_nothing(name: bytes, cut: int) -> None:
    """Further chunks, known or not, whole or cut off at the end of the file."""
    file = in_webp(picture(), b"").replace(riff(b"EXIF", b""), riff(name, GARBAGE))
    np.testing.assert_array_equal(shown(file[: len(file) - cut]), picture())


def test_notes_in_front_of_the_frame_of_a_gif_change_nothing() -> None:
    """Comments, what applications add, and texts, of any length."""
    chosen = indices(6, 9)
    plain = gif(gif_frame(chosen, transparent=3))
    expected = prepare(plain, GREEN, (6, 9))
    notes = b"!\xfe" + b"\xff" + bytes(255) + b"\0"
    notes += b"!\xff\x0bNETSCAPE2.0\0" + b"!\xff\x03odd\1\0\0" + b"!\x77\2ab\0"
    noted = gif(notes + gif_frame(chosen, transparent=3))
    np.testing.assert_array_equal(prepare(noted, GREEN, (6, 9)), expected)


TIFF_NOTES = {
    "text": {270: (ASCII, list(GARBAGE))},
    "resolution-of-letters": {282: (ASCII, [65, 0]), 283: (BYTE, [1])},
    "resolution-of-millions": {282: (RATIONAL, [1, 1] * 300_000)},
    "resolution-by-zero": {282: (RATIONAL, [1, 0]), 296: (SHORT, [99])},
    "profile": {34675: (UNDEFINED, list(GARBAGE))},
    "photoshop": {34377: (BYTE, list(GARBAGE))},
    "exif-nowhere": {34665: (LONG, [10**9])},
    "exif-of-letters": {34665: (ASCII, [65, 66, 67, 0])},
    "unknown-type": {40_000: (99, [1])},
    "private": {65_000: (SHORT, [1, 2, 3])},
}


@pytest.mark.parametrize("note", TIFF_NOTES)
@pytest.mark.parametrize("order", "<>")
def test_notes_in_a_tiff_change_nothing(order: str, note: str) -> None:
    """Tags that the pixels do not need are not looked at, whatever they hold."""
    grey = picture()[:, :, 0]
    entries = {tag: value for tag, value in TIFF_NOTES[note].items() if value[0] != 99}
    file = bytearray(
        tiff(
            layout(1, [8], *grey.shape) | entries | {40_001: (SHORT, [1])}, [grey.tobytes()], order
        )
    )
    if note == "unknown-type":
        place = file.index(struct.pack(order + "HHI", 40_001, SHORT, 1))
        struct.pack_into(order + "HHII", file, place, 40_001, 99, 2**31, 2**31)
    np.testing.assert_array_equal(shown(bytes(file)), np.dstack([grey] * 3))


# --- grey of fewer bits in a file of 16 ------------------------------------------------------

ONE = InputSpec(channels=1, mean=(0.5,), std=(0.5,))
MAX_SAMPLE, S_MAX_SAMPLE = 281, 341


def wide(white: int) -> np.ndarray:
    """[h, w] from 0 to white, both in it."""
    levels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 37 % (white + 1)
    levels[0, :2] = 0, white
    return levels


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("tag", [MAX_SAMPLE, S_MAX_SAMPLE])
def test_largest_value_of_a_tiff_is_its_white(tag: int, bits: int, inverted: bool) -> None:
    """Grey of 12 bits in a file of 16 is not nearly black, whichever tag tells it."""
    white = 2**bits - 1
    levels = wide(white)
    tags = layout(0 if inverted else 1, [16], HEIGHT, WIDTH) | {tag: (SHORT, [white])}
    grey = np.rint(levels * 255 / white)
    expected = 255 - grey if inverted else grey
    file = tiff(tags, [packed(levels, 16, "<")])
    np.testing.assert_array_equal(prepare(file, ONE, (HEIGHT, WIDTH))[..., 0], expected)


@pytest.mark.parametrize(
    "told",
    [{MAX_SAMPLE: 65_535}, {MAX_SAMPLE: 65_535, S_MAX_SAMPLE: 4095}, {S_MAX_SAMPLE: 837}]
    + [{MAX_SAMPLE: 0}, {MAX_SAMPLE: 255}],
    ids=["all", "all-first", "of-this-picture", "zero", "exceeded"],
)
def test_largest_value_that_is_no_depth_changes_nothing(told: dict[int, int]) -> None:
    """All 16 bits, the brightest pixel of this picture, or a number that pixels exceed."""
    levels = wide(837)
    tags = layout(1, [16], HEIGHT, WIDTH) | {tag: (SHORT, [one]) for tag, one in told.items()}
    file = tiff(tags, [packed(levels, 16, "<")])
    expected = np.rint(levels * 255 / 65_535)
    np.testing.assert_array_equal(prepare(file, ONE, (HEIGHT, WIDTH))[..., 0], expected)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "array"])
def test_grey_bits_of_the_input_say_which_level_is_white(form: str) -> None:
    """Where the file does not: 12 bits of 16, what lies above them is white; 8-bit grey stays."""
    spec = InputSpec(channels=1, mean=(0.5,), std=(0.5,), grey_bits=12)
    levels = wide(4095).astype(np.uint16)
    levels[1, :2] = 4096, 65_535
    media = levels if form == "array" else encode(levels, form)
    expected = np.rint(np.minimum(levels, 4095) * 255.0 / 4095)
    np.testing.assert_array_equal(prepare(media, spec, (HEIGHT, WIDTH))[..., 0], expected)
    grey = picture()[:, :, 0]
    np.testing.assert_array_equal(prepare(encode(grey, "PNG"), spec, (HEIGHT, WIDTH))[..., 0], grey)


def test_depth_that_a_file_tells_wins_over_grey_bits() -> None:
    """The file knows better: 10 bits in it are 10 bits."""
    spec = InputSpec(channels=1, mean=(0.5,), std=(0.5,), grey_bits=12)
    levels = wide(1023)
    tags = layout(1, [16], HEIGHT, WIDTH) | {MAX_SAMPLE: (SHORT, [1023])}
    pixels = prepare(tiff(tags, [packed(levels, 16, "<")]), spec, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(levels * 255 / 1023))


def test_significant_bits_of_a_png_change_nothing() -> None:
    """An sBIT tells how exact samples are; they fill all 16 bits in any case."""
    levels = wide(65_535)
    plain = prepare(png(levels, 16), ONE, (HEIGHT, WIDTH))
    told = prepare(png(levels, 16, [chunk(b"sBIT", b"\x0c")]), ONE, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(told, plain)


@pytest.mark.parametrize("bits", [-1, 7, 17])
def test_grey_bits_have_bounds(bits: int) -> None:
    """From 8 to 16, or 0; and for images alone."""
    with pytest.raises(SpecError, match=f"grey_bits must be 0, or from 8 to 16.* got {bits}"):
        InputSpec(grey_bits=bits)


# --- types that are refused by name ----------------------------------------------------------


@pytest.mark.parametrize(
    ("major", "others", "name"),
    [
        (b"heic", [b"mif1", b"heic"], "HEIC"),
        (b"heix", [b"mif1"], "HEIC"),
        (b"mif1", [b"heic"], "HEIC"),
        (b"mif1", [b"miaf", b"avif"], "AVIF"),
        (b"avif", [b"mif1"], "AVIF"),
        (b"avis", [], "AVIF"),
        (b"mif1", [], "HEIF"),
    ],
)
def test_stills_in_iso_files_are_refused_by_name(
    major: bytes, others: list[bytes], name: str
) -> None:
    """Who sends what a phone made is told what it is; a film of the same kind of file is not."""
    body = major + bytes(4) + b"".join(others)
    data = struct.pack(">I", len(body) + 8) + b"ftyp" + body + bytes(200)
    with pytest.raises(UnsupportedMedia, match=f"these are none of them, but {name}$"):
        shown(data)
    film = struct.pack(">I", 20) + b"ftypisom" + bytes(4) + b"avc1" + bytes(200)
    with pytest.raises(UnsupportedMedia, match="these are none of them$"):
        shown(film)
