"""Jobs over HTTP: made of files, archives or paths, read while they run, and never lost."""

from __future__ import annotations

import base64
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.http.jobs import Jobs
from service.jobs.store import Store
from service.jobs.work import JobWork
from tests.helpers.jobs import finish, form, lines, look, make, problem, refused, tarred, zipped
from tests.helpers.measured_grids import ABSTAIN, measured_grids
from tests.helpers.service_fixtures import (
    picture,
    poison,
    serving,
    tiny_logits,
    wait_until,
    write_tiny_bundle,
)
from tests.jobs.conftest import Start

FILES = {f"{seed}.png": picture(seed) for seed in range(4)}


def test_every_item_has_one_line(start: Start) -> None:
    """With the answer that the file alone would get, or its own problem; then the job is done."""
    server, _ = start()
    sent = FILES | {"words.png": b"no picture", "red.png": poison()}
    job = make(server, files=form(sent), params={"top_k": 1})
    assert (job["total"], job["bundles"]) == (6, ["tiny@1"])
    done = finish(server, job)
    assert (done["state"], done["answered"], done["failed"]) == ("done", 6, 2)
    by_name = {line["filename"]: line for line in lines(server, job)}
    assert sorted(line["item"] for line in by_name.values()) == [1, 2, 3, 4, 5, 6]
    for name, media in FILES.items():
        (best,) = by_name[name]["predictions"]
        assert best["index"] == tiny_logits(media, "2x3").argmax()
    assert by_name["words.png"]["error"]["type"] == "/problems/unsupported-media"
    assert by_name["red.png"]["error"]["type"] == "/problems/inference-failed"
    told = server.classify(files=form({"words.png": b"no picture", **FILES})).json()["results"]
    assert by_name["words.png"].items() == {"item": 5, **told[0]}.items()
    assert by_name["0.png"].keys() == {"item", *told[1]}


