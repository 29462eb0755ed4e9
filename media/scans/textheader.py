"""NRRD and MetaImage (.mha): a header of text, then the voxels, in one file.

SimpleITK, which reads both, opens files by their names, several times: it reads neither memory nor
a pipe, and a process that may not write a file has nothing to show it. The headers have to be
parsed for the limits anyway; numpy takes the voxels from there, and the tests hold the outcome
against SimpleITK.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from media.errors import BrokenMedia
from media.limits import ScanLimits
from media.scans import inflate
from media.scans.scan import LPS_TO_RAS, Scan
from media.scans.voxels import byte_count, view

MAX_HEADER_BYTES = 2**20
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
MAX_TEXT = 40  # of a stranger's value, in a message


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a header says of the voxels behind it.

    Attributes:
        shape: sides, the one that runs fastest first.
        offset: first byte of the voxels, packed or not.
        packed: whether they are gzip or zlib data.
        affine: see ``Scan``.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    packed: bool
    affine: np.ndarray | None


def read_voxels(data: bytes, layout: Layout, limits: ScanLimits) -> Scan:
    """The voxels as the header says; axes without places become depth, height, width."""
    content, offset = memoryview(data), layout.offset
    if layout.packed:
        size = byte_count(layout.shape, layout.dtype, limits)
        content, offset = inflate.unpack(content[offset:], size, inflate.ZLIB_OR_GZIP, limits), 0
    voxels = view(content, offset, layout.shape, layout.dtype, "F", limits)  # [i, j, k]
    return Scan(voxels.T if layout.affine is None else voxels, layout.affine)


def numbers(text: str, count: int, name: str) -> np.ndarray:
    """``count`` numbers in a row, float64."""
    parts = text.split()
    try:
        found = np.array([float(part) for part in parts])
    except ValueError:
        found = np.empty(0)
    if len(found) != count:
        raise BrokenMedia(f"expected {count} numbers for {name}; got {shown(text)}")
    return found


def whole_numbers(text: str, count: int, name: str) -> list[int]:
    """``count`` whole numbers in a row."""
    parts = text.split()
    if len(parts) != count or not all(WHOLE.fullmatch(part) for part in parts):
        raise BrokenMedia(f"expected {count} whole numbers for {name}; got {shown(text)}")
    return [int(part) for part in parts]


def shown(text: str) -> str:
    """A stranger's value as a message may repeat it."""
    return repr(text[:MAX_TEXT])


def affine_from_lps(axes: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Steps of one voxel along each axis, [3 (left, back, head), axis], and the first voxel."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return LPS_TO_RAS @ affine
