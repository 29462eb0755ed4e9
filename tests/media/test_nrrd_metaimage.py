"""NRRD and MetaImage: voxels, type and place as SimpleITK has them, or a reason.

The headers are written here, line by line; SimpleITK reads the same bytes from a file.
"""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from media import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.scans import volume
from media.scans.metaimage import TYPES as META_TYPES
from media.scans.nrrd import TYPES as NRRD_TYPES
from tests.helpers.scan_files import itk_oriented, numbered, oriented, prepared, rotation, seen

SHAPE = (5, 4, 3)  # i, j, k
STEPS = (0.7, 1.1, 2.5)
TURN = rotation((15, -100, 200))

Fields = dict[str, str | None]


def words(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(values).ravel())


def vectors(rows: np.ndarray) -> str:
    return " ".join(f"({words(row).replace(' ', ',')})" for row in rows)


def nrrd(body: bytes | None = None, **changes: str | None) -> bytes:
    """A .nrrd file; fields are named with _ for a blank, None leaves one out."""
    fields: Fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "space dimension": None,
        "sizes": "5 4 3",
        "space directions": vectors((TURN * STEPS).T),
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(-32,40,-16.5)",
    }
    fields |= {name.replace("_", " "): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    header = "\n".join(["NRRD0005", "# a comment: of no meaning", *lines, "key:=value", "", ""])
    return header.encode() + (numbered(SHAPE).tobytes(order="F") if body is None else body)


def meta(body: bytes | None = None, **changes: str | None) -> bytes:
    """A .mha file; None leaves a field out."""
    fields: Fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": words(TURN.T),
        "Offset": "-32 40 -16.5",
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": words(np.array(STEPS)),
        "DimSize": "5 4 3",
        "ElementType": "MET_SHORT",
    }
    fields |= changes
    last = fields.pop("ElementDataFile", "LOCAL")
    lines = [f"{name} = {value}" for name, value in fields.items() if value is not None]
    header = "\n".join([*lines, f"ElementDataFile = {last}", ""])
    return header.encode() + (numbered(SHAPE).tobytes(order="F") if body is None else body)


def by_itk(data: bytes, folder: Path) -> SimpleITK.Image:
    path = folder / ("scan.nrrd" if data.startswith(b"NRRD") else "scan.mha")
    path.write_bytes(data)
    return SimpleITK.ReadImage(path)


def assert_like_itk(data: bytes, folder: Path) -> None:
    """Stored values, type, order and spacing are those of SimpleITK."""
    image = by_itk(data, folder)
    stored = SimpleITK.GetArrayFromImage(image)
    scan = volume.load(data)
    assert scan.voxels.dtype.newbyteorder("=") == stored.dtype
    np.testing.assert_array_equal(scan.voxels.T, stored)
    expected, spacing = itk_oriented(image)
    np.testing.assert_array_equal(oriented(data), np.clip(expected.astype(float), 0, 255))
    np.testing.assert_allclose(seen(data, expected.shape)["spacing_mm"], spacing)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", NRRD_TYPES)
@pytest.mark.parametrize("order", ["little", "big"])
def test_nrrd_types_are_those_of_itk(code: str, order: str, tmp_path: Path) -> None:
    """Every name of every type, in both byte orders."""
    body = numbered(SHAPE, (">" if order == "big" else "<") + code).tobytes(order="F")
    for name in NRRD_TYPES[code].split("|"):
        assert_like_itk(nrrd(body, type=name, endian=order), tmp_path)


@pytest.mark.parametrize("name", META_TYPES)
@pytest.mark.parametrize("big", ["False", "True"])
def test_metaimage_types_are_those_of_itk(name: str, big: str, tmp_path: Path) -> None:
    """Every type, in both byte orders, under both names of that field."""
    body = numbered(SHAPE, (">" if big == "True" else "<") + META_TYPES[name]).tobytes(order="F")
    assert_like_itk(meta(body, ElementType=name, BinaryDataByteOrderMSB=big), tmp_path)
    other = meta(body, ElementType=name, BinaryDataByteOrderMSB=None, ElementByteOrderMSB=big)
    assert_like_itk(other, tmp_path)


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "LAS", "LPS", None])
def test_nrrd_spaces_are_those_of_itk(space: str | None, tmp_path: Path) -> None:
    """Directions mean what the space says; without one, left, back and head."""
    assert_like_itk(nrrd(space=space, space_dimension=None if space else "3"), tmp_path)


