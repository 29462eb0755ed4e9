"""DICOM files: what the numbers mean, and where the slices lie."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from media.scans.dicom.dicom import load
from media.scans.scan import Scan
from tests.helpers.dicom_files import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    coded,
    dataset,
    dicom,
    noise,
    normal,
    oblique,
    packed,
    placed,
    rle,
    written,
)

ROWS, COLUMNS = 5, 8


def intensities(scan: Scan) -> np.ndarray:
    return scan.voxels * np.float64(scan.slope) + scan.intercept


def place(scan: Scan, index: tuple[int, ...]) -> np.ndarray:
    """Where a voxel [slice, row, column] lies, in millimetres left, back and up (LPS)."""
    assert scan.affine is not None
    return np.array([-1, -1, 1]) * (scan.affine @ [*index, 1])[:3]


def assert_lies_like(scan: Scan, image: SimpleITK.Image) -> None:
    """Every corner is where SimpleITK, which counts columns first, says that it is."""
    assert image.GetSize() == scan.voxels.shape[::-1]
    for corner in itertools.product(*((0, side - 1) for side in scan.voxels.shape)):
        expected = image.TransformIndexToPhysicalPoint(corner[::-1])
        np.testing.assert_allclose(place(scan, corner), expected, atol=1e-3)


def items(*tags: dict[str, Any]) -> Sequence:
    """A sequence with one item per dictionary."""
    made = []
    for one in tags:
        item = Dataset()
        for keyword, value in one.items():
            setattr(item, keyword, value)
        made.append(item)
    return Sequence(made)


def frame_groups(position: np.ndarray, **rescale: float) -> dict[str, Any]:
    """The functional groups of one frame."""
    groups = {"PlanePositionSequence": items({"ImagePositionPatient": position.tolist()})}
    if rescale:
        groups["PixelValueTransformationSequence"] = items(rescale)
    return groups


def shared_groups(orientation: tuple[float, ...]) -> Sequence:
    """The functional groups that all frames have."""
    measures = {"PixelSpacing": [0.5, 0.75], "SliceThickness": 9}
    return items(
        {
            "PlaneOrientationSequence": items({"ImageOrientationPatient": list(orientation)}),
            "PixelMeasuresSequence": items(measures),
        }
    )


# --- where it lies ---------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, oblique()])
def test_slice_lies_where_an_independent_reader_says(
    orientation: tuple[float, ...], tmp_path: Path
) -> None:
    """Position, orientation, both spacings and the thickness of a single slice."""
    pixels = noise(ROWS, COLUMNS)
    data = dicom(pixels, SliceThickness=2.5, **placed(orientation=orientation))
    (tmp_path / "slice.dcm").write_bytes(data)
    scan, image = load(data), SimpleITK.ReadImage(tmp_path / "slice.dcm")
    np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayFromImage(image))
    assert_lies_like(scan, image)


@pytest.mark.parametrize("thickness", [None, "", 0])
def test_slice_that_does_not_tell_its_thickness_is_a_millimetre_thick(thickness: Any) -> None:
    """Nothing else is known of a lone slice, and it must be something."""
    tags = placed() | {"SliceThickness": thickness}
    scan = load(dicom(noise(ROWS, COLUMNS), **tags))
    np.testing.assert_allclose(place(scan, (1, 0, 0)) - place(scan, (0, 0, 0)), [0, 0, 1])


@pytest.mark.parametrize(
    "lacking", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_slice_without_a_place_has_no_affine(lacking: str) -> None:
    """A part of a place is none."""
    assert load(dicom(noise(ROWS, COLUMNS), **placed() | {lacking: None})).affine is None


def test_frames_without_places_keep_the_order_of_the_file() -> None:
    """Ultrasound and secondary captures: a volume in frame order, of unknown spacing."""
    pixels = noise(3, ROWS, COLUMNS, low=0, high=255, dtype="u1")
    scan = load(dicom(pixels, frames=3))
    np.testing.assert_array_equal(scan.voxels, pixels)
    assert scan.affine is None


def test_one_place_for_several_frames_is_none() -> None:
    """A clip whose file has a position does not become a stack with all frames at one place."""
    scan = load(dicom(noise(3, ROWS, COLUMNS), frames=3, **placed()))
    assert scan.affine is None


def test_frames_are_ordered_by_their_own_places(tmp_path: Path) -> None:
    """Per-frame and shared functional groups; the thickness has no say in the distance."""
    orientation, rank = oblique(), [2, 0, 3, 1]
    pixels = noise(4, ROWS, COLUMNS)
    across = normal(orientation)
    places = [np.round([5, -6, 7] + 1.25 * number * across, 6) for number in rank]
    data = dicom(
        pixels,
        frames=4,
        SOPClassUID=uid.EnhancedMRImageStorage,
        SharedFunctionalGroupsSequence=shared_groups(tuple(np.round(orientation, 8))),
        PerFrameFunctionalGroupsSequence=items(*(frame_groups(one) for one in places)),
    )
    scan = load(data)
    np.testing.assert_array_equal(scan.voxels, pixels[np.argsort(rank)])
    for frame, number in enumerate(rank):
        np.testing.assert_allclose(place(scan, (number, 0, 0)), places[frame], atol=1e-5)
    step = place(scan, (0, 1, 1)) - place(scan, (0, 0, 0))
    expected = 0.5 * np.array(orientation[3:]) + 0.75 * np.array(orientation[:3])
    np.testing.assert_allclose(step, expected, atol=1e-5)


def test_frame_is_asked_before_what_frames_share() -> None:
    """And what they share before the file itself."""
    groups = [
        frame_groups(np.array([0, 2 * number, 0]))
        | {"PixelMeasuresSequence": items({"PixelSpacing": [4, 6]})}
        for number in range(2)
    ]
    data = dicom(
        noise(2, ROWS, COLUMNS),
        frames=2,
        SharedFunctionalGroupsSequence=shared_groups(CORONAL),
        PerFrameFunctionalGroupsSequence=items(*groups),
        **placed(orientation=AXIAL),
    )
    np.testing.assert_allclose(place(load(data), (1, 1, 1)), [6, 2, -4])


def test_rounded_cosines_are_made_unit_vectors() -> None:
    """Spacing is what the file says, however few decimals its orientation has."""
    scan = load(dicom(noise(ROWS, COLUMNS), **placed(orientation=(1, 0, 0, 0, 0.927, -0.38))))
    assert scan.affine is not None
    np.testing.assert_allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), [1, 2, 3])


@pytest.mark.parametrize(
    "offsets", [[0, 2.5, 5], [5, 2.5, 0], [0, -2.5, -5], [30, 32.5, 35], [30, 27.5, 25]]
)
def test_dose_grid_is_stacked_along_its_normal(offsets: list[float]) -> None:
    """GridFrameOffsetVector, relative or absolute, rising or falling; doses are scaled."""
    pixels = noise(3, ROWS, COLUMNS, high=2_000_000_000, dtype="u4")
    tags = {"GridFrameOffsetVector": offsets, "DoseGridScaling": "0.0025"}
    if offsets[0] == 5:  # then the first frame must lie there: positions are those of z = 5
        tags |= placed(position=(-10, 20, 5))
    scan = load(dicom(pixels, frames=3, **placed() | tags))
    falling = offsets[-1] < offsets[0]
    np.testing.assert_allclose(intensities(scan), (pixels[::-1] if falling else pixels) * 0.0025)
    lowest = min(offsets) if abs(offsets[0]) > 1 else 30 + min(offsets)
    np.testing.assert_allclose(place(scan, (0, 0, 0)), [-10, 20, lowest])
    np.testing.assert_allclose(place(scan, (2, 0, 0)), [-10, 20, lowest + 5])


# --- transfer syntaxes -----------------------------------------------------------------------

PLAIN = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
@pytest.mark.parametrize("syntax", PLAIN, ids=lambda syntax: syntax.name)
def test_pixels_are_the_same_in_every_plain_syntax(syntax: uid.UID, dtype: str) -> None:
    """Little and big endian, implicit and deflated, one to four bytes, odd numbers of bytes."""
    span = np.iinfo(dtype)
    pixels = noise(3, 5, 7, low=span.min, high=span.max, dtype=dtype)
    scan = load(dicom(pixels, frames=3, syntax=syntax))
    np.testing.assert_array_equal(scan.voxels, pixels)
    assert scan.voxels.dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_run_lengths_give_the_same_pixels(dtype: str) -> None:
    """RLE, frame by frame, with runs in it."""
    pixels = noise(2, ROWS, COLUMNS, dtype=dtype, high=120)
    pixels[:, 2:] = 7
    scan = load(rle(dataset(pixels, frames=2, **placed()), pixels))
    np.testing.assert_array_equal(scan.voxels, pixels)


@pytest.mark.parametrize(("dtype", "top"), [("u1", 255), ("u2", 4095), ("u2", 65535)])
def test_lossless_jpeg_2000_gives_the_same_pixels(dtype: str, top: int) -> None:
    """8, 12 and 16 bits."""
    pixels = noise(2, 40, 24, dtype=dtype, high=top)
    codes = [coded(one, "JPEG2000", irreversible=False) for one in pixels]
    scan = load(packed(pixels, codes, uid.JPEG2000Lossless, frames=2))
    np.testing.assert_array_equal(scan.voxels, pixels)


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
def test_jpeg_gives_what_its_decoder_gives(syntax: uid.UID) -> None:
    """Grey JPEG of 8 bits, several frames."""
    pixels = noise(3, 16, 24, dtype="u1", high=255)
    codes = [coded(one, "JPEG") for one in pixels]
    scan = load(packed(pixels, codes, syntax, frames=3))
    for code, slice_ in zip(codes, scan.voxels, strict=True):
        np.testing.assert_array_equal(slice_, np.asarray(Image.open(io.BytesIO(code))))


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_intensities_are_rescaled(dtype: str, tmp_path: Path) -> None:
    """Slope and intercept, of numbers with and without a sign, as an independent reader has it."""
    low = -2000 if dtype == "i2" else 0
    data = dicom(
        noise(ROWS, COLUMNS, dtype=dtype, low=low),
        RescaleSlope="0.5",
        RescaleIntercept="-1024",
        **placed(),
    )
    (tmp_path / "slice.dcm").write_bytes(data)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "slice.dcm"))
    np.testing.assert_allclose(intensities(load(data)), expected)


def test_frames_with_rescales_of_their_own_become_intensities() -> None:
    """One slope cannot stand for all, so the voxels are float32 and ready."""
    pixels = noise(3, ROWS, COLUMNS)
    slopes = [1.5, 0.25, 3.0]
    groups = [
        frame_groups(np.array([0, 0, number]), RescaleSlope=slope, RescaleIntercept=-number)
        for number, slope in enumerate(slopes)
    ]
    scan = load(
        dicom(
            pixels,
            frames=3,
            SharedFunctionalGroupsSequence=shared_groups(AXIAL),
            PerFrameFunctionalGroupsSequence=items(*groups),
        )
    )
    assert (scan.voxels.dtype, scan.slope, scan.intercept) == (np.float32, 1, 0)
    for number, slope in enumerate(slopes):
        np.testing.assert_allclose(scan.voxels[number], pixels[number] * slope - number)


@pytest.mark.parametrize(
    ("dtype", "bits", "expected"),
    [("u2", 12, 4095), ("u2", 16, 65535), ("u1", 8, 255), ("i2", 12, -1), ("i2", 16, -1)],
)
def test_monochrome1_is_turned_round(dtype: str, bits: int, expected: int, tmp_path: Path) -> None:
    """Low means white there; the sum of a value and its opposite is that of the range's ends."""
    low = -2048 if dtype == "i2" else 0
    pixels = noise(ROWS, COLUMNS, dtype=dtype, low=low, high=127 if dtype == "u1" else 2047)
    tags: dict[str, Any] = {"BitsStored": bits, "HighBit": bits - 1}
    data = dicom(pixels, PhotometricInterpretation="MONOCHROME1", **tags)
    scan = load(data)
    np.testing.assert_array_equal(scan.voxels[0].astype(int) + pixels, expected)
    assert scan.voxels.dtype == np.dtype(dtype)
    if dtype != "i2":  # the independent reader turns no signed numbers
        (tmp_path / "slice.dcm").write_bytes(data)
        image = SimpleITK.ReadImage(tmp_path / "slice.dcm")
        np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayFromImage(image))


