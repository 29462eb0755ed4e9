"""Real DICOM files, one by one: the committed table says how each decodes, and others agree.

``decoded_dicom.csv`` has the columns path, outcome ("ok", or the error), shape, dtype, and what the
message says. A path that ends in ``/`` is a folder, read as the zip of a series. Gzipped files are
unpacked here: what a gzip may hold is decided before this reader is asked. To write the table anew
after a deliberate change::

    python -m tests.media.test_dicom_decoded FOLDER > tests/media/decoded_dicom.csv

where FOLDER holds ``decode/dicom`` and ``decode/dicom_series``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
import SimpleITK

from media.errors import MediaError
from media.scans.dicom import dicom, series
from media.scans.scan import Scan
from tests.helpers.dicom_files import zipped

TABLE = Path(__file__).with_name("decoded_dicom.csv")
LUMA = [0.299, 0.587, 0.114]
#: Files that SimpleITK does not read: it fails an assertion on a dose grid of one frame.
NOT_BY_SIMPLEITK = {"dicom/rtdose_1frame.dcm"}


class Row(NamedTuple):
    """One line of the table."""

    path: str
    outcome: str
    shape: str = ""
    dtype: str = ""
    message: str = ""


def real_files(data: Path) -> dict[str, bytes]:
    """Path in the table -> bytes."""
    folder = data / "decode"
    found = {f"dicom/{path.name}": path.read_bytes() for path in (folder / "dicom").iterdir()}
    for path in (folder / "dicom_series").glob("*/*"):
        files = {one.name: one.read_bytes() for one in sorted(path.iterdir())}
        found[f"{path.relative_to(folder)}/"] = zipped(files)
    return {path: plain(found[path]) for path in sorted(found)}


def plain(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def load(path: str, data: bytes) -> Scan:
    return series.load(data) if path.endswith("/") else dicom.load(data)


def outcome(path: str, data: bytes) -> Row:
    try:
        scan = load(path, data)
    except MediaError as error:
        return Row(path, type(error).__name__, message=str(error))
    return Row(path, "ok", json.dumps(scan.voxels.shape), scan.voxels.dtype.name)


def read_table() -> list[Row]:
    with TABLE.open(newline="", encoding="utf-8") as stream:
        return [Row(**line) for line in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def files(data_dir: Path) -> dict[str, bytes]:
    """All of them."""
    return real_files(data_dir)


READ = [row.path for row in read_table() if row.outcome == "ok"]


def test_every_real_file_decodes_as_the_table_says(files: dict[str, bytes]) -> None:
    """All files of the two folders, and no others, each as committed."""
    assert [outcome(path, data) for path, data in files.items()] == read_table()


def test_every_refusal_has_a_reason() -> None:
    """The table explains itself: a message for every file that is not read, none for the others."""
    rows = read_table()
    assert 0 < sum(row.outcome == "ok" for row in rows) < len(rows)
    assert all((row.outcome == "ok") == (row.message == "") for row in rows)


def test_shapes_are_those_that_were_observed(data_dir: Path) -> None:
    """What another program saw of the same files: rows, columns, frames; colour has become grey."""
    with (data_dir / "OBSERVED.csv").open(newline="", encoding="utf-8") as stream:
        lines = {line["file"]: line for line in csv.DictReader(stream)}
    compared = 0
    for row in read_table():
        line = lines.get(f"decode/{row.path}")
        if row.outcome != "ok" or not line:
            continue
        shape = json.loads(line["shape"])
        colour = len(shape) > 2 and shape[-1] == 3
        grey = shape[:-1] if colour else shape
        assert json.loads(row.shape) == (grey if len(grey) == 3 else [1, *grey]), row.path
        assert row.dtype == ("uint8" if colour else np.dtype(line["dtype"]).name), row.path
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("path", [path for path in READ if not path.endswith("/")])
def test_voxels_are_those_of_other_readers(
    path: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    """Intensities and places: SimpleITK's, or pydicom's own array where it reads nothing."""
    data = files[path]
    scan = dicom.load(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about oddities of the files
        tags = pydicom.dcmread(io.BytesIO(data))
        stored = tags.pixel_array.reshape(*scan.voxels.shape, -1)[..., 0]
    expected = stored.astype(float)
    if path not in NOT_BY_SIMPLEITK:
        image = _simpleitk(data, tmp_path)
        expected = SimpleITK.GetArrayFromImage(image).astype(float)
        _assert_same_place(scan, image)
    expected *= float(tags.get("DoseGridScaling", 1))
    off = np.abs(scan.voxels * np.float64(scan.slope) + scan.intercept - _grey(expected))
    off = off[stored != tags.get("PixelPaddingValue", -(2**40))]
    if expected.ndim == 3:
        assert off.max() <= 1e-6 * np.abs(expected).max()
    else:  # others compute RGB first, which rounds and clips
        assert off.mean() <= 0.5
        assert np.quantile(off, 0.99) <= 2


def _simpleitk(data: bytes, folder: Path) -> SimpleITK.Image:
    (folder / "file.dcm").write_bytes(data)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(folder / "file.dcm"))
    return reader.Execute()


def _assert_same_place(scan: Scan, image: SimpleITK.Image) -> None:
    if scan.affine is None:
        return
    last = tuple(side - 1 for side in scan.voxels.shape)
    for index in ((0, 0, 0), (0, 0, last[2]), (0, last[1], 0), last):
        expected = image.TransformIndexToPhysicalPoint(index[::-1])
        found = np.array([-1, -1, 1]) * (scan.affine @ [*index, 1])[:3]
        np.testing.assert_allclose(found, expected, atol=1e-3)


def _grey(array: np.ndarray) -> np.ndarray:
    """[slices, rows, columns] as it is; of RGB the luma."""
    return array @ LUMA if array.ndim == 4 else array


@pytest.mark.parametrize("path", [path for path in READ if path.endswith("/")])
def test_series_is_that_of_another_reader(
    path: str, files: dict[str, bytes], data_dir: Path
) -> None:
    """SimpleITK's reader of series, which orders the files of the folder itself."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(data_dir / "decode" / path)))
    image, scan = reader.Execute(), load(path, files[path])
    found = scan.voxels * scan.slope + scan.intercept
    np.testing.assert_array_equal(found, SimpleITK.GetArrayFromImage(image))
    _assert_same_place(scan, image)


def write_table(data: Path) -> None:
    """Print the table as the readers answer it today."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(outcome(path, media) for path, media in real_files(data).items())


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
