"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped: the header by nibabel, then the voxels.

Every size is taken from the header and held against the limits and the bytes that are there
before a voxel is touched. Voxels of a plain file are a view of its bytes.

The first three axes are those of space; whatever follows them (time, then the numbers of a vector)
must have length one. So 5x4x3x1x1 is a volume, and 5x4x1x3 is a slice at three times and none.

The affine is the sform where its code is above 0, else the qform, else the voxel sizes alone
(the standard's method 1), whose axes are then taken to run right, front and head. Lengths in
metres or microns become millimetres.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from media.errors import BrokenMedia, UnsupportedMedia
from media.limits import STRANGER, ScanLimits
from media.scans import inflate
from media.scans.scan import Scan
from media.scans.voxels import Bytes, byte_count, check_dtype, check_shape, view

SINGLE = {b"n+1\0": Nifti1Header, b"n+2\0": Nifti2Header}
PAIR = (b"ni1\0", b"ni2\0")
SIDES = {348: 344, 540: 4}  # size of the header -> where its magic stands
#: How far b^2 + c^2 + d^2 of a qform may be above 1, for which the header has no a. Rounding three
#: float32 once makes it 1e-7; writers that compute in float32, or from cosines with few decimals,
#: come to 1e-5. An angle that so much could hide is about a degree off half a turn. NIfTI's own
#: library makes any three numbers a rotation; those further off are taken for what they are, wrong.
TOO_LONG = np.float64(1e-4)
TO_MM = {1: 1000.0, 3: 0.001}  # the code of metres, of microns; anything else is millimetres


def is_nifti(head: bytes) -> bool:
    """Whether a header of either version begins the file, in either byte order."""
    return _magic(head) in (*SINGLE, *PAIR)


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """A scan from the bytes of a .nii or .nii.gz file; see ``is_nifti``."""
    head = inflate.head(data, max(SIDES), limits)
    if _magic(head) in PAIR:
        raise UnsupportedMedia("expected NIfTI in one file (.nii); got the header of .hdr and .img")
    header = _header(head)
    shape, dtype, offset = _layout(header, limits)
    packed = inflate.is_gzip(data)
    content: Bytes = data
    if packed:
        size = offset + byte_count(shape, dtype, limits)
        content = inflate.unpack(data, size, limits=limits)
    slope, intercept = _rescaling(header)
    voxels = view(content, offset, shape, dtype, "F", limits)
    return Scan(voxels, _affine(header), slope, intercept)


def _magic(head: bytes) -> bytes:
    """The four bytes that name version and kind, if the size of the header fits them."""
    sizes = (struct.unpack(order + "i", head[:4])[0] for order in "<>" if len(head) >= 4)
    place = next((SIDES[size] for size in sizes if size in SIDES), len(head))
    return head[place : place + 4]


def _header(head: bytes) -> Nifti1Header:
    """nibabel's header; it guesses the byte order by ``dim``, which may be a lie, so it is told."""
    kind: Any = SINGLE[_magic(head)]
    order = "<" if struct.unpack("<i", head[:4])[0] == kind.sizeof_hdr else ">"
    if len(head) < kind.sizeof_hdr:
        raise BrokenMedia(f"expected a NIfTI header of {kind.sizeof_hdr} bytes; got {len(head)}")
    header: Nifti1Header = kind(head[: kind.sizeof_hdr], endianness=order, check=False)
    return header


def _layout(
    header: Nifti1Header, limits: ScanLimits
) -> tuple[tuple[int, int, int], np.dtype, int]:
    """Sides, type and first byte of the voxels."""
    axes, *sides = header["dim"].tolist()
    if not 1 <= axes <= 7:
        raise BrokenMedia(f"expected 1 to 7 axes in the NIfTI header; got {axes}")
    one_volume = all(side == 1 for side in sides[3:axes])
    shape = check_shape(sides[: min(axes, 3) if one_volume else axes], "NIfTI", limits)
    try:
        dtype = check_dtype(header.get_data_dtype(), "NIfTI")
    except (HeaderDataError, KeyError) as error:
        code = header["datatype"].item()
        raise UnsupportedMedia(f"expected a NIfTI data type of numbers; got code {code}") from error
    offset = header["vox_offset"].item() or header.single_vox_offset  # 0 stands for the least
    if not offset >= header.single_vox_offset or offset % 1:  # NaN and infinity too
        raise BrokenMedia(
            f"expected the voxels of a NIfTI file at byte {header.single_vox_offset} or later; "
            f"got {offset:g}"
        )
    return shape, dtype, int(offset)


def _rescaling(header: Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or NaN says that there is no rescaling."""
    slope, intercept = header["scl_slope"].item(), header["scl_inter"].item()
    return (slope, intercept) if slope and math.isfinite(slope) else (1.0, 0.0)


def _affine(header: Nifti1Header) -> np.ndarray:
    """Voxel index -> millimetres RAS+, float64 [4, 4]."""
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0  # 0 stands for 1
    if header["sform_code"] > 0:
        affine = header.get_sform()
    elif header["qform_code"] > 0:
        affine = _qform(header)
    else:
        affine = np.diag([*header["pixdim"][1:4], 1.0])
    millimetres = TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return np.diag([*[millimetres] * 3, 1.0]) @ affine.astype(np.float64)


def _qform(header: Nifti1Header) -> np.ndarray:
    length = sum(header[f"quatern_{name}"].item() ** 2 for name in "bcd")
    if 1 < length <= 1 + TOO_LONG:
        header.quaternion_threshold = TOO_LONG  # half a turn, made a unit again by nibabel
    try:
        return header.get_qform()
    except (HeaderDataError, ValueError) as error:  # a negative voxel size; no unit quaternion
        raise BrokenMedia("the rotation (qform) of the NIfTI header makes no sense") from error