@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_bits_outside_the_stored_ones_do_not_count(dtype: str, high_bit: int) -> None:
    """12 bits anywhere in 16, with old overlays or anything else around them."""
    low = -2048 if dtype == "i2" else 0
    pixels = noise(ROWS, COLUMNS, dtype=dtype, low=low, high=2047)
    shift = high_bit - 11
    inside = np.uint16(0xFFF << shift)
    junk = noise(ROWS, COLUMNS, high=65535, seed=2)
    raw = ((pixels.view("u2") << shift) & inside) | (junk & ~inside)
    scan = load(dicom(raw.view(dtype), BitsStored=12, HighBit=high_bit))
    np.testing.assert_array_equal(scan.voxels[0], pixels)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
@pytest.mark.parametrize("limit", [None, -1998])
def test_padding_becomes_the_lowest_intensity(syntax: uid.UID, limit: int | None) -> None:
    """What lies outside a scanner's circle is not darker than anything that it measured."""
    pixels = noise(ROWS, COLUMNS, dtype="i2", low=-1000, high=1000)
    pixels[0, :3] = [-2000, -1999, -1998]
    tags: dict[str, Any] = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": limit}
    scan = load(dicom(pixels, syntax=syntax, RescaleSlope="2", RescaleIntercept="5", **tags))
    padded = (pixels == -2000) if limit is None else (pixels <= -1998)
    expected = np.where(padded, pixels[~padded].min(), pixels)
    np.testing.assert_array_equal(scan.voxels[0], expected)


