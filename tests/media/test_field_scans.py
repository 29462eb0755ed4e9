"""Scans as exporters really write them: a rounding too much, an axis too many.

The files of ``../shared/field`` stand for their kinds; beside each, others of its kind are made
here. SimpleITK has the second opinion where it reads the file.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from media import BrokenMedia, UnsupportedMedia
from media.scans import arrays, geometry, volume
from tests.helpers.dicom_files import dicom, placed
from tests.helpers.scan_files import itk_oriented, nifti, numbered, rotation
from tests.media.test_nrrd_metaimage import SHAPE, meta, nrrd, vectors, words

FOUR = (5, 4, 3)  # i, j, k, of the files of the field


def opened(data: bytes) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """[depth, height, width] towards head, back and left, and its spacing."""
    scan = geometry.orient(volume.load(data))
    return scan.voxels, scan.spacing


def assert_like_itk(data: bytes, path: Path) -> None:
    """Voxels and spacing in the one orientation; axes of length one do not count for ITK either."""
    path.write_bytes(data)
    image = SimpleITK.ReadImage(path)
    while image.GetDimension() > 3:
        size = list(image.GetSize())
        size[size.index(1, 3)] = 0
        image = SimpleITK.Extract(image, size, [0] * len(size))
    expected, spacing = itk_oriented(image)
    voxels, found = opened(data)
    np.testing.assert_array_equal(voxels, expected)
    np.testing.assert_allclose(found or (), spacing, rtol=1e-5)


# --- quaternions a rounding too long -------------------------------------------------------------


def half_turn(turn: np.ndarray, qfac: float = 1, version: int = 1) -> bytes:
    """A scan of 2x2.5x3 mm whose place a quaternion (0, *turn) tells."""
    pixdim = np.array([qfac, 2, 2.5, 3, 0, 0, 0, 0])
    fields: dict[str, Any] = {"qform_code": 1, "sform_code": 0, "pixdim": pixdim}
    b, c, d = turn
    fields |= {"quatern_b": b, "quatern_c": c, "quatern_d": d}
    return nifti(numbered(FOUR), np.eye(4), version=version, **fields)


def test_qform_rounded_in_the_field(field_dir: Path, tmp_path: Path) -> None:
    """Half a turn about the long axis, of a quaternion 5e-7 too long."""
    data = (field_dir / "scan_qform_rounded.nii").read_bytes()
    voxels, spacing = opened(data)
    assert (voxels.ravel()[:4].tolist(), spacing) == ([0, 12, 24, 36], (3, 2, 2))
    assert_like_itk(data, tmp_path / "scan.nii")


DIAGONAL = np.sqrt([0.81, 0.09, 0.1])
ABOUT = {"b": (1, 0, 0), "c": (0, -1, 0), "d": (0, 0, 1), "all": DIAGONAL, "two": (0.6, 0, -0.8)}


@pytest.mark.parametrize("excess", [1.2e-7, 5e-7, 2e-6, 1e-5])
@pytest.mark.parametrize("axis", ABOUT)
@pytest.mark.parametrize("qfac", [1, -1])
def test_quaternion_a_rounding_too_long_is_half_a_turn(
    axis: str, qfac: int, excess: float, tmp_path: Path
) -> None:
    """About every axis, right-handed or left-handed, as ITK takes it and in both versions."""
    turn = np.array(ABOUT[axis]) * (1 + excess)
    assert_like_itk(half_turn(turn, qfac), tmp_path / "scan.nii")
    for version in (1, 2):
        found = volume.load(half_turn(turn, qfac, version)).affine
        unit = np.array(ABOUT[axis])
        rotated = 2 * np.outer(unit, unit) - np.eye(3)
        assert found is not None
        np.testing.assert_allclose(found[:3, :3], rotated * np.array([2, 2.5, 3 * qfac]), atol=1e-5)


def test_quaternion_too_short_for_half_a_turn_is_what_it_says() -> None:
    """What is below one has an angle that makes it up: nothing about it is changed."""
    data = half_turn(np.array([0, 0, 0.9999995]))
    found, expected = volume.load(data), nibabel.Nifti1Image.from_bytes(data)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1.001, 1.1, 1e9])
@pytest.mark.parametrize("version", [1, 2])
def test_quaternion_that_is_plainly_wrong_is_refused(length: float, version: int) -> None:
    """No rounding makes a unit a thousandth too long."""
    for turn in np.array([length, 0, 0]), np.array([0, 0, -length]), length * DIAGONAL:
        with pytest.raises(BrokenMedia, match="rotation"):
            volume.load(half_turn(turn, version=version))


@pytest.mark.parametrize("decimals", [2, 3, 4, 6])
def test_directions_with_few_decimals_are_read(decimals: int) -> None:
    """Cosines that are units only nearly, in every type of file that writes them as text."""
    turn = np.round(rotation((18, -17, 44)), decimals)
    steps = turn * (2.0, 2.5, 3.0)
    flat = np.eye(4)
    flat[:3, :3] = steps
    place = placed(orientation=turn.T[:2].ravel().tolist())
    files = [
        nifti(numbered(FOUR), flat, sform_code=1, qform_code=0),
        nrrd(space_directions=vectors(steps.T)),
        meta(TransformMatrix=words(turn.T), ElementSpacing="2 2.5 3"),
        dicom(np.zeros((5, 8), "u2"), **place, SliceThickness=4),
    ]
    for data, expected in zip(files, [(2, 2.5, 3)] * 3 + [(2, 3, 4)], strict=True):
        _, spacing = opened(data)
        np.testing.assert_allclose(sorted(spacing or ()), expected, rtol=2 * 10.0**-decimals)


# --- axes of length one --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"),
    [("scan_5d_ones.nii.gz", [57, 45, 33, 21]), ("scan_4axes_last_one.nrrd", [0, 12, 24, 36])],
)
def test_axes_of_one_in_the_field(
    name: str, first: list[int], field_dir: Path, tmp_path: Path
) -> None:
    """Three axes are left, and lie as the same file of three axes does."""
    data = (field_dir / name).read_bytes()
    voxels, spacing = opened(data)
    assert (voxels.shape, spacing) == ((3, 4, 5), (3, 2, 2))
    assert voxels.ravel()[:4].tolist() == first
    assert_like_itk(data, tmp_path / name)


@pytest.mark.parametrize(
    "sides", [(5, 4, 3, 1), (5, 4, 3, 1, 1), (5, 4, 3, 1, 1, 1, 1), (5, 4, 1, 1), (1, 5, 4, 1, 1)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_nifti_leaves_out_what_follows_its_space(
    sides: tuple[int, ...], version: int, tmp_path: Path
) -> None:
    """However many axes of one; a volume of a single slice stays one, along its own axis."""
    affine = np.diag([-2.0, 2.5, 3, 1])
    data = nifti(numbered(sides), affine, version=version)
    np.testing.assert_array_equal(volume.load(data).voxels, numbered(sides[:3]))
    if version == 1:
        assert_like_itk(gzip.compress(data), tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(
    "sides", [(5, 4, 1, 3), (1, 5, 4, 3), (5, 4, 3, 1, 6), (5, 4, 3, 2, 1), (5, 4, 3, 1, 1, 2)]
)
def test_nifti_of_several_times_or_of_vectors_is_refused(sides: tuple[int, ...]) -> None:
    """Its fourth axis is time and its fifth a vector's: neither stands in for one of space."""
    with pytest.raises(UnsupportedMedia, match=f"3 axes; got {'x'.join(map(str, sides))}"):
        volume.load(nifti(numbered(sides), np.eye(4)))


