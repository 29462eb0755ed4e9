"""The folder of jobs: what is not the jobs' own is never touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service.jobs.database import FILE
from service.jobs.folder import take_folder
from service.settings import SettingsError, make_settings


def take(folder: Path) -> None:
    """Take it and give it back, as a server that starts and ends."""
    taken = take_folder(make_settings(jobs=folder))
    taken.store.close()
    taken.spool.close()


def photos(folder: Path) -> None:
    """Somebody's files, in folders that are called as those of jobs are."""
    for name in ("files/holiday", "incoming", "files/0123456789abcdef01234567"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.png").write_bytes(b"mine")


def other_database(folder: Path) -> None:
    """A database of another program, called as the jobs' own."""
    photos(folder)
    with closing(sqlite3.connect(folder / FILE)) as database:
        database.execute("CREATE TABLE recipes (name TEXT)")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("fill", [photos, other_database])
def test_folder_of_something_else_is_refused_untouched(
    tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    """Every byte in it stays, however its folders are called."""
    fill(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match="holds (something else|other tables)"):
        take(tmp_path)
    assert contents(tmp_path) == before


def test_only_what_is_called_like_a_job_is_removed(tmp_path: Path) -> None:
    """Beside jobs too: what nobody needs goes, what was put there stays."""
    take(tmp_path)
    photos(tmp_path)
    (tmp_path / "incoming" / "job-abcd_123").mkdir()
    take(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert left == {"files/holiday", "incoming/a.png"}


def test_empty_file_system_and_a_killed_start_are_folders_of_jobs(tmp_path: Path) -> None:
    """As a volume that was just mounted is, and a folder that was only locked."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lock").touch()
    take(tmp_path)
    take(tmp_path)
