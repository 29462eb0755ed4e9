"""NumPy files: .npy, and .npz with one array of three axes; never an object, never a pickle.

They say nothing of places: the axes are taken as depth, height and width, without those of length
one that are a batch, a channel or a time (``voxels.volume_axes``).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from media.errors import BrokenMedia, MediaTooLarge, UnsupportedMedia
from media.limits import STRANGER, ScanLimits
from media.scans.inflate import PIECE_BYTES, most, too_large
from media.scans.scan import Scan
from media.scans.voxels import Bytes, byte_count, check_dtype, check_shape, view, volume_axes
from media.sources.zip_entries import ENCRYPTED, METHODS

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\3\4"
ZIP_ENTRY = b"PK\1\2"  # begins an entry of a zip's directory
MAX_HEADER_BYTES = 16_384  # of an array; numpy reads texts of at most 10,000
READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """What stands before the values of an array, and how many bytes that takes."""

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype
    size: int


def is_npz(head: bytes) -> bool:
    """Whether a zip begins with an array; ``load`` looks at the other members."""
    name_bytes = int.from_bytes(head[26:28], "little")
    return head.startswith(ZIP_MAGIC) and head[30 : 30 + name_bytes].endswith(b".npy")


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """A scan from the bytes of a .npy or .npz file; ``affine`` is None."""
    load_file = _from_npz if data.startswith(ZIP_MAGIC) else _from_npy
    return Scan(load_file(data, limits), None)


def from_array(array: np.ndarray, limits: ScanLimits = STRANGER.scan) -> Scan:
    """An array in memory as a scan: [depth, height, width], and axes of length one."""
    shape = _sides(array.shape, "array", limits)
    if array.dtype == bool:
        array = array.view(np.uint8)
    check_dtype(array.dtype, "array")
    return Scan(array.reshape(shape), None)  # [depth, height, width]


def _from_npy(data: bytes, limits: ScanLimits) -> np.ndarray:
    header = _header(data[:MAX_HEADER_BYTES])
    return _voxels(header, data, limits)


def _from_npz(data: bytes, limits: ScanLimits) -> np.ndarray:
    if data.count(ZIP_ENTRY) > limits.files:
        raise MediaTooLarge(f"npz files may have at most {limits.files} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = _scans(dict(_headers(archive)))
            if len(arrays) != 1:
                names = ", ".join(repr(entry.filename[:-4][:40]) for entry in list(arrays)[:8])
                raise BrokenMedia(
                    "expected one array of 3 axes in the npz file; "
                    f"got {len(arrays)}{names and ': '}{names}"
                )
            ((entry, header),) = arrays.items()
            with archive.open(entry) as stream:
                content = _read(stream, header, entry.compress_size, limits)
                return _voxels(header, content, limits)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError) as error:
        raise BrokenMedia("the npz file is damaged") from error


def _headers(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, Header]]:
    entries = archive.infolist()
    if not all(entry.filename.endswith(".npy") for entry in entries):
        raise UnsupportedMedia("expected arrays alone in the npz file; got other files too")
    if any(one.flag_bits & ENCRYPTED or one.compress_type not in METHODS for one in entries):
        raise UnsupportedMedia("expected the npz file stored or deflated, not encrypted")
    for entry in entries:
        with archive.open(entry) as stream:
            yield entry, _header(stream.read(MAX_HEADER_BYTES))


def _scans(headers: dict[zipfile.ZipInfo, Header]) -> dict[zipfile.ZipInfo, Header]:
    """The arrays that may be the scan: [d, h, w] or [d, h, w, 1], else one of more ones."""
    plain = {
        entry: header
        for entry, header in headers.items()
        if len(header.shape) == 3 or (len(header.shape) == 4 and header.shape[3] == 1)
    }
    return plain or {
        entry: header for entry, header in headers.items() if len(volume_axes(header.shape)) == 3
    }


def _sides(shape: tuple[int, ...], kind: str, limits: ScanLimits) -> tuple[int, int, int]:
    return check_shape([shape[axis] for axis in volume_axes(shape)], kind, limits)


def _header(head: bytes) -> Header:
    """The header of an array; it may be as long as MAX_HEADER_BYTES."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = READ_HEADER[version](stream)
    except KeyError as error:
        raise UnsupportedMedia(f"expected version 1.0 or 2.0 of .npy; got {version}") from error
    except Exception as error:  # Python parses that text, and fails in many ways
        raise BrokenMedia("the header of the array cannot be read") from error
    if dtype.hasobject:
        raise UnsupportedMedia("expected an array of numbers; got Python objects, which are code")
    return Header(shape, "F" if fortran else "C", dtype, stream.tell())


def _voxels(header: Header, content: Bytes, limits: ScanLimits) -> np.ndarray:
    shape, dtype = _sides(header.shape, "NumPy", limits), check_dtype(header.dtype, "NumPy")
    return view(content, header.size, shape, dtype, header.order, limits)


def _read(stream: IO[bytes], header: Header, packed: int, limits: ScanLimits) -> memoryview:
    """One member of an npz file: header and values, not a byte more, with their checksum.

    Args:
        packed: bytes that it takes in the file.
    """
    shape, dtype = _sides(header.shape, "NumPy", limits), check_dtype(header.dtype, "NumPy")
    size = header.size + byte_count(shape, dtype, limits)
    if size > (limit := most(packed, limits)):
        raise too_large(limit, limits)
    target = np.empty(size, np.uint8).data
    filled = 0
    while piece := stream.read(PIECE_BYTES):  # at the end the checksum is compared
        if filled + len(piece) > len(target):
            raise BrokenMedia("an array of the npz file is longer than its header tells")
        target[filled : filled + len(piece)] = piece
        filled += len(piece)
    return target[:filled]
