"""A zip of a series: slices where they lie, whatever they are called; and zips made to deceive."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from pydicom import uid

from media.errors import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.scans.dicom import series
from media.scans.scan import Scan
from tests.helpers.dicom_files import (
    AXIAL,
    CORONAL,
    PATIENT,
    SAGITTAL,
    SERIES,
    dataset,
    dicom,
    noise,
    normal,
    oblique,
    placed,
    rle,
    zipped,
)

SLICES, ROWS, COLUMNS = 6, 5, 8
GAP = 2.5  # mm
SHUFFLED = ["b", "e", "a", "f", "c", "d"]  # names whose order is not that of the slices
PIXELS = noise(SLICES, ROWS, COLUMNS)


def positions(
    orientation: tuple[float, ...] = AXIAL, count: int = SLICES, gap: float = GAP
) -> list[np.ndarray]:
    return [np.array([-10, 20, 30]) + gap * k * normal(orientation) for k in range(count)]


def files(
    orientation: tuple[float, ...] = AXIAL,
    at: list[np.ndarray] | None = None,
    tags: Callable[[int], dict[str, Any]] = lambda number: {},
) -> dict[str, bytes]:
    """A series under shuffled names, with instance numbers that mean nothing either.

    Args:
        at: positions; those of ``positions`` where there are none.
        tags: of the slice with a number, over all others.
    """
    made = {}
    for number, position in enumerate(at or positions(orientation)):
        own = placed(position, orientation) | {"SliceThickness": 9, "InstanceNumber": -number % 4}
        made[f"scan/{SHUFFLED[number]}"] = dicom(PIXELS[number], **own | tags(number))
    return dict(sorted(made.items()))


def load(made: dict[str, bytes]) -> Scan:
    return series.load(zipped(made))


def place(scan: Scan, *index: int) -> np.ndarray:
    """Where a voxel lies, in millimetres left, back and up (LPS)."""
    assert scan.affine is not None
    return np.array([-1, -1, 1]) * (scan.affine @ [*index, 1])[:3]


# --- right answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, oblique()])
def test_series_lies_where_an_independent_reader_says(
    orientation: tuple[float, ...], tmp_path: Path
) -> None:
    """Slices by place, distances from places, for names in another order."""
    made = files(orientation)
    for name, data in made.items():
        (tmp_path / Path(name).name).write_bytes(data)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image, scan = reader.Execute(), load(made)
    np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_array_equal(scan.voxels, PIXELS)
    for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 7), (5, 4, 7)):
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place(scan, *index), expected, atol=1e-3)


def test_slices_of_a_tilted_gantry_lie_where_they_say() -> None:
    """Shifted within their planes: the affine has the shear, and every slice its own position."""
    at = [one + [0, 0.6 * number, 0] for number, one in enumerate(positions())]
    scan = load(files(at=at))
    for number, position in enumerate(at):
        np.testing.assert_allclose(place(scan, number, 0, 0), position, atol=1e-4)
        np.testing.assert_allclose(place(scan, number, 1, 2) - position, [6, 2, 0], atol=1e-4)


def test_positions_with_few_decimals_are_even() -> None:
    """0.625 mm written as 0.6 and 0.7: no slice is a tenth of the spacing from its place."""
    at = [np.array([-10, 20, round(0.625 * number, 1)]) for number in range(SLICES)]
    scan = load(files(at=at))
    assert place(scan, 1, 0, 0)[2] == pytest.approx(3.1 / 5)


def test_slices_with_rescales_of_their_own_become_intensities() -> None:
    """As in PET: a slope per slice, so the voxels are float32 and ready; padding is lowest."""
    made = files(
        tags=lambda number: {"RescaleSlope": 0.5 + number, "RescaleIntercept": -number}
        | {"PixelPaddingValue": int(PIXELS[2, 1, 1])}
    )
    scan = load(made)
    number = np.arange(SLICES)[:, None, None]
    expected = (PIXELS * (0.5 + number) - number).astype(np.float32)
    padded = np.equal(PIXELS, PIXELS[2, 1, 1])
    expected[padded] = expected[~padded].min()
    np.testing.assert_allclose(scan.voxels, expected, rtol=1e-6)
    assert (scan.voxels.dtype, scan.slope, scan.intercept) == (np.float32, 1, 0)


def test_padding_is_the_lowest_of_the_whole_series() -> None:
    """Not of its own slice, which may be padding alone."""
    at, pixels = positions(count=2), PIXELS[:2].copy() + 5
    pixels[1] = 0
    made = {
        name: dicom(one, PixelPaddingValue=0, **placed(position))
        for name, one, position in zip("ab", pixels, at, strict=True)
    }
    scan = load(made)
    assert (scan.voxels[1] == pixels[0].min()).all()


def test_slices_with_and_without_a_sign_share_a_type() -> None:
    """No number of any slice is wrapped round."""
    at = positions(count=2)
    signed = np.full((ROWS, COLUMNS), -7, "i2")
    unsigned = np.full((ROWS, COLUMNS), 60_000, "u2")
    made = {"a": dicom(signed, **placed(at[0])), "b": dicom(unsigned, **placed(at[1]))}
    np.testing.assert_array_equal(load(made).voxels[:, 0, 0], [-7, 60_000])


def test_compressed_slices_are_read() -> None:
    """RLE inside a zip that stores its members."""
    made = {
        str(number): rle(dataset(PIXELS[number], **placed(position)), PIXELS[number])
        for number, position in enumerate(positions())
    }
    scan = series.load(zipped(made, zipfile.ZIP_STORED))
    np.testing.assert_array_equal(scan.voxels, PIXELS)


def test_zip_of_one_file_is_that_file() -> None:
    """A multi-frame file that somebody zipped, even one without places."""
    made = {"clip.dcm": dicom(PIXELS, frames=SLICES)}
    scan = load(made)
    np.testing.assert_array_equal(scan.voxels, PIXELS)
    assert scan.affine is None


def test_what_an_export_adds_is_left_out() -> None:
    """Folders, hidden files, an index and readable notes; they need not even be DICOM."""
    names = ["DICOMDIR", "README", "LICENSE", "notes.TXT", "a/Readme.md", ".DS_Store",
             "__MACOSX/scan/._a", "Thumbs.db", ".git/config"]  # fmt: skip
    added = {name: b"not DICOM" for name in names}
    scan = load(added | {"scan/": b""} | files())
    np.testing.assert_array_equal(scan.voxels, PIXELS)


# --- series that are none --------------------------------------------------------------------


def changed(number: int, **tags: Any) -> dict[str, bytes]:
    """A series with one slice that is different."""
    return files(tags=lambda one: tags if one == number else {})


def but(number: int, data: bytes) -> dict[str, bytes]:
    """A series with other bytes in the place of one slice."""
    return files() | {f"scan/{SHUFFLED[number]}": data}


def shifted(number: int, millimetres: float) -> dict[str, bytes]:
    at = positions()
    at[number] = at[number] + [0, 0, millimetres]
    return files(at=at)


Case = tuple[type[MediaError], str, Callable[[], dict[str, bytes]]]
OTHER_SIZE = dicom(noise(ROWS, COLUMNS + 1), **placed(positions()[3]))
REFUSED: dict[str, Case] = {
    "a slice missing": (
        BrokenMedia,
        "gaps from 2.500 to 5.000 mm",
        lambda: files(at=[*positions()[:2], *positions()[3:]]),
    ),
    "a slice off": (BrokenMedia, "evenly", lambda: shifted(2, 0.3)),
    "a slice beside": (
        BrokenMedia,
        "evenly",
        lambda: files(at=[*positions()[:5], positions()[5] + [1, 0, 0]]),
    ),
    "a slice twice": (BrokenMedia, "6 slices at 5 places", lambda: shifted(2, GAP)),
    "two series": (
        BrokenMedia,
        "one series, got 2 series",
        lambda: changed(1, SeriesInstanceUID=SERIES + ".9"),
    ),
    "a slice that leans": (
        BrokenMedia,
        "got 2 orientations",
        lambda: changed(1, ImageOrientationPatient=[1, 0, 0, 0, 0.995, 0.0998]),
    ),
    "localisers": (
        BrokenMedia,
        "got 3 orientations",
        lambda: files(tags=lambda one: placed(orientation=[AXIAL, SAGITTAL, CORONAL][one % 3])),
    ),
    "two spacings": (BrokenMedia, "PixelSpacing", lambda: changed(4, PixelSpacing=[2, 3.1])),
    "two sizes": (BrokenMedia, "2 sizes, from 5x8 to 5x9", lambda: but(3, OTHER_SIZE)),
    "a slice without a place": (
        BrokenMedia,
        "1 of 6 lack them",
        lambda: changed(0, ImagePositionPatient=None),
    ),
    "no places": (
        BrokenMedia,
        "6 of 6 lack them",
        lambda: files(tags=lambda _: {"ImagePositionPatient": None}),
    ),
    "files that are none": (
        UnsupportedMedia,
        "none of its 6 files is a slice",
        lambda: {name: b"x" * 500 for name in SHUFFLED},
    ),
    "a file without its preamble": (
        UnsupportedMedia,
        "file 4 of 6 in the zip: expected a DICOM",
        lambda: but(5, dicom(PIXELS[5])[132:]),  # called d, the fourth name
    ),
    "a file that is cut": (
        BrokenMedia,
        "file 1 of 6 in the zip: the file is truncated: expected 80 bytes",
        lambda: but(2, dicom(PIXELS[2])[:-70]),
    ),
    "a zip in the zip": (
        UnsupportedMedia, "none of its 1 files is a slice", lambda: {"a": zipped(files())}
    ),
    "nothing": (BrokenMedia, "got none", dict),
    "folders alone": (BrokenMedia, "got none", lambda: {"scan/": b"", "other\\": b""}),
    "notes alone": (
        UnsupportedMedia, "none of its 1 files is a slice", lambda: {"README.txt": b"hello"}
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_series_is_refused_with_a_reason(name: str) -> None:
    """The right error; nothing of the patient in it, and no name of a file."""
    error, reason, make = REFUSED[name]
    with pytest.raises(error, match=reason) as caught:
        load(make())
    for secret in (PATIENT, SERIES, "scan/", "README"):
        assert secret not in str(caught.value)


# --- zips made to deceive --------------------------------------------------------------------

LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def patched(at: str, offset: int, value: bytes, which: int = 0) -> bytes:
    """A zip of a series with some bytes of a header overwritten.

    Args:
        at: "local", "central" or "both".
        which: the how manieth entry.
    """
    data = bytearray(zipped(files()))
    marks = {"local": [(LOCAL, 0)], "central": [(CENTRAL, 2)]}
    both = [(LOCAL, 0), (CENTRAL, 2)]  # the central header has one field more in front
    for mark, more in marks.get(at, both):
        start = -1
        for _ in range(which + 1):
            start = data.index(mark, start + 1)
        data[start + offset + more : start + offset + more + len(value)] = value
    return bytes(data)


def named(name: str) -> bytes:
    return zipped({name: b"x" * 400} | files())


def linked() -> bytes:
    """A link to a file of the machine that reads it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return stream.getvalue()


