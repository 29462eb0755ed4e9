"""A zip of the DICOM files of one series, as one volume.

Left out are folders, what systems leave behind (any part of a name that starts with a dot or is
``__MACOSX``; Thumbs.db, desktop.ini), and what comes with an export: DICOMDIR, README, LICENSE,
and names that end in .txt or .md. Everything else must be a DICOM file of the one series. A zip
inside the zip is not opened. The files' names and their order mean nothing.
"""

from __future__ import annotations

from media.errors import BrokenMedia, MediaError, UnsupportedMedia
from media.scans.dicom.dicom import Part, read_part, stack
from media.scans.dicom.dicom_limits import Budget, told_as_media_errors
from media.scans.dicom.dicom_pixels import check_size
from media.scans.dicom.dicom_zip import Member, inflate_member, read_zip
from media.scans.scan import Scan

LEFT_OUT = ("dicomdir", "readme", "license", "thumbs.db", "desktop.ini")
LEFT_OUT_ENDINGS = (".txt", ".md")


def load(data: bytes) -> Scan:
    """The files of one series as voxels [slice, row, column], ordered by place.

    Raises:
        MediaError: the zip is damaged or made to deceive, holds something besides one series, or
            a file of it cannot be read.
    """
    if not data.startswith(b"PK"):
        raise UnsupportedMedia("expected a zip of DICOM files; these bytes are no zip")
    with told_as_media_errors():
        members = [member for member in read_zip(data) if not _is_left_out(member.name)]
        if not members:
            raise BrokenMedia("expected DICOM files in the zip, got none")
        parts = _read_parts(members)
        _check_alike(parts)
        return stack(parts)


def _is_left_out(name: str) -> bool:
    parts = name.lower().split("/")
    hidden = any(part.startswith(".") or part == "__macosx" for part in parts)
    return hidden or parts[-1] in LEFT_OUT or parts[-1].endswith(LEFT_OUT_ENDINGS)


def _read_parts(members: list[Member]) -> list[Part]:
    budget, parts, slices = Budget(), [], 0
    for number, member in enumerate(members, 1):
        try:
            with told_as_media_errors():
                part = read_part(inflate_member(member), budget)
        except MediaError as error:
            raise type(error)(f"file {number} of {len(members)} in the zip: {error}") from error
        slices += part.layout.number_of_frames
        check_size(slices, part.layout.rows, part.layout.columns)
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
