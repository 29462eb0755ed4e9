"""The pixels of a DICOM file: what the header says of them, checked, and the frames decoded.

Scans are grey. Colour of 8 bits (RGB and YBR, as ultrasound stores grey) becomes its luma; palettes
and wider colour are refused, and so are masks of 1 bit, 64 bits and floating point.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.limits import ScanLimits
from media.scans.dicom.dicom_header import Header
from media.scans.voxels import check_shape

GREY = ("MONOCHROME1", "MONOCHROME2")
YBR = ("YBR_FULL", "YBR_FULL_422")  # the first sample is the luma
COLOUR = ("RGB", *YBR, "YBR_ICT", "YBR_RCT")  # the last two are RGB once decoded
LUMA = np.array([299, 587, 114], np.uint32)  # thousandths of red, green and blue (ITU-R BT.601)
BITS = (8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a file's pixels and what their bits mean; named as DICOM names them."""

    rows: int
    columns: int
    number_of_frames: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int  # 1 for signed numbers

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames."""
        return np.dtype(f"{'ui'[self.pixel_representation]}{self.bits_allocated // 8}")

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest number that the stored bits can hold."""
        low = -(1 << (self.bits_stored - 1)) if self.pixel_representation else 0
        return low, low + (1 << self.bits_stored) - 1

    @property
    def is_colour(self) -> bool:
        return self.photometric_interpretation in COLOUR


def read_layout(header: Header, limits: ScanLimits) -> Layout:
    """What the header says of the pixels, once it can be true and is within the limits."""
    tags = header.tags
    bits = whole(tags, "BitsStored")
    layout = Layout(
        whole(tags, "Rows"),
        whole(tags, "Columns"),
        whole(tags, "NumberOfFrames", 1),
        whole(tags, "SamplesPerPixel", 1),
        str(tags.get("PhotometricInterpretation")).strip(),
        whole(tags, "PlanarConfiguration", 0),
        whole(tags, "BitsAllocated"),
        bits,
        whole(tags, "HighBit", bits - 1),
        whole(tags, "PixelRepresentation", 0),
    )
    check_size(layout.number_of_frames, layout.rows, layout.columns, limits)
    _check_colours(layout)
    _check_bits(layout)
    if header.uid == uid.JPEGExtended12Bit and layout.bits_stored != 8:
        raise UnsupportedMedia(f"expected JPEG of 8 bits, got {layout.bits_stored}")
    if not header.syntax.decoder:
        _check_length(layout, len(header.pixels))
    return layout


def whole(tags: Dataset, keyword: str, default: int | None = None) -> int:
    """A whole number of the header; BrokenMedia where it is missing or something else."""
    value = tags.get(keyword)
    if value is None or value == "":
        value = default
    if not isinstance(value, int):
        raise BrokenMedia(f"expected a whole number in {keyword}")
    return int(value)


def check_size(slices: int, rows: int, columns: int, limits: ScanLimits) -> None:
    """BrokenMedia for no voxels at all, MediaTooLarge for more than a scan may have."""
    check_shape((slices, rows, columns), "DICOM", limits)
    if slices > limits.slices:
        raise MediaTooLarge(f"scans may have at most {limits.slices} slices; this one has {slices}")


def _check_colours(layout: Layout) -> None:
    name, samples = layout.photometric_interpretation, layout.samples_per_pixel
    if name not in GREY + COLOUR:
        known = ", ".join(GREY + COLOUR)
        shown = "PALETTE COLOR" if name == "PALETTE COLOR" else "another"
        raise UnsupportedMedia(f"expected one of the colour types {known}; got {shown}")
    if samples != (3 if layout.is_colour else 1) or layout.planar_configuration not in (0, 1):
        raise BrokenMedia(f"{name} pixels cannot have {samples} samples in that order")
    if layout.is_colour and (layout.bits_allocated, layout.pixel_representation) != (8, 0):
        raise UnsupportedMedia(
            f"expected colour of 8 bits without a sign, got {layout.bits_allocated} bits "
            f"and PixelRepresentation {layout.pixel_representation}"
        )