STEPS = (rotation((15, -100, 200)) * (0.7, 1.1, 2.5)).T  # of i, j, k: left, back, head
PLACED = vectors(STEPS).split(" ")


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", ["list", "vector", "time", "RGB-color", "stub", "scalar", "???"])
def test_nrrd_axis_of_one_without_a_direction_is_left_out(kind: str, place: int) -> None:
    """Wherever it stands and whatever it is of, the scan is that without it."""

    def beside(one: str, others: list[str]) -> str:
        return " ".join([*others[:place], one, *others[place:]])

    data = nrrd(
        dimension="4",
        sizes=beside("1", ["5", "4", "3"]),
        kinds=beside(kind, ["domain"] * 3),
        space_directions=beside("none", PLACED),
        units=beside('"s"', ['"mm"'] * 3),
    )
    found, expected = volume.load(data), volume.load(nrrd())
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_array_equal(found.affine, expected.affine)
    spaced: dict[str, Any] = {"space": None, "space_directions": None, "space_origin": None}
    flat = nrrd(
        dimension="4",
        sizes=beside("1", ["5", "4", "3"]),
        kinds=beside(kind, ["space"] * 3),
        spacings=beside("nan", ["0.7", "1.1", "2.5"]),
        **spaced,
    )
    expected = volume.load(nrrd(spacings="0.7 1.1 2.5", **spaced))
    np.testing.assert_array_equal(volume.load(flat).affine, expected.affine)


