"""DICOM files that are refused: each with the right error, a reason, and nothing of the patient."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.limits import ScanLimits
from media.scans.dicom.dicom import load
from tests.conftest import ROOT
from tests.helpers.dicom_files import (
    PATIENT,
    SERIES,
    coded,
    dataset,
    dicom,
    noise,
    packed,
    placed,
    rle,
    written,
)

GREY = noise(5, 8)
BYTES = noise(16, 24, dtype="u1", high=255)
FLAT = np.zeros((16, 24), "u1")


def per_frame(*positions: tuple[float, float, float] | None, **tags: Any) -> bytes:
    """Frames at places of their own; None for a frame without one."""
    groups = []
    for position in positions:
        inner, group = Dataset(), Dataset()
        if position:
            inner.ImagePositionPatient = list(position)
        group.PlanePositionSequence = Sequence([inner])
        groups.append(group)
    pixels = noise(tags.pop("frames", len(positions)), 5, 8)
    place = placed() | {"ImagePositionPatient": None}
    return dicom(
        pixels,
        frames=len(pixels),
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        **place | tags,
    )


def with_element(tag: int, vr: str, value: Any) -> bytes:
    made = dataset(GREY)
    made.add_new(tag, vr, value)
    return written(made, GREY.tobytes())


def float_pixels() -> bytes:
    return with_element(0x7FE00008, "OF", b"\0" * 160)


def lut() -> bytes:
    made = dataset(GREY)
    made.ModalityLUTSequence = Sequence([Dataset()])
    return written(made, GREY.tobytes())


def other_syntax(syntax: uid.UID) -> bytes:
    return packed(FLAT, [b"\xff\xd8\xff\xd9"], syntax)


def unknown_syntax() -> bytes:
    return dicom(GREY).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")


def no_syntax() -> bytes:
    whole = dicom(GREY)
    start = whole.index(b"\x02\x00\x10\x00UI")
    return whole[:start] + whole[start + 28 :]


def deflated(body: bytes) -> bytes:
    """The head of a deflated file, and then what those bytes deflate to."""
    whole = dicom(GREY, syntax=uid.DeflatedExplicitVRLittleEndian)
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    group_bytes = struct.unpack_from("<I", whole, 140)[0]
    return whole[: 144 + group_bytes] + engine.compress(body) + engine.flush()


def nested(depth: int) -> bytes:
    """Sequences inside sequences, none of which tells its length."""
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    whole = dicom(GREY)
    return whole[: whole.index(b"\x08\x00\x16\x00UI")] + opened * depth


def countless() -> bytes:
    """A sequence of empty elements."""
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    whole = dicom(GREY)
    start = whole.index(b"\x08\x00\x16\x00UI")
    return whole[:start] + opened + b"\x09\x00\x10\x00LO\0\0" * 40_000 + closed + whole[start:]


def native_without_length() -> bytes:
    whole = dicom(GREY)
    start = whole.index(b"\xe0\x7f\x10\x00OW") + 8
    return whole[:start] + b"\xff\xff\xff\xff" + whole[start + 4 :]


Case = tuple[type[MediaError], str, Callable[[], bytes]]
JPEG_LS, LOSSLESS = uid.JPEGLSLossless, uid.JPEGLosslessSV1
REFUSED: dict[str, Case] = {
    # not of a type that is read
    "nothing": (UnsupportedMedia, "128 bytes, then DICM", lambda: b""),
    "no prefix": (UnsupportedMedia, "128 bytes, then DICM", lambda: dicom(GREY)[132:]),
    "palette": (
        UnsupportedMedia,
        "PALETTE COLOR",
        lambda: dicom(FLAT, PhotometricInterpretation="PALETTE COLOR"),
    ),
    "odd colours": (
        UnsupportedMedia,
        "got another",
        lambda: dicom(FLAT, PhotometricInterpretation="DOE JANE"),
    ),
    "wide colour": (UnsupportedMedia, "8 bits", lambda: dicom(noise(5, 8, 3))),
    "mask": (
        UnsupportedMedia,
        "got 1$",
        lambda: dicom(FLAT, BitsAllocated=1, BitsStored=1, HighBit=0),
    ),
    "64 bits": (UnsupportedMedia, "got 64", lambda: dicom(noise(5, 8, dtype="u8"))),
    "float": (UnsupportedMedia, "floating point", float_pixels),
    "table": (UnsupportedMedia, "Modality LUT", lut),
    "mosaic": (
        UnsupportedMedia,
        "mosaic",
        lambda: dicom(GREY, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]),
    ),
    "index": (
        UnsupportedMedia,
        "DICOMDIR",
        lambda: dicom(GREY, SOPClassUID=uid.MediaStorageDirectoryStorage),
    ),
    "JPEG-LS": (UnsupportedMedia, "got the transfer syntax JPEG-LS", lambda: other_syntax(JPEG_LS)),
    "JPEG lossless": (UnsupportedMedia, "syntax JPEG Lossless", lambda: other_syntax(LOSSLESS)),
    "MPEG": (UnsupportedMedia, "MPEG2", lambda: other_syntax(uid.MPEG2MPML)),
    "unknown syntax": (UnsupportedMedia, "an unknown number", unknown_syntax),
    "12-bit JPEG": (
        UnsupportedMedia,
        "JPEG of 8 bits, got 12",
        lambda: packed(GREY, [b"\0\0"], uid.JPEGExtended12Bit, BitsStored=12, HighBit=11),
    ),
    # broken
    "no syntax": (BrokenMedia, "names its transfer syntax", no_syntax),
    "no pixels": (BrokenMedia, "it has none", lambda: written(dataset(GREY), None)),
    "cut in a tag": (
        BrokenMedia,
        "ends too early",
        lambda: dicom(GREY)[: dicom(GREY).index(b"Doe") + 2],
    ),
    "cut in the pixels": (BrokenMedia, "80 bytes.*79", lambda: dicom(GREY)[:-1]),
    "fewer pixels": (BrokenMedia, "80 bytes, got 64", lambda: written(dataset(GREY), b"\0" * 64)),
    "pixels without a length": (BrokenMedia, "expected a length", native_without_length),
    "no rows": (BrokenMedia, "at least one voxel", lambda: dicom(GREY, Rows=0)),
    "rows missing": (BrokenMedia, "Rows", lambda: dicom(GREY, Rows=None)),
    "two rows": (BrokenMedia, "Rows", lambda: dicom(GREY, Rows=[5, 5])),
    "minus frames": (BrokenMedia, "at least one voxel", lambda: dicom(GREY, NumberOfFrames=-1)),
    "bits beyond": (
        BrokenMedia,
        "12 bits up to bit 16",
        lambda: dicom(GREY, BitsStored=12, HighBit=16),
    ),
    "no bits": (BrokenMedia, "0 bits", lambda: dicom(GREY, BitsStored=0, HighBit=0)),
    "two samples": (BrokenMedia, "2 samples", lambda: dicom(GREY, SamplesPerPixel=2)),
    "odd sign": (BrokenMedia, "PixelRepresentation", lambda: dicom(GREY, PixelRepresentation=2)),
    "flat slope": (BrokenMedia, "RescaleSlope", lambda: dicom(GREY, RescaleSlope=0)),
    "two slopes": (BrokenMedia, "RescaleSlope, got 2", lambda: dicom(GREY, RescaleSlope=[1, 2])),
    "all padding": (
        BrokenMedia,
        "besides padding",
        lambda: dicom(FLAT, PixelPaddingValue=0),
    ),
    "no spacing": (
        BrokenMedia,
        "PixelSpacing above 0",
        lambda: dicom(GREY, **placed(spacing=(0, 1))),
    ),
    "far away": (
        BrokenMedia,
        "ImagePositionPatient",
        lambda: dicom(GREY, **placed(position=(1e9, 0, 0))),
    ),
    "half a place": (
        BrokenMedia,
        "3 usual numbers in ImagePositionPatient, got 2",
        lambda: dicom(GREY, **placed() | {"ImagePositionPatient": [1, 2]}),
    ),
    "no angle": (
        BrokenMedia,
        "right angles",
        lambda: dicom(GREY, **placed(orientation=(1, 0, 0, 1, 0, 0))),
    ),
    "offsets missing": (
        BrokenMedia,
        "3 usual numbers in GridFrameOffsetVector, got 2",
        lambda: dicom(noise(3, 5, 8), frames=3, GridFrameOffsetVector=[0, 1], **placed()),
    ),
    "offsets from nowhere": (
        BrokenMedia,
        "begin at 0",
        lambda: dicom(noise(2, 5, 8), frames=2, GridFrameOffsetVector=[7, 8], **placed()),
    ),
    "countless offsets": (
        BrokenMedia,
        "at most 131072 bytes, got 280000",
        lambda: dicom(
            noise(3, 5, 8),
            frames=3,
            syntax=uid.ImplicitVRLittleEndian,
            GridFrameOffsetVector=[1] * 70_000,
        ),
    ),
    "groups missing": (
        BrokenMedia,
        "groups of 3 frames, got 2",
        lambda: per_frame((0, 0, 0), (0, 0, 1), frames=3),
    ),
    "a place missing": (
        BrokenMedia,
        "places of 3 frames, got 2",
        lambda: per_frame((0, 0, 0), (0, 0, 1), None),
    ),
    "over time": (
        BrokenMedia,
        "4 slices at 2 places",
        lambda: per_frame((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 1)),
    ),
    "a frame missing in places": (
        BrokenMedia,
        "gaps from 1.000 to 2.000 mm",
        lambda: per_frame((0, 0, 0), (0, 0, 1), (0, 0, 3)),
    ),
    "JPEG of another size": (
        BrokenMedia,
        "frames of 24x16 pixels, got 16x24",
        lambda: packed(BYTES, [coded(BYTES.T.copy(), "JPEG")], uid.JPEGBaseline8Bit),
    ),
    "JPEG 2000 of another size": (
        BrokenMedia,
        "frames of 24x16 pixels, got 300x200",
        lambda: packed(
            BYTES, [coded(np.zeros((200, 300), "u1"), "JPEG2000")], uid.JPEG2000Lossless
        ),
    ),
    "JPEG cut": (
        BrokenMedia,
        "truncated or corrupt",
        lambda: packed(BYTES, [coded(BYTES, "JPEG")[:200]], uid.JPEGBaseline8Bit),
    ),
    "JPEG frames missing": (
        BrokenMedia,
        "truncated or corrupt|3 frames, got 2",
        lambda: packed(
            np.stack([BYTES] * 3), [coded(BYTES, "JPEG")] * 2, uid.JPEGBaseline8Bit, frames=3
        ),
    ),
    "runs missing": (
        BrokenMedia,
        "truncated or corrupt",
        lambda: packed(BYTES, [struct.pack("<16I", 1, 64, *[0] * 14)], uid.RLELossless),
    ),
    "deflate cut": (
        BrokenMedia,
        "truncated",
        lambda: dicom(GREY, syntax=uid.DeflatedExplicitVRLittleEndian)[:-20],
    ),
    "sequences without an end": (BrokenMedia, "truncated or corrupt", lambda: nested(5000)),
    # too large
    "a milliard frames": (MediaTooLarge, "voxels", lambda: dicom(GREY, NumberOfFrames=10**9)),
    "wide": (MediaTooLarge, "voxels", lambda: dicom(GREY, Rows=65535, Columns=65535)),
    "many slices": (MediaTooLarge, "4096 slices", lambda: dicom(GREY, NumberOfFrames=5000)),
    "many packed frames": (
        MediaTooLarge,
        "voxels",
        lambda: packed(FLAT, [b"\0\0"], uid.RLELossless, frames=None, NumberOfFrames=10**6),
    ),
    "deflate bomb": (MediaTooLarge, "inflate to at most", lambda: deflated(b"\0" * 2**25)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused_with_a_reason(name: str) -> None:
    """The right error, and a message that says what was expected and what came."""
    error, reason, make = REFUSED[name]
    with pytest.raises(error, match=reason) as caught:
        load(make())
    assert type(caught.value) is error
    for secret in (PATIENT, "DOE JANE", SERIES, "1.2.840", "secret", str(ROOT), "pydicom"):
        assert secret not in str(caught.value)


def test_header_of_countless_elements_ends() -> None:
    """Reading stops at a number of pieces, not where the sender likes."""
    load(countless())
    with pytest.raises(BrokenMedia, match="at most 20000 pieces"):
        load(countless(), ScanLimits(pieces=20_000))


def test_sequence_that_is_read_when_asked_for_is_counted_before() -> None:
    """A sequence that tells its length is passed over at first, and costs as much later."""
    data = per_frame(*((0.0, 0.0, float(number)) for number in range(100)))
    load(data)
    with pytest.raises(BrokenMedia, match="at most 300 pieces"):
        load(data, ScanLimits(pieces=300))


def samples() -> dict[str, bytes]:
    """Whole files of every way of storing pixels."""
    pair = np.stack([BYTES, BYTES[::-1]])
    codes = [coded(one, "JPEG") for one in pair]
    return {
        "plain": dicom(GREY, RescaleSlope=2, RescaleIntercept=0, **placed()),
        "frames": per_frame((0, 0, 0), (0, 0, 1)),
        "implicit": dicom(GREY, syntax=uid.ImplicitVRLittleEndian, **placed()),
        "deflated": dicom(GREY, syntax=uid.DeflatedExplicitVRLittleEndian, **placed()),
        "runs": rle(dataset(pair, frames=2), pair),
        "JPEG": packed(pair, codes, uid.JPEGBaseline8Bit, frames=2),
        "JPEG 2000": packed(BYTES, [coded(BYTES, "JPEG2000")], uid.JPEG2000Lossless),
    }


@pytest.mark.parametrize("name", samples())
def test_damage_anywhere_gives_a_scan_or_a_reason(
    name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Cut anywhere or flipped anywhere: a MediaError or a scan; no warning, print or log line."""
    whole, chance = samples()[name], np.random.default_rng(5)
    damaged = [whole[:end] for end in range(0, len(whole), 1 + len(whole) // 60)]
    for _ in range(120):
        flipped = bytearray(whole)
        for place in chance.integers(128, len(whole), 3):
            flipped[place] ^= 1 << int(chance.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        try:
            assert load(data).voxels.ndim == 3
        except MediaError as error:
            assert PATIENT not in str(error)
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


UNDER_LIMITS = """
import pathlib, resource, sys, tarfile
from media.scans.dicom import dicom, series
from media.errors import MediaError

with tarfile.open(sys.argv[1]) as archive:
    files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
for limit, most in (("AS", 1536 * 2**20), ("FSIZE", 0), ("NOFILE", 64), ("CPU", 60)):
    resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))
for name, data in files.items():
    for module in (dicom, series):
        try:
            print(name, module.__name__, module.load(data).voxels.shape)
        except MediaError as error:
            print(name, module.__name__, type(error).__name__)
status = pathlib.Path("/proc/self/status").read_text()
print("peak", int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def test_every_hostile_file_is_refused_within_the_limits_of_a_worker(data_dir: Path) -> None:
    """In a child that may not write, nor take more memory than a decode worker."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNDER_LIMITS, str(data_dir / "hostile.tar.gz")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, peak = done.stdout.splitlines()
    assert done.stderr == ""
    assert len(lines) > 400
    errors = {error.__name__ for error in (BrokenMedia, MediaTooLarge, UnsupportedMedia)}
    read = [line for line in lines if line.split()[-1] not in errors]
    assert read == [  # both are real: odd texts in their headers, and nothing wrong
        "hostile/volume/decimal_rescale.dcm media.scans.dicom.dicom (1, 96, 128)",
        "hostile/volume/slicethickness_empty_string.dcm media.scans.dicom.dicom (1, 384, 384)",
    ]
    assert int(peak.split()[1]) < 400  # MiB