def test_nrrd_spacings_stand_for_directions(tmp_path: Path) -> None:
    """Without directions the spacings are taken along left, back and head; they may be negative."""
    plain = {"space": None, "space_directions": None, "space_origin": None}
    assert_like_itk(nrrd(spacings="0.7 1.1 2.5", **plain), tmp_path)
    assert_like_itk(nrrd(spacings="0.7 -1.1 2.5", **plain), tmp_path)


def test_metaimage_names_of_a_field_are_those_of_itk(tmp_path: Path) -> None:
    """Matrix, offset and spacing under their other names; without a matrix, left, back, head."""
    rows = words(TURN.T)
    assert_like_itk(meta(TransformMatrix=None, Orientation=rows), tmp_path)
    other = meta(TransformMatrix=None, Rotation=rows, Offset=None, Position="1 2 3")
    assert_like_itk(other, tmp_path)
    assert_like_itk(meta(ElementSpacing=None, ElementSize="2 3 4"), tmp_path)
    assert_like_itk(meta(TransformMatrix=None), tmp_path)


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_that_itk_writes_are_read(suffix: str, compressed: bool, tmp_path: Path) -> None:
    """Both types as SimpleITK itself writes them, packed or not."""
    image = SimpleITK.GetImageFromArray(numbered((3, 4, 5), np.float32))
    image.SetSpacing(STEPS)
    image.SetDirection(TURN.ravel().tolist())
    path = tmp_path / f"scan.{suffix}"
    SimpleITK.WriteImage(image, path, useCompression=compressed)
    assert_like_itk(path.read_bytes(), tmp_path)


def test_packed_and_plain_are_the_same() -> None:
    """gzip in NRRD, zlib in MetaImage, with or without its size in the header."""
    body = numbered(SHAPE).tobytes(order="F")
    for encoding in ("gzip", "gz"):
        np.testing.assert_array_equal(
            oriented(nrrd(gzip.compress(body), encoding=encoding)), oriented(nrrd())
        )
    packed = zlib.compress(body)
    for size in (None, str(len(packed))):
        data = meta(packed, CompressedData="True", CompressedDataSize=size)
        np.testing.assert_array_equal(oriented(data), oriented(meta()))


def test_lines_may_end_as_on_windows() -> None:
    """CR LF ends a line of either header too."""
    body = numbered(SHAPE).tobytes(order="F")
    for data in (nrrd(b""), meta(b"")):
        np.testing.assert_array_equal(
            oriented(data.replace(b"\n", b"\r\n") + body), oriented(data + body)
        )


@pytest.mark.parametrize(
    "data",
    [
        nrrd(space=None, space_directions=None, space_origin=None),
        meta(TransformMatrix=None, ElementSpacing=None),
    ],
    ids=["nrrd", "mha"],
)
def test_file_without_places_is_taken_as_it_is(data: bytes) -> None:
    """Nothing is known of millimetres: the slowest axis is depth, the fastest width."""
    assert seen(data)["spacing_mm"] is None
    np.testing.assert_array_equal(oriented(data), numbered(SHAPE).T)
    with pytest.raises(BrokenMedia, match="needs voxels of"):
        prepared(data, (2, 3, 4), spacing=(1.0, 1.0, 1.0))


# --- what is refused -----------------------------------------------------------------------------

