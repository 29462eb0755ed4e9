"""Still images: bytes of a known type -> upright RGB or grey -> uint8 [height, width, channels].

What is decided here, once: the first frame of an animation and the first page of a document;
orientation applied; palettes expanded; transparency, and what the first frame of a GIF leaves
free, blended onto ``InputSpec.background`` before any resampling; grey of 12 and 16 bits scaled to
8 bits (``grey``), colour of 16 bits cut to its high byte; CMYK and Lab converted; embedded ICC
profiles ignored. Whatever else stands beside the pixels is not looked at (``opened``). What single
types need besides stands in the module of their name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.fitting import fitting
from media.images import bmp, tiff
from media.images.gif import open_gif
from media.images.grey import eight_bits
from media.images.heif import none_of_them
from media.images.jpeg import open_jpeg
from media.images.opened import Opened
from media.images.png import SIGNATURE, open_png
from media.images.webp import open_webp
from media.limits import MAX_PIXELS, STRANGER, Limits, check_size
from media.part import Part, of_shape
from media.sample import Media, Sample
from media.spec import InputSpec

#: Only decoders we mean to expose, each with what its files begin with; the rest is refused unread.
SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda data: data.startswith(b"\xff\xd8\xff"),
    "PNG": lambda data: data.startswith(SIGNATURE),
    "WEBP": lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
    "TIFF": lambda data: data.startswith(tiff.SIGNATURES),
    "BMP": bmp.is_bmp,
    "GIF": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
}
FORMATS = tuple(SIGNATURES)
#: How a file is opened by its header, less what its pixels do not need.
OPEN: dict[str, Callable[[bytes], Opened]] = {
    "JPEG": open_jpeg,
    "PNG": open_png,
    "WEBP": open_webp,
    "TIFF": tiff.open_tiff,
    "BMP": bmp.open_bmp,
    "GIF": open_gif,
}
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # refused at twice this, before WebP allocates its canvas
#: Left, top, right, bottom in pixels; edges may lie inside a pixel.
Box = tuple[float, float, float, float]
#: EXIF orientation -> what turns the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
#: How many times as many pixels as the target a picture may have that is resized before it is cut.
MAX_ENLARGED = 16
#: Of the edges of a crop, in pixels of the upright original; told, not used.
BOX_DIGITS = 4


class Upright(NamedTuple):
    """A loaded picture, the right way up.

    Attributes:
        image: may be a scaled one, with a last row or column that the source covers in part.
        box: the part of ``image`` that the source covers.
        size: height and width of the source, unscaled.
        turn: the EXIF orientation that was undone, 1 to 8.
        target: height and width that it shall get.
        part: of the source that is wanted; None for what the InputSpec says.
    """

    image: Image.Image
    box: Box
    size: tuple[int, int]
    turn: int
    target: tuple[int, ...]
    part: Box | None = None


def read(
    media: Media,
    spec: InputSpec,
    sizes: Sequence[tuple[int, ...]],
    views: int = 1,
    part: Part | None = None,
    limits: Limits = STRANGER,
) -> Sample:
    """``prepare`` as every modality offers it; an image has one view: [1, height, width, C].

    It has seen, of an upright original of ``size`` pixels (height, width), the ``box``: from top to
    bottom and from left to right; ``turn`` is the EXIF orientation that made it upright. Images
    have one limit, whoever brings them.
    """
    pixels, seen = see(media, spec, *sizes, part=part)
    return Sample(pixels[np.newaxis], seen)


def prepare(media: Media, spec: InputSpec, *sizes: tuple[int, ...]) -> np.ndarray:
    """One image as the network's input, uint8 ``[height, width, channels]``; see ``see``."""
    return see(media, spec, *sizes)[0]


