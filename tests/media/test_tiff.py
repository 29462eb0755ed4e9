"""TIFF: the right picture from every layout that is read, a reason for every other one.

The files are put together here, tag by tag, so that no writer's habits hide a reader's mistakes.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.images.directory import MAX_ENTRIES
from media.images.image import prepare
from media.images.tiff import COMPRESSIONS, MAX_VALUES
from media.limits import MAX_PIXELS
from media.spec import InputSpec

HEIGHT, WIDTH = 22, 37  # of no side a multiple of a tile
RGB = InputSpec(background=(10, 200, 90))
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
FORMATS = {BYTE: "B", ASCII: "B", UNDEFINED: "B", SHORT: "H", LONG: "I", RATIONAL: "II", LONG8: "Q"}
ORDERS = {"<": b"II", ">": b"MM"}
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOUR, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8

Tags = dict[int, tuple[int, list[int]]]


def tiff(tags: Tags, pieces: list[bytes], order: str = "<", big: bool = False) -> bytes:
    """A file of one page: header, strips or tiles, values of long entries, directory."""
    start = 16 if big else 8
    places = [start + sum(map(len, pieces[:number])) for number in range(len(pieces))]
    body = b"".join(pieces)
    offsets, counts = (324, 325) if 322 in tags else (273, 279)
    tags = {offsets: (LONG, places), counts: (LONG, [len(one) for one in pieces])} | tags
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        count = len(values) // len(FORMATS[kind])
        data = struct.pack(order + FORMATS[kind] * count, *values)
        if len(data) > (8 if big else 4):
            body += data
            data = struct.pack(order + ("Q" if big else "I"), start + len(body) - len(data))
        entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count)
        entries += data.ljust(8 if big else 4, b"\0")
    directory = struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + bytes(8)
    where = start + len(body)
    header = struct.pack(order + "HHHQ", 43, 8, 0, where) if big else b""
    return ORDERS[order] + (header or struct.pack(order + "HI", 42, where)) + body + directory


def layout(photometric: int, bits: list[int], height: int = HEIGHT, width: int = WIDTH) -> Tags:
    """The tags that every picture has."""
    return {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, bits),
        259: (SHORT, [1]),
        262: (SHORT, [photometric]),
        277: (SHORT, [len(bits)]),
    }


def picture() -> np.ndarray:
    """uint8 [h, w, 4]: four channels that no shift, swap or turn leaves as they are."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = (columns * 7 % 256, rows * 11 % 256, (rows + columns) * 4 % 256, rows * 255 // 21)
    return np.dstack(channels).astype(np.uint8)


def packed(pixels: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples of so many bits, each row filled up to whole bytes. [h, samples]"""
    if bits == 16:
        return pixels.astype(f"{order}u2").tobytes()
    places = np.arange(bits - 1, -1, -1)
    singles = pixels[:, :, None].astype(np.uint16) >> places & 1  # [h, samples, bits]
    return np.packbits(singles.reshape(len(pixels), -1).astype(np.uint8), axis=1).tobytes()


def pieces(samples: np.ndarray, tags: Tags, order: str, planar: bool, tiled: bool) -> list[bytes]:
    """Strips of 5 rows or tiles of 16x32 of an array [h, w, channels]; ``tags`` is completed."""
    step = (16, 32) if tiled else (5, WIDTH)
    if tiled:
        tags |= {322: (LONG, [step[1]]), 323: (LONG, [step[0]])}
    else:
        tags |= {278: (LONG, [step[0]])}
    tags |= {284: (SHORT, [2 if planar else 1])}
    height, width, channels = samples.shape
    margins = [(0, -height % step[0] if tiled else 0), (0, -width % step[1]), (0, 0)]
    samples = np.pad(samples, margins)  # [h rounded up, w rounded up, channels]
    planes = [samples[:, :, [one]] for one in range(channels)] if planar else [samples]
    stored = f"{order}u{samples.itemsize}"
    return [
        plane[top : top + step[0], left : left + step[1]].astype(stored).tobytes()
        for plane in planes
        for top in range(0, plane.shape[0], step[0])
        for left in range(0, plane.shape[1], step[1])
    ]


def shown(data: bytes, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The prepared picture at its own size, uint8 [h, w, 3]."""
    return prepare(data, RGB, (height, width))


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other.astype(float)).max())