def options_of(kind: str, files: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """A request that sends files in one of the ways that there are."""
    if kind == "paths":
        (folder / "sent").mkdir(parents=True)
        for name, media in files.items():
            (folder / "sent" / name).write_bytes(media)
        return {"json": {"paths": ["sent"]}}
    packed = zipped(files) if kind.endswith("zip") else tarred(files)
    if kind.startswith("form of"):
        return {"files": form({"all": packed}, "archive")}
    media_type = "application/zip" if kind == "zip" else "application/x-tar"
    return {"content": packed, "headers": {"Content-Type": media_type}}


@pytest.mark.parametrize("kind", ["zip", "tar", "form of a zip", "form of a tar", "paths"])
def test_archives_and_folders_are_their_files(start: Start, tmp_path: Path, kind: str) -> None:
    """Each of their files is an item, whatever is in it; whatever its name, its line is one."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    server, _ = start(jobs_paths=folder)
    job = make(server, **options_of(kind, FILES | {"read\u2028me.txt": b"words"}, folder))
    assert finish(server, job)["failed"] == 1
    found = {line["filename"].removeprefix("sent/") for line in lines(server, job)}
    assert found == {*FILES, "read\u2028me.txt"}


def test_lines_are_there_while_the_job_runs(start: Start) -> None:
    """And reading goes on behind the lines that one has."""
    server, session = start(max_batch=1)
    session.gate.clear()
    job = make(server, files=form(FILES | {"words.png": b"none"}))
    wait_until(lambda: look(server, job)["answered"] == 1, "the first line")
    assert look(server, job)["state"] == "running"
    (first,) = lines(server, job)
    session.gate.set()
    finish(server, job)
    rest = lines(server, job, params={"after": 1})
    assert lines(server, job) == [first, *rest]
    assert problem(server.get(job["results"], params={"after": "-1"}))[1] == "bad-parameter"


def test_lines_may_hold_what_results_may(start: Start) -> None:
    """An array in base64 is what the request for it would have got; both parameters are checked."""
    server, _ = start()
    asked = {"want": "logits", "encoding_format": "base64"}
    job = make(server, files=form(FILES), params=asked)
    finish(server, job)
    answer = server.classify(files=form(FILES), params=asked).json()["results"]
    for line in lines(server, job):
        alone = answer[line.pop("item") - 1]
        assert line.keys() == alone.keys()
        told, expected = (
            np.frombuffer(base64.b64decode(one["logits"]), "<f4") for one in (line, alone)
        )
        assert told == pytest.approx(expected, abs=1e-4)  # which were in another batch
    assert refused(server, files=form(FILES), params={"want": "all"})[:2] == (422, "bad-parameter")


def test_lines_are_written_and_read_beside_the_loop(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hold many megabytes of arrays: requests that somebody waits for go on meanwhile."""
    threads: list[str] = []

    def noting(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noted(*arguments: Any) -> Any:
            threads.append(threading.current_thread().name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)

    noting(JobWork, "_line")
    noting(Jobs, "_page")
    server, _ = start()
    job = make(server, files=form(FILES))
    finish(server, job)
    assert len(lines(server, job)) == 4
    assert len(threads) >= 5
    assert {name.partition("_")[0] for name in threads} == {"jobs"}


def test_many_jobs_and_lines_come_a_page_at_a_time(start: Start) -> None:
    """Following ``next`` gives each job once, newest first; lines are as many as are asked for."""
    server, _ = start()
    jobs = [make(server, files=form(FILES))["id"] for _ in range(5)]
    listed, page = [], "/v1/jobs?limit=2"
    while page:
        answer = server.get(page).json()
        assert len(answer["jobs"]) <= 2
        listed += [job["id"] for job in answer["jobs"]]
        page = answer["next"]
    assert listed == jobs[::-1]
    assert server.get("/v1/jobs").json()["next"] is None
    done = finish(server, {"id": jobs[0]})
    assert [len(lines(server, done, params={"after": n, "limit": 3})) for n in (0, 3)] == [3, 1]
    for limit in ("0", "-1", "many", "100001"):
        assert problem(server.get("/v1/jobs", params={"limit": limit}))[1] == "bad-parameter"


def test_list_goes_on_whatever_became_of_its_jobs(start: Start, tmp_path: Path) -> None:
    """``next`` is good where the job that it is behind has expired since, and all before it."""
    server, _ = start()
    jobs = [make(server, files=form({"a.png": picture()}))["id"] for _ in range(4)]
    first = server.get("/v1/jobs?limit=2").json()
    assert [job["id"] for job in first["jobs"]] == jobs[:1:-1]
    for id_ in jobs[2:]:
        finish(server, {"id": id_})
    with closing(Store(tmp_path / "jobs")) as store, store._sql as database:
        database.execute("DELETE FROM jobs WHERE id IN (?, ?)", jobs[2:])
    rest = server.get(first["next"]).json()
    assert [job["id"] for job in rest["jobs"]] == jobs[1::-1]
    assert rest["next"] is None


def test_list_goes_on_among_jobs_of_one_moment(start: Start, tmp_path: Path) -> None:
    """Also where a clock told several the same time."""
    server, _ = start()
    jobs = {make(server, files=form({"a.png": picture()}))["id"] for _ in range(3)}
    with closing(Store(tmp_path / "jobs")) as store, store._sql as database:
        database.execute("UPDATE jobs SET created = 0.5")
    listed, page = [], "/v1/jobs?limit=1"
    while page:
        answer = server.get(page).json()
        listed += [job["id"] for job in answer["jobs"]]
        page = answer["next"]
    assert (len(listed), set(listed)) == (3, jobs)


def test_place_in_the_list_that_is_none_is_refused(start: Start) -> None:
    """It says what was expected; the id of a job is none either."""
    server, _ = start()
    no_number, wrong_length = "7ff8" + "0" * 36, ("4" * 39, "4" * 41, "4" * 24)
    for before in ("", "none", "f" * 40, no_number, *wrong_length, "4" * 40 + "\n", "A" * 40):
        told = problem(server.get("/v1/jobs", params={"before": before}))
        assert told[:2] == (422, "bad-parameter")
        assert told[2].startswith("before: expected what next of a list has there, got ")


def test_metrics_tell_how_far_jobs_are(start: Start) -> None:
    """While one waits, and when it is done: jobs by state, files by what became of them, bytes."""
    server, session = start()
    session.gate.clear()
    job = make(server, files=form(FILES | {"words.png": b"none"}))
    value = server.metric
    wait_until(lambda: value("liere_job_items_waiting") == 4, "all but one to wait")
    assert value("liere_jobs", state="running") == 1
    kept = sum(map(len, FILES.values())) + 4
    assert value("liere_job_bytes") > kept
    session.gate.set()
    finish(server, job)
    wait_until(lambda: value("liere_jobs", state="done") == 1, "the job to be counted")
    assert value("liere_job_items_total", outcome="answered") == 4
    assert value("liere_job_items_total", outcome="failed") == 1
    assert value("liere_job_items_waiting") == value("liere_job_oldest_seconds") == 0


def test_cancelled_job_keeps_its_lines(start: Start) -> None:
    """Nothing is added any more, and its files are gone; a second time changes nothing."""
    server, session = start()
    session.gate.clear()
    job = make(server, files=form(FILES | {"words.png": b"none"}))
    wait_until(lambda: look(server, job)["answered"] == 1, "the first line")
    cancelled = server.request("DELETE", f"/v1/jobs/{job['id']}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    session.gate.set()
    files = server.engine.settings.jobs / "files"
    wait_until(lambda: not list(files.iterdir()), "the files to be removed")
    assert server.request("DELETE", f"/v1/jobs/{job['id']}").json() == look(server, job)
    assert len(lines(server, job)) == look(server, job)["answered"] == 1


def test_idempotency_key_finds_its_job_again(start: Start) -> None:
    """With the same files and parameters; with others it is refused."""
    server, _ = start()
    options: dict[str, Any] = {"headers": {"Idempotency-Key": "monday"}, "files": form(FILES)}
    job = make(server, **options)
    assert make(server, **options)["id"] == job["id"]
    other = options | {"files": form(FILES | {"one.png": picture(9)})}
    for again in (other, options | {"params": {"top_k": 1}}):
        assert refused(server, **again)[:2] == (422, "key-reused")
    assert len(server.get("/v1/jobs").json()["jobs"]) == 1
    assert finish(server, job)["answered"] == 4


def test_lines_are_as_sure_as_they_are_asked_to_be(tmp_path: Path) -> None:
    """Calibrated, or raw, and withheld below the threshold of the job: as of the bundle alone."""
    write_tiny_bundle(tmp_path / "bundles", grids=measured_grids(abstain=ABSTAIN))
    with serving(tmp_path / "bundles", jobs=tmp_path / "jobs") as server:
        asked: list[dict[str, str]] = [
            {}, {"raw": "true"}, {"abstain": "0.99"}, {"abstain": "0", "raw": "true"},
        ]  # fmt: skip
        for said in asked:
            job = make(server, files=form(FILES), params=said)
            assert finish(server, job)["failed"] == 0
            for line in lines(server, job):
                media = FILES[line["filename"]]
                (alone,) = server.classify(content=media, params=said).json()["results"]
                for key in ("predictions", "calibrated", "abstained", "coverage"):
                    assert line.get(key) == alone.get(key)
        wrong = refused(server, files=form(FILES), params={"abstain": "2"})
        assert wrong == (
            422, "bad-parameter", "abstain: expected a number from 0 to 1, got '2'",
        )  # fmt: skip
