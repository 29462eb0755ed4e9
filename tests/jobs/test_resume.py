"""``python -m service classify --resume``: what was answered is kept, whatever ends the rest."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from service.cli.kept import OWNER
from service.jobs.store import Job, Store
from tests.helpers.effort import alone, effort
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    command,
    complaint,
    picture,
    run,
    tiny_logits,
    wait_until,
)
from tests.jobs.conftest import Start


@pytest.fixture
def asked(bundles: Path, tmp_path: Path) -> list[str | Path]:
    """The command, of files of which one is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n:02}.png").write_bytes(picture(n))
    (folder / "12.png").write_bytes(b"no picture")
    options = ["--json", "--resume", "--jobs", str(tmp_path / "jobs"), "--bundles", str(bundles)]
    return ["classify", *options, "--top-k", "1", *sorted(folder.iterdir())]


def kept_lines(folder: Path) -> int:
    """Of all jobs of a command; none before its first start."""
    if not (database := folder / "jobs" / "jobs.sqlite").exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        (number,) = connection.execute("SELECT count(line) FROM items").fetchone()
        return int(number)


@alone
def test_killed_command_goes_on(bundles: Path, tmp_path: Path) -> None:
    """SIGKILL after a line: the same command prints those that were there and answers the rest."""
    files = effort(150, 2000)
    for n in range(files):
        (tmp_path / f"{n}.png").write_bytes(picture(n % 8))
    options = ["--json", "--resume", "--jobs", str(tmp_path / "jobs"), "--bundles", str(bundles)]
    asked = command("classify", *options, *(tmp_path / f"{n}.png" for n in range(files)))
    environment = CLEAN | {"LIERE_MAX_BATCH": "1", "LIERE_MAX_IN_FLIGHT": "4"}
    known: list[str] = []
    for _ in range(effort(1, 20)):
        with subprocess.Popen(
            asked, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            # one more than were kept: a job that ends its process without any is given up
            before = [process.stdout.readline() for _ in range(kept_lines(tmp_path) + 1)]
            process.kill()
        assert before[: len(known)] == known
        known = before
    done = subprocess.run(
        asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stdout.startswith("".join(known))
    assert sorted(line["file"] for line in lines) == sorted(
        str(tmp_path / f"{n}.png") for n in range(files)
    )
    best = [int(tiny_logits(picture(n), "2x3").argmax()) for n in range(8)]
    for line in lines:
        assert line["predictions"][0]["index"] == best[int(Path(line["file"]).stem) % 8]


def test_kept_answers_are_printed_again(asked: list[str | Path]) -> None:
    """To the letter, so nothing was answered twice; as without --resume, errors among them."""
    first, second = run(*asked), run(*asked)
    assert (first.returncode, first.stderr) == (1, "")
    assert first.stdout == second.stdout
    told = {line.pop("file"): line for line in map(json.loads, first.stdout.splitlines())}
    plain = run("classify", "--json", *asked[5:])
    for line in map(json.loads, plain.stdout.splitlines()):
        kept = told.pop(line.pop("file"))
        assert kept.keys() == line.keys()
        assert kept.get("predictions") == line.get("predictions")
        assert kept.get("error") == line.get("error")
    assert told == {}


def test_changed_file_is_answered_anew(asked: list[str | Path]) -> None:
    """An answer to what lay there before is never given."""
    file = Path(asked[-2])
    before = {line["file"]: line for line in map(json.loads, run(*asked).stdout.splitlines())}
    file.write_bytes(b"no picture either")
    after = {line["file"]: line for line in map(json.loads, run(*asked).stdout.splitlines())}
    assert "predictions" in before[str(file)]
    assert "error" in after[str(file)]


def test_kept_jobs_are_seen_and_cancelled_like_others(
    asked: list[str | Path], tmp_path: Path
) -> None:
    """By ``python -m service jobs``; a cancelled one is told as such."""
    lines = run(*asked).stdout.splitlines()
    jobs = tmp_path / "jobs"
    (job,) = map(json.loads, run("jobs", "list", "--json", "--jobs", jobs).stdout.splitlines())
    assert (job["state"], job["total"], job["answered"], job["failed"]) == ("done", 13, 13, 1)
    told = run("jobs", "results", job["id"], "--jobs", jobs).stdout.splitlines()
    names = [json.loads(line)["filename"] for line in told]
    assert names == [json.loads(line)["file"] for line in lines]


def test_cancelled_command_says_so(asked: list[str | Path], tmp_path: Path) -> None:
    """What was answered before is printed, then that there will be no more."""
    run(*asked)
    job = unfinish(tmp_path / "jobs")
    assert run("jobs", "cancel", job.id, "--jobs", tmp_path / "jobs").returncode == 0
    done = run(*asked)
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 12)
    assert f"job {job.id} was cancelled" in done.stderr


def unfinish(folder: Path) -> Job:
    """Let the only job be as if it had been killed before its last line."""
    with closing(Store(folder)) as store:
        (job,) = store.of_owner(OWNER)
        store._sql.execute("UPDATE jobs SET state = 'running', ended = NULL, answered = 12")
        store._sql.execute("UPDATE items SET line = NULL, place = NULL WHERE place = 13")
    return job


def test_server_goes_on_with_a_job_of_the_command(
    asked: list[str | Path], tmp_path: Path, start: Start
) -> None:
    """Of files that it was never allowed to read for a client: the operator has named them."""
    before = run(*asked).stdout.splitlines()
    unfinish(tmp_path / "jobs")
    server, _ = start()
    wait_until(lambda: server.metric("liere_jobs", state="done") == 1, "the last line")
    server.stop()
    after = run(*asked).stdout.splitlines()
    assert after[:12] == before[:12]
    assert [json.loads(line)["file"] for line in after] == [
        json.loads(line)["file"] for line in before
    ]


def test_folder_has_one_that_works_on_it(asked: list[str | Path], start: Start) -> None:
    """A server's jobs are not the command's, and its clients see none of those of the command."""
    assert run(*asked).returncode == 1
    server, _ = start()
    assert "another process works on those of" in complaint(run(*asked), 2)
    assert server.get("/v1/jobs").json()["jobs"] == []
    server.stop()
    assert run(*asked).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "a.png"], "needs --json"),
        (["--resume", "--json", "-"], "no -"),
        (["--jobs", "x", "a.png"], "say --resume"),
        (["--resume", "--json", "a.png"], "expected --jobs DIR, or LIERE_JOBS"),
    ],
)
def test_wrong_commands_are_told(arguments: list[str], words: str) -> None:
    """Status 2 and what is missing."""
    done = run("classify", *arguments)
    assert (done.returncode, words in done.stderr) == (2, True)