# --- grey ------------------------------------------------------------------------------------

#: Depths and polarities that have no reader here: of big-endian files, or with white at zero.
UNREAD = {(12, WHITE_IS_ZERO, "<"), (12, WHITE_IS_ZERO, ">"), (12, BLACK_IS_ZERO, ">")}
UNREAD |= {(16, WHITE_IS_ZERO, ">")}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_of_every_depth_is_scaled(bits: int, photometric: int, order: str) -> None:
    """The largest number is white (or black), the others lie in proportion; else it is refused."""
    white = 2**bits - 1
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    levels = (rows * WIDTH + columns) * 81 % (white + 1)  # [h, w]
    levels[0, :2] = 0, white
    file = tiff(layout(photometric, [bits]), [packed(levels, bits, order)], order)
    if (bits, photometric, order) in UNREAD:
        with pytest.raises(UnsupportedMedia, match=f"photometric {photometric} .* {bits} bits"):
            shown(file)
        return
    expected = np.rint(levels * 255 / white)
    if photometric == WHITE_IS_ZERO:
        expected = 255 - expected
    np.testing.assert_array_equal(shown(file), np.dstack([expected] * 3))


def test_sixteen_bits_are_the_same_in_every_type() -> None:
    """A picture of 16 bits prepares to one array as TIFF, as PNG and as a data set's array."""
    levels = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 80
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    file = tiff(layout(BLACK_IS_ZERO, [16]), [packed(levels, 16, "<")])
    for target in ((HEIGHT, WIDTH), (9, 30)):
        expected = prepare(levels, RGB, target)
        np.testing.assert_array_equal(prepare(stream.getvalue(), RGB, target), expected)
        np.testing.assert_array_equal(prepare(file, RGB, target), expected)


# --- colour ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tiled", [False, True], ids=["strips", "tiles"])
@pytest.mark.parametrize("planar", [False, True], ids=["mixed", "planes"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ORDERS)
def test_colour_is_right_in_every_arrangement(
    order: str, bits: int, planar: bool, tiled: bool
) -> None:
    """Channels side by side or in planes, in strips or tiles, of 8 bits or 16, in either order."""
    samples = picture()[:, :, :3]
    if bits == 16:
        samples = samples.astype(np.uint16) * 256 + 77
    tags = layout(COLOUR, [bits] * 3)
    data = pieces(samples, tags, order, planar, tiled)  # completes the tags
    file = tiff(tags, data, order)
    np.testing.assert_array_equal(shown(file), picture()[:, :, :3])


UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2


@pytest.mark.parametrize("extra", [UNSPECIFIED, ASSOCIATED, UNASSOCIATED])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_blended_as_the_file_says(channels: int, extra: int) -> None:
    """Colour that is multiplied by its alpha is divided first; a channel of no meaning is none."""
    straight, alpha = picture()[:, :, :channels], picture()[:, :, 3:]
    share = alpha / 255
    stored = np.rint(straight * share) if extra == ASSOCIATED else straight
    samples = np.dstack([stored, alpha]).astype(np.uint8)
    tags = layout(COLOUR if channels == 3 else BLACK_IS_ZERO, [8] * (channels + 1))
    file = tiff(tags | {338: (SHORT, [extra])}, [samples.tobytes()])
    blended = straight * share + (1 - share) * np.array(RGB.background)
    expected = straight if extra == UNSPECIFIED else blended
    assert largest_difference(shown(file), np.broadcast_to(expected, (HEIGHT, WIDTH, 3))) <= 1.5


@pytest.mark.parametrize("scale", [1, 256], ids=["of-8-bits", "of-16-bits"])
def test_palette_is_expanded(scale: int) -> None:
    """A colour map of 16 bits is scaled; one that was written with 8 is not taken for black."""
    indices = picture()[:, :, 0]
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))  # [channel, index]
    tags = layout(PALETTE, [8]) | {320: (SHORT, (colours * scale).reshape(-1).tolist())}
    file = tiff(tags, [indices.tobytes()])
    np.testing.assert_array_equal(shown(file), np.moveaxis(colours[:, indices], 0, 2))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_of_few_bits_is_expanded(bits: int) -> None:
    """Indices of less than a byte point to the colours of their palette."""
    colours = np.random.default_rng(bits).integers(0, 256, (3, 2**bits))  # [channel, index]
    indices = picture()[:, :, 0] % 2**bits
    tags = layout(PALETTE, [bits]) | {320: (SHORT, (colours * 256).reshape(-1).tolist())}
    file = tiff(tags, [packed(indices, bits, "<")])
    np.testing.assert_array_equal(shown(file), np.moveaxis(colours[:, indices], 0, 2))


