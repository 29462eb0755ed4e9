"""Hostile files of every kind, each sent to every address: a committed table says how each ends.

``hostile_images.csv``, ``hostile_video.csv`` and ``hostile_volume.csv`` have the columns path,
status and problem (its type, empty for 200). To write them anew after a deliberate change, and
then to read the difference::

    python -m tests.http.test_hostile
"""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from media.files import write_atomic
from tests.helpers.service_fixtures import DATA, MEDIA, RunningServer, serving, write_tiny_bundle

TABLES = {
    "image": Path(__file__).with_name("hostile_images.csv"),
    "video": Path(__file__).with_name("hostile_video.csv"),
    "volume": Path(__file__).with_name("hostile_volume.csv"),
}
WORKERS = 2

#: (status, type of the problem or nothing)
Outcome = tuple[int, str]


def hostile_files(data: Path) -> dict[str, bytes]:
    """Path inside the archive -> bytes, read without extracting anything."""
    with tarfile.open(data / "hostile.tar.gz") as archive:
        found = {}
        for member in archive:
            if member.isfile():
                stream = archive.extractfile(member)
                assert stream is not None
                found[member.name.removeprefix("hostile/")] = stream.read()
    return dict(sorted(found.items()))


def read_table(modality: str) -> dict[str, Outcome]:
    with TABLES[modality].open(newline="") as stream:
        return {row["path"]: (int(row["status"]), row["problem"]) for row in csv.DictReader(stream)}


def outcomes(server: RunningServer, modality: str, files: dict[str, bytes]) -> dict[str, Outcome]:
    """How every file ends at the address of a modality, several at once."""
    with httpx.Client(base_url=server.url, timeout=100) as client:

        def outcome(media: bytes) -> Outcome:
            response = client.post(f"/v1/classify/{modality}", content=media)
            good = response.status_code == 200
            return response.status_code, "" if good else response.json()["type"]

        with ThreadPoolExecutor(2 * WORKERS) as threads:
            return dict(zip(files, threads.map(outcome, files.values()), strict=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a tiny bundle of every modality."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in TABLES:
        write_tiny_bundle(root, modality, modality)
    with serving(root, decode_workers=WORKERS) as running:
        yield running


@pytest.mark.parametrize("modality", TABLES)
def test_every_hostile_file_ends_as_the_table_says(
    server: RunningServer, data_dir: Path, modality: str
) -> None:
    """200 or 4xx as committed, by workers that survive them all and still answer afterwards."""
    expected, files = read_table(modality), hostile_files(data_dir)
    assert set(files) == set(expected)
    restarts = server.metric("liere_decode_worker_restarts_total")
    got = outcomes(server, modality, files)
    wrong = {path: (got[path], expected[path]) for path in files if got[path] != expected[path]}
    assert not wrong
    good = server.classify(f"/v1/classify/{modality}", content=MEDIA[modality]())
    assert good.status_code == 200
    assert server.metric("liere_decode_worker_restarts_total") == restarts


@pytest.mark.parametrize("modality", TABLES)
def test_table_has_no_server_error(modality: str) -> None:
    """Whatever is sent, the fault is the sender's: no row is a 5xx, and none took too long."""
    table = read_table(modality)
    assert table
    assert {status for status, _ in table.values()} <= {200, 400, 413, 415, 422}
    assert all((status == 200) == (problem == "") for status, problem in table.values())
    assert "/problems/decode-timeout" not in {problem for _, problem in table.values()}


def write_tables() -> None:
    """Write the tables as this server answers them today."""
    with tempfile.TemporaryDirectory() as folder:
        for modality in TABLES:
            write_tiny_bundle(Path(folder), modality, modality)
        with serving(Path(folder), decode_workers=WORKERS) as server:
            for modality, table in TABLES.items():
                text = io.StringIO()
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(("path", "status", "problem"))
                for path, outcome in outcomes(server, modality, hostile_files(DATA)).items():
                    writer.writerow((path, *outcome))
                write_atomic(table, text.getvalue().encode())


if __name__ == "__main__":
    write_tables()
