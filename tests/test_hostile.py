"""A folder of hostile pictures, one by one over HTTP: the committed table says how each ends.

``hostile_images.csv`` has the columns path, status and problem (its type, empty for 200). To write
it anew after a deliberate change, and then to read the difference::

    python -m tests.test_hostile > tests/hostile_images.csv
"""

from __future__ import annotations

import csv
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service_fixtures import DATA, RunningServer, picture, serving, write_tiny_bundle

TABLE = Path(__file__).with_name("hostile_images.csv")
SECONDS = 6.0  # the wall limit of a decode and a little


def hostile_images(data: Path) -> dict[str, bytes]:
    """Path inside the archive -> bytes, read without extracting anything."""
    with tarfile.open(data / "hostile.tar.gz") as archive:
        found = {}
        for member in archive:
            if member.isfile() and member.name.startswith("hostile/images/"):
                stream = archive.extractfile(member)
                assert stream is not None
                found[member.name.removeprefix("hostile/")] = stream.read()
    return dict(sorted(found.items()))


def read_table() -> dict[str, tuple[int, str]]:
    with TABLE.open(newline="") as stream:
        return {row["path"]: (int(row["status"]), row["problem"]) for row in csv.DictReader(stream)}


def outcome(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, "" if response.status_code == 200 else response.json()["type"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with one tiny bundle and one decode worker."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    with serving(root) as running:
        yield running


def test_every_hostile_picture_ends_as_the_table_says(
    server: RunningServer, data_dir: Path
) -> None:
    """200 or 4xx as committed, each in time, by one worker that survives them all."""
    expected, images = read_table(), hostile_images(data_dir)
    assert set(images) == set(expected)
    wrong = {}
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for path, media in images.items():
            started = time.monotonic()
            got = outcome(client.post("/v1/classify/image", content=media))
            assert time.monotonic() - started < SECONDS, path
            if got != expected[path]:
                wrong[path] = (got, expected[path])
        assert not wrong
        assert client.post("/v1/classify/image", content=picture()).status_code == 200
    assert server.metric("liere_decode_worker_restarts_total") == 0


def test_table_has_no_server_error() -> None:
    """Whatever is sent, the fault is the sender's: no row is a 5xx."""
    table = read_table()
    assert table
    assert {status for status, _ in table.values()} <= {200, 413, 415, 422}
    assert all((status == 200) == (problem == "") for status, problem in table.values())


def write_table() -> None:
    """Print the table as this server answers it today."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("path", "status", "problem"))
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_bundle(Path(folder))
        with serving(Path(folder)) as server:
            for path, media in hostile_images(DATA).items():
                writer.writerow((path, *outcome(server.classify(content=media))))


if __name__ == "__main__":
    write_table()