@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_is_converted(bits: int) -> None:
    """Inks darken the paper: full black is black, none is white, and the rest lies between."""
    inks = picture()
    samples = inks if bits == 8 else inks.astype("<u2") * 257
    share = 1 - inks / 255
    expected = 255 * share[:, :, :3] * share[:, :, 3:]
    file = tiff(layout(CMYK, [bits] * 4), [samples.tobytes()])
    assert largest_difference(shown(file), expected) <= 1.5


def test_lab_is_converted() -> None:
    """White, grey and red in CIELAB (D50, a and b signed) are white, grey and red."""
    colours = {(255, 0, 0): (255, 255, 255), (0, 0, 0): (0, 0, 0)}
    colours |= {(128, 0, 0): (120, 120, 120), (138, 81, 70): (255, 0, 0)}
    lab = np.array([list(colours)], dtype=np.uint8).repeat(3, axis=0)  # [3, 4, 3]
    file = tiff(layout(LAB, [8] * 3, 3, 4), [lab.tobytes()])
    expected = np.array([list(colours.values())]).repeat(3, axis=0)
    assert largest_difference(shown(file, 3, 4), expected) <= 5


def in_ycbcr() -> tuple[np.ndarray, np.ndarray]:
    """Smooth chroma in pairs of 2x2 pixels: samples [h, w, 3] and their RGB, by ITU-R BT.601."""
    rows, columns = np.mgrid[0:HEIGHT, 0 : WIDTH + 1]
    samples = np.dstack(
        [60 + columns * 3, 100 + rows // 2 * 2 + columns // 2, 150 - columns // 2 * 2]
    ).astype(np.uint8)
    luma, blue, red = np.moveaxis(samples - np.array([0, 128.0, 128.0]), 2, 0)
    green = luma - 0.344136 * blue - 0.714136 * red
    return samples, np.dstack([luma + 1.402 * red, green, luma + 1.772 * blue]).clip(0, 255)


@pytest.mark.parametrize("halved", [False, True], ids=["full", "2x2"])
def test_ycbcr_is_converted(halved: bool) -> None:
    """Luma and chroma of full or of half resolution give the colours that were meant."""
    samples, expected = in_ycbcr()
    height, width = samples.shape[:2]
    data = samples.tobytes()
    if halved:  # units of four lumas and the two chromas that they share
        lumas = samples[:, :, 0].reshape(height // 2, 2, width // 2, 2).swapaxes(1, 2)
        units = np.concatenate(
            [lumas.reshape(height // 2, width // 2, 4), samples[::2, ::2, 1:]], axis=2
        )  # [h / 2, w / 2, 6]
        data = units.astype(np.uint8).tobytes()
    tags = layout(YCBCR, [8] * 3, height, width)
    file = tiff(tags | {530: (SHORT, [2, 2] if halved else [1, 1])}, [data])
    assert largest_difference(shown(file, height, width), expected) <= 2


# --- what is around the pixels ---------------------------------------------------------------


def saved(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "TIFF", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"]
)
def test_compressions_change_nothing(compression: str) -> None:
    """Every lossless compression of the table gives back what was stored."""
    file = saved(Image.fromarray(picture()[:, :, :3]), compression=compression)
    np.testing.assert_array_equal(shown(file), picture()[:, :, :3])


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_fax_compressions_change_nothing(compression: str) -> None:
    """A black and white page is read from every fax code."""
    bits = picture()[:, :, 0] > 100
    file = saved(Image.fromarray(bits), compression=compression)
    np.testing.assert_array_equal(shown(file), np.dstack([bits * 255] * 3))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_in_tiff_stays_close_to_its_pixels(mode: str) -> None:
    """JPEG strips show what was encoded, within a few levels."""
    _, smooth = in_ycbcr()
    image = Image.fromarray(smooth.astype(np.uint8)).convert(mode)
    file = saved(image, compression="jpeg", quality=95)
    expected = np.asarray(image.convert("RGB"))
    assert largest_difference(shown(file, *expected.shape[:2]), expected) <= 6


TURNED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("bits", [8, 16])
def test_orientation_gives_the_upright_picture(orientation: int, bits: int) -> None:
    """However the page was scanned, the prepared array is the same."""
    levels = picture()[:, :, 0].astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    stored = np.ascontiguousarray(TURNED[orientation](levels))
    tags = layout(BLACK_IS_ZERO, [bits], *stored.shape) | {274: (SHORT, [orientation])}
    file = tiff(tags, [stored.tobytes()])
    np.testing.assert_array_equal(shown(file), np.dstack([picture()[:, :, 0]] * 3))


def test_first_page_counts() -> None:
    """Of several pages the first one is shown, whatever the others are like."""
    first = Image.fromarray(picture()[:, :, :3])
    others = [Image.new("L", (9, 5)), Image.new("1", (3, 2))]
    file = saved(first, save_all=True, append_images=others)
    assert Image.open(io.BytesIO(file)).n_frames == 3  # type: ignore[attr-defined]
    np.testing.assert_array_equal(shown(file), picture()[:, :, :3])


@pytest.mark.parametrize("bits", [8, 16])
def test_big_tiff_is_read(bits: int) -> None:
    """The form for more than 4 GiB gives the same picture."""
    levels = picture()[:, :, 0].astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    tags = layout(BLACK_IS_ZERO, [bits]) | {256: (LONG8, [WIDTH])}
    file = tiff(tags, [levels.tobytes()], big=True)
    np.testing.assert_array_equal(shown(file), np.dstack([picture()[:, :, 0]] * 3))


def read(data_dir: Path, name: str) -> bytes:
    return (data_dir / "decode" / "images" / name).read_bytes()


@pytest.mark.parametrize("kind", ["", "_lzw", "_lzma", "_bigtiff", "_float_dpi_2"])
def test_real_files_show_one_picture(data_dir: Path, kind: str) -> None:
    """One photograph in five files by other software prepares to the array of its PNG."""
    expected = shown(read(data_dir, "hopper.png"), 100, 60)
    np.testing.assert_array_equal(shown(read(data_dir, f"hopper{kind}.tif"), 100, 60), expected)


def test_real_jpeg_in_tiff_is_close(data_dir: Path) -> None:
    """The same photograph, compressed as JPEG in a TIFF, differs by little."""
    files = (read(data_dir, name) for name in ("hopper.tif", "hopper_jpg.tif"))
    exact, lossy = (shown(file, 128, 100).astype(int) for file in files)
    assert np.abs(exact - lossy).mean() < 4


def test_real_sixteen_bit_files_agree(data_dir: Path) -> None:
    """One picture of 16 bits, little-endian or big-endian and deflated, prepares to one array."""
    files = (read(data_dir, name) for name in ("16bit.cropped.tif", "16bit.MM.deflate.tif"))
    little, big = (shown(file, 48, 64) for file in files)
    np.testing.assert_array_equal(little, big)
    assert 1 <= little.min() <= little.max() <= 3  # 291 to 694 of 65535, not stretched


@pytest.mark.parametrize("orientation", range(2, 9))
def test_real_fax_pages_are_turned_upright(data_dir: Path, orientation: int) -> None:
    """A page scanned in each of the eight ways shows what the upright one shows."""
    upright, turned = (
        shown(read(data_dir, f"exif_orientation/g4_orientation_{number}.tif"), 88, 590)
        for number in (1, orientation)
    )
    assert np.abs(turned.astype(int) - upright).mean() < 1  # the number on the page differs


# --- refusals --------------------------------------------------------------------------------

GREY = layout(BLACK_IS_ZERO, [8])
ROWS = picture()[:, :, 0].tobytes()
SIGNED, FLOAT = 2, 3


def of_format(bits: int, sample_format: int) -> Tags:
    return layout(BLACK_IS_ZERO, [bits]) | {339: (SHORT, [sample_format])}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (of_format(32, FLOAT), "unsigned whole numbers .* sample format 3 .* of 32 bits"),
        (of_format(64, FLOAT), "sample format 3 .* of 64 bits"),
        (of_format(16, FLOAT), "sample format 3 .* of 16 bits"),
        (of_format(8, SIGNED), "sample format 2 .* of 8 bits"),
        (of_format(16, SIGNED), "sample format 2 .* of 16 bits"),
        (of_format(32, 1), "at most 16 bits; got sample format 1 .* of 32 bits"),
        (of_format(8, 4), "sample format 4"),
        (GREY | {259: (SHORT, [6])}, "expected a TIFF compressed by none, CCITT .*; got code 6"),
        (GREY | {259: (SHORT, [34676])}, "got code 34676"),
        (GREY | {259: (SHORT, [50001])}, "got code 50001"),
        (layout(BLACK_IS_ZERO, [16, 16]) | {338: (SHORT, [2])}, "samples of 16, 16 bits"),
        (layout(BLACK_IS_ZERO, [10]), "photometric 1 with samples of 10 bits"),
        (layout(9, [8] * 3), "photometric 9 with samples of 8, 8, 8 bits"),
        (layout(32803, [16]), "photometric 32803"),
    ],
)
def test_layout_without_a_clear_meaning_is_unsupported(tags: Tags, message: str) -> None:
    """Floating point, signs, 32 bits and rare layouts are refused with what came, never clipped."""
    with pytest.raises(UnsupportedMedia, match=message):
        shown(tiff(tags, [bytes(HEIGHT * WIDTH * 8)]))


def test_big_endian_big_tiff_is_unsupported() -> None:
    """The one signature of TIFF that no reader here understands counts as another type."""
    with pytest.raises(UnsupportedMedia, match="expected JPEG, PNG, WEBP, TIFF"):
        shown(tiff(GREY, [ROWS], ">", big=True))


def without(tag: int) -> Tags:
    return {one: value for one, value in GREY.items() if one != tag}


def tiled(width: int, height: int, tags: Tags = GREY) -> Tags:
    return tags | {322: (LONG, [width]), 323: (LONG, [height])}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (without(256), "expected whole numbers in TIFF tag 256"),
        (without(262), "expected whole numbers in TIFF tag 262"),
        (GREY | {256: (RATIONAL, [37, 1])}, "expected whole numbers in TIFF tag 256"),
        (GREY | {257: (LONG, [0])}, "expected a TIFF with pixels, got 37x0"),
        (layout(PALETTE, [8]), "expected whole numbers in TIFF tag 320"),
        (GREY | {273: (LONG, [10**6])}, "a part of the TIFF lies behind its end"),
        (GREY | {279: (LONG, [2**32 - 1])}, "a part of the TIFF lies behind its end"),
        (GREY | {278: (LONG, [0])}, "truncated or corrupt"),
        (GREY | {277: (SHORT, [60_000])}, "truncated or corrupt|of a usual depth"),
        (GREY | {259: (SHORT, [5])}, "truncated or corrupt"),
        (tiled(0, 16), "truncated or corrupt"),
        (tiled(16, 0), "truncated or corrupt"),
        (tiled(16, 16), "truncated or corrupt"),  # nine tiles, and only one is there
        (tiled(1, 1, layout(BLACK_IS_ZERO, [8], 7000, 7000)), f"at most {MAX_VALUES} tiles"),
        (GREY | {320: (SHORT, [1] * (MAX_VALUES + 1))}, "TIFF tag 320 has 262145 values"),
        (
            GREY | {tag: (SHORT, [0]) for tag in range(40_000, 40_000 + MAX_ENTRIES)},
            f"directory of at most {MAX_ENTRIES} entries",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_directory_that_contradicts_itself_is_broken(tags: Tags, message: str) -> None:
    """What a header claims and the file does not hold is refused before pixels are decoded."""
    with pytest.raises((BrokenMedia, UnsupportedMedia), match=message):
        shown(tiff(tags, [ROWS]))


@pytest.mark.parametrize(
    "tags",
    [
        layout(BLACK_IS_ZERO, [8], 21_000, 21_000),
        layout(BLACK_IS_ZERO, [1], 16_385, 1),
        tiled(40_000, 40_000),
        tiled(16, 2**32 - 16),
    ],
    ids=["pixels", "side", "tile", "tile-side"],
)
def test_size_over_the_limit_is_refused(tags: Tags) -> None:
    """A picture or a tile over the limits is refused from the directory."""
    with pytest.raises(MediaTooLarge, match=str(MAX_PIXELS)):
        shown(tiff(tags, [ROWS]))


def test_strip_of_all_rows_is_read() -> None:
    """The largest number of rows a strip can declare means: everything in one strip."""
    file = tiff(GREY | {278: (LONG, [2**32 - 1])}, [ROWS])
    np.testing.assert_array_equal(shown(file), np.dstack([picture()[:, :, 0]] * 3))


@pytest.mark.parametrize("photometric", [COLOUR, YCBCR])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_pixels_are_broken(photometric: int, share: float) -> None:
    """A directory at the front does not hide that the pixels behind it stop early."""
    tags = layout(photometric, [8] * 3) | {530: (SHORT, [1, 1])}
    samples = picture()[:, :, :3].tobytes()
    whole = tiff(tags, [b""])
    tags |= {273: (LONG, [len(whole)]), 279: (LONG, [len(samples)])}
    file = tiff(tags, [b""]) + samples
    assert shown(file).any()
    with pytest.raises(BrokenMedia, match="truncated"):
        shown(file[: int(len(whole) + len(samples) * share)])


def test_directory_that_leads_in_a_circle_is_read() -> None:
    """A page whose successor is itself is a page."""
    file = bytearray(tiff(GREY, [ROWS]))
    (first,) = struct.unpack_from("<I", file, 4)
    struct.pack_into("<I", file, len(file) - 8, first)
    np.testing.assert_array_equal(shown(bytes(file)), np.dstack([picture()[:, :, 0]] * 3))


def test_numbers_of_the_exif_data_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of EXIF data is never unpacked: it may hold millions of numbers."""
    made: list[int] = []
    original = TiffImagePlugin.IFDRational.__init__

    def counting(self: Any, *arguments: Any) -> None:
        made.append(1)
        original(self, *arguments)

    monkeypatch.setattr(TiffImagePlugin.IFDRational, "__init__", counting)
    numbers = struct.pack("<II", 1, 3) * 5000
    probe = len(tiff(GREY | {34665: (LONG, [0])}, [ROWS]))
    exif = struct.pack("<HHHII", 1, 33434, RATIONAL, 5000, probe + 18) + bytes(4) + numbers
    file = tiff(GREY | {34665: (LONG, [probe])}, [ROWS]) + exif
    np.testing.assert_array_equal(shown(file), np.dstack([picture()[:, :, 0]] * 3))
    assert len(made) < 10


def test_table_of_compressions_is_what_the_decoder_has() -> None:
    """Every code of the table is known to the decoder by a name."""
    assert set(COMPRESSIONS) <= set(TiffImagePlugin.COMPRESSION_INFO)
