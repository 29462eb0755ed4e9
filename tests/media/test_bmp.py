"""BMP: every depth and arrangement shows the picture that was meant."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.images.bmp import MAX_RUN_LENGTH_PIXELS, SLACK_BYTES
from media.images.image import prepare
from media.spec import InputSpec

HEIGHT, WIDTH = 7, 13  # rows are filled up in every depth
RGB = InputSpec(background=(10, 200, 90))
PLAIN, RLE8, RLE4, BIT_FIELDS, JPEG = 0, 1, 2, 3, 4


def bmp(
    bits: int,
    rows: bytes,
    palette: bytes = b"",
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    compression: int = PLAIN,
    header: int = 40,
    colours: int = 0,
    masks: tuple[int, ...] = (),
) -> bytes:
    """A file from its parts; ``size`` is (width, height), negative where the top row is first."""
    info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, 0, 0, 0, colours, 0)
    info = (info + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows


def indices(colours: int) -> np.ndarray:
    """[h, w] of whole numbers below ``colours``, without symmetry; 0 and 1 are among them."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (rows * 5 + columns * 3) % 11 % colours


def rows_of(pixels: np.ndarray, bits: int, top_first: bool = False) -> bytes:
    """Rows [h, w] of whole numbers as they are stored: from below, in multiples of 4 bytes."""
    places = np.arange(bits - 1, -1, -1)
    singles = (pixels[:, :, None].astype(np.uint64) >> places.astype(np.uint64)) & 1  # [h, w, bits]
    packed = np.packbits(singles.reshape(len(pixels), -1).astype(np.uint8), axis=1)
    if bits > 8:  # numbers of several bytes are little-endian
        packed = packed.reshape(len(pixels), -1, bits // 8)[:, :, ::-1].reshape(len(pixels), -1)
    packed = np.pad(packed, [(0, 0), (0, -packed.shape[1] % 4)])
    return packed[:: 1 if top_first else -1].tobytes()


def colour_table(count: int) -> tuple[np.ndarray, bytes]:
    """Colours [count, 3] and the palette that holds them: blue, green, red, nothing."""
    colours = np.random.default_rng(count).integers(0, 256, (count, 3), dtype=np.uint8)
    return colours, b"".join(bytes([*colour[::-1], 0]) for colour in colours)


def shown(data: bytes, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return prepare(data, RGB, (height, width))


@pytest.mark.parametrize("top_first", [False, True])
@pytest.mark.parametrize("header", [40, 52, 56, 64, 108, 124])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palette_is_expanded(bits: int, header: int, top_first: bool) -> None:
    """Indices of every depth show their colours, whatever the version, from below or from above."""
    colours, palette = colour_table(2**bits)
    chosen = indices(2**bits)
    size = (WIDTH, -HEIGHT if top_first else HEIGHT)
    file = bmp(bits, rows_of(chosen, bits, top_first), palette, size=size, header=header)
    np.testing.assert_array_equal(shown(file), colours[chosen])


BLACK_WHITE = bytes([0, 0, 0, 0, 255, 255, 255, 0])


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("inverted", [False, True])
def test_black_and_white_is_read_at_every_depth(bits: int, inverted: bool) -> None:
    """A mask of 8 or 4 bits whose palette has two entries is not taken for single bits."""
    palette = BLACK_WHITE[4:] + BLACK_WHITE[:4] if inverted else BLACK_WHITE
    chosen = indices(2)
    expected = 255 * (1 - chosen if inverted else chosen)
    file = bmp(bits, rows_of(chosen, bits), palette, colours=2)
    np.testing.assert_array_equal(shown(file), np.dstack([expected] * 3))


@pytest.mark.parametrize(("bits", "colours"), [(1, 8), (4, 16), (4, 0), (8, 256), (8, 100)])
def test_palette_of_its_own_numbers_is_read_or_refused(bits: int, colours: int) -> None:
    """Greys 0, 1, 2, ... are read at 8 bits; at fewer, Pillow would take them for 8."""
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(colours or 2**bits))
    chosen = indices(2**bits)
    file = bmp(bits, rows_of(chosen, bits), palette, colours=colours)
    if bits == 8:
        np.testing.assert_array_equal(shown(file), np.dstack([chosen] * 3))
        return
    with pytest.raises(UnsupportedMedia, match=f"whose {bits} bits choose more than steps of grey"):
        shown(file)


def test_old_header_is_read() -> None:
    """The first version has short sides and a palette of three bytes an entry."""
    colours, _ = colour_table(256)
    palette = colours[:, ::-1].tobytes()
    start = 14 + 12 + len(palette)
    info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 8)
    rows = rows_of(indices(256), 8)
    file = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows
    np.testing.assert_array_equal(shown(file), colours[indices(256)])


