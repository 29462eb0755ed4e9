"""Scans: from files of every type and shape to the array that enters the network.

Sides are never equal and voxels never alike, so that a swapped or turned axis shows. The second
opinion on orientation is SimpleITK's.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import BrokenMedia, MediaError, MediaTooLarge, UnsupportedMedia
from media.limits import STRANGER, ScanLimits
from media.scans import volume
from media.scans.scan import Scan
from service.engine.decode.process import ENVIRONMENT
from tests.helpers.scan_files import (
    itk_image,
    itk_oriented,
    nifti,
    numbered,
    oriented,
    prepared,
    rotation,
    seen,
    signed_permutations,
)

SPACING = (0.7, 1.1, 2.5)  # mm along i, j, k
AFFINE = np.diag([-0.7, -1.1, 2.5, 1.0])  # i to the left, j to the back, k to the head


# --- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", signed_permutations(), ids=lambda turn: str(turn.astype(int)))
def test_every_axis_order_comes_out_the_same_way(turn: np.ndarray) -> None:
    """Whatever way the axes lie: depth to the head, height to the back, width to the left."""
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(SPACING)
    voxels = numbered()
    found = oriented(nifti(voxels, affine))
    places = np.stack([np.argwhere(voxels == value)[0] for value in found.ravel()])
    right, front, head = (turn @ places.T).reshape(3, *found.shape)
    assert (np.diff(head, axis=0) == 1).all()
    assert (np.diff(front, axis=1) == -1).all()
    assert (np.diff(right, axis=2) == -1).all()
    along = np.abs(turn) @ np.array(SPACING)
    np.testing.assert_allclose(
        seen(nifti(voxels, affine), found.shape)["spacing_mm"], along[::-1], rtol=1e-6
    )


@pytest.mark.parametrize(
    "degrees", [(10, 0, 0), (0, -25, 8), (20, 15, -30), (80, 10, 95), (175, 3, 9)]
)
def test_oblique_scan_is_turned_to_the_nearest_axes(degrees: tuple[float, float, float]) -> None:
    """A scan that lies oblique gets the axes that SimpleITK gives it, and is not resampled."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) * np.array(SPACING)
    affine[:3, 3] = 40, -30, 20
    expected, spacing = itk_oriented(itk_image(numbered(), affine))
    media = nifti(numbered(), affine)
    np.testing.assert_array_equal(oriented(media), expected)
    np.testing.assert_allclose(seen(media, expected.shape)["spacing_mm"], spacing, rtol=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        np.zeros((3, 3)),
        np.diag([1.0, 0.0, 1.0]),
        np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1.0]]),
        np.array([[1, 2, 0], [1, 2.0001, 0], [0, 0, 1.0]]),
        np.diag([1.0, np.nan, 1.0]),
        np.diag([1.0, np.inf, 1.0]),
        np.diag([1.0, 1e9, 1.0]),
    ],
    ids=["zero", "zero column", "flat", "nearly flat", "NaN", "infinite", "astronomic"],
)
def test_affine_without_three_directions_is_refused(columns: np.ndarray) -> None:
    """Nothing is guessed where the affine lays the scan flat or is no number."""
    affine = np.eye(4)
    affine[:3, :3] = columns
    media = nifti(numbered(), np.eye(4), srow_x=affine[0], srow_y=affine[1], srow_z=affine[2])
    with pytest.raises(BrokenMedia, match="expected an affine"):
        prepared(media, (2, 3, 4))


# --- what was seen -------------------------------------------------------------------------------


def test_seen_tells_the_size_and_spacing() -> None:
    """Size is the scan's own as oriented; spacing is that of the array that the model sees."""
    media = nifti(numbered(), AFFINE)
    whole = seen(media, (10, 2, 6))
    assert (whole["orientation"], whole["size"]) == ("SPL", [5, 4, 3])
    np.testing.assert_allclose(whole["spacing_mm"], [5 * 2.5 / 10, 4 * 1.1 / 2, 3 * 0.7 / 6])
    assert seen(media, (10, 2, 6), spacing=(3.0, 2.0, 1.0))["spacing_mm"] == [3.0, 2.0, 1.0]
    assert seen(numbered((5, 4, 3)))["spacing_mm"] is None


def test_array_in_memory_is_taken_as_it_is() -> None:
    """[depth, height, width], with or without a channel axis, of any layout in memory."""
    array = numbered((5, 4, 3), np.uint8)
    for one in (array, array[..., None], np.asfortranarray(array), array[::-1][::-1]):
        np.testing.assert_array_equal(prepared(one, (5, 4, 3), window=(0, 255)), array)
    mask = array > 30
    np.testing.assert_array_equal(prepared(mask, (5, 4, 3)), mask * 255)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 3)), np.zeros((2, 3, 4, 2)), np.zeros((2, 0, 4)), np.zeros((2, 3, 4), complex)],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_array_of_another_shape_or_type_is_refused(array: np.ndarray) -> None:
    """Anything but real numbers along three axes is refused with what came."""
    with pytest.raises(MediaError, match="expected"):
        prepared(array, (2, 3, 4))


