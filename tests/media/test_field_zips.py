"""Zips as exporters really write them: names of Windows, and what stands beside the slices.

The files of ``../shared/field`` stand for their kinds; beside each, others of its kind are made
here.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid

from media import BrokenMedia, MediaError, UnsupportedMedia
from media.scans import volume
from media.scans.dicom import series
from media.sources import open_source
from media.sources.items import SourceError
from tests.helpers.dicom_files import dataset, dicom, placed, written, zipped
from tests.helpers.scan_files import nifti, numbered

# --- zips ----------------------------------------------------------------------------------------

ROWS, COLUMNS, SLICES = 4, 5, 6
PIXELS = numbered((SLICES, ROWS, COLUMNS), "u2")


def slice_at(number: int, **tags: Any) -> bytes:
    return dicom(PIXELS[number], **placed((0, 0, 3 * number)) | tags)


def slices(folder: str = "", between: str = "/") -> dict[str, bytes]:
    """A series, the last slice first."""
    inside = f"{folder}{between}" if folder else ""
    return {f"{inside}IM{9 - number}": slice_at(number) for number in range(SLICES)}


def voxels_of(files: dict[str, bytes]) -> np.ndarray:
    return series.load(zipped(files)).voxels


@pytest.mark.parametrize(
    ("name", "separator"), [("scan_backslash.zip", "\\"), ("scan_xnat_catalog.zip", "/")]
)
def test_zips_of_the_field_are_four_slices(name: str, separator: str, field_dir: Path) -> None:
    """Names in the way of Windows, and a catalogue beside the slices, change nothing."""
    with zipfile.ZipFile(field_dir / name) as archive:
        files = {one.orig_filename: archive.read(one) for one in archive.infolist()}
    assert any(separator in name for name in files)
    alone = {str(place): data for place, data in enumerate(files.values()) if b"DICM" in data[:132]}
    found = volume.load((field_dir / name).read_bytes())
    expected = series.load(zipped(alone))
    assert found.voxels.shape[0] == len(alone) == 4
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_array_equal(found.affine, expected.affine)


def test_names_of_windows_are_names_like_any_others() -> None:
    """With folders of their own, mixed with `/`, and in the half letters of Shift-JIS."""
    folders = {"scan\\": b"", "scan\\series\\": b""}
    np.testing.assert_array_equal(voxels_of(folders | slices("scan\\series", "\\")), PIXELS)
    names = ("a\\1", "a/2", "b\\c/3", "4", "d\\5", "ab\\.dcm")
    mixed = zipped(dict(zip(names, slices().values(), strict=True)))
    for data in (mixed, mixed.replace(b"ab\\.dcm", b"a\x83\\.dcm")):
        np.testing.assert_array_equal(series.load(data).voxels, PIXELS)


def unmarked(files: dict[str, bytes]) -> bytes:
    """A zip whose names are UTF-8 and do not say so, as many tools of Windows write them."""
    data = bytearray(zipped(files))
    for magic, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(magic)
        while place >= 0:
            data[place + flags + 1] &= ~8
            place = data.find(magic, place + 1)
    return bytes(data)


def test_folders_of_windows_may_end_in_any_letter() -> None:
    """In UTF-8 no letter has a `\\` in it, whether its names are marked as that or not."""
    folders = {"schädel\\": b"", "schädel\\caé\\": b""}
    data = unmarked(folders | slices("schädel\\caé", "\\"))
    assert "caé\\".encode() in data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not any(entry.flag_bits & 0x800 for entry in archive.infolist())
    np.testing.assert_array_equal(series.load(data).voxels, PIXELS)


BESIDE: dict[str, bytes] = {
    "S1/scans/4/scan_4_catalog.xml": b"<?xml version='1.0'?><cat:DCMCatalog/>",
    "DICOMDIR": b"not an index",
    "VERSION": b"1",
    "README": b"for the radiologist",
    "LICENSE": b"",
    "index.html": b"<html>" + b" " * 300,
    "viewer/app.js": b"var a = 1;" * 30,
    "viewer/weasis-win32.exe": b"MZ" + bytes(400),
    "autorun.inf": b"[autorun]",
    "preview.jpg": b"\xff\xd8\xff\xe0" + bytes(300),
    "report.pdf": b"%PDF-1.4" + bytes(200),
    "tags.csv": b"a,b\r\n",
    "series.json": b"{}",
    "__MACOSX/S1/._IM3": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200),
    "S1/._IM4.dcm": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200),
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(300),
    "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(600),
    "desktop.ini": b"\xff\xfe[\0.\0",
    "empty": b"",
    "empty.dcm": b"",
    "folder/": b"",
    "more.zip": zipped({"a": b"b"}),
    "scan.nii": nifti(numbered((5, 4, 3)), np.eye(4)),
}


@pytest.mark.parametrize("name", [*BESIDE, "all"])
@pytest.mark.parametrize("first", [True, False])
def test_what_stands_beside_the_slices_is_left_out(name: str, first: bool) -> None:
    """Whatever it is and wherever it stands, as long as slices remain."""
    beside = BESIDE if name == "all" else {name: BESIDE[name]}
    files = beside | slices("S1") if first else slices("S1") | beside
    np.testing.assert_array_equal(voxels_of(files), PIXELS)


def index_of_files() -> bytes:
    """A DICOMDIR as exporters write it: DICM at byte 128, and no pixels."""
    made = dataset(PIXELS[0], SOPClassUID=uid.MediaStorageDirectoryStorage)
    return written(made, None)


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir.dcm", "A/IM1"])
def test_index_of_files_is_left_out_whatever_it_is_called(name: str) -> None:
    """It says itself what it is."""
    np.testing.assert_array_equal(voxels_of({name: index_of_files()} | slices()), PIXELS)
    with pytest.raises(UnsupportedMedia, match="none of its 1 files is a slice"):
        voxels_of({name: index_of_files()})


@pytest.mark.parametrize(
    "name", ["DICOMDIR", "README", "notes.txt", ".hidden/IM", "__MACOSX/IM", "x.xml", "Thumbs.db"]
)
def test_slice_is_read_whatever_it_is_called(name: str) -> None:
    """Nothing with DICM at byte 128 is left out for its name."""
    files = slices()
    files[name] = files.pop("IM7")
    np.testing.assert_array_equal(voxels_of(files), PIXELS)


def without_head(syntax: uid.UID) -> bytes:
    """A slice as a bare data set, without a meta group too."""
    made = dataset(PIXELS[2], **placed((0, 0, 6)))
    made.PixelData = PIXELS[2].tobytes()
    made["PixelData"].VR = "OW"
    stream = io.BytesIO()
    made.save_as(stream, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return stream.getvalue()


REPORT = written(dataset(PIXELS[0], SOPClassUID=uid.BasicTextSRStorage), None)
SYNTAXES = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
NOT_LEFT_OUT: dict[str, tuple[bytes, type[MediaError], str]] = {
    "a report": (REPORT, BrokenMedia, "file 3 of 6 .* pixel data; it has none"),
    "a slice that is cut": (slice_at(2)[:-30], BrokenMedia, "file 3 of 6 .* truncated"),
    "a slice cut behind DICM": (slice_at(2)[:132], BrokenMedia, "file 3 of 6"),
    "no preamble": (slice_at(2)[128:], UnsupportedMedia, "file 3 of 6"),
    "no head": (slice_at(2)[132:], UnsupportedMedia, "file 3 of 6"),
    "a slice that is gone": (b"", BrokenMedia, "some are missing"),
    "a slice that lost its head": (slice_at(2)[:100], BrokenMedia, "some are missing"),
    **{one.name: (without_head(one), UnsupportedMedia, "file 3 of 6") for one in SYNTAXES},
}


@pytest.mark.parametrize("name", NOT_LEFT_OUT)
def test_what_may_be_a_slice_is_not_left_out_in_silence(name: str) -> None:
    """Other objects, damaged slices and slices without a head are refused, as is a gap."""
    data, error, reason = NOT_LEFT_OUT[name]
    with pytest.raises(error, match=reason):
        voxels_of(slices() | {"IM7": data})


def test_damage_beside_the_slices_is_damage_of_the_zip() -> None:
    """A member whose checksum is wrong may have been a slice."""
    data = bytearray(zipped(slices() | {"x.bin": bytes(range(200))}, zipfile.ZIP_STORED))
    data[data.index(bytes(range(200)))] ^= 1
    with pytest.raises(BrokenMedia, match="file 7 of 7 .* checksum"):
        series.load(bytes(data))


# --- training archives ---------------------------------------------------------------------------


def test_training_zip_of_windows_in_the_field(field_dir: Path) -> None:
    """Two classes of eight, as from the same zip with `/`."""
    source = open_source(field_dir / "train_backslash.zip")
    assert (source.labels, len(source.items)) == (("cat", "dog"), 16)
    assert {item.id for item in source.items} >= {"cat/0.png", "dog/7.png"}
    assert source.read("cat/0.png").startswith(b"\x89PNG")  # type: ignore[union-attr]


def training_zip(path: Path, names: list[str]) -> Path:
    path.write_bytes(zipped({name: name.encode() for name in names}))
    return path


def test_training_zip_may_mix_both_separators(tmp_path: Path) -> None:
    """Folders end in `\\` too, empty classes and splits are found, and members are read."""
    names = [
        *("set\\", "set\\train\\", "set\\train\\a\\", "set\\train\\a\\1.png", "set/train/a/2.png"),
        *("set\\train/b\\sub\\3.png", "set\\val\\a\\4.png", "set\\test\\b\\5.png"),
    ]
    source = open_source(training_zip(tmp_path / "set.zip", names))
    assert {(item.id, item.split) for item in source.items} == {
        ("train/a/1.png", "train"), ("train/a/2.png", "train"), ("train/b/sub/3.png", "train"),
        ("val/a/4.png", "val"), ("test/b/5.png", "test"),
    }  # fmt: skip
    assert source.read("train/b/sub/3.png") == b"set\\train/b\\sub\\3.png"
    empty = training_zip(tmp_path / "empty.zip", ["a\\1.png", "b\\"])
    with pytest.raises(SourceError, match="class 'b' is empty"):
        open_source(empty)


def test_classes_of_a_training_zip_of_windows_may_end_in_any_letter(tmp_path: Path) -> None:
    """Names in UTF-8 that do not say so, with folders of their own and without."""
    names = ["set\\", "set\\caé\\", "set\\caé\\0.png", "set\\猫\\0.png", "set\\猫\\ü\\1.png"]
    path = tmp_path / "set.zip"
    path.write_bytes(unmarked({name: name.encode() for name in names}))
    source = open_source(path)
    assert source.labels == ("caé", "猫")
    assert {item.id for item in source.items} == {"caé/0.png", "猫/0.png", "猫/ü/1.png"}
    assert source.read("caé/0.png") == "set\\caé\\0.png".encode()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a/3.png", "a\\3.png"], "'a/3.png' is there more than once"),
        (["a\\..\\b\\3.png"], "below the archive's root"),
        (["ab\\3.png"], "below the archive's root"),  # of which b becomes half a letter below
    ],
)
def test_training_zip_whose_names_are_none_after_the_change_is_refused(
    names: list[str], reason: str, tmp_path: Path
) -> None:
    """What `\\` becomes is checked like any name; where it may be half of a letter it stays."""
    path = training_zip(tmp_path / "set.zip", ["a/1.png", "b/1.png", *names])
    path.write_bytes(path.read_bytes().replace(b"ab\\3", b"a\x83\\3"))  # Shift-JIS
    with pytest.raises(SourceError, match=reason):
        open_source(path)
