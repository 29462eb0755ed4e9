"""A disk that is full, wherever that shows: a job is refused whole or kept whole, and goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest

from service.jobs import folder, spool, work
from service.jobs.store import Job, Store
from tests.helpers.disks import small_disk
from tests.helpers.effort import alone
from tests.helpers.jobs import finish, form, lines, look, make, problem, refused
from tests.helpers.service_fixtures import picture, wait_until
from tests.jobs.conftest import Start

GOOD = picture(1)
FILES = form({"a.png": GOOD, "b.png": picture(2)})
#: Where making a job writes, in its order; bytes themselves on a real small disk below.
PLACES: dict[str, tuple[Any, str]] = {
    "folder": (tempfile, "mkdtemp"),
    "file": (Path, "open"),
    "files on the disk": (spool, "sync_tree"),
    "place": (Path, "rename"),
    "names on the disk": (spool, "sync_directory"),
    "row": (Store, "add"),
}


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_database(*_: Any) -> NoReturn:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


@pytest.mark.parametrize("place", PLACES)
def test_job_that_cannot_be_written_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """At every place, and nothing of it stays; with room again the same request is taken."""
    server, _ = start()
    jobs, asked = server.engine.settings.jobs, {"headers": {"Idempotency-Key": "once"}}
    with monkeypatch.context() as patch:
        owner, name = PLACES[place]
        patch.setattr(owner, name, full_database if place == "row" else full)
        assert refused(server, files=FILES, **asked)[:2] == (507, "jobs-full")
    assert list((jobs / "incoming").iterdir()) == list((jobs / "files").iterdir()) == []
    job = make(server, files=FILES, **asked)
    assert finish(server, job)["answered"] == 2
    wait_until(lambda: not list((jobs / "files").iterdir()), "the files to be removed")


def test_answers_wait_for_room(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that may not grow: no answer is lost, and none is there twice."""
    monkeypatch.setattr(work, "AGAIN_SECONDS", 0.05)
    stores: list[Store] = []

    def make_store(path: Path) -> Store:
        stores.append(Store(path))
        return stores[0]

    monkeypatch.setattr(folder, "Store", make_store)
    server, session = start()
    session.gate.clear()
    sent = {f"{n}.png": picture(n % 8) for n in range(60)}
    job = make(server, files=form(sent))
    with sqlite3.connect(server.engine.settings.jobs / "jobs.sqlite") as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
    stores[0]._sql.execute(f"PRAGMA max_page_count = {pages}")
    session.gate.set()
    wait_until(lambda: "cannot be written: database or disk is full" in caplog.text, "the log")
    assert look(server, job)["state"] == "running"
    stores[0]._sql.execute("PRAGMA max_page_count = 1000000")
    assert finish(server, job)["failed"] == 0
    counts = Counter(line["filename"] for line in lines(server, job))
    assert counts == dict.fromkeys(sent, 1)


def test_job_that_cannot_be_begun_goes_on_soon(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was full when its turn came is asked again before long."""
    starts: list[Any] = [full_database, full_database, Store.start]

    def start_work(self: Store, job: Job) -> int:
        count: int = (starts.pop(0) if len(starts) > 1 else starts[0])(self, job)
        return count

    monkeypatch.setattr(Store, "start", start_work)
    server, _ = start()
    assert finish(server, make(server, files=FILES))["failed"] == 0
    assert len(starts) == 1


def test_job_that_cannot_be_cancelled_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is told, and the answers come."""
    server, session = start()
    session.gate.clear()
    job = make(server, files=FILES)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "cancel", full_database)
        answer = server.request("DELETE", f"/v1/jobs/{job['id']}")
    assert problem(answer)[:2] == (507, "jobs-full")
    session.gate.set()
    assert finish(server, job)["state"] == "done"


@alone
def test_full_disk_refuses_a_job_and_loses_none(start: Start, disk: Path) -> None:
    """The one that was there before is finished; the one that does not fit leaves nothing."""
    with small_disk(disk, 4 * 2**20):
        server, _ = start(jobs=disk / "jobs")
        job = make(server, files=form({"a.png": GOOD}))
        assert refused(server, content=bytes(5 * 2**20))[:2] == (507, "jobs-full")
        assert list((disk / "jobs" / "incoming").iterdir()) == []
        assert finish(server, job)["state"] == "done"
        make(server, files=form({"b.png": GOOD}))
        server.stop()


@alone
def test_full_disk_is_freed_by_a_cancel(start: Start, disk: Path) -> None:
    """Without room for another byte a job is cancelled, and its files are given back."""
    with small_disk(disk, 8 * 2**20):
        server, session = start(jobs=disk / "jobs")
        session.gate.clear()
        job = make(server, files=form({"a.png": GOOD, "b.png": bytes(2**20)}))
        wait_until(lambda: look(server, job)["state"] == "running", "the work to begin")
        fill(disk / "other")
        assert refused(server, files=FILES)[:2] == (507, "jobs-full")
        answer = server.request("DELETE", f"/v1/jobs/{job['id']}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        files = disk / "jobs" / "files"
        wait_until(lambda: not list(files.iterdir()), "its files to be given back")
        wait_until((disk / "jobs" / "reserve").exists, "the reserve for the next one")
        session.gate.set()
        server.stop()


def fill(path: Path) -> None:
    """Write until there is no room for another byte."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


def test_answers_count_among_what_jobs_may_have(start: Start, tmp_path: Path) -> None:
    """Of paths too, whose files take nothing here: no job is taken that has no room for a line."""
    (tmp_path / "a.png").write_bytes(GOOD)
    server, _ = start(jobs_paths=tmp_path)
    finish(server, make(server, files=FILES))
    server.stop()
    size = sum(path.stat().st_size for path in (tmp_path / "jobs").glob("jobs.sqlite*"))
    server, _ = start(jobs_paths=tmp_path, jobs_max_gib=size / 2**30)
    assert refused(server, files=FILES)[:2] == (507, "jobs-full")
    assert refused(server, json={"paths": ["a.png"]})[:2] == (507, "jobs-full")
