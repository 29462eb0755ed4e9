"""A zip of the DICOM files of one series, as one volume.

The files' names and their order mean nothing. A file with DICM at byte 128 must be a slice of the
one series, or a DICOMDIR, which is left out. So is every file without it: catalogues, notes,
viewers, previews, what systems leave behind, zips in the zip. Two things that are refused:

- a file that begins as a DICOM data set does without those 132 bytes: it is a slice, and such
  files are not read anywhere;
- damage to any file, left out or not, as far as the zip's checksums tell it.

A slice that was cut before byte 132, or emptied, before it was zipped looks like any other file.
What shows that it is missing is the gap between its neighbours (``dicom_planes.arrange``); the
first and the last slice have none.
"""

from __future__ import annotations

import re

from media.errors import BrokenMedia, MediaError, UnsupportedMedia
from media.limits import STRANGER, ScanLimits
from media.scans.dicom.dicom import Part, read_part, stack
from media.scans.dicom.dicom_header import has_prefix, is_directory
from media.scans.dicom.dicom_limits import Budget, told_as_media_errors
from media.scans.dicom.dicom_pixels import check_size
from media.scans.dicom.dicom_zip import Member, inflate_member, read_zip
from media.scans.scan import Scan

#: Group and element, then the letters of a type, or a length below 64 KiB: how a file begins whose
#: writer left preamble and DICM out, with its meta group or without, in either order of bytes.
BARE = re.compile(rb"(?s)DICM|[\2\x08]\0..([A-Z]{2}|..\0\0)|\0[\2\x08]..([A-Z]{2}|\0\0..)")


def load(data: bytes, limits: ScanLimits = STRANGER.scan) -> Scan:
    """The files of one series as voxels [slice, row, column], ordered by place.

    Raises:
        MediaError: the zip is damaged or made to deceive, holds something besides one series, or
            a file of it cannot be read.
    """
    if not data.startswith(b"PK"):
        raise UnsupportedMedia("expected a zip of DICOM files; these bytes are no zip")
    with told_as_media_errors():
        members = read_zip(data, limits)
        parts = _read_parts(members, limits)
        if not members:
            raise BrokenMedia("expected DICOM files in the zip, got none")
        if not parts:
            raise UnsupportedMedia(
                f"expected DICOM files in the zip; none of its {len(members)} files is a slice"
            )
        _check_alike(parts)
        return stack(parts, limits)


def _is_slice(data: bytes, budget: Budget) -> bool:
    """Whether a file must be read, or the volume would lack it."""
    return not is_directory(data, budget) if has_prefix(data) else BARE.match(data) is not None


def _read_parts(members: list[Member], limits: ScanLimits) -> list[Part]:
    budget, parts, slices = Budget(limits), [], 0
    for number, member in enumerate(members, 1):
        try:
            with told_as_media_errors():
                data = inflate_member(member)
                if not _is_slice(data, budget):
                    continue
                part = read_part(data, budget)
        except MediaError as error:
            raise type(error)(f"file {number} of {len(members)} in the zip: {error}") from error
        slices += part.layout.number_of_frames
        check_size(slices, part.layout.rows, part.layout.columns, limits)
        parts.append(part)
    return parts


def _check_alike(parts: list[Part]) -> None:
    """One series, one size; and a place for every slice, since nothing else orders files."""
    series = len({part.header.tags.get("SeriesInstanceUID") for part in parts})
    if series > 1:
        raise BrokenMedia(f"expected the files of one series, got {series} series")
    sizes = sorted({(part.layout.rows, part.layout.columns) for part in parts})
    if len(sizes) > 1:
        raise BrokenMedia(
            f"expected slices of one size, got {len(sizes)} sizes, "
            f"from {sizes[0][0]}x{sizes[0][1]} to {sizes[-1][0]}x{sizes[-1][1]}"
        )
    placeless = sum(part.frames[0].plane is None for part in parts)
    if placeless and len(parts) > 1:
        raise BrokenMedia(
            "expected ImagePositionPatient, ImageOrientationPatient and PixelSpacing in every "
            f"file of a series; {placeless} of {len(parts)} lack them"
        )
