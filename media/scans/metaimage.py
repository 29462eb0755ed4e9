"""MetaImage in one file (.mha): three axes and any of length one, one channel, raw or zlib.

The format: https://docs.itk.org/en/latest/learn/metaio.html. ``TransformMatrix`` holds a row per
axis of the image, left, back, head; ``Offset`` is the centre of the first voxel. An axis of length
one that is left out takes its axis of the space with it. The letters of ``AnatomicalOrientation``
repeat what the matrix says, and are not read (nor does ITK). Any other file that the header names
is refused.
"""

from __future__ import annotations

import re

import numpy as np

from media.errors import BrokenMedia, UnsupportedMedia
from media.limits import STRANGER, ScanLimits
from media.scans.scan import Scan
from media.scans.textheader import (
    MAX_HEADER_BYTES,
    Layout,
    affine_from_lps,
    numbers,
    read_voxels,
    shown,
    whole_numbers,
)
from media.scans.voxels import MAX_AXES, check_shape, volume_axes

BEGINS = re.compile(rb"\s*(ObjectType|NDims|Comment)\s*=")
LAST = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=([^\r\n]*)\r?\n", re.MULTILINE)
#: Names of a field that MetaIO knows, the usual one first.
NAMES = {
    "TransformMatrix": ("TransformMatrix", "Rotation", "Orientation"),
    "Offset": ("Offset", "Position", "Origin"),
    "ElementSpacing": ("ElementSpacing", "ElementSize"),
    "BigEndian": ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # of 4 bytes on every machine
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
#: Fields that would change the voxels or their place, with the only value that is read.
FIXED = {
    "ObjectType": "Image",
    "BinaryData": "True",
    "ElementNumberOfChannels": "1",
    "HeaderSize": "0",
    "DistanceUnits": "mm",
    "ElementToIntensityFunctionSlope": "1",  # ITK passes over both
    "ElementToIntensityFunctionOffset": "0",
}


def is_metaimage(head: bytes) -> bool:
    """Whether the file begins with one of the fields that come first; there is no magic."""
    return BEGINS.match(head) is not None


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """A scan from the bytes of a .mha file."""
    last = LAST.search(data[:MAX_HEADER_BYTES])
    if last is None:
        raise BrokenMedia(
            "expected ElementDataFile at the end of a MetaImage header of at most "
            f"{MAX_HEADER_BYTES} bytes"
        )
    if last[1].strip() != b"LOCAL":
        raise UnsupportedMedia("expected a MetaImage with its voxels inside (.mha, not .mhd)")
    fields = _fields(data[: last.start()].decode("latin-1"))
    _check_fixed(fields)
    packed = _is_true(fields.get("CompressedData"))
    sizes, dtype = _sizes(fields), _dtype(fields)
    kept = volume_axes(sizes)
    shape = check_shape([sizes[axis] for axis in kept], "MetaImage", limits)
    affine = _affine(fields, len(sizes), kept)
    return read_voxels(data, Layout(shape, dtype, last.end(), packed, affine), limits)


def _fields(header: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in header.split("\n"):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name:
            continue
        if not equals or name in found:
            raise BrokenMedia(f"expected each MetaImage field once; got {shown(line)}")
        found[name] = value
    return found


def _value(fields: dict[str, str], name: str) -> str | None:
    """The value of a field under any of its names."""
    return next((fields[other] for other in NAMES[name] if other in fields), None)


def _check_fixed(fields: dict[str, str]) -> None:
    for name, expected in FIXED.items():
        found = fields.get(name, expected)
        if found.lower() != expected.lower() and not _equal(found, expected):
            raise UnsupportedMedia(
                f"expected {name} {expected} in the MetaImage header; got {shown(found)}"
            )


def _equal(one: str, other: str) -> bool:
    """Whether both are the same number."""
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "1")


def _sizes(fields: dict[str, str]) -> list[int]:
    (axes,) = whole_numbers(fields.get("NDims", ""), 1, "NDims")
    if not 3 <= axes <= MAX_AXES:
        raise UnsupportedMedia(f"expected a MetaImage of 3 axes; got {axes}")
    return whole_numbers(fields.get("DimSize", ""), axes, "DimSize")


def _dtype(fields: dict[str, str]) -> np.dtype:
    name = fields.get("ElementType", "")
    if name not in TYPES:
        raise UnsupportedMedia(f"expected an ElementType of numbers; got {shown(name)}")
    order = ">" if _is_true(_value(fields, "BigEndian")) else "<"
    return np.dtype(order + TYPES[name])


def _affine(fields: dict[str, str], axes: int, kept: tuple[int, ...]) -> np.ndarray | None:
    """Of the three axes that are kept; None where the header tells no size of a voxel."""
    spacing, matrix = _value(fields, "ElementSpacing"), _value(fields, "TransformMatrix")
    if spacing is None and matrix is None:
        return None
    if spacing is None:
        raise BrokenMedia("expected ElementSpacing beside TransformMatrix in the MetaImage header")
    offset, square = _value(fields, "Offset"), (axes, axes)
    rows = np.eye(axes)
    if matrix:
        rows = numbers(matrix, axes * axes, "TransformMatrix").reshape(square)  # [axis, space]
    origin = numbers(offset, axes, "Offset") if offset else np.zeros(axes)
    steps = rows.T * numbers(spacing, axes, "ElementSpacing")  # [space, axis]
    return affine_from_lps(steps[np.ix_(kept, kept)], origin[list(kept)])
