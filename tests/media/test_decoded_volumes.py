"""Real scans with real oddities: right, as another reader has them, or refused with a reason.

``decoded_volumes.csv`` says which: outcome (ok, or the name of the error), the reader of the second
opinion, size and spacing of the scan in its one orientation, and the reason where it is refused. To
write it anew after a deliberate change, and then to read the difference::

    python -m tests.media.test_decoded_volumes FOLDER > tests/media/decoded_volumes.csv

where FOLDER holds ``decode/volume``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from media import MediaError
from media.scans import geometry, volume
from media.scans.scan import Scan
from tests.helpers.scan_files import itk_oriented, prepared

TABLE = Path(__file__).with_name("decoded_volumes.csv")
FOLDER = "decode/volume"
COLUMNS = ("file", "outcome", "reader", "size", "spacing_mm", "reason")


def by_nibabel(path: Path) -> tuple[np.ndarray, list[float]]:
    """[depth, height, width] towards head, back, left, and its spacing, from nibabel's RAS+."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    turned = np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]
    return turned, [float(step) for step in image.header.get_zooms()[::-1]]


def by_itk(path: Path) -> tuple[np.ndarray, list[float]]:
    return itk_oriented(SimpleITK.ReadImage(path))


READERS: dict[str, Callable[[Path], tuple[np.ndarray, list[float]]]] = {
    "nibabel": by_nibabel,
    "SimpleITK": by_itk,
}


def files(data: Path) -> dict[str, Path]:
    folder = data / FOLDER
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path for path in paths}


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def outcome(name: str, data: bytes) -> dict[str, str]:
    """What a row of the table says of a file."""
    row = dict.fromkeys(COLUMNS, "") | {"file": name, "outcome": "ok"}
    try:
        oriented = geometry.orient(volume.load(data))
    except MediaError as error:
        return row | {"outcome": type(error).__name__, "reason": str(error)}
    row["reader"] = "nibabel" if ".nii" in name else "SimpleITK"
    row["size"] = json.dumps(list(oriented.voxels.shape))
    row["spacing_mm"] = json.dumps([round(step, 4) for step in oriented.spacing or ()])
    return row


@pytest.mark.parametrize("name", rows_of(TABLE))
def test_every_real_scan_ends_as_the_table_says(name: str, data_dir: Path) -> None:
    """Decoded to the size and spacing of the table, or refused with its reason."""
    path = files(data_dir)[name]
    assert outcome(name, path.read_bytes()) == rows_of(TABLE)[name]


def test_table_leaves_no_file_out(data_dir: Path) -> None:
    """There is a row for each file, with a second reader, or with a reason."""
    table = rows_of(TABLE)
    assert set(table) == set(files(data_dir))
    assert {row["outcome"] for row in table.values()} == {"ok", "UnsupportedMedia"}
    for row in table.values():
        assert bool(row["reader"]) == (row["outcome"] == "ok") != bool(row["reason"])


DECODED = [name for name, row in rows_of(TABLE).items() if row["outcome"] == "ok"]


@pytest.mark.parametrize("name", DECODED)
def test_decoded_scan_is_what_another_reader_has(name: str, data_dir: Path) -> None:
    """Every intensity in its place, and the spacing, as nibabel or SimpleITK read the file."""
    path = files(data_dir)[name]
    scan = volume.load(path.read_bytes())
    expected, spacing = READERS[rows_of(TABLE)[name]["reader"]](path)
    found = geometry.orient(scan)
    np.testing.assert_allclose(scan.slope * found.voxels + scan.intercept, expected, rtol=1e-6)
    assert found.spacing == pytest.approx(spacing, rel=1e-6)
    low, high = float(expected.min()), float(expected.max())
    window = prepared(path.read_bytes(), expected.shape, window=(low, high), dtype="float32")
    np.testing.assert_allclose(window, (expected - low) / (high - low) * 255, atol=0.01)


@pytest.mark.parametrize("name", DECODED)
def test_stored_voxels_are_what_was_observed(name: str, data_dir: Path) -> None:
    """Shape and type are those that were once recorded beside the data."""
    seen = rows_of(data_dir / "OBSERVED.csv")[f"{FOLDER}/{name}"]
    scan: Scan = volume.load(files(data_dir)[name].read_bytes())
    shape = scan.voxels.shape if seen["reader"] == "nibabel" else scan.voxels.shape[::-1]
    assert (seen["outcome"], json.loads(seen["shape"])) == ("ok", list(shape))
    assert scan.voxels.dtype == np.dtype(seen["dtype"])


def write_table(data: Path) -> None:
    """Print the table as the readers are today."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, path in files(data).items():
        writer.writerow(outcome(name, path.read_bytes()))


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
