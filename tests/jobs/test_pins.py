"""A job is answered by the version that answered when it came, which stays as long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.engine.catalog import Catalog
from service.engine.model import ExaminedBundle
from service.http.keys import digest
from service.jobs import runner
from tests.helpers.jobs import finish, form, lines, make, problem
from tests.helpers.service_fixtures import (
    TinySession,
    picture,
    run,
    serving,
    wait_until,
    write_tiny_bundle,
    write_tiny_versions,
)

ADMIN = {"headers": {"Authorization": "Bearer boss"}}
FILES = form({"a.png": picture(1), "b.png": picture(2)})


def left_behind(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """A job of a server that ended before it began with it."""
    with monkeypatch.context() as patch:
        patch.setattr(runner, "MAX_RUNNING", 0)
        with serving(bundles, lambda *_: TinySession(), **settings) as server:
            return make(server, files=FILES, **options)


def test_version_of_a_job_answers_it_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in another process in which a newer one answers; once it is done it may go."""
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1")
    keys = tmp_path / "keys"
    keys.write_text(f"{digest(b'boss').hex()} boss scopes=classify,admin\n")
    settings: dict[str, Any] = {"jobs": tmp_path / "jobs", "keys_file": keys}
    job = left_behind(home.parent, monkeypatch, ADMIN, **settings)
    write_tiny_bundle(tmp_path, "tiny", version="2").rename(home / "2")

    session = TinySession()
    with serving(home.parent, lambda *_: session, **settings) as server:
        session.gate.clear()
        version = "/admin/bundles/tiny/versions/1"
        kept = server.request("DELETE", version, **ADMIN)
        assert problem(kept)[:2] == (409, "version-in-use")
        new = make(server, files=FILES, **ADMIN)
        session.gate.set()
        assert finish(server, job, **ADMIN)["state"] == "done"
        assert {line["version"] for line in lines(server, job, **ADMIN)} == {"1"}
        assert finish(server, new, **ADMIN)["bundles"] == ["tiny@2"]
        assert {line["version"] for line in lines(server, new, **ADMIN)} == {"2"}
        wait_until(
            lambda: server.request("DELETE", version, **ADMIN).status_code == 200, "it to go"
        )


def test_old_version_is_opened_once_for_all_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one has it, the others share it, however many begin at once; then it is given back."""
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1")
    settings: dict[str, Any] = {"jobs": tmp_path / "jobs"}
    jobs = [left_behind(home.parent, monkeypatch, {}, **settings) for _ in range(3)]
    write_tiny_bundle(tmp_path, "tiny", version="2").rename(home / "2")
    session, opened = TinySession(), list[str]()
    examine = Catalog.examine_version

    async def counted(self: Catalog, name: str, at: Path, version: str) -> ExaminedBundle:
        opened.append(version)
        return await examine(self, name, at, version)

    monkeypatch.setattr(Catalog, "examine_version", counted)
    with serving(home.parent, lambda *_: session, **settings) as server:
        for job in jobs:
            assert finish(server, job)["state"] == "done"
            assert {line["version"] for line in lines(server, job)} == {"1"}
        versions = lambda: server.engine.catalog.open_versions("tiny")  # noqa: E731
        wait_until(lambda: versions() == {"2"}, "the old version to be given back")
    assert opened == ["1"]


def test_command_keeps_the_version_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is told of the folder of jobs, with a server or without one."""
    bundles, jobs = tmp_path / "bundles", tmp_path / "jobs"
    home = write_tiny_versions(bundles, "tiny", "1")
    job = left_behind(bundles, monkeypatch, {}, jobs=jobs)
    write_tiny_bundle(tmp_path, "tiny", version="2").rename(home / "2")
    asked = ("bundles", "retire", "tiny", "1", "--bundles", bundles)
    for done in (run(*asked, "--jobs", jobs), run(*asked, LIERE_JOBS=str(jobs))):
        assert (done.returncode, (home / "1").is_dir()) == (1, True)
        assert "a job that has not ended needs version 1" in done.stderr
    run("jobs", "cancel", job["id"], "--jobs", jobs)
    assert run(*asked, "--jobs", jobs).returncode == 0
    assert not (home / "1").exists()


def test_job_waits_for_a_version_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why, nothing of it is answered, and it can still be cancelled."""
    bundles = tmp_path / "bundles"
    home = write_tiny_versions(bundles, "tiny", "1")
    job = left_behind(bundles, monkeypatch, {}, jobs=tmp_path / "jobs")
    (home / "1").rename(tmp_path / "away")
    write_tiny_bundle(tmp_path, "tiny", version="2").rename(home / "2")
    with serving(bundles, lambda *_: TinySession(), jobs=tmp_path / "jobs") as server:
        look = lambda: server.get(f"/v1/jobs/{job['id']}").json()  # noqa: E731
        wait_until(lambda: look()["reason"] is not None, "the reason")
        assert look()["state"] == "queued"
        assert "version 1" in look()["reason"]
        wait_until(lambda: server.metric("liere_job_oldest_seconds") > 0, "its age to be told")
        assert lines(server, job) == []
        server.request("DELETE", f"/v1/jobs/{job['id']}")
        assert finish(server, job)["state"] == "cancelled"