#: Bits, masks, and the shares of red, green, blue (and alpha) in a stored number.
FIELDS = {
    "555": (16, (), (10, 5, 0), (31, 31, 31)),
    "565": (16, (0xF800, 0x7E0, 0x1F), (11, 5, 0), (31, 63, 31)),
    "24": (24, (), (16, 8, 0), (255, 255, 255)),
    "32": (32, (), (16, 8, 0), (255, 255, 255)),
    "xbgr": (32, (0xFF000000, 0xFF0000, 0xFF00), (24, 16, 8), (255, 255, 255)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_direct_colour_is_scaled(name: str) -> None:
    """The largest share of a colour is 255, however many bits it has; unused bits mean nothing."""
    bits, masks, shifts, largest = FIELDS[name]
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = [columns * 2, rows * 4, (rows + columns) * 1]
    levels = np.dstack([one * top // 31 for one, top in zip(channels, largest, strict=True)])
    stored = sum(levels[:, :, one].astype(np.int64) << shifts[one] for one in range(3))
    compression = BIT_FIELDS if masks else PLAIN
    file = bmp(bits, rows_of(np.asarray(stored), bits), masks=masks, compression=compression)
    expected = levels * 255 / np.array(largest)
    assert np.abs(shown(file) - expected).max() <= 1


ALPHA_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def with_alpha(alpha: np.ndarray) -> bytes:
    """A file of one colour with an alpha channel that the header declares."""
    stored = (alpha.astype(np.int64) << 24) | 0x2850C8
    return bmp(32, rows_of(stored, 32), header=108, compression=BIT_FIELDS, masks=ALPHA_MASKS)


def test_declared_alpha_is_blended() -> None:
    """A channel that a mask declares as alpha lets the background through."""
    alpha = indices(11) * 25
    share = alpha[:, :, None] / 255
    expected = share * np.array([0x28, 0x50, 0xC8]) + (1 - share) * np.array(RGB.background)
    assert np.abs(shown(with_alpha(alpha)) - expected).max() <= 1


def test_alpha_that_nobody_filled_in_is_none() -> None:
    """A picture whose alpha is zero everywhere is shown, not left blank."""
    assert (shown(with_alpha(np.zeros((HEIGHT, WIDTH)))) == (0x28, 0x50, 0xC8)).all()


def run_lengths(pixels: np.ndarray, bits: int) -> bytes:
    """Rows from below: runs in even rows, literal pixels in odd ones, a mark behind each row."""
    data = b""
    for number, row in enumerate(pixels[::-1].tolist()):
        if number % 2:
            packed = bytes(row) if bits == 8 else bytes(
                (high << 4) | low for high, low in zip(row[::2], [*row[1::2], 0], strict=False)
            )  # fmt: skip
            data += bytes([0, len(row)]) + packed + bytes(len(packed) % 2)
        else:
            data += b"".join(bytes([1, one if bits == 8 else one << 4]) for one in row)
        data += b"\0\0"
    return data + b"\0\1"


@pytest.mark.parametrize(("bits", "compression"), [(8, RLE8), (4, RLE4)])
@pytest.mark.parametrize("count", [2, 16])
def test_run_lengths_are_decoded(bits: int, compression: int, count: int) -> None:
    """Runs and literals show what the plain file shows."""
    colours, palette = (
        (np.array([[0] * 3, [255] * 3]), BLACK_WHITE) if count == 2 else colour_table(count)
    )
    chosen = indices(count)
    file = bmp(bits, run_lengths(chosen, bits), palette, compression=compression, colours=count)
    np.testing.assert_array_equal(shown(file), colours[chosen])


def test_run_lengths_are_limited() -> None:
    """They are decoded slowly: too many pixels, or far more codes than pixels, are refused."""
    side = int(MAX_RUN_LENGTH_PIXELS**0.5)
    _, palette = colour_table(256)
    with pytest.raises(MediaTooLarge, match=str(MAX_RUN_LENGTH_PIXELS)):
        shown(bmp(8, b"\0\1", palette, size=(side + 1, -side - 1), compression=RLE8))
    with pytest.raises(BrokenMedia, match="more run lengths than pixels"):
        shown(bmp(8, b"\0\0" * SLACK_BYTES, palette, compression=RLE8))


@pytest.mark.parametrize(
    ("file", "problem", "message"),
    [
        (bmp(2, bytes(99)), UnsupportedMedia, "got 2 bits and compression 0"),
        (bmp(24, bytes(999), compression=JPEG), UnsupportedMedia, "got 24 bits and compression 4"),
        (
            bmp(32, bytes(999), compression=BIT_FIELDS, masks=(0x3FF, 0xFFC00, 0x3FF00000)),
            UnsupportedMedia,
            "usual bit fields",
        ),
        (b"BM is how this text begins, and it goes on", UnsupportedMedia, "none of them"),
        (bmp(24, b"")[:17], UnsupportedMedia, "none of them"),
        (bmp(24, b"", size=(21_000, 21_000)), MediaTooLarge, "at most 50000000 pixels"),
        (bmp(24, b"", size=(16_385, 1)), MediaTooLarge, "16384 per side"),
        (bmp(24, b"", size=(-5, 5)), MediaTooLarge, "at most 50000000 pixels"),
        (bmp(24, b"", size=(0, 5)), BrokenMedia, "truncated or corrupt"),
        (bmp(24, bytes(50)), BrokenMedia, "truncated or corrupt"),
        (bmp(8, bytes(999), colours=2**30), BrokenMedia, "truncated or corrupt"),
    ],
)
def test_header_that_cannot_be_met_is_refused(
    file: bytes, problem: type[MediaError], message: str
) -> None:
    """A depth, a size or a beginning that is none of ours is told apart from broken pixels."""
    with pytest.raises(problem, match=message):
        shown(file)


TWINS = {
    "pal8.bmp": ["pal8-0", "pal8os2", "pal8rle", "pal8topdown", "pal8v4", "pal8v5"],
    "pal4.bmp": ["pal4rle"],
    "pal1.bmp": ["pal1wb"],
    "rgb24.bmp": ["rgb24pal", "rgb32"],
    "rgb16-565.bmp": ["rgb16-565pal"],
}


@pytest.mark.parametrize(
    ("name", "twin"), [(name, twin) for name, twins in TWINS.items() for twin in twins]
)
def test_real_files_show_one_picture(data_dir: Path, name: str, twin: str) -> None:
    """One picture in every version, direction and packing prepares to one array."""
    folder = data_dir / "decode" / "images" / "bmp"
    files = ((folder / one).read_bytes() for one in (name, f"{twin}.bmp"))
    one, other = (shown(file, 64, 127) for file in files)
    np.testing.assert_array_equal(one, other)


def test_real_depths_are_close(data_dir: Path) -> None:
    """The same drawing with 5 or 6 bits a colour and with 8 differs by little."""
    folder = data_dir / "decode" / "images" / "bmp"
    full, *others = (
        shown((folder / f"{name}.bmp").read_bytes(), 64, 127).astype(int)
        for name in ("rgb24", "rgb16", "rgb16-565")
    )
    assert max(np.abs(full - other).mean() for other in others) < 3