def test_nrrd_of_two_axes_too_many_is_read() -> None:
    """One that is not of space, and one of space that has length one."""
    data = nrrd(
        dimension="5",
        sizes="1 5 4 3 1",
        kinds="vector domain domain domain domain",
        space=None,
        space_dimension="4",
        space_directions="none (0.5,0,0,0) (0,2,0,0) (0,0,3,0) (0,0,0,1)",
        space_origin="(1,2,3,0)",
    )
    voxels, spacing = opened(data)
    assert (voxels.shape, spacing) == ((3, 4, 5), (3, 2, 0.5))
    np.testing.assert_array_equal(voxels, numbered(SHAPE).T)


@pytest.mark.parametrize("space", ["left-posterior-superior-time", "RAST", "LAST"])
def test_nrrd_time_of_length_one_is_left_out(space: str) -> None:
    """A space with time has a fourth number in every vector; its first three are the patient's."""
    without = space.lower().removesuffix("-time").removesuffix("t")
    longer = [one.replace(")", ",0)") for one in PLACED]
    data = nrrd(
        dimension="4",
        sizes="5 4 3 1",
        kinds="space space space time",
        space=space,
        space_directions=" ".join([*longer, "(0,0,0,40)"]),
        space_units='"mm" "mm" "mm" "ms"',
        space_origin="(-32,40,-16.5,7)",
    )
    expected = volume.load(nrrd(space=without)).affine
    np.testing.assert_allclose(volume.load(data).affine, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("size", [(5, 4, 3, 1), (5, 4, 3, 1, 1), (5, 4, 1, 1), (1, 5, 4, 1)])
def test_image_of_more_axes_as_itk_writes_it_is_read(
    suffix: str, size: tuple[int, ...], tmp_path: Path
) -> None:
    """Directions of as many numbers as there are axes: those left out take theirs with them."""
    image = SimpleITK.GetImageFromArray(numbered(size[::-1]), isVector=False)
    image.SetSpacing((0.7, 1.1, 2.5, 9, 8)[: len(size)])
    image.SetOrigin((-32, 40, -16.5, 3, 2)[: len(size)])
    turn = np.eye(len(size))
    turn[:3, :3] = rotation((15, -100, 200))
    image.SetDirection(turn.ravel().tolist())
    path = tmp_path / f"scan.{suffix}"
    SimpleITK.WriteImage(image, path)
    assert_like_itk(path.read_bytes(), path)


def test_metaimage_axis_of_one_in_front_takes_its_own_side_with_it() -> None:
    """Row and column of the matrix, place and step."""
    turn = np.eye(4)
    turn[1:, 1:] = rotation((15, -100, 200)).T
    data = meta(
        NDims="4",
        DimSize="1 5 4 3",
        ElementSpacing="9 0.7 1.1 2.5",
        TransformMatrix=words(turn),
        Offset="4 -32 40 -16.5",
    )
    found, expected = volume.load(data), volume.load(meta())
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_allclose(found.affine, expected.affine)  # type: ignore[arg-type]


MANY: dict[str, tuple[bytes, str]] = {
    "nrrd, three colours": (
        nrrd(dimension="4", sizes="3 5 4 1", kinds="RGB-color domain domain domain"), "3 5 4 1"
    ),
    "nrrd, four axes": (
        nrrd(dimension="5", sizes="5 4 1 2 2", kinds=None), "got 5x4x1x2x2"
    ),
    "nrrd, a slice and a list": (nrrd(sizes="5 12 1", kinds="domain domain list"), "5 12 1"),
    "mha, two times": (meta(NDims="4", DimSize="5 4 3 2"), "got 5x4x3x2"),
}  # fmt: skip


@pytest.mark.parametrize("name", MANY)
def test_text_header_of_more_than_one_volume_is_refused_by_its_sides(name: str) -> None:
    """An axis that is longer than one is never dropped."""
    data, message = MANY[name]
    with pytest.raises(UnsupportedMedia, match=f"3 axes.*{message}"):
        volume.load(data)


def npy(shape: tuple[int, ...], order: Any = "C") -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(numbered(shape), order=order))
    return stream.getvalue()


