"""NRRD in one file: raw or gzip, three axes, with or without a patient's directions.

The format: http://teem.sourceforge.net/nrrd/format.html. Without a named space its directions are
taken as left, back, head, as ITK does. Axes of length one are left out: first those of another
kind than space (list, vector, time) or without a direction, then as ``voxels.volume_axes`` says.
Any other file that the header names is refused.
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

MAGIC = b"NRRD000"
VECTOR = r"(?:\([^()]*\)|none)"
MILLIMETRES = {"mm", "millimeter", "millimeters", "millimetre", "???", ""}
#: Axes of a space -> signs that turn them to left, back, head; a fourth one is time.
SPACES = {
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "right-anterior-superior-time": (-1, -1, 1, 1),
    "rast": (-1, -1, 1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "left-anterior-superior-time": (1, -1, 1, 1),
    "last": (1, -1, 1, 1),
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "left-posterior-superior-time": (1, 1, 1, 1),
    "lpst": (1, 1, 1, 1),
}
#: numpy's name of a type -> what a header may call it.
TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
ENCODINGS = {"raw": False, "gzip": True, "gz": True}
ENDIANS = {"little": "<", "big": ">"}
SPATIAL = {"domain", "space", "none", "???"}  # kinds of an axis that is one of space


def is_nrrd(head: bytes) -> bool:
    """Whether the magic of any version begins the file."""
    return head.startswith(MAGIC)


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """A scan from the bytes of a .nrrd file."""
    end = re.search(rb"\r?\n\r?\n", data[:MAX_HEADER_BYTES])
    fields = _fields(data[: end.start() if end else MAX_HEADER_BYTES].decode("latin-1"))
    _check_attached(fields)
    if end is None:
        raise BrokenMedia(
            f"expected an empty line after an NRRD header of at most {MAX_HEADER_BYTES} bytes"
        )
    sizes = _sizes(fields)
    kept = _volume_axes(fields, sizes)
    shape = check_shape([sizes[axis] for axis in kept], "NRRD", limits)
    dtype = _dtype(fields)
    packed = _choice(fields, "encoding", ENCODINGS)
    affine = _affine(fields, len(sizes), kept)
    return read_voxels(data, Layout(shape, dtype, end.end(), packed, affine), limits)


def _fields(header: str) -> dict[str, str]:
    """The fields by name; comments and the key/value pairs of other programs are left out."""
    found: dict[str, str] = {}
    for line in header.split("\n")[1:]:  # after the magic
        name, colon, value = line.strip().partition(":")
        if not name or line.startswith("#") or value.startswith("="):
            continue
        name = name.strip().lower()
        if not colon or name in found:
            raise BrokenMedia(f"expected each field of an NRRD header once; got {shown(line)}")
        found[name] = value.strip()
    return found


def _check_attached(fields: dict[str, str]) -> None:
    """The voxels begin right behind the header of this very file."""
    if "data file" in fields or "datafile" in fields:
        raise UnsupportedMedia("expected an NRRD file with its voxels inside (.nrrd, not .nhdr)")
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") != "0":
            raise UnsupportedMedia(
                f"expected an NRRD file without {name}; got {shown(fields[name])}"
            )


def _choice(fields: dict[str, str], name: str, known: dict[str, bool]) -> bool:
    value = fields.get(name, "")
    if value.lower() not in known:
        raise UnsupportedMedia(
            f"expected {name} of the NRRD header to be {', '.join(known)}; got {shown(value)}"
        )
    return known[value.lower()]


def _sizes(fields: dict[str, str]) -> list[int]:
    (axes,) = whole_numbers(fields.get("dimension", ""), 1, "dimension")
    if not 3 <= axes <= MAX_AXES:
        raise UnsupportedMedia(f"expected an NRRD file of 3 axes; got {axes}")
    return whole_numbers(fields.get("sizes", ""), axes, "sizes")


def _volume_axes(fields: dict[str, str], sizes: list[int]) -> list[int]:
    """The axes of the volume. An axis that is none of space may have length one and no other."""
    kinds = fields.get("kinds", "").lower().split()
    vectors = re.findall(r"\(|none", fields.get("space directions", ""))
    ones = {axis for axis, size in enumerate(sizes) if size == 1}
    foreign = {axis for axis, kind in enumerate(kinds) if kind not in SPATIAL}
    placeless = {axis for axis, vector in enumerate(vectors) if vector == "none"}
    left_out = foreign | placeless & ones
    spatial = [axis for axis in range(len(sizes)) if axis not in left_out]
    if foreign - ones or len(spatial) < 3:
        raise UnsupportedMedia(
            f"expected an NRRD file of 3 axes in space; got sizes {shown(fields['sizes'])} of "
            f"kinds {shown(' '.join(kinds))}"
        )
    return [spatial[place] for place in volume_axes([sizes[axis] for axis in spatial])]


def _dtype(fields: dict[str, str]) -> np.dtype:
    name = " ".join(fields.get("type", "").lower().split())
    code = next((code for code, names in TYPES.items() if name in names.split("|")), None)
    if code is None:
        raise UnsupportedMedia(f"expected a type of numbers in the NRRD header; got {shown(name)}")
    endian = fields.get("endian", "").lower()
    if endian not in ENDIANS and code[1] != "1":
        raise BrokenMedia(f"expected endian little or big; got {shown(endian)}")
    return np.dtype(ENDIANS.get(endian, "<") + code)


def _affine(fields: dict[str, str], axes: int, kept: list[int]) -> np.ndarray | None:
    """Of the three axes that are kept, out of ``axes``.

    From ``space directions``, else from ``spacings``; None where there is neither.
    """
    signs, sides, steps = _signs(fields), [0, 1, 2], None  # sides of the space: left, back, head
    if "space directions" in fields:
        vectors = _vectors(fields, "space directions", axes, len(signs))
        if not fields.get("space") and len(signs) > 3:
            sides = _paired(vectors, kept)
        steps = vectors[kept][:, sides].T  # [3, axis]
        if np.isnan(steps).any():
            raise BrokenMedia(f"expected 3 vectors; got {shown(fields['space directions'])}")
    elif "spacings" in fields:
        steps = np.diag(numbers(fields["spacings"], axes, "spacings")[kept])
    _check_units(fields.get("units", ""), kept)
    _check_units(fields.get("space units", ""), sides)
    if steps is None:
        return None
    (origin,) = _vectors(fields, "space origin", 1, len(signs))
    return affine_from_lps(signs[sides, None] * steps, (signs * origin)[sides])


def _signs(fields: dict[str, str]) -> np.ndarray:
    """What turns each axis of the space to left, back and head, float64 [3 or more]."""
    space = fields.get("space", "").lower()
    if space and space not in SPACES:
        raise UnsupportedMedia(
            f"expected an NRRD space that names the patient's sides, or none; got {shown(space)}"
        )
    if space:
        return np.array(SPACES[space], dtype=np.float64)
    (dimension,) = whole_numbers(fields.get("space dimension", "3"), 1, "space dimension")
    if not 3 <= dimension <= MAX_AXES:
        raise UnsupportedMedia(f"expected an NRRD space of 3 dimensions; got {dimension}")
    return np.ones(dimension)


def _paired(vectors: np.ndarray, kept: list[int]) -> list[int]:
    """The axes of a space without names that go with the kept axes of the image.

    ITK writes one for each: an axis of the image that is left out takes its own with it.
    """
    placed = ~np.isnan(vectors).any(axis=1)
    if placed.sum() != vectors.shape[1]:
        raise BrokenMedia(
            f"expected a direction for each of the {vectors.shape[1]} dimensions of the NRRD "
            f"space; got {placed.sum()}"
        )
    return [int(placed[:axis].sum()) for axis in kept]


def _check_units(text: str, places: list[int]) -> None:
    """Lengths are millimetres; the unit of an axis that is left out does not matter."""
    units = [unit.strip().lower() for unit in re.findall(r'"([^"]*)"', text)]
    found = {unit for place, unit in enumerate(units) if place in places} - MILLIMETRES
    if found:
        raise UnsupportedMedia(
            f"expected lengths in millimetres; got {shown(' '.join(sorted(found)))}"
        )


def _vectors(fields: dict[str, str], name: str, count: int, size: int) -> np.ndarray:
    """``(1,0,0) none`` as float64 [count, size], ``none`` as NaN; zeros without the field."""
    if name not in fields:
        return np.zeros((count, size))
    text = fields[name]
    found = re.findall(VECTOR, text) if re.fullmatch(rf"\s*({VECTOR}\s*)+", text) else []
    if len(found) != count:
        raise BrokenMedia(f"expected {count} vectors for {name}; got {shown(text)}")
    rows = [" ".join(["nan"] * size) if one == "none" else one[1:-1] for one in found]
    return np.stack([numbers(row.replace(",", " "), size, name) for row in rows])
