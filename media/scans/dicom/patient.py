"""Whose a DICOM file or a zipped series is: to keep a patient's scans together, never to tell.

Nothing that reads pixels looks at this tag, and whoever asks must write the number nowhere.
"""

from __future__ import annotations

from pydicom import uid
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from media.errors import BrokenMedia, UnsupportedMedia
from media.limits import STRANGER, ScanLimits
from media.scans import inflate as gzip
from media.scans.dicom.dicom_limits import Budget, HeaderStream, inflate, told_as_media_errors
from media.scans.dicom.dicom_zip import inflate_member, read_zip

PREFIX = slice(128, 132)  # where every DICOM file says DICM
PATIENT_ID = Tag("PatientID")
META = [Tag("MediaStorageSOPClassUID"), Tag("TransferSyntaxUID")]


def patient_id(data: bytes, limits: ScanLimits = STRANGER.scan) -> str:
    """PatientID of a DICOM file, gzipped or not, or of all the DICOM files of a zip.

    Raises:
        MediaError: no DICOM, damaged, without a PatientID or with several; it quotes none.
    """
    with told_as_media_errors():
        if gzip.is_gzip(data):
            data = bytes(gzip.unpack(data, limits=limits))
        files = [data]
        if data.startswith(b"PK"):
            files = [inflate_member(member) for member in read_zip(data, limits)]
        budget = Budget(limits)
        found = {_of_file(file, budget) for file in files if file[PREFIX] == b"DICM"} - {None}
        if not found:
            raise UnsupportedMedia("expected a DICOM file, or a zip of some; there is none")
        if len(found) > 1:
            raise BrokenMedia(f"expected the files of one patient, got {len(found)}")
        return str(found.pop())


def _of_file(data: bytes, budget: Budget) -> str | None:
    """None of a DICOMDIR, which is an index of other files."""
    stream = HeaderStream(data, budget)
    stream.seek(PREFIX.stop)
    meta = read_dataset(stream, False, True, None, _behind_meta, specific_tags=[*META])
    if meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
        return None
    syntax = uid.UID(meta.TransferSyntaxUID)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        packed = memoryview(data)[stream.tell() :]
        limit = gzip.most(len(packed), budget.limits)
        stream = HeaderStream(inflate(packed, limit)[:limit], budget)
    tags = read_dataset(
        stream, syntax.is_implicit_VR, syntax.is_little_endian, None, _behind_patient,
        specific_tags=[PATIENT_ID],
    )  # fmt: skip
    value = tags.get_item(PATIENT_ID).value if PATIENT_ID in tags else None
    if PATIENT_ID not in tags or len(value or b"") > budget.limits.value_bytes:
        raise BrokenMedia("expected a PatientID; there is none")
    number = str(tags[PATIENT_ID].value or "").strip(" \0")
    if not number:
        raise BrokenMedia("expected a PatientID; it is empty")
    return number


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _behind_patient(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag > PATIENT_ID
