"""DICOM: one file as a scan, a slice or all of its frames.

Frames are ordered by their place along the normal of the slices, never by number or name, and
the distance between them comes from their places. A single slice is as thick as SliceThickness
says, or 1 mm. Several frames without places (ultrasound, secondary capture) keep the order
of the file, and the scan has no affine; several frames at one place are refused.

Intensities are RescaleSlope * stored value + RescaleIntercept (or DoseGridScaling * stored value).
MONOCHROME1, where low means white, is turned round within the range of the stored bits.
Padding (PixelPaddingValue) becomes the lowest intensity that the scan really has. Windows, real
world values and overlays of the file are not used: the InputSpec says which window counts.

Read are the transfer syntaxes of ``dicom_header.SYNTAXES``; ``dicom_pixels`` says which pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from media.errors import BrokenMedia
from media.limits import STRANGER, ScanLimits
from media.scans.dicom.dicom_frames import Frame, Rescale, read_frames
from media.scans.dicom.dicom_header import Header, read_header
from media.scans.dicom.dicom_limits import Budget, told_as_media_errors
from media.scans.dicom.dicom_pixels import Layout, check_size, decode_frames, read_layout, whole
from media.scans.dicom.dicom_planes import arrange
from media.scans.scan import Scan
from media.scans.voxels import byte_count


@dataclasses.dataclass(frozen=True)
class Part:
    """One file, its pixels still packed."""

    header: Header
    layout: Layout
    frames: list[Frame]
    padding: tuple[int, int] | None  # the lowest and highest stored value that stand for nothing


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """One DICOM file as voxels [slice, row, column].

    Raises:
        MediaError: the bytes are no DICOM file, of a type that is not read, damaged, or too large.
    """
    with told_as_media_errors():
        return stack([read_part(data, Budget(limits))], limits)


def read_part(data: bytes, budget: Budget) -> Part:
    """Everything that a file says besides its pixels, checked."""
    header = read_header(data, budget)
    layout = read_layout(header, budget.limits)
    frames = read_frames(header.tags, layout.number_of_frames)
    return Part(header, layout, frames, _padding(header, layout))


def _padding(header: Header, layout: Layout) -> tuple[int, int] | None:
    """Both ends; some writers give them the wrong sign, so they are taken as the pixels are."""
    if header.tags.get("PixelPaddingValue") in (None, ""):
        return None
    value = whole(header.tags, "PixelPaddingValue")
    limit = whole(header.tags, "PixelPaddingRangeLimit", value)
    low, high = sorted(np.array([value, limit]).astype(layout.dtype).tolist())
    return low, high


def stack(parts: list[Part], limits: ScanLimits) -> Scan:
    """The frames of one file, or of all files of a series, as one volume."""
    frames = [frame for part in parts for frame in part.frames]
    check_size(len(frames), parts[0].layout.rows, parts[0].layout.columns, limits)
    order, affine = np.arange(len(frames)), None
    planes = [frame.plane for frame in frames if frame.plane]
    if planes:
        order, affine = arrange(planes)
    rescales = {frame.rescale for frame in frames}
    places = np.argsort(order)  # of every frame in the volume
    if len(rescales) == 1:
        (rescale,) = rescales
        voxels = _decode(parts, places, rescale, limits)
        return Scan(voxels, affine, rescale.slope, rescale.intercept)
    return Scan(_decode(parts, places, None, limits), affine)


def _decode(
    parts: list[Part], places: np.ndarray, rescale: Rescale | None, limits: ScanLimits
) -> np.ndarray:
    """Voxels [slices, rows, columns]: stored values; intensities where they share no rescale."""
    layout = parts[0].layout
    stored = np.result_type(*(part.layout.dtype for part in parts))
    shape = (len(places), layout.rows, layout.columns)
    dtype = stored if rescale else np.dtype(np.float32)
    byte_count(shape, dtype, limits)
    voxels = np.empty(shape, dtype)
    padded = np.zeros(shape, bool) if any(part.padding for part in parts) else None
    place = iter(places)
    for part in parts:
        for pixels, frame in zip(decode_frames(part.header, part.layout), part.frames, strict=True):
            target = next(place)
            turned = _turned(pixels, part.layout)
            slope, intercept = frame.rescale
            voxels[target] = turned if rescale else turned * slope + intercept
            if padded is not None and part.padding:
                padded[target] = (pixels >= part.padding[0]) & (pixels <= part.padding[1])
    if padded is not None:
        _fill(voxels, padded, falling=rescale is not None and rescale.slope < 0)
    return voxels


def _turned(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """MONOCHROME1 as MONOCHROME2."""
    if layout.photometric_interpretation != "MONOCHROME1":
        return pixels
    low, high = layout.range
    return low + high - np.clip(pixels, low, high)


def _fill(voxels: np.ndarray, padded: np.ndarray, falling: bool) -> None:
    """Give padding the lowest intensity; that is the highest value where the slope is negative."""
    lowest = np.max if falling else np.min
    real = [lowest(one[~gone]) for one, gone in zip(voxels, padded, strict=True) if not gone.all()]
    if not real:
        raise BrokenMedia("expected pixels besides padding, got none")
    voxels[padded] = lowest(real)
