"""Small whole scans of every type that is read: see ``benchmarks.serving.seeds``."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from benchmarks.serving.mutations import Seed

SIZE = (6, 7, 5)  # width, height, depth


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """What Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scans(kind: str) -> list[Seed]:
    return SCANS[kind]()


def voxels(dtype: str = "<i2") -> np.ndarray:
    """``[width, height, depth]``."""
    return np.random.default_rng(0).integers(0, 250, SIZE).astype(dtype)


def nifti() -> list[Seed]:
    affine = np.diag([-0.7, 0.7, 1.2, 1.0])
    one = nibabel.Nifti1Image(voxels(), affine).to_bytes()
    two = nibabel.Nifti2Image(voxels("<f4"), affine).to_bytes()
    return [Seed(one), Seed(two), Seed(one, partial(gzip.compress, mtime=0))]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz() -> list[Seed]:
    def wrap(method: int) -> Callable[[bytes], bytes]:
        return lambda inner: zipped({"scan.npy": inner}, method)

    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return [Seed(npy(voxels()), wrap(method)) for method in methods]


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, inner in files.items():
            archive.writestr(zipfile.ZipInfo(name), inner, method)
    return stream.getvalue()


def textual(lines: list[str], end: str, raw: bytes) -> Seed:
    return Seed("\n".join([*lines, end, ""]).encode() + raw)


def nrrd() -> list[Seed]:
    raw = voxels().tobytes(order="F")
    lines = [
        "NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, SIZE))}", "endian: little",
        "space directions: (0.7,0,0) (0,0.7,0) (0,0,1.2)", "space origin: (0,0,0)",
    ]  # fmt: skip
    packed = gzip.compress(raw, mtime=0)
    return [
        textual([*lines, "encoding: raw"], "", raw),
        textual([*lines, "encoding: gzip"], "", packed),
    ]


def metaimage() -> list[Seed]:
    raw = voxels().tobytes(order="F")
    lines = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 0.7 0.7 1.2",
        f"DimSize = {' '.join(map(str, SIZE))}", "ElementType = MET_SHORT",
    ]  # fmt: skip
    end, packed = "ElementDataFile = LOCAL", zlib.compress(raw)
    return [
        textual(lines, end, raw),
        textual(
            [*lines, "CompressedData = True", f"CompressedDataSize = {len(packed)}"], end, packed
        ),
    ]


def dicom(
    frames: np.ndarray, syntax: uid.UID, codes: list[bytes] | None = None, **tags: Any
) -> bytes:
    """``frames`` uint16 or uint8 ``[frames, rows, columns]``; ``codes`` what each became."""
    made, bits = Dataset(), 8 * frames.dtype.itemsize
    found = {
        "SOPClassUID": uid.CTImageStorage, "SOPInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0,
        "NumberOfFrames": len(frames), "Rows": frames.shape[1], "Columns": frames.shape[2],
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
        "PixelSpacing": [0.7, 0.7], "SliceThickness": 1.2,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 0],
    }  # fmt: skip
    for keyword, value in (found | tags).items():
        setattr(made, keyword, value)
    order = frames.dtype.newbyteorder(">" if syntax == uid.ExplicitVRBigEndian else "<")
    raw = frames.astype(order).tobytes()
    made.PixelData = encapsulate(codes) if codes else raw + bytes(len(raw) % 2)
    made["PixelData"].VR = "OB" if codes else "OW"
    made["PixelData"].is_undefined_length = bool(codes)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3.1")
    if syntax == uid.RLELossless:
        made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        made.compress(syntax, frames, encoding_plugin="pydicom", generate_instance_uid=False)
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicoms() -> list[Seed]:
    frames = np.ascontiguousarray(voxels("u2").T)  # [depth, height, width]
    bytes_of = frames.astype(np.uint8)
    coded = {
        uid.JPEGBaseline8Bit: [saved(Image.fromarray(one), "JPEG") for one in bytes_of],
        uid.JPEG2000Lossless: [
            saved(Image.fromarray(one), "JPEG2000", no_jp2=True) for one in bytes_of
        ],
    }
    plain = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)
    return [
        *(Seed(dicom(frames, syntax)) for syntax in (*plain, uid.RLELossless)),
        *(Seed(dicom(bytes_of, syntax, codes)) for syntax, codes in coded.items()),
    ]


def series() -> list[Seed]:
    """Three slices; damage inside is that of one of them."""
    frames = voxels("u2").T[:3]
    slices = [
        dicom(
            frames[place : place + 1], uid.ExplicitVRLittleEndian,
            SOPInstanceUID=f"1.2.3.{place}", ImagePositionPatient=[0, 0, 1.2 * place],
        )
        for place in range(3)
    ]  # fmt: skip
    others = {f"{place}.dcm": one for place, one in enumerate(slices[1:], 1)}
    return [Seed(slices[0], lambda inner: zipped({"0.dcm": inner} | others))]


SCANS: dict[str, Callable[[], list[Seed]]] = {
    "DICOM": dicoms,
    "MetaImage": metaimage,
    "NIfTI": nifti,
    "npy": lambda: [Seed(npy(voxels())), Seed(npy(np.asfortranarray(voxels("<f4"))))],
    "npz": npz,
    "NRRD": nrrd,
    "zip of DICOM": series,
}