def _check_bits(layout: Layout) -> None:
    if layout.bits_allocated not in BITS:
        raise UnsupportedMedia(
            f"expected pixels of 8, 16 or 32 bits, got {layout.bits_allocated}"
        )
    stored, high = layout.bits_stored, layout.high_bit
    if not 1 <= stored <= high + 1 <= layout.bits_allocated:
        raise BrokenMedia(
            f"{stored} bits up to bit {high} do not fit in {layout.bits_allocated} bits"
        )
    if layout.pixel_representation not in (0, 1):
        raise BrokenMedia("expected PixelRepresentation 0 or 1")


def _check_length(layout: Layout, length: int) -> None:
    """Pixels that are not compressed: all of them are there. Some bytes too many may be padding."""
    voxels = layout.number_of_frames * layout.rows * layout.columns
    expected = voxels * layout.samples_per_pixel * layout.bits_allocated // 8
    if layout.photometric_interpretation == "YBR_FULL_422":
        expected = expected // 3 * 2
    if length < expected:
        raise BrokenMedia(
            f"the pixel data are truncated: expected {expected} bytes, got {length}"
        )


def decode_frames(header: Header, layout: Layout) -> Iterator[np.ndarray]:
    """Stored values, frame by frame in the order of the file, ``[rows, columns]``.

    Raises:
        BrokenMedia: a frame is not what the header says, or frames are missing.
        Exception: whatever a decoder raises on damaged bytes.
    """
    found = 0
    for found, (pixels, colours) in enumerate(_unpack(header, layout), 1):
        if layout.is_colour:
            yield _luma(pixels, colours)
        elif header.syntax.decoder == "pillow":  # maybe of fewer bits, and lying right already
            yield pixels.astype(layout.dtype, copy=False)
        else:
            yield _in_range(pixels, layout)
        if found == layout.number_of_frames:
            return
    raise BrokenMedia(f"expected {layout.number_of_frames} frames, got {found}")


def _unpack(header: Header, layout: Layout) -> Iterator[tuple[np.ndarray, str]]:
    """Every frame as its decoder gives it, with the colours that it has then."""
    options = dataclasses.asdict(layout) | {
        "pixel_keyword": "PixelData",
        "pixel_vr": header.pixel_vr,
        "allow_excess_frames": False,
        "correct_unused_bits": False,  # see _in_range, which minds the high bit too
    }
    decoder, plugin = get_decoder(header.uid), header.syntax.decoder
    if not plugin:
        for pixels, told in decoder.iter_array(header.pixels, raw=True, **options):
            yield pixels, str(told["photometric_interpretation"])
        return
    options["number_of_frames"] = 1
    for frame in _packed_frames(header, layout):
        if plugin == "pillow":
            _check_packed(frame, layout)
        source = encapsulate([frame], has_bot=False)
        pixels, told = decoder.as_array(source, raw=True, decoding_plugin=plugin, **options)
        yield pixels, str(told["photometric_interpretation"])


def _packed_frames(header: Header, layout: Layout) -> Iterator[bytes]:
    starts = header.tags.get("ExtendedOffsetTable")
    lengths = header.tags.get("ExtendedOffsetTableLengths")
    return generate_frames(
        bytes(header.pixels),
        number_of_frames=layout.number_of_frames,
        extended_offsets=(starts, lengths) if starts and lengths else None,
    )


def _check_packed(frame: bytes, layout: Layout) -> None:
    """The size in a JPEG frame is that of the header: nothing else bounds what it allocates."""
    width, height = Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")).size
    if (width, height) != (layout.columns, layout.rows):
        raise BrokenMedia(
            f"expected frames of {layout.columns}x{layout.rows} pixels, got {width}x{height}"
        )


def _in_range(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """The stored bits as a number; what lies above and below them may be anything."""
    above = layout.bits_allocated - 1 - layout.high_bit
    unused = layout.bits_allocated - layout.bits_stored
    native = pixels.astype(layout.dtype, copy=False)  # in this machine's order of bytes
    return native << above >> unused if unused else native


def _luma(pixels: np.ndarray, photometric: str) -> np.ndarray:
    """``[rows, columns, 3]`` of RGB or YBR -> uint8 ``[rows, columns]``."""
    if photometric in YBR:
        return pixels[..., 0]
    return ((pixels @ LUMA + 500) // 1000).astype(np.uint8)
