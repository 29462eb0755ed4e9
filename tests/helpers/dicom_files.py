"""DICOM files for tests, written by pydicom in memory."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
CORONAL = (1, 0, 0, 0, 0, -1)
SERIES = "1.2.826.0.1.3680043.8.498.77"
PATIENT = "Doe^Jane"


def oblique(degrees: float = 20) -> tuple[float, ...]:
    """Rows that lean: no axis of the slice is one of the patient's."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, s * s, s * c, 0, c, -s)


def normal(orientation: Sequence[float]) -> np.ndarray:
    """The direction across the slices."""
    return np.cross(orientation[:3], orientation[3:])


def noise(*shape: int, low: int = 0, high: int = 4000, dtype: str = "u2", seed: int = 1) -> Any:
    """Numbers that are the same in every run."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def placed(
    position: Iterable[float] = (-10, 20, 30),
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (2, 3),
) -> dict[str, Any]:
    """Tags of a slice's place."""
    return {
        "ImagePositionPatient": [float(f"{number:.6g}") for number in position],
        "ImageOrientationPatient": [float(f"{number:.6g}") for number in orientation],
        "PixelSpacing": list(spacing),
    }


def dataset(pixels: np.ndarray, frames: int | None = None, **tags: Any) -> Dataset:
    """A data set without file meta.

    Args:
        pixels: ``[frames?, rows, columns, samples?]`` of an integer type.
        frames: their number, where the first axis counts them.
        tags: keywords and values, over what the array says; None leaves one out.
    """
    rows, columns, *samples = pixels.shape[1 if frames else 0 :]
    bits = 8 * pixels.dtype.itemsize
    found: dict[str, Any] = {
        "SOPClassUID": uid.CTImageStorage,
        "SOPInstanceUID": SERIES + ".1",
        "SeriesInstanceUID": SERIES,
        "PatientName": PATIENT,
        "PatientID": "77-secret",
        "SamplesPerPixel": samples[0] if samples else 1,
        "PhotometricInterpretation": "RGB" if samples else "MONOCHROME2",
        "PlanarConfiguration": 0 if samples else None,
        "NumberOfFrames": frames,
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    made = Dataset()
    for keyword, value in (found | tags).items():
        if value is not None:
            setattr(made, keyword, value)
    return made


def written(
    made: Dataset, raw: bytes | None, syntax: uid.UID = uid.ExplicitVRLittleEndian
) -> bytes:
    """The bytes of a file; ``raw`` is the value of the pixel data, None for none."""
    if raw is not None:
        made.PixelData = raw + b"\0" * (len(raw) % 2)
        made["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
        made["PixelData"].is_undefined_length = syntax.is_encapsulated
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = uid.UID(SERIES + ".1")
    made.file_meta = meta
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicom(
    pixels: np.ndarray,
    frames: int | None = None,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    **tags: Any,
) -> bytes:
    """A file of pixels that are not compressed; arguments as ``dataset``'s."""
    big = syntax == uid.ExplicitVRBigEndian
    raw = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    if big and pixels.dtype.itemsize == 1:  # words of two pixels, turned round
        raw = np.frombuffer(raw + b"\0" * (len(raw) % 2), "u2").byteswap().tobytes()
    return written(dataset(pixels, frames, **tags), raw, syntax)


def packed(
    pixels: np.ndarray,
    codes: Iterable[bytes],
    syntax: uid.UID,
    frames: int | None = None,
    **tags: Any,
) -> bytes:
    """A file of compressed frames; arguments as ``dataset``'s, and what each frame became."""
    return written(dataset(pixels, frames, **tags), encapsulate(list(codes)), syntax)


def coded(picture: np.ndarray, kind: str, **options: Any) -> bytes:
    """One frame as Pillow writes it: ``"JPEG"`` or ``"JPEG2000"`` (a bare code stream)."""
    stream = io.BytesIO()
    if kind == "JPEG2000":
        options |= {"no_jp2": True}
    Image.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()


def rle(made: Dataset, pixels: np.ndarray) -> bytes:
    """The same data set, compressed by pydicom."""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.compress(uid.RLELossless, pixels, encoding_plugin="pydicom", generate_instance_uid=False)
    return written(made, None, uid.RLELossless)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of names and bytes, in that order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()