# --- types and limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"n", bytes(400), b"\xff\xd8\xff" + bytes(500), gzip.compress(b"\x93NUMPY" + bytes(99))],
    ids=["empty", "one byte", "zeros", "JPEG", "npy in gzip"],
)
def test_bytes_of_no_known_type_are_unsupported(data: bytes) -> None:
    """What is none of the types, or packed where that is not read, is told the types."""
    with pytest.raises(UnsupportedMedia, match="expected NIfTI, DICOM"):
        prepared(data, (2, 3, 4))


def test_file_over_the_limit_is_refused_unread() -> None:
    """The bytes that came in are counted before anything looks at them."""
    with pytest.raises(MediaTooLarge, match="bytes"):
        prepared(bytes(STRANGER.scan.file_bytes + 1), (2, 3, 4))


@pytest.mark.parametrize(
    "dim", [(3, 32767, 32767, 32767), (3, STRANGER.scan.side + 1, 2, 2), (3, 600, 600, 600)]
)
def test_huge_header_is_refused_before_any_allocation(dim: tuple[int, ...]) -> None:
    """The header alone is enough; no memory is taken for what it announces."""
    media = nifti(numbered(), AFFINE, dim=np.array([*dim, 1, 1, 1, 1]))
    for data in (media, gzip.compress(media)):
        tracemalloc.start()
        with pytest.raises(MediaTooLarge, match="voxels"):
            prepared(data, (2, 3, 4))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * 2**20


@pytest.mark.parametrize(
    ("begins", "name"),
    [
        (nifti(numbered(), AFFINE)[:352], "NIfTI"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x93NUMPY", "npy"),
        (b"PK\3\4" + bytes(22) + b"\5\0\0\0a.npydata", "npz"),
        (b"PK\3\4" + bytes(22) + b"\5\0\0\0a.dcmdata", "zip of DICOM"),
        (b"PK\5\6" + bytes(18), "zip of DICOM"),
        (b"NRRD0003\n", "NRRD"),
        (b"Comment = one\nObjectType = Image\n", "MetaImage"),
        (b"NDims = 3", "MetaImage"),
    ],
)
def test_type_is_told_by_the_first_bytes(begins: bytes, name: str) -> None:
    """Names and headers of a request are not asked; exactly one reader takes a file first."""
    assert next(one.name for one in volume.TYPES if one.begins(begins)) == name


def test_gzipped_dicom_is_unpacked_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that knows nothing of gzip gets the bytes of the file that was packed."""
    data, given_bytes = bytes(128) + b"DICM" + bytes(range(256)), []
    reader = types.ModuleType("media.scans.dicom.dicom")

    def load(media: bytes, limits: ScanLimits) -> Scan:
        given_bytes.append(media)
        return Scan(numbered(), None)

    monkeypatch.setattr(reader, "load", load, raising=False)
    monkeypatch.setitem(sys.modules, "media.scans.dicom.dicom", reader)
    for media in (data, gzip.compress(data)):
        np.testing.assert_array_equal(volume.load(media).voxels, numbered())
    assert given_bytes == [data, data]


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_no_scan_is_ever_whole_in_float32(dtype: type) -> None:
    """What a decode takes beside the file is less than four bytes a voxel, and bounded."""
    shape = (255, 257, 256)
    voxels: np.ndarray = np.resize(np.arange(1000, dtype=dtype), shape)
    media = nifti(voxels, AFFINE)
    tracemalloc.start()
    prepared(media, (16, 24, 8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * voxels.size


#: Not getrusage: the most that it tells of begins with the memory of the process that started it.
WORKER = """
import sys
from pathlib import Path

import numpy as np

from media import read
from media.spec import Grid, InputSpec, VolumeSpec

spec = InputSpec("volume", 1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec())

def taken(media, field):
    read(media, spec, Grid((48, 64, 56)), (1, 1, 1))
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

idle = taken(np.zeros((7, 8, 9), np.uint8), "VmRSS")
print(taken(Path(sys.argv[1]).read_bytes(), "VmHWM") - idle)
"""


@pytest.mark.parametrize("packed", [False, True])
def test_decoding_takes_no_more_memory_than_stated(
    packed: bool, tmp_path: Path, repo_root: Path
) -> None:
    """As much as the file, what it inflates to and 100 MiB: there is no room for a copy."""
    media = nifti(np.resize(np.arange(1000, dtype=np.int16), (512, 500, 262)), AFFINE)
    file = gzip.compress(media, 1) if packed else media
    (tmp_path / "scan").write_bytes(file)
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "scan")],
        cwd=repo_root,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    most = len(file) + (len(media) if packed else 0) + 100 * 2**20
    assert len(media) < int(done.stdout) < most < 2 * len(media)


@given(data=st.data())
def test_damaged_scan_decodes_or_is_refused(data: st.DataObject) -> None:
    """Flipped and missing bytes end as an array or as a MediaError, never otherwise."""
    media = bytearray(nifti(numbered(), AFFINE))
    if data.draw(st.booleans()):
        media = bytearray(gzip.compress(bytes(media)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(media) - 1))
        media[place] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(media)))
    try:
        found = prepared(bytes(media[:cut] if data.draw(st.booleans()) else media), (2, 3, 4))
    except MediaError as error:
        assert str(error)
    else:
        assert found.dtype == np.uint8


def test_unit_sides_are_fine() -> None:
    """A scan of one slice is a scan."""
    media = nifti(numbered((7, 5, 1)), AFFINE)
    assert seen(media)["size"] == [1, 5, 7]
    assert prepared(media, (3, 5, 7)).std(axis=0).max() == 0
