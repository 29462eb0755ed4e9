"""NRRD in one file: raw or gzip, three axes, with or without a patient's directions.

The format: http://teem.sourceforge.net/nrrd/format.html. Without a named space its directions are
taken as left, back, head, as ITK does. Any other file that the header names is refused.
"""

from __future__ import annotations

import re

import numpy as np

from media.errors import BrokenMedia, UnsupportedMedia
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
from media.scans.voxels import check_shape

MAGIC = b"NRRD000"
#: Axes of a space -> signs that turn them to left, back, head.
SPACES = {
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "": (1, 1, 1),
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


def load(data: bytes) -> Scan:
    """A scan from the bytes of a .nrrd file."""
    end = re.search(rb"\r?\n\r?\n", data[:MAX_HEADER_BYTES])
    fields = _fields(data[: end.start() if end else MAX_HEADER_BYTES].decode("latin-1"))
    _check_attached(fields)
    if end is None:
        raise BrokenMedia(
            f"expected an empty line after an NRRD header of at most {MAX_HEADER_BYTES} bytes"
        )
    shape, dtype = _shape(fields), _dtype(fields)
    packed = _choice(fields, "encoding", ENCODINGS)
    return read_voxels(data, Layout(shape, dtype, end.end(), packed, _affine(fields)))


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


def _shape(fields: dict[str, str]) -> tuple[int, int, int]:
    (axes,) = whole_numbers(fields.get("dimension", ""), 1, "dimension")
    if axes != 3:
        raise UnsupportedMedia(f"expected an NRRD file of 3 axes; got {axes}")
    kinds = fields.get("kinds", "").lower().split()
    if set(kinds) - SPATIAL:
        raise UnsupportedMedia(f"expected NRRD axes in space; got kinds {shown(' '.join(kinds))}")
    return check_shape(whole_numbers(fields.get("sizes", ""), 3, "sizes"), "NRRD")


def _dtype(fields: dict[str, str]) -> np.dtype:
    name = " ".join(fields.get("type", "").lower().split())
    code = next((code for code, names in TYPES.items() if name in names.split("|")), None)
    if code is None:
        raise UnsupportedMedia(f"expected a type of numbers in the NRRD header; got {shown(name)}")
    endian = fields.get("endian", "").lower()
    if endian not in ENDIANS and code[1] != "1":
        raise BrokenMedia(f"expected endian little or big; got {shown(endian)}")
    return np.dtype(ENDIANS.get(endian, "<") + code)


def _affine(fields: dict[str, str]) -> np.ndarray | None:
    """From ``space directions``, else from ``spacings``; None where there is neither."""
    space = fields.get("space", "").lower()
    if space not in SPACES:
        raise UnsupportedMedia(
            f"expected an NRRD space that names the patient's sides, or none; got {shown(space)}"
        )
    units = _units(fields)
    if units - {"mm", "millimeter", "millimeters", "millimetre", "???", ""}:
        found = " ".join(sorted(units))
        raise UnsupportedMedia(f"expected lengths in millimetres; got {shown(found)}")
    if "space directions" in fields:
        directions = _vectors(fields["space directions"], 3, "space directions").T  # [3, axis]
    elif "spacings" in fields:
        directions = np.diag(numbers(fields["spacings"], 3, "spacings"))
    else:
        return None
    (origin,) = _vectors(fields.get("space origin", "(0,0,0)"), 1, "space origin")
    signs = np.array(SPACES[space], dtype=np.float64)
    return affine_from_lps(signs[:, None] * directions, signs * origin)


def _units(fields: dict[str, str]) -> set[str]:
    text = fields.get("space units", "") + fields.get("units", "")
    return {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', text)}


def _vectors(text: str, count: int, name: str) -> np.ndarray:
    """``(1,0,0) (0,1,0)`` as float64 [count, 3]."""
    found = re.fullmatch(r"\s*(\([^()]*\)\s*)+", text) and re.findall(r"\(([^()]*)\)", text)
    if not found or len(found) != count:
        raise BrokenMedia(f"expected {count} vectors for {name}; got {shown(text)}")
    return np.stack([numbers(vector.replace(",", " "), 3, name) for vector in found])
