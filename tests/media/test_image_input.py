"""Still images: from the bytes that clients send to the array that enters the network.

Pixels are made here and encoded here, and are never square, so that a swapped axis shows.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms, TiffImagePlugin

from media import prepare as prepare_media
from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.images.image import prepare
from media.limits import MAX_PIXELS, MAX_SIDE
from media.spec import Grid, InputSpec

HEIGHT, WIDTH = 32, 48
RGB = InputSpec()
GREY = InputSpec(channels=1, mean=(0.5,), std=(0.5,))
#: Types that keep every pixel, alpha and EXIF data.
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}}
EXACT = LOSSLESS | {"TIFF": {}, "BMP": {}}
TYPES = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Red rises to the right, green downwards, blue marks one corner; no symmetry at all."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.zeros((height, width, 3), dtype=np.uint8)  # [h, w, 3]
    pixels[:, :, 0] = columns * 255 // (width - 1)
    pixels[:, :, 1] = rows * 255 // (height - 1)
    pixels[: height // 4, : width // 3, 2] = 255
    return pixels


def encode(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """An array or a Pillow image as a file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """A small JPEG whose frame header announces another size."""
    data = bytearray(encode(picture(), "JPEG"))
    start = data.index(b"\xff\xc0") + 5  # after the marker, its length and the precision
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    """A small lossless WebP whose header announces another size (14 bits per side)."""
    data = bytearray(encode(picture(), "WEBP", lossless=True))
    start = data.index(b"VP8L") + 9  # after the name, the chunk's length and the signature
    flags = int.from_bytes(data[start : start + 4], "little") >> 28 << 28
    sides = (width - 1) | (height - 1) << 14
    data[start : start + 4] = (sides | flags).to_bytes(4, "little")
    return bytes(data)


