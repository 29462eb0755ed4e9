"""NIfTI: every version, byte order, type and affine that is read, a reason for every other one.

nibabel, reading whole files in its own way, has the second opinion.
"""

from __future__ import annotations

import gzip
import typing
from typing import Any, Literal

import nibabel
import numpy as np
import pytest

from media import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.scans.nifti import load
from service.engine.decode.evidence import check_evidence
from tests.helpers.scan_files import SHAPE, nifti, numbered, oriented, prepared, rotation, seen

AFFINE = np.diag([-0.7, -1.1, 2.5, 1.0])
Order = Literal["<", ">"]
TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def by_nibabel(data: bytes) -> Any:
    """The image as nibabel reads it; the size of the header tells the version."""
    second = 540 in (int.from_bytes(data[:4], order) for order in ("little", "big"))
    return (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(data)


def affine_of(data: bytes) -> np.ndarray:
    affine = load(data).affine
    assert affine is not None
    return affine


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", typing.get_args(Order))
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_is_read_in_both_byte_orders(version: int, order: Order, dtype: str) -> None:
    """Stored values, extremes of their type included, and the affine are nibabel's."""
    voxels = numbered(dtype=dtype)
    if voxels.dtype.kind in "iu":
        limits = np.iinfo(voxels.dtype)
        voxels[0, 1, 2], voxels[1, 2, 3] = limits.min, limits.max
    media = nifti(voxels, AFFINE, version=version, order=order, scl_slope=0.5, scl_inter=-3)
    expected = by_nibabel(media)
    for data in (media, gzip.compress(media)):
        scan = load(data)
        found = scan.voxels.astype(np.float64) * scan.slope + scan.intercept
        np.testing.assert_array_equal(found, expected.get_fdata())
        np.testing.assert_allclose(affine_of(data), expected.affine)
        assert scan.voxels.dtype == np.dtype(dtype).newbyteorder(order)


def test_plain_file_is_not_copied() -> None:
    """The voxels of a file that is not packed are a view of its bytes."""
    media = nifti(numbered(), AFFINE)
    voxels = load(media).voxels
    assert np.shares_memory(voxels, np.frombuffer(media, np.uint8))


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (0, 5, (1, 0)),
        (np.nan, 5, (1, 0)),
        (np.inf, 5, (1, 0)),
        (2.5, -3, (2.5, -3)),
        (-1, 7, (-1, 7)),
    ],
)
def test_rescaling_is_that_of_the_standard(
    slope: float, intercept: float, expected: tuple[float, float]
) -> None:
    """A slope of 0, or that is no number, means that nothing is rescaled."""
    scan = load(nifti(numbered(), AFFINE, scl_slope=slope, scl_inter=intercept))
    assert (scan.slope, scan.intercept) == expected


def test_rescaled_intensities_meet_the_window() -> None:
    """The window is in intensities, after the file's slope and intercept."""
    media = nifti(numbered(), AFFINE, scl_slope=2, scl_inter=-100)
    plain = nifti(numbered(), AFFINE)
    pixels = (5, 4, 3)
    one = prepared(media, pixels, window=(-80, 10))
    np.testing.assert_array_equal(one, prepared(plain, pixels, window=(10, 55)))
    falling = nifti(numbered(), AFFINE, scl_slope=-2, scl_inter=0)
    rising = prepared(plain, pixels, dtype="float32")
    np.testing.assert_allclose(prepared(falling, pixels, dtype="float32"), 255 - rising, atol=1e-4)


# --- where the voxels lie ------------------------------------------------------------------------


def turned(version: int = 1, **header: Any) -> bytes:
    """A file whose qform is a rotation and whose sform is AFFINE; both codes are 0."""
    image = nibabel.Nifti1Image(numbered(), AFFINE)
    affine = np.eye(4)
    affine[:3, :3] = rotation((20, -100, 35)) * np.array([0.7, 1.1, 2.5])
    affine[:3, 3] = 4, 5, 6
    image.set_qform(affine)
    names = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "pixdim")
    fields = {name: image.header[name] for name in names} | {"qform_code": 0, "sform_code": 0}
    return nifti(numbered(), AFFINE, version=version, **fields | header)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (3, 2), (1, 4)])
def test_affine_is_the_sform_else_the_qform(version: int, codes: tuple[int, int]) -> None:
    """The sform counts where its code is above 0, else the qform, as in nibabel."""
    media = turned(version, qform_code=codes[0], sform_code=codes[1])
    np.testing.assert_allclose(affine_of(media), by_nibabel(media).affine, atol=1e-6)


