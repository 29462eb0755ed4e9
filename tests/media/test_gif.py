"""GIF: the first frame, where it lies on its canvas, with what is transparent in it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.errors import BrokenMedia, MediaTooLarge
from media.images.image import prepare
from media.spec import InputSpec

HEIGHT, WIDTH = 6, 9
BITS = 3
RGB = InputSpec(background=(10, 200, 90))
COLOURS = np.random.default_rng(0).integers(0, 256, (2**BITS, 3), dtype=np.uint8)


def indices(height: int, width: int) -> np.ndarray:
    """[h, w] of palette indices from 1 to 7, without symmetry."""
    rows, columns = np.mgrid[0:height, 0:width]
    return (rows * 5 + columns * 3) % 11 % 7 + 1


def coded(pixels: list[int]) -> bytes:
    """LZW that starts anew before its codes would grow: every pixel is a code of 4 bits."""
    clear, end = 2**BITS, 2**BITS + 1
    parts = [pixels[place : place + 4] for place in range(0, len(pixels), 4)]
    nibbles = [code for part in parts for code in (clear, *part)] + [end, 0]
    packed = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=False))
    blocks = [packed[place : place + 255] for place in range(0, len(packed), 255)]
    return bytes([BITS]) + b"".join(bytes([len(one)]) + one for one in blocks) + b"\0"


def frame(
    pixels: np.ndarray,
    left: int = 0,
    top: int = 0,
    transparent: int | None = None,
    palette: np.ndarray | None = None,
    interlaced: bool = False,
) -> bytes:
    """One picture [h, w] of indices with all that belongs to it."""
    height, width = pixels.shape
    control = b"" if transparent is None else b"!\xf9\4\1\0\0" + bytes([transparent, 0])
    flags = (0x80 | BITS - 1 if palette is not None else 0) | (0x40 if interlaced else 0)
    place = struct.pack("<HHHHB", left, top, width, height, flags)
    if interlaced:
        passes = ((0, 8), (4, 8), (2, 4), (1, 2))
        pixels = np.concatenate([pixels[first::step] for first, step in passes])
    table = b"" if palette is None else palette.tobytes()
    return control + b"," + place + table + coded(pixels.reshape(-1).tolist())


def gif(*frames: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), version: bytes = b"89a") -> bytes:
    """A file with one palette for all; ``size`` is (width, height)."""
    screen = struct.pack("<HHBBB", *size, 0x80 | BITS - 1, 0, 0)
    return b"GIF" + version + screen + COLOURS.tobytes() + b"".join(frames) + b";"


def shown(data: bytes) -> np.ndarray:
    return prepare(data, RGB, (HEIGHT, WIDTH))


@pytest.mark.parametrize("version", [b"87a", b"89a"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_palette_is_expanded(version: bytes, interlaced: bool) -> None:
    """Both versions show their colours, with rows in order or interlaced."""
    chosen = indices(HEIGHT, WIDTH)
    file = gif(frame(chosen, interlaced=interlaced), version=version)
    np.testing.assert_array_equal(shown(file), COLOURS[chosen])


def test_palette_of_a_frame_wins() -> None:
    """A frame's own palette counts, not the one of the whole file."""
    chosen = indices(HEIGHT, WIDTH)
    np.testing.assert_array_equal(
        shown(gif(frame(chosen, palette=COLOURS[::-1]))), COLOURS[::-1][chosen]
    )


def test_first_frame_counts() -> None:
    """Later frames change nothing, be they larger, smaller or broken."""
    chosen = indices(HEIGHT, WIDTH)
    later = (frame(7 - indices(HEIGHT, WIDTH) + 1), frame(indices(30, 50), 3, 2), b",broken")
    np.testing.assert_array_equal(shown(gif(frame(chosen), *later)), COLOURS[chosen])


def test_transparent_colour_shows_the_background() -> None:
    """Where the frame has its transparent index, and nowhere else, the background is seen."""
    chosen = indices(HEIGHT, WIDTH)
    prepared = shown(gif(frame(chosen, transparent=3)))
    assert (prepared[chosen == 3] == RGB.background).all()
    np.testing.assert_array_equal(prepared[chosen != 3], COLOURS[chosen][chosen != 3])


@pytest.mark.parametrize("transparent", [None, 3])
def test_canvas_around_the_first_frame_shows_the_background(transparent: int | None) -> None:
    """What a smaller first frame leaves free is empty, not of the palette's first colour."""
    chosen = indices(3, 5)
    prepared = shown(gif(frame(chosen, left=2, top=1, transparent=transparent)))
    inside = np.zeros((HEIGHT, WIDTH), dtype=bool)
    inside[1:4, 2:7] = True
    assert (prepared[~inside] == RGB.background).all()
    seen = np.where((chosen == transparent)[:, :, None], RGB.background, COLOURS[chosen])
    np.testing.assert_array_equal(prepared[1:4, 2:7], seen)


def test_frame_beyond_the_canvas_enlarges_it() -> None:
    """A first frame that is larger than the declared canvas is shown whole."""
    chosen = indices(HEIGHT, WIDTH)
    np.testing.assert_array_equal(shown(gif(frame(chosen), size=(4, 3))), COLOURS[chosen])


@pytest.mark.parametrize("missing", [1, 20, HEIGHT * WIDTH])
def test_frame_without_all_its_pixels_is_broken(missing: int) -> None:
    """Codes that end early are not filled up with the first colour."""
    chosen = indices(HEIGHT, WIDTH)
    pixels = chosen.reshape(-1).tolist()
    whole, cut = coded(pixels), coded(pixels[: len(pixels) - missing])
    with pytest.raises(BrokenMedia, match="truncated or corrupt"):
        shown(gif(frame(chosen)).replace(whole, cut))


def test_file_without_a_frame_is_broken() -> None:
    """A canvas alone is no picture."""
    with pytest.raises(BrokenMedia, match="truncated or corrupt"):
        shown(gif())


@pytest.mark.parametrize("file", [gif(size=(65_535, 65_535)), gif(frame(indices(2, 3), 65_000, 9))])
def test_size_over_the_limit_is_refused(file: bytes) -> None:
    """The canvas counts, and the canvas that a frame would stretch it to."""
    file = file if b"," in file else file[:-1] + frame(indices(2, 3)) + b";"
    with pytest.raises(MediaTooLarge, match="16384 per side|at most 50000000 pixels"):
        shown(file)


def test_real_files_show_their_first_frame(data_dir: Path) -> None:
    """A photograph as GIF is near its PNG, and an animation of 42 frames shows its first."""
    folder = data_dir / "decode" / "images"
    photograph, exact = (
        shown((folder / f"hopper.{ending}").read_bytes()).astype(int) for ending in ("gif", "png")
    )
    assert np.abs(photograph - exact).mean() < 6
    data = (folder / "iss634.gif").read_bytes()
    with Image.open(io.BytesIO(data)) as animation:
        first = np.asarray(animation.convert("RGB"))
    np.testing.assert_array_equal(shown(data), prepare(first, RGB, (HEIGHT, WIDTH)))