def tiff_header(width: int, height: int) -> bytes:
    """A small TIFF whose directory announces another size."""
    data = bytearray(encode(picture(), "TIFF"))
    for tag, value in ((256, width), (257, height)):  # both SHORT or LONG, one value each
        place = data.index(struct.pack("<H", tag) + b"\4\0\1\0\0\0")
        struct.pack_into("<I", data, place + 8, value)
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    """A small BMP whose header announces another size."""
    data = bytearray(encode(picture(), "BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    """A small GIF whose canvas is of another size than its frame."""
    data = bytearray(encode(picture(), "GIF"))
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


# --- types -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_image_of_the_right_size_passes_untouched(kind: str, fit: Any, interpolation: Any) -> None:
    """A lossless file that already has the target's size comes out value for value."""
    spec = InputSpec(fit=fit, interpolation=interpolation)
    prepared = prepare(encode(picture(), kind, **EXACT[kind]), spec, (HEIGHT, WIDTH))
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared, picture())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_image_stays_close_to_its_pixels(kind: str) -> None:
    """What a lossy file shows is what was encoded, within a few levels away from the edges."""
    smooth = picture()
    smooth[:, :, 2] = 90
    prepared = prepare(encode(smooth, kind, quality=95), RGB, (HEIGHT, WIDTH))
    assert largest_difference(prepared, smooth) <= 12


@pytest.mark.parametrize("target", [(20, 44), (44, 20), (100, 70)])
def test_exact_types_agree(target: tuple[int, int]) -> None:
    """All lossless encodings of one picture prepare to one array, at any size."""
    files = [encode(picture(), kind, **options) for kind, options in EXACT.items()]
    first, *others = (prepare(file, RGB, target) for file in files)
    assert first.shape == (*target, 3)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_gif_equals_png_of_its_colours() -> None:
    """A picture of at most 256 colours is the same as GIF."""
    few = picture() // 64 * 64
    file = encode(Image.fromarray(few).quantize(256), "GIF")
    for target in ((HEIGHT, WIDTH), (20, 44)):
        expected = prepare(encode(few, "PNG"), RGB, target)
        np.testing.assert_array_equal(prepare(file, RGB, target), expected)


def test_array_equals_its_file() -> None:
    """A data set's decoded array takes the same way as a file with the same pixels."""
    target = (24, 30)
    from_file = prepare(encode(picture(), "PNG"), RGB, target)
    np.testing.assert_array_equal(prepare(picture(), RGB, target), from_file)


def test_grid_decides_the_size() -> None:
    """The array has the pixels of the grid: height first, tokens times patch."""
    prepared = prepare_media(encode(picture(), "PNG"), RGB, Grid((3, 8)), (4, 2))
    assert prepared.shape == (12, 16, 3)


def test_animation_shows_its_first_frame() -> None:
    """Of an animated PNG or WebP only the first frame counts, of a TIFF the first page."""
    first, second = Image.fromarray(picture()), Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9))
    for kind, options in (LOSSLESS | {"TIFF": {}}).items():
        file = encode(first, kind, save_all=True, append_images=[second], **options)
        assert Image.open(io.BytesIO(file)).n_frames == 2  # type: ignore[attr-defined]
        np.testing.assert_array_equal(prepare(file, RGB, (HEIGHT, WIDTH)), picture())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colour_profile_changes_nothing(kind: str) -> None:
    """An embedded ICC profile is ignored: pixels are taken as they stand."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    file = encode(picture(), kind, icc_profile=profile)
    assert "icc_profile" in Image.open(io.BytesIO(file)).info
    np.testing.assert_array_equal(prepare(file, RGB, (HEIGHT, WIDTH)), picture())


# --- orientation -----------------------------------------------------------------------------

#: EXIF orientation -> the upright pixels as a camera held that way stores them.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def oriented(upright: np.ndarray, orientation: int, kind: str, **options: Any) -> bytes:
    """A file that stores ``upright`` turned, and says so in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    return encode(stored, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", LOSSLESS | {"TIFF": {}})
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_gives_the_upright_picture(kind: str, orientation: int) -> None:
    """However the camera was held, the prepared array is the same, before and after resampling."""
    file = oriented(picture(), orientation, kind, **EXACT[kind])
    np.testing.assert_array_equal(prepare(file, RGB, (HEIGHT, WIDTH)), picture())
    np.testing.assert_array_equal(
        prepare(file, RGB, (20, 44)), prepare(encode(picture(), "PNG"), RGB, (20, 44))
    )


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_of_a_large_jpeg_survives_the_scaled_decode(orientation: int) -> None:
    """A photograph that is scaled down while it is decoded still comes out upright."""
    upright = picture(256, 384)
    file = oriented(upright, orientation, "JPEG", quality=95, subsampling=0)
    prepared = prepare(file, RGB, (16, 24))
    assert largest_difference(prepared, prepare(upright, RGB, (16, 24))) <= 12


def test_orientation_leaves_other_exif_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turning a picture upright never unpacks its EXIF data: there may be millions of numbers."""
    made: list[int] = []
    original = TiffImagePlugin.IFDRational.__init__

    def counting(self: Any, *arguments: Any) -> None:
        made.append(1)
        original(self, *arguments)

    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x829A] = tuple(TiffImagePlugin.IFDRational(1, 3) for _ in range(5000))
    stored = np.ascontiguousarray(STORED[6](picture()))
    file = encode(stored, "PNG", exif=exif)
    monkeypatch.setattr(TiffImagePlugin.IFDRational, "__init__", counting)
    np.testing.assert_array_equal(prepare(file, RGB, (HEIGHT, WIDTH)), picture())
    assert len(made) < 10


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_real_files_is_applied(data_dir: Path, orientation: int) -> None:
    """Turned photographs written by other software show what the upright one shows."""
    folder = data_dir / "decode" / "images" / "exif_orientation"
    turned = (folder / f"hopper_orientation_{orientation}.jpg").read_bytes()
    reference = (folder / "hopper_orientation_2.jpg").read_bytes()
    size = (48, 64)
    difference = np.abs(
        prepare(turned, RGB, size).astype(int) - prepare(reference, RGB, size).astype(int)
    )
    assert difference.mean() < 2.0


# --- colour and transparency -----------------------------------------------------------------


def test_palette_is_expanded() -> None:
    """A palette image shows its palette's colours, not their numbers."""
    indices = (np.arange(HEIGHT * WIDTH, dtype=np.uint8) % 3).reshape(HEIGHT, WIDTH)
    colours = np.array([[250, 10, 20], [30, 240, 40], [50, 60, 230]], dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.reshape(-1).tolist())
    image.putpalette(colours.reshape(-1).tolist())
    file = encode(image, "PNG")
    assert Image.open(io.BytesIO(file)).mode == "P"
    np.testing.assert_array_equal(prepare(file, RGB, (HEIGHT, WIDTH)), colours[indices])


BACKGROUNDS = [(255, 255, 255), (10, 200, 90)]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_transparent_palette_shows_the_background(background: tuple[int, int, int]) -> None:
    """Palette entries that are transparent, half or wholly, let the background through."""
    indices = np.tile(np.arange(3, dtype=np.uint8), (4, 2))  # [4, 6]
    colours = np.array([[250, 10, 20], [30, 240, 40], [50, 60, 230]], dtype=np.uint8)
    image = Image.new("P", (6, 4))
    image.putpalette(colours.reshape(-1).tolist())
    image.putdata(indices.reshape(-1).tolist())
    file = encode(image, "PNG", transparency=bytes([255, 0, 128]))
    prepared = prepare(file, InputSpec(background=background), (4, 6))
    alpha = np.array([255, 0, 128])[indices][:, :, None] / 255  # [4, 6, 1]
    expected = alpha * colours[indices] + (1 - alpha) * np.array(background)  # [4, 6, 3]
    assert np.abs(prepared - expected).max() <= 1.0
    np.testing.assert_array_equal(prepared[:, 0], colours[indices][:, 0])
    assert (prepared[:, 1] == background).all()


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_transparency_is_blended_onto_the_background(
    background: tuple[int, int, int], mode: str, kind: str
) -> None:
    """Opaque pixels stay, clear ones become the background, others lie in proportion between."""
    colours = picture(6, 9)
    if mode == "LA":
        colours = np.repeat(colours[:, :, :1], 3, axis=2)  # [6, 9, 3]
    alpha = np.tile(np.array([0, 64, 255], dtype=np.uint8), (6, 3))  # [6, 9]
    rgba = Image.fromarray(np.dstack([colours, alpha]))
    file = encode(rgba.convert(mode), kind, **LOSSLESS[kind])
    prepared = prepare(file, InputSpec(background=background), (6, 9))
    share = alpha[:, :, None] / 255
    expected = share * colours + (1 - share) * np.array(background)  # [6, 9, 3]
    assert np.abs(prepared - expected).max() <= 1.0
    assert (prepared[alpha == 0] == background).all()
    np.testing.assert_array_equal(prepared[alpha == 255], colours[alpha == 255])


def test_transparency_is_blended_before_resampling() -> None:
    """The colour that hides under clear pixels never leaks into their neighbours."""
    pixels = np.zeros((8, 12, 4), dtype=np.uint8)  # [h, w, 4]
    pixels[:, :6] = (0, 0, 255, 255)
    pixels[:, 6:] = (255, 0, 0, 0)  # clear, with red underneath
    prepared = prepare(encode(pixels, "PNG"), InputSpec(background=(0, 0, 255)), (4, 6))
    assert (prepared == (0, 0, 255)).all()


def test_transparent_colour_of_an_opaque_mode_shows_the_background() -> None:
    """The one colour that a PNG without alpha may declare clear becomes the background."""
    pixels = np.full((4, 6, 3), (40, 50, 60), dtype=np.uint8)
    pixels[:, ::2] = (1, 2, 3)
    file = encode(pixels, "PNG", transparency=(1, 2, 3))
    prepared = prepare(file, InputSpec(background=(10, 200, 90)), (4, 6))
    assert (prepared[:, ::2] == (10, 200, 90)).all()
    assert (prepared[:, 1::2] == (40, 50, 60)).all()


def test_one_bit_becomes_black_and_white() -> None:
    """A 1-bit scan has the values 0 and 255, not 0 and 1."""
    bits = picture()[:, :, 0] > 100
    file = encode(Image.fromarray(bits), "PNG")
    assert Image.open(io.BytesIO(file)).mode == "1"
    prepared = prepare(file, RGB, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(prepared, np.repeat(bits[:, :, None] * 255, 3, axis=2))


WIDE = np.array([[0, 128, 129, 256, 257, 300], [32767, 32768, 40000, 65406, 65407, 65535]])
NARROW = np.array([[0, 0, 1, 1, 1, 1], [127, 128, 156, 254, 255, 255]])  # round(wide / 257)


@pytest.mark.parametrize("as_file", [True, False])
def test_sixteen_bits_are_scaled_not_clipped(as_file: bool) -> None:
    """65535 is white and everything else lies in proportion, rounded to the nearest level."""
    pixels = WIDE.astype(np.uint16)
    media = encode(pixels, "PNG") if as_file else pixels
    if isinstance(media, bytes):
        assert Image.open(io.BytesIO(media)).mode.startswith("I;16")
    np.testing.assert_array_equal(prepare(media, GREY, (2, 6))[:, :, 0], NARROW)
    np.testing.assert_array_equal(prepare(media, RGB, (2, 6)), np.dstack([NARROW] * 3))


def test_sixteen_bits_are_compared_whole_with_the_transparent_value() -> None:
    """A 16-bit transparent value clears its own pixels and no neighbour of the same 8-bit level."""
    file = encode(WIDE.astype(np.uint16), "PNG", transparency=257)
    prepared = prepare(file, InputSpec(background=(10, 200, 90)), (2, 6))
    assert (prepared[WIDE == 257] == (10, 200, 90)).all()
    np.testing.assert_array_equal(prepared[WIDE != 257], np.dstack([NARROW] * 3)[WIDE != 257])


def test_cmyk_keeps_its_colours() -> None:
    """A CMYK JPEG, whose inks are stored inverted, shows the colours that were meant."""
    smooth = picture()
    smooth[:, :, 2] = 90
    image = Image.fromarray(smooth).convert("CMYK")
    file = encode(image, "JPEG", quality=95)
    assert Image.open(io.BytesIO(file)).mode == "CMYK"
    prepared = prepare(file, RGB, (HEIGHT, WIDTH))
    assert largest_difference(prepared, np.asarray(image.convert("RGB"))) <= 12


def test_cmyk_of_real_files_matches_their_rgb_twin(data_dir: Path) -> None:
    """One picture saved as CMYK and as RGB by other software prepares to nearly one array."""
    folder = data_dir / "decode" / "images"
    cmyk, rgb = (
        prepare((folder / f"pil_sample_{name}.jpg").read_bytes(), RGB, (40, 60))
        for name in ("cmyk", "rgb")
    )
    difference = np.abs(cmyk.astype(int) - rgb.astype(int))
    assert difference.mean() < 12.0


def test_grey_becomes_three_equal_channels() -> None:
    """A grey picture enters an RGB model with its value in every channel."""
    grey = picture()[:, :, 0]
    prepared = prepare(encode(grey, "PNG"), RGB, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(prepared, np.dstack([grey] * 3))


def test_colour_becomes_one_channel() -> None:
    """A grey model gets luma (ITU-R 601), and its array still has a channel axis."""
    prepared = prepare(encode(picture(), "PNG"), GREY, (HEIGHT, WIDTH))
    assert prepared.shape == (HEIGHT, WIDTH, 1)
    luma = picture() @ np.array([0.299, 0.587, 0.114])  # [h, w]
    assert np.abs(prepared[:, :, 0] - luma).max() <= 1.0


# --- geometry --------------------------------------------------------------------------------


def coordinates(height: int, width: int) -> np.ndarray:
    """Every pixel holds its own column in red and its own row in green."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([columns, rows, np.zeros_like(rows)]).astype(np.uint8)  # [h, w, 3]


@pytest.mark.parametrize(
    ("source", "target"),
    [((40, 80), (40, 20)), ((81, 40), (21, 40)), ((90, 60), (90, 31)), ((30, 200), (30, 60))],
)
def test_crop_takes_the_centre_untouched(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Where one side fits already, the target is the middle of the source, pixel for pixel."""
    top, left = (source[0] - target[0]) // 2, (source[1] - target[1]) // 2
    prepared = prepare(coordinates(*source), RGB, target)
    if (source[0] - target[0]) % 2 or (source[1] - target[1]) % 2:  # a cut between two pixels
        assert abs(prepared[:, :, 0].mean() - (source[1] - 1) / 2) < 0.51
        assert abs(prepared[:, :, 1].mean() - (source[0] - 1) / 2) < 0.51
    else:
        expected = coordinates(*source)[top : top + target[0], left : left + target[1]]
        np.testing.assert_array_equal(prepared, expected)


@pytest.mark.parametrize("source", [(120, 200), (200, 120), (64, 250), (250, 64)])
@pytest.mark.parametrize("target", [(10, 40), (40, 10), (16, 24)])
def test_crop_takes_the_largest_centred_box(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    """Each target pixel shows the source at its place in the largest centred box of that shape."""
    scale = min(source[0] / target[0], source[1] / target[1])
    prepared = prepare(coordinates(*source), RGB, target)
    for channel, axis in ((0, 1), (1, 0)):
        first = (source[axis] - target[axis] * scale) / 2
        place = first + (np.arange(target[axis]) + 0.5) * scale - 0.5  # pixel centres
        line = prepared[0, :, channel] if axis == 1 else prepared[:, 0, channel]
        assert np.abs(line - place)[1:-1].max() <= 1.0
        assert np.abs(line - place).max() <= max(1.0, scale / 4)  # filters lean at the border


def test_stretch_keeps_the_corners() -> None:
    """Every corner of the source is a corner of the target, whatever the shapes."""
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)  # [h, w, 3]
    corners = {
        (0, 0): (255, 0, 0), (0, -1): (0, 255, 0), (-1, 0): (0, 0, 255), (-1, -1): (255, 255, 0),
    }  # fmt: skip
    for (row, column), colour in corners.items():
        rows = slice(0, 20) if row == 0 else slice(-20, None)
        columns = slice(0, 20) if column == 0 else slice(-20, None)
        pixels[rows, columns] = colour
    prepared = prepare(pixels, InputSpec(fit="stretch"), (24, 12))
    for (row, column), colour in corners.items():
        assert np.abs(prepared[row, column] - np.array(colour)).max() <= 2, (row, column)


def test_crop_drops_what_stretch_keeps() -> None:
    """A wide source loses its ends to a tall target with crop, and only with crop."""
    pixels = coordinates(40, 200)
    cropped = prepare(pixels, InputSpec(fit="crop"), (40, 20))
    stretched = prepare(pixels, InputSpec(fit="stretch"), (40, 20))
    assert (cropped[:, :, 0].min(), cropped[:, :, 0].max()) == (90, 109)
    assert stretched[:, :, 0].min() < 10
    assert stretched[:, :, 0].max() > 189


@example(source=(23, 23), target=(336, 336), fit="crop")  # 336 * (23 / 336) is more than 23
@example(source=(1039, 446), target=(443, 215), fit="crop")
@given(
    source=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    fit=st.sampled_from(["crop", "stretch"]),
)
def test_geometry_never_invents_a_colour(
    source: tuple[int, int], target: tuple[int, int], fit: Any
) -> None:
    """A picture of one colour stays that colour at every size, and has the target's shape."""
    colour = np.array([200, 17, 93], dtype=np.uint8)
    pixels = np.broadcast_to(colour, (*source, 3)).copy()
    prepared = prepare(pixels, InputSpec(fit=fit), target)
    assert prepared.shape == (*target, 3)
    assert (prepared == colour).all()


def waves(height: int, width: int) -> np.ndarray:
    """A smooth picture without symmetry, in which a shift by a pixel shows."""
    rows, columns = np.mgrid[0:height, 0:width] / 100.0
    channels = [np.sin(columns + rows), np.cos(2 * rows), np.sin(3 * columns)]
    return (127 + 120 * np.dstack(channels)).astype(np.uint8)  # [h, w, 3]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("source", [(896, 1200), (897, 1193)])
def test_scaled_decode_stays_close_to_the_full_one(
    source: tuple[int, int], orientation: int
) -> None:
    """Scaling a large JPEG down while it is decoded moves nothing, at odd sides either."""
    file = oriented(waves(*source), orientation, "JPEG", quality=95, subsampling=0)
    for target in ((24, 32), (32, 24)):
        full = prepare(waves(*source), RGB, target)
        assert largest_difference(prepare(file, RGB, target), full) <= 6


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"this is a text that calls itself photo.jpg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF88a" + bytes(40),
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"%PDF-1.7",
        b"BM begins this text, and is no picture",
        b"II is the second of its name*",
        b"MM\0+\0\x08\0\0" + bytes(40),
    ],
    ids=["empty", "two-bytes", "text", "svg", "gif88", "wave", "pdf", "bm", "ii", "big-tiff"],
)
def test_other_types_are_unsupported(data: bytes) -> None:
    """The leading bytes decide: what is none of the six types is refused unread."""
    with pytest.raises(UnsupportedMedia, match="expected JPEG, PNG, WEBP, TIFF, BMP, GIF bytes"):
        prepare(data, RGB, (HEIGHT, WIDTH))


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "PCX", "JPEG2000", "DDS", "SGI"])
def test_other_decoders_are_out_of_reach(kind: str) -> None:
    """Types that Pillow could read and that we do not mean to expose are unsupported."""
    with pytest.raises(UnsupportedMedia):
        prepare(encode(picture(), kind), RGB, (HEIGHT, WIDTH))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_image_is_broken(kind: str, share: float) -> None:
    """A file that stops early is refused, not filled up with grey."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    file = encode(noise, kind)
    with pytest.raises(BrokenMedia, match="truncated"):
        prepare(file[: int(len(file) * share)], RGB, (HEIGHT, WIDTH))


STARTS = {
    "jpeg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "webp": b"RIFF\x40\0\0\0WEBP",
    "tiff": b"II*\0\x08\0\0\0",
    "tiff-mm": b"MM\0*\0\0\0\x08",
    "big-tiff": b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
    "gif": b"GIF89a",
    "bmp": b"BM" + bytes(12) + b"\x28\0\0\0",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@given(rest=st.binary(max_size=200))
def test_bytes_behind_a_right_start_end_as_a_media_error(start: bytes, rest: bytes) -> None:
    """Whatever follows a right beginning, the only way out besides an array is a MediaError."""
    try:
        assert prepare(start + rest, RGB, (8, 12)).shape == (8, 12, 3)
    except MediaError as error:
        assert_says_nothing_internal(error)


@pytest.mark.parametrize("kind", TYPES)
def test_flipped_bytes_end_as_a_media_error(kind: str) -> None:
    """A file with a few wrong bytes gives an array or a MediaError, never another exception."""
    draw = np.random.default_rng(1)
    file = encode(picture(), kind)
    for _ in range(150):
        broken = bytearray(file)
        for place in draw.integers(0, len(file), 3):
            broken[place] = draw.integers(0, 256)
        try:
            prepare(bytes(broken), RGB, (8, 12))
        except MediaError as error:
            assert_says_nothing_internal(error)


HEADERS = {
    "PNG": png_header,
    "JPEG": jpeg_header,
    "WEBP": webp_header,
    "TIFF": tiff_header,
    "BMP": bmp_header,
    "GIF": gif_header,
}


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [
        ("PNG", 21_000, 21_000),
        ("PNG", 8_000, 8_000),
        ("PNG", MAX_SIDE + 1, 1),
        ("PNG", 1, MAX_SIDE + 1),
        ("JPEG", 21_000, 21_000),
        ("JPEG", MAX_SIDE + 1, 16),
        ("WEBP", 16_383, 16_383),
        ("WEBP", 8_000, 8_000),
        ("TIFF", 21_000, 21_000),
        ("TIFF", 1, MAX_SIDE + 1),
        ("BMP", 8_000, 8_000),
        ("BMP", MAX_SIDE + 1, 1),
        ("GIF", 65_535, 65_535),
        ("GIF", 8_000, 8_000),
        ("GIF", 1, MAX_SIDE + 1),
    ],
)
def test_size_over_the_limit_is_refused(kind: str, width: int, height: int) -> None:
    """Too many pixels in all or along one side is another refusal than broken bytes."""
    assert width * height > MAX_PIXELS or max(width, height) > MAX_SIDE
    with pytest.raises(MediaTooLarge, match=str(MAX_PIXELS)):
        prepare(HEADERS[kind](width, height), RGB, (HEIGHT, WIDTH))


def test_largest_side_is_accepted() -> None:
    """The limit itself is still allowed."""
    line = np.full((1, MAX_SIDE, 3), (9, 8, 7), dtype=np.uint8)
    prepared = prepare(encode(line, "PNG"), InputSpec(fit="stretch"), (2, 3))
    assert (prepared == (9, 8, 7)).all()


MEASURE = """
import resource, sys, time
from media.errors import MediaTooLarge
from media.images.image import prepare
from media.spec import InputSpec

