"""Jobs through the client: taken once, followed, read while they run; and its command."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client import AsyncClient, Client, Job, NoAnswer, Problem, Result, asking, jobs
from client.__main__ import main
from tests.client.relay import relaying
from tests.helpers.jobs import tarred
from tests.helpers.service_fixtures import (
    RunningServer,
    TinySession,
    picture,
    serving,
    tiny_logits,
    wait_until,
)

Command = Callable[..., int]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url, verify=False) as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them broken, one with a name that no header can hold."""
    root = tmp_path / "photos"
    root.mkdir()
    for name, media in (("a", picture(1)), ('b"\n', picture(2)), ("c", picture(3)[:50])):
        (root / f"{name}.png").write_bytes(media)
    return root


def check(line: jobs.JobLine, media: bytes) -> None:
    """A line with the network's own answer to these bytes."""
    assert isinstance(line.outcome, Result)
    assert line.outcome.predictions[0].index == tiny_logits(media, "2x3").argmax()


# --- from Python -----------------------------------------------------------------------------


def test_job_is_submitted_followed_and_read(client: Client, folder: Path) -> None:
    """Files, bytes and an archive: an outcome for each, under the number that it had."""
    large = folder / "large.bmp"
    large.write_bytes(picture(9, (700, 500), "BMP"))  # 1 MB, sent in pieces
    paths = [*sorted(folder.glob("*.png")), large]
    files: list[Path | bytes] = [*paths, picture(4)]
    packed = tarred({"d.png": picture(5), "e.txt": b"words"})
    job = client.jobs.submit(files, archives=[packed], top_k=1)
    seen: list[Job] = []
    done = client.jobs.wait(job.id, seen.append)
    assert (done.state, done.total, done.answered, done.failed) == ("done", 7, 7, 2)
    assert [one.answered for one in seen] == sorted(one.answered for one in seen)
    assert (done.bundles[0], done.document["results"]) == ("image@1", f"/v1/jobs/{job.id}/results")
    lines = {line.item: line for line in client.jobs.results(job.id)}
    assert sorted(lines) == [1, 2, 3, 4, 5, 6, 7]
    names = ["a.png", "b%22%0A.png", "c.png", "large.bmp", "file 5", "d.png", "e.txt"]
    assert [lines[n].filename for n in range(1, 8)] == names
    media = [*(path.read_bytes() for path in paths), picture(4), picture(5)]
    for n in (1, 2, 4, 5, 6):
        check(lines[n], media[n - 1])
    for n, kind in ((3, "broken-media"), (7, "unsupported-media")):
        problem = lines[n].outcome
        assert isinstance(problem, Problem)
        assert problem.type == f"/problems/{kind}"


def test_paths_of_the_server_are_named_and_not_sent(client: Client, server: RunningServer) -> None:
    """Below what its operator allows; others are told to be refused."""
    allowed = server.engine.settings.jobs_paths
    (allowed / "there.png").write_bytes(picture(1))
    job = client.jobs.submit(paths=["there.png"])
    (line,) = client.jobs.results(job.id, follow=True)
    check(line, picture(1))
    with pytest.raises(Problem, match="path-refused"):
        client.jobs.submit(paths=["../there.png"])