def test_negative_codes_are_no_affine() -> None:
    """A code below 0 says no more than 0: the voxel sizes are what is left."""
    media = turned(qform_code=-1, sform_code=-3)
    np.testing.assert_allclose(affine_of(media), np.diag([0.7, 1.1, 2.5, 1]), rtol=1e-6)


@pytest.mark.parametrize("first", [1.0, 0.0, -1.0])
def test_qform_may_be_left_handed(first: float) -> None:
    """pixdim[0] of -1 turns the third axis, as nibabel has it; 0 stands for 1."""
    header = nibabel.Nifti1Header(turned()[:348])
    sizes = header["pixdim"].copy()
    sizes[0] = first
    found = affine_of(turned(qform_code=1, pixdim=sizes))
    sizes[0] = first or 1
    expected = by_nibabel(turned(qform_code=1, pixdim=sizes)).affine
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.sign(np.linalg.det(found)) == (first or 1)


@pytest.mark.parametrize(
    ("units", "factor"), [(0, 1), (2, 1), (1, 1000), (3, 0.001), (8 + 3, 0.001)]
)
def test_metres_and_microns_become_millimetres(units: int, factor: float) -> None:
    """Spacing is told in millimetres whatever the unit of the file; seconds do not matter."""
    found = seen(nifti(numbered(), AFFINE, xyzt_units=units), (5, 4, 3))["spacing_mm"]
    np.testing.assert_allclose(found, np.array([2.5, 1.1, 0.7]) * factor, rtol=1e-6)


def test_finest_voxels_are_told_as_more_than_nothing() -> None:
    """Nanometres, of a microscope, in millimetres: what is told must pass the service's check."""
    found = seen(nifti(numbered(), np.diag([8e-6, 8e-6, 3e-5, 1])), (5, 4, 3))
    assert found["spacing_mm"] == [3e-5, 8e-6, 8e-6]
    assert check_evidence("volume", (1, 5, 4, 3, 1), found) == found


@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim": np.array([1, 0.7, -1.1, 2.5, 0, 0, 0, 0])},
        {"quatern_b": 0.9, "quatern_c": 0.9, "quatern_d": 0.9},
        {"quatern_b": np.nan},
        {"qoffset_x": np.inf},
    ],
    ids=["negative size", "no unit quaternion", "NaN", "infinite offset"],
)
def test_qform_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    """No affine is made up from a qform that cannot be one."""
    with pytest.raises(BrokenMedia, match=r"qform|affine"):
        prepared(turned(qform_code=1, **fields), (2, 3, 4))


# --- layout --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sides", [(3, 3, 4, 5), (4, 3, 4, 5, 1), (5, 3, 4, 5, 1, 1), (7, 3, 4, 5, 1, 1, 1, 1)]
)
def test_axes_of_one_behind_the_third_are_no_axes(sides: tuple[int, ...]) -> None:
    """A file of one volume is read, whether it counts it or not."""
    dim = np.array(list(sides) + [1] * (8 - len(sides)))
    media = nifti(numbered(), AFFINE, dim=dim)
    np.testing.assert_array_equal(oriented(media), oriented(nifti(numbered(), AFFINE)))


def test_extensions_before_the_voxels_are_passed_over() -> None:
    """The voxels lie where the header says, whatever stands before them."""
    media = nifti(numbered(), AFFINE, vox_offset=352 + 48)
    longer = media[:348] + b"\1\0\0\0" + bytes(48) + media[352:]
    np.testing.assert_array_equal(oriented(longer), oriented(nifti(numbered(), AFFINE)))
    zero = nifti(numbered(), AFFINE, vox_offset=0)  # stands for the first byte after the header
    np.testing.assert_array_equal(oriented(zero), oriented(nifti(numbered(), AFFINE)))


def test_bytes_behind_the_voxels_do_not_matter() -> None:
    """More than the header asks for is not read."""
    media = nifti(numbered(), AFFINE)
    for data in (media + b"x" * 99, gzip.compress(media + b"x" * 99)):
        np.testing.assert_array_equal(oriented(data), oriented(media))


def dim(*sides: int) -> dict[str, np.ndarray]:
    return {"dim": np.array([len(sides), *sides] + [1] * (7 - len(sides)))}


