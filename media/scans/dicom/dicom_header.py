"""A DICOM file up to its pixels, read by pydicom: the tags that scans need, and no others.

Names, dates and numbers of a patient are never read. A file without the "DICM" prefix is refused:
nothing else tells such bytes from any other.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from media.errors import BrokenMedia, UnsupportedMedia
from media.limits import ScanLimits
from media.scans.dicom.dicom_limits import PIECE_BYTES, Budget, HeaderStream, inflate
from media.scans.inflate import most, too_large

PREAMBLE = 128  # bytes before the prefix
PREFIX = b"DICM"
UNDEFINED = 0xFFFFFFFF  # a length: the value ends with a delimiter
PIXEL_DATA = 0x7FE00010
PIXELS = (0x7FE00008, 0x7FE00009, PIXEL_DATA)  # float, double, whole numbers


class Syntax(NamedTuple):
    """How a transfer syntax writes its data set."""

    implicit: bool = False
    little: bool = True
    decoder: str = ""  # pydicom's name for what decodes the frames; empty: they are not packed


SYNTAXES = {
    uid.ImplicitVRLittleEndian: Syntax(implicit=True),
    uid.ExplicitVRLittleEndian: Syntax(),
    uid.ExplicitVRBigEndian: Syntax(little=False),
    uid.DeflatedExplicitVRLittleEndian: Syntax(),
    uid.RLELossless: Syntax(decoder="pydicom"),
    uid.JPEGBaseline8Bit: Syntax(decoder="pillow"),
    uid.JPEGExtended12Bit: Syntax(decoder="pillow"),
    uid.JPEG2000Lossless: Syntax(decoder="pillow"),
    uid.JPEG2000: Syntax(decoder="pillow"),
}

META = ("MediaStorageSOPClassUID", "TransferSyntaxUID")
KEYWORDS = (
    "ImageType", "SeriesInstanceUID",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "DoseGridScaling",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "GridFrameOffsetVector",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says before its pixels.

    Attributes:
        tags: those of ``KEYWORDS`` that are there.
        uid: the transfer syntax, a key of ``SYNTAXES``.
        pixels: the bytes of the pixel data element; packed frames up to the end of the file.
        pixel_vr: its type; None where the syntax leaves types out.
    """

    tags: Dataset
    uid: uid.UID
    pixels: memoryview
    pixel_vr: str | None

    @property
    def syntax(self) -> Syntax:
        return SYNTAXES[self.uid]


class _Element(NamedTuple):
    """Where the pixel data element is."""

    tag: int
    vr: str | None
    length: int
    start: int  # of its value


def has_prefix(data: bytes) -> bool:
    """Whether DICM stands at byte 128, as in every DICOM file."""
    return data[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX


def is_directory(data: bytes, budget: Budget) -> bool:
    """Whether a DICOM file is a DICOMDIR: an index of other files, whatever it is called."""
    meta, _ = _read_meta(data, budget)
    return _is_directory(meta)


def read_header(data: bytes, budget: Budget) -> Header:
    """Everything before the pixels.

    Raises:
        UnsupportedMedia: no DICOM file, a DICOMDIR, or a transfer syntax that is not read.
        BrokenMedia: there are no pixels, or fewer than announced.
        Exception: whatever pydicom raises on damaged bytes.
    """
    if not has_prefix(data):
        raise UnsupportedMedia("expected a DICOM file: 128 bytes, then DICM; these are none")
    meta, stream = _read_meta(data, budget)
    syntax_uid = _syntax(meta)
    if syntax_uid == uid.DeflatedExplicitVRLittleEndian:
        data = _inflate(memoryview(data)[stream.tell() :], budget.limits)
        stream = HeaderStream(data, budget)
    tags, element = _read_tags(stream, SYNTAXES[syntax_uid])
    if element is None:
        end = "it ends too early" if stream.tell() > len(data) else "it has none"
        raise BrokenMedia(f"expected a DICOM file with pixel data; {end}")
    _charge(tags, budget)
    pixels = memoryview(data)[element.start :]
    return Header(tags, syntax_uid, _cut(pixels, element, SYNTAXES[syntax_uid]), element.vr)


def _read_meta(data: bytes, budget: Budget) -> tuple[Dataset, HeaderStream]:
    """The group of tags that every file begins with, and the stream behind it."""
    stream = HeaderStream(data, budget)
    stream.seek(PREAMBLE + len(PREFIX))
    meta = read_dataset(stream, False, True, None, _behind_meta, specific_tags=_tags(META))
    return meta, stream


def _is_directory(meta: Dataset) -> bool:
    return bool(meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage)


def _syntax(meta: Dataset) -> uid.UID:
    """The transfer syntax, one of ``SYNTAXES``."""
    if _is_directory(meta):
        raise UnsupportedMedia("expected a scan; a DICOMDIR is an index of other files")
    found = meta.get("TransferSyntaxUID")
    if not found:
        raise BrokenMedia("expected a DICOM file that names its transfer syntax")
    if found not in SYNTAXES:
        name = "with an unknown number" if found.name == found else found.name
        raise UnsupportedMedia(
            "expected a DICOM file that is not compressed, or by deflate, RLE, JPEG of 8 bits or "
            f"JPEG 2000; got the transfer syntax {name}"
        )
    return uid.UID(found)


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _charge(tags: Dataset, budget: Budget) -> None:
    """Bound what asking for the tags will cost: pydicom takes most values apart only then."""
    for element in tags.values():
        if not isinstance(element, RawDataElement):
            continue
        if dictionary_VR(element.tag) == "SQ":
            budget.spend(element.length // PIECE_BYTES)
        elif element.length > (most_bytes := budget.limits.value_bytes):
            raise BrokenMedia(
                f"expected values of at most {most_bytes} bytes, got {element.length}"
            )


def _inflate(packed: memoryview, limits: ScanLimits) -> bytes:
    limit = most(len(packed), limits)
    data = inflate(packed, limit)
    if len(data) > limit:
        raise too_large(limit, limits)
    return data


def _read_tags(stream: HeaderStream, syntax: Syntax) -> tuple[Dataset, _Element | None]:
    found: _Element | None = None

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal found
        if tag in PIXELS:
            found = _Element(int(tag), vr, length, stream.tell())
        return found is not None

    tags = read_dataset(
        stream, syntax.implicit, syntax.little, None, at_pixels, specific_tags=_tags(KEYWORDS)
    )
    return tags, found


def _tags(keywords: tuple[str, ...]) -> list[BaseTag | int]:
    return [tag for tag in map(tag_for_keyword, keywords) if tag is not None]


def _cut(pixels: memoryview, element: _Element, syntax: Syntax) -> memoryview:
    """The value of the pixel data element, once it is one that is read."""
    if element.tag != PIXEL_DATA:
        raise UnsupportedMedia("expected pixels in whole numbers, got floating point")
    if syntax.decoder:
        return pixels
    if element.length == UNDEFINED:
        raise BrokenMedia("expected a length of the pixel data, which are not compressed")
    if element.length > len(pixels):
        raise BrokenMedia(
            f"the file is truncated: expected {element.length} bytes of pixel data, "
            f"got {len(pixels)}"
        )
    return pixels[: element.length]