def see(
    media: Media, spec: InputSpec, *sizes: tuple[int, ...], part: Part | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """One image as the network's input, and what that is of it; a frame of a clip comes so too.

    Args:
        media: an encoded file, or a decoded uint8 / uint16 array ``[h, w]`` or ``[h, w, 1|3|4]``.
        spec: colour, background and geometry.
        sizes: target (height, width); of several the one that fits the upright picture.
        part: of it, instead of its centre or all of it: with fit ``crop`` its whole has the shape
            of the target and the area of the picture, with ``stretch`` it is the picture.

    Returns:
        uint8 ``[height, width, channels]``, and the evidence of ``read``.

    Raises:
        MediaError: see its subclasses.
    """
    if isinstance(media, np.ndarray):
        picture = _from_array(media, sizes, spec, part)
    else:
        picture = _decode(media, sizes, spec, part)
    image, box = _flatten(picture.image, spec), picture.box
    height, width = picture.target
    if picture.part:
        box = _loaded_box(picture, picture.part)
    elif spec.fit == "crop":
        box = _centre_box(box, (width, height))
    if part is None and spec.crop_ratio < 1:
        image = _resized_and_cut(image, picture, spec, box)
    else:
        image = image.resize((width, height), FILTERS[spec.interpolation], box=box)
    array = np.asarray(image, dtype=np.uint8)
    pixels = array.reshape(height, width, spec.channels)  # grey images have no channel axis
    return pixels, _seen(picture, box)


def _seen(picture: Upright, box: Box) -> dict[str, Any]:
    """What a box of the loaded picture is of the source: see ``read``."""
    left, top, _, _ = picture.box
    across, down = _scales(picture)
    rows = [(box[1] - top) * down, (box[3] - top) * down]
    columns = [(box[0] - left) * across, (box[2] - left) * across]
    sides = [[round(edge, BOX_DIGITS) for edge in side] for side in (rows, columns)]
    return {"size": list(picture.size), "turn": picture.turn, "box": sides}


def _loaded_box(picture: Upright, box: Box) -> Box:
    """Where a box of the source lies in the loaded picture."""
    left, top, right, bottom = picture.box
    across, down = _scales(picture)
    return (
        left + box[0] / across,
        top + box[1] / down,
        min(left + box[2] / across, right),
        min(top + box[3] / down, bottom),
    )


def _scales(picture: Upright) -> tuple[float, float]:
    """Source pixels per loaded one, across and down."""
    height, width = picture.size
    left, top, right, bottom = picture.box
    return width / (right - left), height / (bottom - top)


def _decode(
    data: bytes, sizes: Sequence[tuple[int, ...]], spec: InputSpec, part: Part | None
) -> Upright:
    """Bytes -> a loaded, upright image, its target, and the part of it that is wanted.

    Both are chosen by the header alone, since they may decide how pixels are loaded.
    """
    kind = next((kind for kind, begins in SIGNATURES.items() if begins(data)), None)
    if kind is None:
        raise UnsupportedMedia(f"expected {', '.join(FORMATS)} bytes; {none_of_them(data)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about animation and palette oddities
            opened = OPEN[kind](data)
            check_size(opened.image.size)
            width, height = opened.image.size
            size = (width, height) if opened.turn >= 5 else (height, width)
            target = fitting(size, sizes)
            box = _part_box(size, target, spec, part)
            loaded = _load(opened, 2 * _shrinking(size, target, box))
            return Upright(*loaded, size, opened.turn, target, box)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaTooLarge(f"images may have at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # decoders raise nearly every type there is on hostile bytes
        raise BrokenMedia("the image is truncated or corrupt and cannot be decoded") from error


def _part_box(
    size: tuple[int, int], target: tuple[int, ...], spec: InputSpec, part: Part | None
) -> Box | None:
    """The part of a picture of ``size`` that is wanted, in its own pixels."""
    if part is None:
        return None if spec.crop_ratio == 1 else _cut_box(size, target, spec)
    whole = of_shape(size, target) if spec.fit == "crop" else size
    (top, bottom), (left, right) = part.spans(size, whole)
    return left, top, right, bottom


def _whole_sides(
    size: tuple[int, int], target: tuple[int, ...], spec: InputSpec
) -> tuple[int, ...]:
    """What a picture of ``size`` (height, width) is resized to before ``crop_ratio`` cuts it.

    In whole pixels, rounded down, as torchvision's Resize does.
    """
    sides = [math.floor(side / spec.crop_ratio + 1e-6) for side in target]  # 16 / (16 / 18) is 18
    if spec.fit == "stretch":
        return tuple(sides)
    part, whole = max(zip(sides, size, strict=True), key=lambda pair: pair[0] / pair[1])
    return tuple(side * part // whole for side in size)


def _cut_box(size: tuple[int, int], target: tuple[int, ...], spec: InputSpec) -> Box:
    """The part of a picture of ``size`` (height, width) that ``crop_ratio`` leaves."""
    edges = []
    for own, whole, side in zip(size, _whole_sides(size, target, spec), target, strict=True):
        start = _offset(whole, side)
        edges.append((start * own / whole, (start + side) * own / whole))
    (top, bottom), (left, right) = edges
    return left, top, right, bottom


def _offset(whole: int, side: int) -> int:
    """Where the middle ``side`` of ``whole`` pixels begins, as torchvision's CenterCrop has it."""
    return round((whole - side) / 2)


def _resized_and_cut(
    image: Image.Image, picture: Upright, spec: InputSpec, box: Box
) -> Image.Image:
    """Resized as a whole, then cut, so that it is what Pillow makes of both.

    A strip is resampled where it is cut: its whole would be too large. Pillow may then take its
    two passes in the other order, which differs where the first one clips.
    """
    how, (height, width) = FILTERS[spec.interpolation], picture.target
    rows, columns = _whole_sides(picture.size, picture.target, spec)
    if rows * columns > MAX_ENLARGED * height * width:
        return image.resize((width, height), how, box=box)
    top, left = _offset(rows, height), _offset(columns, width)
    whole = image.resize((columns, rows), how, box=picture.box)
    return whole.crop((left, top, left + width, top + height))


def _shrinking(size: tuple[int, int], target: tuple[int, ...], box: Box | None) -> float:
    """How much smaller the target is than what becomes it; of a whole picture, at the most."""
    if box is None:
        return max(target) / min(size)
    return max(target[0] / (box[3] - box[1]), target[1] / (box[2] - box[0]))


def _load(opened: Opened, ratio: float) -> tuple[Image.Image, Box]:
    """Loaded, settled and turned upright.

    JPEGs may be scaled down in the DCT, never below ``ratio``. A side that is no multiple of the
    scale then ends in a pixel that the source covers in part only.
    """
    image = opened.image
    wanted = (int(image.width * ratio), int(image.height * ratio))
    scaled = image.draft(None, wanted) if ratio < 1 else None  # JPEG only
    image.load()
    stored = opened.settle(image)
    upright = stored.transpose(UPRIGHT[opened.turn]) if opened.turn in UPRIGHT else stored
    box = scaled[1] if scaled else (0, 0, *stored.size)
    return upright, _upright_box(box, stored.size, upright.size, opened.turn)


def _upright_box(
    box: Box, stored: tuple[int, int], upright: tuple[int, int], orientation: int
) -> Box:
    """Where a box at the top left of the stored picture lies in the upright one."""
    right, bottom = stored[0] - box[2], stored[1] - box[3]  # margins outside the box
    if orientation >= 5:  # these swap the axes
        right, bottom = bottom, right
    left = right if orientation in (2, 3, 6, 7) else 0  # these turn the right edge to the left
    top = bottom if orientation in (3, 4, 7, 8) else 0
    return left, top, upright[0] - (right - left), upright[1] - (bottom - top)


def _from_array(
    array: np.ndarray, sizes: Sequence[tuple[int, ...]], spec: InputSpec, part: Part | None
) -> Upright:
    """A decoded array as an image; [h, w], [h, w, 1] are grey, [h, w, 3|4] RGB(A)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]  # [h, w]
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not (grey or colour) or 0 in array.shape:
        raise BrokenMedia(
            "expected a uint8 array [h, w], [h, w, 1|3|4] or a uint16 array [h, w]; "
            f"got {array.dtype} {list(array.shape)}"
        )
    height, width = size = array.shape[:2]
    image = Image.fromarray(array)
    target = fitting(size, sizes)
    box = _part_box((height, width), target, spec, part)
    return Upright(image, (0, 0, width, height), size, 1, target, box)


def _flatten(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Any mode -> RGB or L, transparency blended onto the background."""
    if image.mode.startswith("I;16"):
        image = eight_bits(image, spec.grey_bits)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*spec.background, 255))
        image = Image.alpha_composite(canvas, image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image if spec.channels == 3 else image.convert("L")


def _centre_box(source: Box, target: tuple[int, int]) -> Box:
    """The largest centred part of ``source`` with the shape of ``target`` (width, height).

    Resampling this box straight to the target equals resizing the short side and cutting the
    centre, without the rounding in between.
    """
    left, top, right, bottom = source
    scale = min((right - left) / target[0], (bottom - top) / target[1])
    width = min(target[0] * scale, right - left)
    height = min(target[1] * scale, bottom - top)
    left, top = (left + right - width) / 2, (top + bottom - height) / 2
    return left, top, min(left + width, right), min(top + height, bottom)
