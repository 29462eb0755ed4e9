"""An item that ends the process whenever it is answered: in the end it alone has failed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service.jobs import runner, work
from service.jobs.database import FILE
from service.jobs.store import Store
from service.jobs.work import JobWork
from tests.helpers.effort import alone, effort
from tests.helpers.jobs import finish, form, lines, make
from tests.helpers.service_fixtures import CLEAN, ROOT, picture, wait_until
from tests.jobs.conftest import Start

#: The command, in which to read one of its files ends the process.
PROGRAM = """
import os, signal, sys
from service.__main__ import main
from service.jobs import work
from service.jobs.inputs import Inputs

read = Inputs.read
def deadly(self, item, most):
    if item.name.endswith("deadly.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, item, most)
Inputs.read = deadly
work.SUSPECT_STARTS, work.FAULT_STARTS = 1, 2
sys.exit(main(sys.argv[1:]))
"""


@alone
def test_item_that_ends_the_process_fails_and_nothing_else(bundles: Path, tmp_path: Path) -> None:
    """However often it is started, it goes on; every other file has its own answer."""
    names = ["a.png", "b.png", "c.png"]
    names.insert(effort(0, 1), "deadly.png")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(picture(number))
    options = ["--json", "--resume", "--jobs", tmp_path / "jobs", "--bundles", bundles]
    asked = [sys.executable, "-c", PROGRAM, "classify", *map(str, options), *names]
    for _ in range(9):
        done = subprocess.run(
            asked, cwd=tmp_path, env=CLEAN | {"PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode != -signal.SIGKILL:
            break
    assert done.returncode == 1, done.stderr
    told = {line["file"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert told.keys() == set(names)
    assert [name for name in names if "error" in told[name]] == ["deadly.png"]
    assert told["deadly.png"]["error"]["type"] == "/problems/inference-failed"


def test_orderly_end_says_nothing_against_an_item(start: Start, tmp_path: Path) -> None:
    """A server that is stopped as often as you like begins its jobs as ever."""
    sent = form({f"{number}.png": picture(number) for number in range(3)})
    server, session = start()
    session.gate.clear()
    job = make(server, files=sent)
    with closing(Store(tmp_path / "jobs")) as store:
        wait_until(lambda: store.open()[0].starts == 1, "the work to begin")
        session.gate.set()
        finish(server, job)
        assert store.of_owner("")[0].starts == 0


def test_job_that_may_have_ended_the_process_goes_item_by_item(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as many as can have been begun; then it goes on as ever."""
    monkeypatch.setattr(work, "MAX_BEGUN", 4)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "MAX_RUNNING", 0)
        server, _ = start()
        job = make(server, files=form({f"{number}.png": picture(number) for number in range(9)}))
        server.stop()
    with sqlite3.connect(tmp_path / "jobs" / FILE) as database:
        database.execute("UPDATE jobs SET starts = ?", (work.SUSPECT_STARTS,))
    begun: list[int] = []
    on_answer = JobWork._on_answer

    def noting(self: JobWork, *arguments: Any) -> None:
        begun.append(len(self._begun))
        on_answer(self, *arguments)

    monkeypatch.setattr(JobWork, "_on_answer", noting)
    server, _ = start()
    assert finish(server, job)["failed"] == 0
    assert begun[:4] == [1, 1, 1, 1]
    assert [line["item"] for line in lines(server, job)][:4] == [1, 2, 3, 4]


def test_jobs_of_an_older_schema_are_read(tmp_path: Path) -> None:
    """Starts that nobody counted were none."""
    with closing(Store(tmp_path)) as store:
        store._sql.execute("ALTER TABLE jobs DROP COLUMN starts")
        store._sql.execute("PRAGMA user_version = 1")
    with closing(Store(tmp_path)) as store:
        assert store.open() == []