@pytest.mark.parametrize(("photometric", "slope"), [("MONOCHROME1", 1), ("MONOCHROME2", -1)])
def test_padding_is_lowest_where_low_is_high(photometric: str, slope: int) -> None:
    """Turned round or with a falling slope: padding is found before, and filled after."""
    pixels = noise(ROWS, COLUMNS, low=100, high=4000)
    pixels[1, 2:5] = 0
    tags: dict[str, Any] = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 0}
    tags |= {"BitsStored": 12, "HighBit": 11, "RescaleSlope": slope, "RescaleIntercept": 0}
    scan = load(dicom(pixels, **tags))
    real = intensities(scan)[0][pixels != 0]
    assert (intensities(scan)[0][pixels == 0] == real.min()).all()
    assert real.min() == (4095 if slope == 1 else 0) - int(pixels.max())


def test_padding_of_the_wrong_sign_is_understood() -> None:
    """Some scanners write the padding of signed pixels without its sign."""
    pixels = noise(ROWS, COLUMNS, dtype="i2", low=-1000, high=1000)
    pixels[0, 0] = -2000
    made = dataset(pixels)
    made.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert load(written(made, pixels.tobytes())).voxels.min() >= -1000


# --- colour ----------------------------------------------------------------------------------


def picture() -> np.ndarray:
    """Smooth RGB, [rows, columns, 3]."""
    ramp = np.linspace(0, 255, 24 * 16 * 3).reshape(24, 16, 3)
    return (0.5 * ramp + 0.5 * ramp[::-1, :, ::-1] * [1, 0.8, 0.3]).astype("u1")


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_becomes_luma(planar: int) -> None:
    """As Pillow turns RGB to grey; grey that was stored as RGB stays what it is."""
    pixels = picture()
    pixels[:4] = pixels[:4, :, :1]
    made = dataset(pixels, PlanarConfiguration=planar)
    raw = (pixels.transpose(2, 0, 1) if planar else pixels).tobytes()
    grey = load(written(made, raw)).voxels[0]
    np.testing.assert_array_equal(grey[:4], pixels[:4, :, 0])
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.abs(grey.astype(int) - expected).max() <= 1