REFUSED: dict[str, tuple[bytes, type[MediaError], str]] = {
    "detached": (nrrd(b"", data_file="other.raw"), UnsupportedMedia, "not .nhdr"),
    "detached, absolute": (nrrd(b"", datafile="/etc/passwd"), UnsupportedMedia, "not .nhdr"),
    "list": (nrrd(b"", data_file="LIST"), UnsupportedMedia, "not .nhdr"),
    "pattern": (nrrd(b"", data_file="%03d.raw 1 9 1"), UnsupportedMedia, "not .nhdr"),
    "line skip": (nrrd(line_skip="2"), UnsupportedMedia, "without line skip; got '2'"),
    "byte skip": (nrrd(byteskip="-1"), UnsupportedMedia, "without byteskip; got '-1'"),
    "text": (nrrd(encoding="ascii"), UnsupportedMedia, "raw, gzip, gz; got 'ascii'"),
    "bzip2": (nrrd(encoding="bzip2"), UnsupportedMedia, "got 'bzip2'"),
    "no encoding": (nrrd(encoding=None), UnsupportedMedia, "got ''"),
    "blocks": (nrrd(type="block"), UnsupportedMedia, "type of numbers .*'block'"),
    "no type": (nrrd(type=None), UnsupportedMedia, "type of numbers"),
    "no endian": (nrrd(endian=None), BrokenMedia, "little or big; got ''"),
    "two axes": (nrrd(dimension="2", sizes="5 4"), UnsupportedMedia, "3 axes; got 2"),
    "four axes": (nrrd(dimension="4", sizes="5 4 3 2"), UnsupportedMedia, "3 axes; got 5x4x3x2"),
    "seventeen axes": (nrrd(dimension="17"), UnsupportedMedia, "3 axes; got 17"),
    "endless space": (
        nrrd(space=None, space_dimension="99999"), UnsupportedMedia, "3 dimensions; got 99999"
    ),
    "no axes": (nrrd(dimension=None), BrokenMedia, "1 whole numbers for dimension"),
    "colours": (nrrd(kinds="RGB-color domain domain"), UnsupportedMedia, "rgb-color"),
    "sizes": (nrrd(sizes="5 4"), BrokenMedia, "3 whole numbers for sizes; got '5 4'"),
    "negative size": (nrrd(sizes="5 -4 3"), BrokenMedia, "5x-4x3"),
    "huge": (nrrd(sizes="99999999999 4 3"), MediaTooLarge, "134217728 voxels"),
    "endless size": (nrrd(sizes=f"{'9' * 400} 4 3"), BrokenMedia, "3 whole numbers"),
    "more than is there": (nrrd(sizes="5 4 4"), BrokenMedia, "160 bytes.* holds 120"),
    "packed, too short": (
        nrrd(gzip.compress(bytes(50)), encoding="gzip"), BrokenMedia, "120 bytes .* there are 50"
    ),
    "packed, cut": (
        nrrd(gzip.compress(bytes(120))[:-3], encoding="gzip"), BrokenMedia, "truncated"
    ),
    "not packed": (nrrd(encoding="gzip"), BrokenMedia, "damaged"),
    "twice": (nrrd(Sizes="5 4 3"), BrokenMedia, "each field of an NRRD header once"),
    "other space": (nrrd(space="scanner-xyz"), UnsupportedMedia, "got 'scanner-xyz'"),
    "other units of space": (
        nrrd(space_units='"mm" "mm" "feet"'), UnsupportedMedia, "millimetres"
    ),
    "directions": (nrrd(space_directions="(1,0,0) (0,1,0)"), BrokenMedia, "3 vectors"),
    "no direction": (nrrd(space_directions="none (0,1,0) (0,0,1)"), BrokenMedia, "3 vectors"),
    "words": (nrrd(space_directions="(a,0,0) (0,1,0) (0,0,1)"), BrokenMedia, "3 numbers"),
    "flat": (nrrd(space_directions="(1,0,0) (0,1,0) (1,1,0)"), BrokenMedia, "three directions"),
    "NaN": (nrrd(space=None, space_directions=None, spacings="nan 1 1"), BrokenMedia, "affine"),
    "no end": (b"NRRD0004\ntype: short\n", BrokenMedia, "empty line"),
    "no header": (b"NRRD0004", BrokenMedia, "empty line"),
    "mha: detached": (meta(b"", ElementDataFile="a.raw"), UnsupportedMedia, "not .mhd"),
    "mha: absolute": (meta(b"", ElementDataFile="/etc/passwd"), UnsupportedMedia, "not .mhd"),
    "mha: list": (meta(b"", ElementDataFile="LIST"), UnsupportedMedia, "not .mhd"),
    "mha: no end": (b"ObjectType = Image\nNDims = 3\n", BrokenMedia, "ElementDataFile"),
    "mha: mesh": (meta(ObjectType="Mesh"), UnsupportedMedia, "ObjectType Image"),
    "mha: text": (meta(BinaryData="False"), UnsupportedMedia, "BinaryData True"),
    "mha: colours": (meta(ElementNumberOfChannels="3"), UnsupportedMedia, "Channels 1"),
    "mha: header size": (meta(HeaderSize="-1"), UnsupportedMedia, "HeaderSize 0"),
    "mha: centimetres": (meta(DistanceUnits="cm"), UnsupportedMedia, "DistanceUnits mm"),
    "mha: slope": (
        meta(ElementToIntensityFunctionSlope="2"), UnsupportedMedia, "FunctionSlope 1"
    ),
    "mha: two axes": (meta(NDims="2", DimSize="5 12"), UnsupportedMedia, "3 axes; got 2"),
    "mha: seventeen axes": (meta(NDims="17"), UnsupportedMedia, "3 axes; got 17"),
    "mha: no axes": (meta(NDims="many"), BrokenMedia, "got 'many'"),
    "mha: type": (meta(ElementType="MET_STRING"), UnsupportedMedia, "'MET_STRING'"),
    "mha: array": (meta(ElementType="MET_FLOAT_ARRAY"), UnsupportedMedia, "_ARRAY"),
    "mha: sizes": (meta(DimSize="5 4 3 2"), BrokenMedia, "3 whole numbers for DimSize"),
    "mha: negative size": (meta(DimSize="5 0 3"), BrokenMedia, "5x0x3"),
    "mha: huge": (meta(DimSize="9999 9999 9999"), MediaTooLarge, "134217728 voxels"),
    "mha: more than is there": (meta(DimSize="5 4 4"), BrokenMedia, "160 bytes.* holds 120"),
    "mha: matrix": (meta(TransformMatrix="1 0 0 1"), BrokenMedia, "9 numbers"),
    "mha: no spacing": (meta(ElementSpacing=None), BrokenMedia, "ElementSpacing beside"),
    "mha: zero spacing": (meta(ElementSpacing="0 1 1"), BrokenMedia, "three directions"),
    "mha: twice": (meta().replace(b"NDims", b"DimSize"), BrokenMedia, "field once"),
    "mha: not packed": (meta(CompressedData="True"), BrokenMedia, "damaged"),
}