REFUSED: dict[str, tuple[dict[str, Any], type[MediaError], str]] = {
    "header of a pair": ({"magic": b"ni1"}, UnsupportedMedia, "header of .hdr and .img"),
    "two dimensions": (dim(12, 5), UnsupportedMedia, "3 axes; got 12x5"),
    "two volumes": (dim(3, 4, 5, 2), UnsupportedMedia, "one volume with 3 axes; got 3x4x5x2"),
    "five dimensions": (dim(3, 4, 5, 1, 2), UnsupportedMedia, "got 3x4x5x1x2"),
    "seven dimensions": (dim(3, 2, 2, 1, 5, 1, 1), UnsupportedMedia, "got 3x2x2x1x5x1x1"),
    "no dimensions": ({"dim": np.zeros(8)}, BrokenMedia, "1 to 7 axes .* got 0"),
    "eight dimensions": ({"dim": np.full(8, 8)}, BrokenMedia, "1 to 7 axes .* got 8"),
    "negative dimensions": ({"dim": np.full(8, -3)}, BrokenMedia, "1 to 7 axes .* got -3"),
    "negative side": (dim(3, -4, 5), BrokenMedia, "3x-4x5"),
    "empty side": (dim(3, 0, 5), BrokenMedia, "3x0x5"),
    "more voxels than bytes": (dim(3, 4, 6), BrokenMedia, "tells of 144 bytes.* holds 120"),
    "huge": (dim(32767, 32767, 32767), MediaTooLarge, "at most 134217728 voxels"),
    "offset past the end": ({"vox_offset": 1e6}, BrokenMedia, "tells of 120 bytes.* holds 0"),
    "offset into the header": ({"vox_offset": 340}, BrokenMedia, "352 or later; got 340"),
    "negative offset": ({"vox_offset": -352}, BrokenMedia, "352 or later; got -352"),
    "fractional offset": ({"vox_offset": 352.5}, BrokenMedia, "352 or later; got 352.5"),
    "offset NaN": ({"vox_offset": np.nan}, BrokenMedia, "got nan"),
    "offset infinite": ({"vox_offset": np.inf}, BrokenMedia, "got inf"),
    "complex": ({"datatype": 32}, UnsupportedMedia, "at most 64 bits; got complex64"),
    "RGB": ({"datatype": 128}, UnsupportedMedia, "floating point numbers of at most 64 bits"),
    "RGBA": ({"datatype": 2304}, UnsupportedMedia, "floating point numbers"),
    "float128": ({"datatype": 1536}, UnsupportedMedia, "got code 1536|at most 64 bits"),
    "bits": ({"datatype": 1}, UnsupportedMedia, "got code 1|at most 64 bits"),
    "no type": ({"datatype": 0}, UnsupportedMedia, "got code 0|at most 64 bits"),
    "unknown type": ({"datatype": 77}, UnsupportedMedia, "data type of numbers; got code 77"),
    "intercept infinite": ({"scl_slope": 1, "scl_inter": np.inf}, BrokenMedia, "60 of the 60"),
}


@pytest.mark.parametrize(("fields", "kind", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("packed", [False, True])
def test_header_that_cannot_be_read_is_refused(
    fields: dict[str, Any], kind: type[MediaError], message: str, packed: bool
) -> None:
    """Every lie and every layout that is not read gets its reason, packed or not."""
    media = nifti(numbered(), AFFINE, **fields)
    with pytest.raises(MediaError, match=".") as caught:
        prepared(gzip.compress(media) if packed else media, (2, 3, 4))
    assert type(caught.value) is kind
    if not (packed and "holds" in message):  # then the packed data are what is too short
        caught.match(message)


@pytest.mark.parametrize("length", [348, 351, 352, 400, 471])
def test_truncated_file_is_broken(length: int) -> None:
    """A file that ends early is refused, plain or packed, and packed data that end early too."""
    media = nifti(numbered(), AFFINE)
    assert len(media) == 472
    packed = gzip.compress(media)
    for data in (media[:length], gzip.compress(media[:length]), packed[: len(packed) // 2]):
        with pytest.raises(BrokenMedia):
            prepared(data, (2, 3, 4))


def test_huge_nifti2_sides_are_refused() -> None:
    """Sides of 64 bits, whose product leaves every integer type, are counted without overflow."""
    for sides in ((2**62, 2**62, 4), (2**33, 2**31, 2), (-(2**40), 5, 5)):
        media = nifti(numbered(), AFFINE, version=2, **dim(*sides))
        with pytest.raises(MediaError, match=r"at most|at least"):
            prepared(media, (2, 3, 4))
    assert numbered().shape == SHAPE