data = sys.stdin.buffer.read()
def peak():  # KiB of address space, and of memory
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmPeak"].split()[0]), int(status["VmHWM"].split()[0])

before, start = peak(), time.monotonic()
try:
    prepare(data, InputSpec(), (32, 48))
except MediaTooLarge:
    seconds, after = time.monotonic() - start, peak()
    print(after[0] - before[0], after[1] - before[1], seconds)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [("PNG", 21_000, 21_000), ("JPEG", 21_000, 21_000), ("WEBP", 13_000, 13_000)]
    + [("TIFF", 21_000, 21_000), ("BMP", 21_000, 21_000), ("GIF", 65_000, 65_000)],
)
def test_size_is_refused_before_pixels_are_allocated(
    repo_root: Path, kind: str, width: int, height: int
) -> None:
    """A bomb is refused from its header: at once, and with next to no memory reserved or used."""
    outcome = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=HEADERS[kind](width, height),
        cwd=repo_root,
        capture_output=True,
        check=True,
    )
    reserved_kib, used_kib, seconds = (float(word) for word in outcome.stdout.split())
    assert reserved_kib < 64 * 1024
    assert used_kib < 32 * 1024
    assert seconds < 1.0


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 3), dtype=np.float32),
        np.zeros((4, 6), dtype=np.int32),
        np.zeros((4, 6), dtype=bool),
        np.zeros((4, 6, 3), dtype=np.uint16),
        np.zeros((4, 6, 2), dtype=np.uint8),
        np.zeros((4, 6, 5), dtype=np.uint8),
        np.zeros((3, 4, 6, 3), dtype=np.uint8),
        np.zeros((24,), dtype=np.uint8),
        np.zeros((0, 6, 3), dtype=np.uint8),
        np.zeros((), dtype=np.uint8),
    ],
    ids=lambda array: f"{array.dtype}-{'x'.join(map(str, array.shape)) or 'scalar'}",
)
def test_array_of_another_type_or_shape_is_refused(array: np.ndarray) -> None:
    """The refusal names what was expected and the type and shape that came."""
    expected = re.escape(f"got {array.dtype} {list(array.shape)}")
    with pytest.raises(BrokenMedia, match=expected):
        prepare(array, RGB, (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 6), "uint8"), ((4, 6, 1), "uint8"), ((4, 6, 3), "uint8"), ((4, 6, 4), "uint8")]
    + [((4, 6), "uint16"), ((4, 6, 1), "uint16")],
)
def test_array_of_a_stated_shape_is_prepared(shape: tuple[int, ...], dtype: str) -> None:
    """Every array that the refusal offers as an alternative is in fact taken."""
    array = np.full(shape, np.iinfo(dtype).max, dtype=dtype)
    assert (prepare(array, RGB, (4, 6)) == np.full((4, 6, 3), 255)).all()


def assert_says_nothing_internal(error: MediaError) -> None:
    """A message for the sender: no path, no address, no Python object."""
    assert not re.search(r"0x[0-9a-f]{4,}|\.py\b|[<>]|(^|\s)/\w|Traceback|PIL", str(error)), error


@pytest.mark.parametrize(
    "media",
    [
        b"no picture",
        encode(picture(), "PNG")[:-30],
        b"\xff\xd8\xff" + b"this is a text",
        png_header(21_000, 21_000),
        png_header(MAX_SIDE + 1, 1),
        np.zeros((4, 6), dtype=np.float64),
    ],
    ids=["other-type", "truncated", "not-a-jpeg", "bomb", "long-side", "array"],
)
def test_refusals_tell_the_sender_nothing_internal(media: bytes | np.ndarray) -> None:
    """Messages carry no path, no address and no library's own words."""
    with pytest.raises(MediaError) as caught:
        prepare(media, RGB, (HEIGHT, WIDTH))
    assert_says_nothing_internal(caught.value)