def overlapping() -> bytes:
    """Two entries of the directory with one and the same header."""
    data = bytearray(zipped(files()))
    first = data.index(CENTRAL)
    second = data.index(CENTRAL, first + 1)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def of_the_large_kind() -> bytes:
    data = zipped(files())
    end = data.index(END)
    return data[:end] + b"PK\6\7" + bytes(16) + data[end:]


def many(count: int) -> bytes:
    return zipped({str(number): b"" for number in range(count)}, zipfile.ZIP_STORED)


def size_of(number: int, change: int) -> bytes:
    """A declared size that is not the real one."""
    entry = zipfile.ZipFile(io.BytesIO(zipped(files()))).infolist()[number]
    return patched("both", 22, struct.pack("<I", entry.file_size + change), number)


DECEIVING: dict[str, tuple[type[MediaError], str, Callable[[], bytes]]] = {
    "no zip": (UnsupportedMedia, "no zip", lambda: b"GIF89a"),
    "a head alone": (BrokenMedia, "no directory", lambda: zipped(files())[:400]),
    "cut": (BrokenMedia, "no directory|cannot be read", lambda: zipped(files())[:-30]),
    "encrypted": (
        BrokenMedia,
        "entry 3 of the zip is encrypted",
        lambda: patched("both", 6, b"\1", 2),
    ),
    "parent": (BrokenMedia, "that of entry 1", lambda: named("../slice")),
    "parent within": (BrokenMedia, "that of entry 1", lambda: named("a/../../slice")),
    "absolute": (BrokenMedia, "that of entry 1", lambda: named("/etc/slice")),
    "drive": (BrokenMedia, "that of entry 1", lambda: named("C:/slice")),
    "parent of Windows": (BrokenMedia, "that of entry 1", lambda: named("..\\slice")),
    "parent within, mixed": (BrokenMedia, "that of entry 1", lambda: named("a/..\\../slice")),
    "absolute of Windows": (BrokenMedia, "that of entry 1", lambda: named("\\slice")),
    "share": (BrokenMedia, "that of entry 1", lambda: named("\\\\passwd\\share\\slice")),
    "drive of Windows": (BrokenMedia, "that of entry 1", lambda: named("C:\\slice")),
    "place on a drive": (BrokenMedia, "that of entry 1", lambda: named("C:slice")),
    "a name in both ways": (BrokenMedia, "every name once", lambda: named("scan\\a")),
    "absolute note": (BrokenMedia, "that of entry 1", lambda: named("/README.txt")),
    "link": (BrokenMedia, "entry 1 of the zip is a link", linked),
    "a name twice": (
        BrokenMedia,
        "every name once",
        lambda: zipped(files()).replace(b"scan/b", b"scan/a"),
    ),
    "overlap": (BrokenMedia, "entry . of the zip overlaps", overlapping),
    "outside": (
        BrokenMedia,
        "lies outside the zip",
        lambda: patched("central", 40, b"\xff\xff\xff\x7f"),
    ),
    "two sizes": (BrokenMedia, "entry 1 .* its header", lambda: patched("local", 22, b"\1\0\0\0")),
    "two methods": (BrokenMedia, "entry 2 .* its header", lambda: patched("local", 8, b"\0\0", 1)),
    "other checksum": (
        BrokenMedia,
        "file 2 of 6 in the zip: expected .* checksum",
        lambda: patched("both", 14, b"abcd", 1),
    ),
    "size too small": (BrokenMedia, "file 1 of 6 .* checksum", lambda: size_of(0, -7)),
    "size too large": (BrokenMedia, "file 1 of 6 .* checksum", lambda: size_of(0, 7)),
    "method": (
        UnsupportedMedia,
        "entry 1 of the zip: expected it stored or deflated, got 12",
        lambda: zipped(files(), zipfile.ZIP_BZIP2),
    ),
    "fewer entries than told": (
        BrokenMedia,
        "expected 5 entries.*; got 6",
        lambda: zipped(files()).replace(struct.pack("<2H", 6, 6), struct.pack("<2H", 5, 5)),
    ),
    "large kind": (UnsupportedMedia, "more than 4 GiB", of_the_large_kind),
    "many entries": (MediaTooLarge, "at most 2000 entries.*, got 2001", lambda: many(2001)),
    "many entries that are denied": (
        MediaTooLarge,
        "at most 2000 entries",
        lambda: many(2001).replace(struct.pack("<2H", 2001, 2001), struct.pack("<2H", 1, 1)),
    ),
    "bomb": (MediaTooLarge, "inflate to at most", lambda: zipped({"a": bytes(2**25)})),
    "many bombs": (
        MediaTooLarge,
        "inflate to at most",
        lambda: zipped({str(number): bytes(2**24) for number in range(3)}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECEIVING)
def test_zip_that_deceives_is_refused_with_a_reason(name: str) -> None:
    """Before anything is inflated that need not be, and without a word of the names in it."""
    error, reason, make = DECEIVING[name]
    with pytest.raises(error, match=reason) as caught:
        series.load(make())
    for secret in (PATIENT, SERIES, "slice", "passwd"):
        assert secret not in str(caught.value)


def test_2000_entries_are_let_through() -> None:
    """The limit is the limit: these fail for being empty, not for being many."""
    with pytest.raises(UnsupportedMedia, match="none of its 2000 files"):
        series.load(many(2000))


def test_more_slices_than_the_limit_are_refused_before_they_are_decoded() -> None:
    """Several files together have no more slices than one may have."""
    clip = dicom(np.zeros((2100, 1, 1), "u1"), frames=2100, syntax=uid.ImplicitVRLittleEndian)
    with pytest.raises(MediaTooLarge, match="4096 slices; this one has 4200"):
        load({"a": clip, "b": clip})


def test_damage_anywhere_gives_a_scan_or_a_reason() -> None:
    """Flipped bits in any part of a zip end as a MediaError, or do not matter."""
    whole, chance = zipped(files()), np.random.default_rng(6)
    for _ in range(300):
        flipped = bytearray(whole)
        for spot in chance.integers(2, len(whole), 2):
            flipped[spot] ^= 1 << int(chance.integers(8))
        try:
            assert series.load(bytes(flipped)).voxels.shape == (SLICES, ROWS, COLUMNS)
        except MediaError as error:
            assert PATIENT not in str(error)