LEFT: dict[tuple[int, ...], tuple[int, ...]] = {
    (1, 3, 4, 5): (3, 4, 5),
    (3, 4, 5, 1): (3, 4, 5),
    (1, 1, 3, 4, 5): (3, 4, 5),
    (1, 3, 4, 5, 1): (3, 4, 5),
    (3, 1, 4, 5): (3, 4, 5),
    (1, 3, 1, 1, 4, 1, 5, 1): (3, 4, 5),
    (1, 4, 5): (1, 4, 5),
    (1, 1, 4, 5): (1, 4, 5),
    (1, 1, 1, 4, 5): (1, 4, 5),
    (1, 4, 5, 1): (1, 4, 5),
    (1, 1, 4, 5, 1): (1, 4, 5),
    (1, 1, 1, 1, 1): (1, 1, 1),
}


@pytest.mark.parametrize("shape", LEFT)
@pytest.mark.parametrize("order", ["C", "F"])
def test_array_is_read_without_its_batch_and_channel(shape: tuple[int, ...], order: Any) -> None:
    """From .npy, from .npz and from memory; a single slice is a volume of depth one."""
    stream = io.BytesIO()
    np.savez_compressed(stream, scan=np.asarray(numbered(shape), order=order), label=np.array([3]))
    expected = numbered(LEFT[shape])
    for data in (npy(shape, order), stream.getvalue()):
        np.testing.assert_array_equal(volume.load(data).voxels, expected)
    np.testing.assert_array_equal(arrays.from_array(numbered(shape)).voxels, expected)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 3, 1, 4), (1, 1), (1,) * 40])
def test_array_whose_three_axes_are_not_plain_is_refused(shape: tuple[int, ...]) -> None:
    """By its shape: several volumes, none, a choice between 1x3x4 and 3x1x4, too many axes."""
    with pytest.raises(UnsupportedMedia, match=f"3 axes; got {'x'.join(map(str, shape[:8]))}"):
        volume.load(npy(shape))


def test_npz_prefers_the_array_that_is_plainly_a_scan() -> None:
    """An array with a batch beside it, as of its mask, does not make the scan ambiguous."""
    stream = io.BytesIO()
    np.savez(stream, mask=np.ones((1, 3, 4, 5), np.int16), scan=numbered((3, 4, 5)))
    np.testing.assert_array_equal(volume.load(stream.getvalue()).voxels, numbered((3, 4, 5)))