def test_ybr_becomes_its_luma() -> None:
    """YBR_FULL, and YBR_FULL_422 with its shared colours, not compressed."""
    ybr = np.asarray(Image.fromarray(picture()).convert("YCbCr"))  # [rows, columns, 3]
    full = dicom(ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_array_equal(load(full).voxels[0], ybr[..., 0])
    pairs = ybr.reshape(24, 8, 2, 3)
    halved = np.concatenate([pairs[..., 0], pairs[:, :, 0, 1:]], axis=-1)  # y, y, b, r
    half = written(dataset(ybr, PhotometricInterpretation="YBR_FULL_422"), halved.tobytes())
    np.testing.assert_array_equal(load(half).voxels[0], ybr[..., 0])


def test_colour_jpeg_becomes_its_luma() -> None:
    """JPEG of an ultrasound clip: the first component, without a way through RGB."""
    pixels = np.stack([picture(), picture()[::-1]])  # [frames, rows, columns, 3]
    codes = [coded(one, "JPEG", quality=95) for one in pixels]
    name = "YBR_FULL_422"
    data = packed(pixels, codes, uid.JPEGBaseline8Bit, frames=2, PhotometricInterpretation=name)
    scan = load(data)
    for slice_, one in zip(scan.voxels, pixels, strict=True):
        expected = np.asarray(Image.fromarray(one).convert("L")).astype(int)
        assert np.abs(slice_ - expected).mean() < 1.5


def test_colour_jpeg_2000_becomes_its_luma() -> None:
    """Its decoder gives RGB whatever the file calls it."""
    code = coded(picture(), "JPEG2000", irreversible=False)
    data = packed(picture(), [code], uid.JPEG2000Lossless, PhotometricInterpretation="YBR_RCT")
    grey = load(data).voxels[0].astype(int)
    assert np.abs(grey - np.asarray(Image.fromarray(picture()).convert("L"))).max() <= 1