def test_job_is_taken_once_however_often_it_is_sent(server: RunningServer, folder: Path) -> None:
    """Answers that get lost on their way: each further try finds the job of the first."""
    cut = b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{"
    with relaying(server.port, None, cut) as relay, Client(relay.url, verify=False) as client:
        before = sum(1 for _ in client.jobs.list())
        relay.spoil_after(relay.connections, 2)
        job = client.jobs.submit(folder.glob("*.png"))
        assert sum(1 for _ in client.jobs.list()) == before + 1
        again = client.jobs.submit(folder.glob("*.png"), key="mine")
        assert again.id != job.id
        assert client.jobs.submit(folder.glob("*.png"), key="mine").id == again.id
        with pytest.raises(Problem, match="key-reused"):
            client.jobs.submit([picture()], key="mine")


def test_lines_come_while_the_job_runs(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is there before the last is answered; a page at a time, as jobs are listed."""
    monkeypatch.setattr(jobs, "PAGE", 2)
    monkeypatch.setattr(jobs, "LISTED", 2)
    session = TinySession()

    async def follow(url: str) -> None:
        async with AsyncClient(url, verify=False) as client:
            session.gate.clear()
            job = await client.jobs.submit([b"words", *(picture(n) for n in range(6))])
            lines = client.jobs.results(job.id, follow=True)
            first = await anext(lines)
            assert (first.item, (await client.jobs.show(job.id)).answered) == (1, 1)
            session.gate.set()
            rest = [line async for line in lines]
            assert sorted(line.item for line in rest) == [2, 3, 4, 5, 6, 7]
            assert [line async for line in client.jobs.results(job.id, after=1)] == rest
            more = [(await client.jobs.submit([picture(n)])).id for n in range(4)]
            assert [one.id async for one in client.jobs.list()] == [*reversed(more), job.id]

    with serving(bundles, lambda *_: session, jobs=tmp_path / "jobs") as server:
        asyncio.run(follow(server.url))


@pytest.mark.parametrize("how", ["wait", "results"])
def test_server_may_be_away_for_a_while(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Who waits for a job goes on with it after a restart; not for ever."""
    monkeypatch.setattr(jobs, "LAST_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(jobs.AsyncJobs, "show", first_running(jobs.AsyncJobs.show))
    with relaying(server.port) as relay, Client(relay.url, verify=False, retries=0) as client:
        job = client.jobs.submit([picture()])
        relay.spoil_after(relay.connections + 2, 6)
        if how == "wait":
            assert client.jobs.wait(job.id).has_ended
        else:
            assert [line.item for line in client.jobs.results(job.id, follow=True)] == [1]
        monkeypatch.setattr(jobs, "AWAY_SECONDS", 0.0)
        monkeypatch.setattr(jobs.AsyncJobs, "show", first_running(jobs.AsyncJobs.show))
        relay.spoil_after(relay.connections + 1, 50)
        with pytest.raises(NoAnswer):
            client.jobs.wait(job.id)


def first_running(show: Any) -> Any:
    """``show`` which says that the job runs, the first two times."""
    seen: list[Job] = []

    async def shown(self: jobs.AsyncJobs, id: str) -> Job:
        job: Job = await show(self, id)
        seen.append(job)
        return replace(job, state="running") if len(seen) < 3 else job

    return shown


def test_body_of_a_job_has_no_deadline_unless_given(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as its files are; all else has the usual one."""
    monkeypatch.setattr(asking, "DEADLINE_SECONDS", 1e-6)
    with Client(server.url, verify=False) as client:
        job = client.jobs.submit([picture()])
        with pytest.raises(NoAnswer, match="no answer within"):
            client.jobs.show(job.id)
    with (
        Client(server.url, verify=False, deadline=1e-6) as client,
        pytest.raises(NoAnswer, match="no answer within"),
    ):
        client.jobs.submit([picture()])


def test_cancelled_job_has_ended(bundles: Path, tmp_path: Path) -> None:
    """What waits for it is told so; its lines can be read still."""
    session = TinySession()
    with (
        serving(bundles, lambda *_: session, jobs=tmp_path / "jobs") as server,
        Client(server.url, verify=False) as client,
    ):
        session.gate.clear()
        job = client.jobs.submit([b"words", picture()])
        wait_until(lambda: client.jobs.show(job.id).answered == 1, "the first line")
        assert client.jobs.cancel(job.id).state == "cancelled"
        session.gate.set()
        assert client.jobs.wait(job.id).has_ended
        assert [line.item for line in client.jobs.results(job.id)] == [1]


def test_what_is_no_job_is_told(client: Client, tmp_path: Path) -> None:
    """Before anything is sent where that is known here."""
    for wrong in ({}, {"files": [picture()], "paths": ["a.png"]}):
        with pytest.raises(ValueError, match="files and archives, or paths"):
            client.jobs.submit(**wrong)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        client.jobs.submit([tmp_path / "none.png"])
    with pytest.raises(Problem, match="top_k: expected a whole number") as caught:
        client.jobs.submit([picture()], top_k=99)
    assert caught.value.status == 422
    for ask in (client.jobs.show, client.jobs.cancel, client.jobs.wait):
        with pytest.raises(Problem, match="404 /problems/unknown-job"):
            ask("none")
    with pytest.raises(Problem, match="404 /problems/not-found"):
        client.jobs.show("../bundles")


def test_jobs_of_another_key_are_not_seen(bundles: Path, tmp_path: Path) -> None:
    """Listed by its own key alone."""
    keys = ("anna-with-a-long-key", "otto-with-a-long-key")
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)
    with serving(bundles, jobs=tmp_path / "jobs", key_sha256=digests) as server:
        anna, otto = (Client(server.url, verify=False, key=key) for key in keys)
        with anna, otto:
            job = anna.jobs.submit([picture()])
            assert [one.id for one in anna.jobs.list()] == [job.id]
            assert list(otto.jobs.list()) == []
            with pytest.raises(Problem, match="unknown-job"):
                otto.jobs.cancel(job.id)


# --- from a shell ----------------------------------------------------------------------------


@pytest.fixture
def command(server: RunningServer) -> Command:
    """``python -m client jobs``, in this process; its exit status."""
    return lambda name, *words: main(["jobs", name, "--url", server.url, *map(str, words)])


def test_commands_make_and_read_a_job(
    command: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its id on stdout and nothing else; status 1 where a file failed."""
    archive = tmp_path / "more.tar"
    archive.write_bytes(tarred({"d.png": picture(5)}))
    (folder / "notes.txt").write_text("no picture")
    assert command("submit", folder, "--archive", archive, "--top-k", 1, "--wait") == 1
    told = capsys.readouterr()
    job = told.out.strip()
    assert told.err == f"{job}: done, 4 of 4 files answered, 1 of them errors\n"
    assert command("results", job) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(line["item"] for line in lines) == [1, 2, 3, 4]
    assert all(len(line["predictions"]) == 1 for line in lines if "error" not in line)
    assert command("results", job, "--after", 3, "--follow") in (0, 1)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert command("list") == 0
    assert told.err in capsys.readouterr().out
    assert command("show", job) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    assert command("wait", job) == 1
    assert command("cancel", job) == 0
    assert told.err in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["submit"], 2, "expected files and archives, or paths of the server"),
        (["submit", "nowhere"], 2, "there is no file or folder 'nowhere'"),
        (["submit", "README.md", "--grid", "9x9"], 2, "422 /problems/unknown-grid"),
        (["show", "nothing"], 2, "404 /problems/unknown-job"),
        (["wait", "nothing", "--url", "http://127.0.0.1:1", "--retries", "1"], 3, "no answer"),
    ],
)
def test_what_cannot_be_done_is_told(
    command: Command, words: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, with the status that --help explains."""
    assert command(*words) == status
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_jobs_are_asked_for_raw_answers_and_thresholds(
    command: Command, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From Python and from the command; at a threshold of 1 the model never knows."""
    (tmp_path / "a.png").write_bytes(picture(1))
    made = client.jobs.submit([tmp_path / "a.png"], raw=True, abstain=1.0)
    (line,) = client.jobs.results(made.id, follow=True)
    assert isinstance(line.outcome, Result)
    assert (line.outcome.calibrated, line.outcome.abstained) == (False, True)
    for words, abstained in ((["--raw", "--abstain", "1"], True), (["--abstain", "0"], None)):
        assert command("submit", tmp_path / "a.png", *words, "--wait") == 0
        assert command("results", capsys.readouterr().out.strip()) == 0
        assert json.loads(capsys.readouterr().out).get("abstained") == abstained
    assert command("submit", tmp_path / "a.png", "--abstain", "2") == 2
    assert "abstain: expected a number from 0 to 1, got '2'" in capsys.readouterr().err
