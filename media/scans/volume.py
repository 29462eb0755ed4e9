"""Scans: bytes of a known type -> one orientation -> the model's voxels -> 0 to 255.

The order is: intensity window first, then resampling in float32, then rounding. So what lies
outside the window does not bleed into its neighbours, and values are rounded once.

Memory: the voxels stay in their stored type, in the bytes that came in where these are not
packed; float32 exists for a block of a million voxels at a time. Beside the file (a stranger's has
at most 256 MiB) and what it inflates to (512 MiB) a decode takes less than 100 MiB, most of it for
the sample of which percentiles of large scans are taken; ``benchmarks.decode_volume`` measures it.
DICOM takes its voxels once more, as float32 and with a mask where slices have slopes of their own
or padding.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.fitting import fitting
from media.limits import STRANGER, Limits, ScanLimits
from media.part import Part
from media.sample import Media, Sample
from media.scans import arrays, geometry, inflate, intensity, metaimage, nifti, nrrd
from media.scans.scan import Scan
from media.spec import InputSpec, VolumeSpec

HEAD_BYTES = 1024  # every type shows itself in fewer
#: Half up, and a little more: sums that should end in .5 (masks give many) do not all, and must
#: not be rounded by the last bit that some machine's product left.
HALF = 0.501


class Type(NamedTuple):
    """A type of file: how it begins, and the module whose ``load`` reads it."""

    name: str
    begins: Callable[[bytes], bool]
    module: str
    packed: bool = False  # may also come inside a gzip file


TYPES = (
    Type("NIfTI", nifti.is_nifti, "media.scans.nifti", packed=True),
    Type("DICOM", lambda head: head[128:132] == b"DICM", "media.scans.dicom.dicom", packed=True),
    Type("npy", lambda head: head.startswith(arrays.NPY_MAGIC), "media.scans.arrays"),
    Type("npz", arrays.is_npz, "media.scans.arrays"),
    Type("zip of DICOM", lambda head: head.startswith(b"PK"), "media.scans.dicom.series"),
    Type("NRRD", nrrd.is_nrrd, "media.scans.nrrd"),
    Type("MetaImage", metaimage.is_metaimage, "media.scans.metaimage"),
)


def read(
    media: Media,
    spec: InputSpec,
    sizes: Sequence[tuple[int, ...]],
    views: int = 1,
    part: Part | None = None,
    limits: Limits = STRANGER,
) -> Sample:
    """One scan as the network's input.

    Args:
        media: an encoded file, or a decoded array [depth, height, width], and axes of one.
        spec: window, spacing and interpolation.
        sizes: target (depth, height, width); of several the one that fits ``_extent``.
        views: there is one of a scan.
        part: of what is seen otherwise; where the voxels have a spacing it may lie anywhere in the
            scan, and with a share of 1 and no shape of its own it keeps that spacing.
        limits: of its file.

    Returns:
        ``pixels`` is [1, depth, height, width, 1] of the InputSpec's dtype, from 0 to 255. Of it
        was seen, in ``orientation``, a ``box`` of a scan of ``size`` voxels, which may reach beyond
        it; ``spacing_mm`` is that of ``pixels``.

    Raises:
        MediaError: see its subclasses.
    """
    volume = cast(VolumeSpec, spec.volume)  # an InputSpec for volumes has it
    if isinstance(media, np.ndarray):
        scan = arrays.from_array(media, limits.scan)
    else:
        scan = load(media, limits.scan)
    oriented = geometry.orient(scan)
    size = oriented.voxels.shape
    pixels = fitting(_extent(oriented, volume.spacing), sizes)
    steps, seen_spacing = _steps(oriented, volume.spacing, pixels)
    middles = [side / 2 for side in size]
    if part:
        steps, middles = _cut(part, size, pixels, steps)
        if own := oriented.spacing:
            seen_spacing = [mm * step for mm, step in zip(own, steps, strict=True)]
    weights = [
        geometry.axis_weights(*axis, spec.interpolation)
        for axis in zip(size, pixels, steps, middles, strict=True)
    ]
    window = intensity.window(scan, volume)
    values = np.clip(geometry.resample(oriented.voxels, weights, window), 0, 255)
    if spec.dtype == "uint8":
        values = np.floor(values + HALF).astype(np.uint8)
    spacing = seen_spacing and [float(f"{step:.5g}") for step in seen_spacing]  # mm; told, not used
    box = [geometry.span(*axis) for axis in zip(pixels, steps, middles, strict=True)]
    seen = {
        "orientation": geometry.ORIENTATION, "spacing_mm": spacing, "size": list(size), "box": box,
    }  # fmt: skip
    return Sample(values[np.newaxis, ..., np.newaxis], seen)


def _cut(
    part: Part, size: tuple[int, ...], pixels: tuple[int, ...], steps: list[float]
) -> tuple[list[float], list[float]]:
    """Steps and middles of a part, in voxels of the scan.

    Its place is drawn in the scan, or in what is seen of it where that reaches beyond.
    """
    whole = [target * step for target, step in zip(pixels, steps, strict=True)]
    room = [max(side, one) for side, one in zip(size, whole, strict=True)]
    spans = part.spans(room, whole)
    finer = [(end - start) / target for (start, end), target in zip(spans, pixels, strict=True)]
    middles = [
        (start + end) / 2 + (side - most) / 2
        for (start, end), side, most in zip(spans, size, room, strict=True)
    ]
    return finer, middles


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """The scan in a file of any of ``TYPES``; raises as ``read`` does."""
    if len(data) > limits.file_bytes:
        raise MediaTooLarge(f"scans may have at most {limits.file_bytes} bytes; got {len(data)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers warn about oddities that are checked here
            return _load(data, limits)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaTooLarge("the scan needs more memory than its decoder may use") from error
    except Exception as error:  # readers raise nearly every type there is on hostile bytes
        raise BrokenMedia("the scan is truncated or corrupt and cannot be decoded") from error


def _load(data: bytes, limits: ScanLimits) -> Scan:
    packed, head = inflate.is_gzip(data), inflate.head(data, HEAD_BYTES, limits)
    found = next((one for one in TYPES if one.begins(head) and one.packed >= packed), None)
    if found is None:
        names = ", ".join(one.name for one in TYPES)
        raise UnsupportedMedia(
            f"expected {names} bytes (the first two may be gzipped); these are none of them"
        )
    if packed and found.name == "DICOM":  # the reader of NIfTI unpacks what its header asks for
        data = bytes(inflate.unpack(data, limits=limits))
    return cast(Scan, importlib.import_module(found.module).load(data, limits))


def _extent(oriented: geometry.Oriented, wanted: tuple[float, ...]) -> tuple[float, ...]:
    """How many of the model's voxels the whole scan takes along each axis.

    Stretched, they may be as small as the scan's own. With a spacing an input is a part of space:
    one that is larger than the scan would be filled up.

    Args:
        wanted: millimetres per step; empty to stretch the whole scan.
    """
    size, spacing = oriented.voxels.shape, oriented.spacing
    if not wanted or spacing is None:  # without one ``_steps`` refuses
        return size
    places = zip(size, spacing, wanted, strict=True)
    return tuple(side * own / mm + geometry.EDGE for side, own, mm in places)


def _steps(
    oriented: geometry.Oriented, wanted: tuple[float, ...], pixels: tuple[int, ...]
) -> tuple[list[float], list[float] | None]:
    """Steps of the model's voxels in voxels of the scan, and in millimetres where those are known.

    Args:
        wanted: millimetres per step; empty to stretch the whole scan.
    """
    size, spacing = oriented.voxels.shape, oriented.spacing
    if not wanted:
        steps = [side / target for side, target in zip(size, pixels, strict=True)]
        known = spacing and [mm * step for mm, step in zip(spacing, steps, strict=True)]
        return steps, known or None
    if spacing is None:
        raise BrokenMedia(
            f"the model needs voxels of {'x'.join(f'{mm:g}' for mm in wanted)} mm; "
            "the scan does not tell the size of its own"
        )
    return [mm / own for mm, own in zip(wanted, spacing, strict=True)], list(wanted)
