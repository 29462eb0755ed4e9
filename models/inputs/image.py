"""Still images: JPEG, PNG or WebP bytes -> upright RGB or grey -> uint8 [height, width, channels].

What is decided here, once: the first frame of an animation; EXIF orientation applied; palettes
expanded; transparency blended onto ``InputSpec.background`` before any resampling; 16-bit grey
scaled (not clipped) to 8 bits; CMYK converted; embedded ICC profiles ignored.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps

from models.inputs.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from models.spec import InputSpec

#: Only decoders we mean to expose; anything else is refused unread.
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384  # pixels
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # refused at twice this, before WebP allocates its canvas
#: Left, top, right, bottom in pixels; edges may lie inside a pixel.
Box = tuple[float, float, float, float]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def prepare(media: bytes | np.ndarray, spec: InputSpec, pixels: tuple[int, ...]) -> np.ndarray:
    """One image as the network's input.

    Args:
        media: an encoded file, or a decoded uint8 / uint16 array ``[h, w]`` or ``[h, w, 1|3|4]``.
        spec: colour, background and geometry.
        pixels: target (height, width).

    Returns:
        uint8 ``[height, width, channels]``.

    Raises:
        MediaError: see its subclasses.
    """
    height, width = pixels
    if isinstance(media, np.ndarray):
        image = _from_array(media)
        box: Box = (0, 0, *image.size)
    else:
        image, box = _decode(media, at_least=2 * max(height, width))
    image = _flatten(image, spec)
    if spec.fit == "crop":
        box = _centre_box(box, (width, height))
    image = image.resize((width, height), FILTERS[spec.interpolation], box=box)
    array = np.asarray(image, dtype=np.uint8)
    return array.reshape(height, width, spec.channels)  # grey images have no channel axis


def _decode(data: bytes, at_least: int) -> tuple[Image.Image, Box]:
    """Bytes -> loaded, upright image, and the part of it that the source covers.

    JPEGs may be scaled down in the DCT, never below at_least. A side that is no multiple of the
    scale then ends in a pixel that the source covers in part only.
    """
    if not _is_supported(data):
        raise UnsupportedMedia(f"expected {', '.join(FORMATS)} bytes; these are none of them")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about EXIF and animation oddities
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image.size)
            box: Box = (0, 0, *image.size)
            ratio = at_least / min(image.size)
            if ratio < 1:
                wanted = (int(image.width * ratio), int(image.height * ratio))
                if scaled := image.draft(None, wanted):  # JPEG only
                    box = scaled[1]
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            upright = ImageOps.exif_transpose(image)
            return upright, _upright_box(box, image.size, upright.size, orientation)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaTooLarge(f"images may have at most {MAX_PIXELS} pixels") from error
    except Exception as error:  # decoders raise nearly every type there is on hostile bytes
        raise BrokenMedia("the image is truncated or corrupt and cannot be decoded") from error


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


def _is_supported(data: bytes) -> bool:
    """Decide the type by the leading bytes, never by a name or a header."""
    return (
        data.startswith(b"\xff\xd8\xff")
        or data.startswith(b"\x89PNG\r\n\x1a\n")
        or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
    )


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise MediaTooLarge(
            f"images may have at most {MAX_PIXELS} pixels and {MAX_SIDE} per side; "
            f"this one is {width}x{height}"
        )


def _from_array(array: np.ndarray) -> Image.Image:
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
    return Image.fromarray(array)


def _flatten(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Any mode -> RGB or L, transparency blended onto the background."""
    if image.mode.startswith("I"):
        image = _sixteen_to_eight(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*spec.background, 255))
        image = Image.alpha_composite(canvas, image)
    image = image.convert("RGB")
    return image if spec.channels == 3 else image.convert("L")


def _sixteen_to_eight(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8 bits by scaling with 255 / 65535; Pillow's own convert would clip."""
    wide = np.asarray(image).astype(np.uint32)  # [h, w]
    narrow = ((wide * 255 + 32_767) // 65_535).clip(0, 255).astype(np.uint8)
    grey = Image.fromarray(narrow)
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey
    alpha = np.where(wide == transparent, 0, 255).astype(np.uint8)  # [h, w]
    return Image.merge("LA", (grey, Image.fromarray(alpha)))


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
