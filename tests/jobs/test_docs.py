"""Every command of docs/jobs.md does what it says."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.engine.job import Outcome
from service.http.job_documents import JOB_EXAMPLE
from service.http.job_lines import JOB_LINE
from service.http.problems import CONTENT_TYPE, PROBLEMS
from service.jobs.failures import EmptyJob
from service.settings import read_settings
from tests.helpers.jobs import finish, form, lines, make, zipped
from tests.helpers.service_fixtures import picture, run
from tests.jobs.conftest import Start


def test_commands_of_the_guide_work(
    start: Start, bundles: Path, tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order: those that make a job are taken, the others find it."""
    monkeypatch.chdir(tmp_path)
    page = (repo_root / "docs" / "jobs.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    commands = [line for kind, block in blocks if not kind for line in block.splitlines()]
    media = tmp_path / "media"
    (media / "more").mkdir(parents=True)
    for name in ("photo.png", "other.png", "media/photo.png", "media/more/a.png"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "photos.zip").write_bytes(zipped({"a.png": picture()}))
    settings = read_settings(shlex.split(commands[0])[3:])
    assert (settings.jobs, settings.jobs_paths) == (Path("jobs"), Path("media"))
    server, _ = start(jobs_paths=media)
    job = make(server, files=form({"a.png": picture()}))
    finish(server, job)
    for line in commands[1:]:
        words = shlex.split(line.replace("ID", job["id"]))
        if words[0] == "curl":
            assert job_or_lines(words, server.url), line
        else:
            command, _, file = line.replace("ID", job["id"]).partition(" > ")
            assert command.startswith("python -m service ")
            done = run(*shlex.split(command)[3:], LIERE_BUNDLES=str(bundles))
            assert done.returncode == 0, done.stderr
            assert re.search(f'{job["id"]}|"item": 1|"file": "photo.png"|2 of 2', done.stdout)


def job_or_lines(words: list[str], url: str) -> bool:
    """Whether a command of curl was answered with a job, jobs or lines."""
    words = [word.replace("http://127.0.0.1:8000", url) for word in words]
    words[1:1] = ["--silent", "--show-error", "--fail-with-body"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if "after=100&" in words[-1]:
        return told == ""
    return bool({"id", "jobs", "item"} & set(json.loads(told.splitlines()[0])))


def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    """A folder without jobs, and no folder at all."""
    done = run("jobs", "list", "--jobs", tmp_path)
    assert (done.returncode, "holds no jobs" in done.stderr) == (2, True)
    done = run("jobs", "show", "1")
    assert (done.returncode, "LIERE_JOBS" in done.stderr) == (2, True)


def test_openapi_shows_every_address_and_problem(start: Start) -> None:
    """With the keys of a real job, and each problem that a job as a whole can be refused with."""
    server, _ = start()
    paths = server.get("/openapi.json").json()["paths"]
    operations = {(path, method) for path in paths for method in paths[path] if "jobs" in path}
    assert operations == {
        ("/v1/jobs", "post"), ("/v1/jobs", "get"), ("/v1/jobs/{id}", "get"),
        ("/v1/jobs/{id}", "delete"), ("/v1/jobs/{id}/results", "get"),
    }  # fmt: skip
    assert make(server, files=form({"a.png": picture()})).keys() == JOB_EXAMPLE.keys()
    shown = {
        name
        for response in paths["/v1/jobs"]["post"]["responses"].values()
        for name in response["content"].get(CONTENT_TYPE, {}).get("examples", {})
    }
    of_jobs = {one.name for kind, one in PROBLEMS.items() if kind.__module__ == EmptyJob.__module__}
    assert shown >= of_jobs - {"unknown-job"}


def test_openapi_has_the_schema_of_a_line(start: Start) -> None:
    """It is that which lines are checked by when they are written: of answers and of problems."""
    server, _ = start()
    document = server.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    results = document["paths"]["/v1/jobs/{id}/results"]["get"]["responses"]["200"]["content"]
    schema = results["application/jsonl"]["schema"]
    assert (schema["type"], schema["contentMediaType"]) == ("string", "application/jsonl")
    assert schema["contentSchema"]["items"] == {"$ref": "#/components/schemas/JobLine"}
    names = [one["$ref"].rpartition("/")[2] for one in schemas["JobLine"]["anyOf"]]
    job = make(server, files=form({"a.png": picture(), "b.png": b"text"}))
    finish(server, job)
    shown = results["application/jsonl"]["example"].splitlines()
    told = [*lines(server, job), *map(json.loads, shown)]
    for line in told:
        JOB_LINE.validate_python(line)
        one = schemas[names["error" in line]]
        assert set(one["required"]) <= line.keys()
        assert list(line) == [name for name in one["properties"] if name in line]
    assert {"error" in line for line in told[:2]} == {True, False}


@pytest.mark.parametrize("change", [{"unheard_of": 1}, {"version": 1}, {"logits": [math.nan]}])
def test_line_that_is_none_is_a_mistake_of_ours(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    """Its file has failed, the log says why, and the job goes on."""
    document = Outcome.document
    monkeypatch.setattr(Outcome, "document", lambda *said: document(*said) | change)
    server, _ = start()
    job = make(server, files=form({"a.png": picture(), "b.png": b"text"}))
    assert finish(server, job)["failed"] == 2
    told = {line["item"]: line["error"]["type"] for line in lines(server, job)}
    assert told == {1: "/problems/internal-error", 2: "/problems/unsupported-media"}
    assert f"job {job['id']}: the answer to item 1 is no line" in caplog.text