@pytest.mark.parametrize(("data", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_header_that_cannot_be_read_is_refused(
    data: bytes, kind: type[MediaError], message: str
) -> None:
    """Other files that a header names are never opened; every lie gets its reason."""
    with pytest.raises(MediaError, match=message) as caught:
        prepared(data, (2, 3, 4))
    assert type(caught.value) is kind


def test_bomb_in_a_header_of_text_is_refused_within_its_size() -> None:
    """Packed data inflate to the bytes that the header tells of, and to no more in memory."""
    bomb = zlib.compress(bytes(60 * 2**20))
    data = meta(bomb, CompressedData="True")
    tracemalloc.start()
    with pytest.raises(MediaTooLarge, match="inflate to at most"):
        prepared(data, (2, 3, 4))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


@given(data=st.data())
def test_damaged_header_decodes_or_is_refused(data: st.DataObject) -> None:
    """Flipped, doubled and missing bytes end as an array or as a MediaError, never otherwise."""
    media = bytearray(data.draw(st.sampled_from([nrrd(), meta()])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(media) - 1))
        media[place : place + 1] = data.draw(st.binary(min_size=0, max_size=3))
    try:
        found = prepared(bytes(media), (2, 3, 4))
    except MediaError as error:
        assert str(error)
    else:
        assert found.dtype == np.uint8
