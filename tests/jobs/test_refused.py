"""What is no job, or not yours: each has a clear problem, and nothing of it stays on the disk."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media.limits import STRANGER
from media.sources import SourceError, open_source
from service.http.keys import digest
from service.jobs import inputs, store
from service.jobs.spool import Spool
from tests.helpers.jobs import (
    finish,
    form,
    lines,
    look,
    make,
    problem,
    refused,
    tarred,
    zipped,
)
from tests.helpers.service_fixtures import (
    RunningServer,
    picture,
    scan,
    serving,
    wait_until,
    write_tiny_bundle,
)
from tests.jobs.conftest import Start

GOOD = picture(1)


@pytest.fixture(scope="module")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that may read paths, with a link and a pipe among them."""
    root = tmp_path_factory.mktemp("refused")
    allowed = root / "allowed"
    (allowed / "linked").mkdir(parents=True)
    (allowed / "empty").mkdir()
    (allowed / "good.png").write_bytes(GOOD)
    (root / "secret.png").write_bytes(GOOD)
    (allowed / "linked" / "a.png").symlink_to(root / "secret.png")
    (allowed / "out").symlink_to(root)
    with serving(bundles, jobs=root / "jobs", jobs_paths=allowed, jobs_max_gib=0.001) as running:
        yield running


def bomb() -> bytes:
    """A zip of a few kilobytes that would unpack to more than there is room for."""
    return zipped({"zeros.png": bytes(2 * 2**20)})


def liar() -> bytes:
    """The same, which says of its member that it had 100 bytes."""
    told, said = struct.pack("<I", 2 * 2**20), struct.pack("<I", 100)
    return bomb().replace(told, said)


def linked() -> bytes:
    """A tar with a symbolic link."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("a.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    return packed.getvalue()


ZIP, TAR = {"Content-Type": "application/zip"}, {"Content-Type": "application/x-tar"}
REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "nothing": ({}, 400, "empty-body", "expected a file"),
    "empty zip": ({"content": zipped({}), "headers": ZIP}, 422, "empty-job", "at least one"),
    "zip bomb": ({"content": bomb(), "headers": ZIP}, 413, "job-too-large", "unpack to 2097152"),
    "zip bomb that lies": (
        {"content": liar(), "headers": ZIP}, 422, "broken-archive", "cannot be 100 bytes packed",
    ),
    "no zip": ({"content": GOOD, "headers": ZIP}, 422, "broken-archive", "a zip or a tar"),
    "half a zip": (
        {"content": zipped({"a.png": GOOD})[:-30], "headers": ZIP}, 422, "broken-archive", "whole",
    ),
    "tar.gz": ({"content": b"\x1f\x8b\x08", "headers": TAR}, 422, "broken-archive", "tar.gz"),
    "name outside": (
        {"content": tarred({"../a.png": GOOD}), "headers": TAR}, 422, "broken-archive", "../a",
    ),
    "link in a tar": ({"content": linked(), "headers": TAR}, 422, "broken-archive", "is a link"),
    "empty archive": ({"files": form({"a": b""}, "archive")}, 400, "empty-file", "archive 1"),
    "empty body of a zip": ({"headers": ZIP}, 400, "empty-body", "expected a file"),
    "part of another name": (
        {"files": form({"a.png": GOOD}, "image")}, 422, "unknown-parameter", "'image'",
    ),
    "list of no paths": ({"json": {"paths": []}}, 422, "empty-job", "at least one"),
    "no paths": ({"json": {"files": []}}, 400, "broken-form", '{"paths":'),
    "path to nothing": ({"json": {"paths": ["a.png"]}}, 422, "path-refused", "No such file"),
    "path outside": ({"json": {"paths": ["../secret.png"]}}, 422, "path-refused", "without .."),
    "absolute path": ({"json": {"paths": ["/etc/passwd"]}}, 422, "path-refused", "below"),
    "path over a link": ({"json": {"paths": ["out/secret.png"]}}, 422, "path-refused", "a link"),
    "link in a folder": ({"json": {"paths": ["linked"]}}, 422, "path-refused", "'linked/a.png'"),
    "empty folder": ({"json": {"paths": ["empty"]}}, 422, "empty-job", "may hold none"),
    "bundle that is not there": (
        {"files": form({"a": GOOD}), "params": {"bundle": "nope"}}, 404, "unknown-bundle", "tiny",
    ),
    "parameter that is not known": (
        {"files": form({"a": GOOD}), "params": {"topk": "1"}}, 422, "unknown-parameter", "top_k",
    ),
    "key of idempotency": (
        {"files": form({"a": GOOD}), "headers": {"Idempotency-Key": ""}}, 422, "bad-parameter", "1",
    ),
    "more than there is room for": ({"content": bytes(2_000_000)}, 507, "jobs-full", "are free"),
    "more than fits": ({"content": bytes(3_000_000)}, 413, "body-too-large", "may have"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_job_is_told_what_is_wrong_with_it(server: RunningServer, name: str) -> None:
    """Nothing of it is kept, and no path of the server is told."""
    options, *expected, words = REFUSED[name]
    status, kind, detail = refused(server, **options)
    assert [status, kind] == expected
    assert words in detail
    jobs = server.engine.settings.jobs
    assert str(jobs.parent) not in detail
    assert list((jobs / "incoming").iterdir()) == list((jobs / "files").iterdir()) == []
    assert server.get("/v1/jobs").json()["jobs"] == []


#: What requests may say wrongly, and what the answer begins with.
WRONG = {
    "top_k=0": "top_k: expected a whole number from 1 to 5, got '0'",
    "top_k=6": "top_k: expected a whole number from 1 to 5, got '6'",
    "top_k=1&want=logits": "top_k: only of want=labels",
    "grid=9x9": "unknown grid '9x9' for bundle tiny; known: 2x3, 3x2, auto",
    "bundle=tiny@2": "bundle tiny: there is no version '2'",
    "bundle=tiny&views=2": "views: of clips only; bundle tiny is for image",
    "bundle=clips&views=0": "views: expected a whole number from 1 to",
    "bundle=clips&views=1000": "views: expected a whole number from 1 to",
    "want=all": "want: expected one of labels,",
    "want=embedding": "want: bundle tiny has no embedding at grid 2x3",
    "want=embedding&grid=auto": "want: bundle tiny has no embedding at grid 2x3",
    "want=embedding&grid=4x1x4": "want: bundle clips has no embedding at grid 4x1x4",
    "want=embedding&bundle=clips&views=1": "want: bundle clips has no embedding at grid 4x1x4",
    "encoding_format=hex&want=logits": "encoding_format: expected one of float,",
    "encoding_format=base64": "encoding_format: only of arrays",
    "raw=yes": "raw: expected one of false, true",
    "raw=true&want=logits": "raw: only of probabilities",
    "abstain=1.5": "abstain: expected a number from 0 to 1",
    "abstain=0.5&want=logits": "abstain: only of probabilities",
    "explain=occlusion": "unknown parameter 'explain'",
    "explain_label=ant": "unknown parameter 'explain_label'",
    "timeout_ms=1": "unknown parameter 'timeout_ms'",
    "strict=true": "unknown parameter 'strict'",
}


def test_wrong_parameters_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever can be known of them without the files: before these are taken to the disk."""
    write_tiny_bundle(tmp_path / "bundles", "tiny")
    write_tiny_bundle(tmp_path / "bundles", "clips", "video")
    monkeypatch.setattr(Spool, "receive", lambda _: pytest.fail("the body is taken"))
    with serving(tmp_path / "bundles", jobs=tmp_path / "jobs") as server:
        for said, expected in WRONG.items():
            answer = server.request("POST", f"/v1/jobs?{said}", files=form({"a": GOOD}))
            assert answer.status_code in (404, 422), said
            assert problem(answer)[2].startswith(expected), said


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ({"want": "embedding"}, "no-embedding", "want: bundle image has no embedding at grid 2x3"),
        ({"grid": "2x3x6"}, "unknown-grid", "unknown grid '2x3x6' for bundle image"),
    ],
)
def test_default_that_cannot_answer_tells_its_files(
    tmp_path: Path, said: dict[str, str], kind: str, words: str
) -> None:
    """Where another default can, the type of a file decides; no file is told of the other one."""
    write_tiny_bundle(tmp_path / "bundles", "image")
    write_tiny_bundle(tmp_path / "bundles", "volume", "volume", embeds=True)
    with serving(tmp_path / "bundles", jobs=tmp_path / "jobs") as server:
        job = make(server, files=form({"a.png": GOOD, "b.npy": scan()}), params=said)
        assert job["bundles"] == ["volume@1"]
        assert finish(server, job)["failed"] == 1
        told = {line["filename"]: line for line in lines(server, job)}
        assert told["a.png"]["error"]["type"] == f"/problems/{kind}"
        assert told["a.png"]["error"]["detail"].startswith(words)
        assert told["b.npy"]["grid"] == "2x3x6"


def test_too_many_items_are_refused(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any of them is answered."""
    monkeypatch.setattr(inputs, "MAX_ITEMS", 1)
    sent = form({"a": GOOD, "b": GOOD})
    assert refused(server, files=sent) == (413, "job-too-large", "a job may have at most 1 files")
    for packed, headers in ((zipped, ZIP), (tarred, TAR)):
        told = refused(server, content=packed({"a": GOOD, "b": GOOD}), headers=headers)
        assert told[:2] == (413, "job-too-large")


def test_folders_that_hold_too_many_names_are_refused(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where none of them is a file, and where one folder is named again and again."""
    monkeypatch.setattr(inputs, "MAX_LOOKED", 5)
    assert refused(server, json={"paths": ["empty"] * 5})[:2] == (422, "empty-job")
    told = refused(server, json={"paths": ["empty"] * 6})
    assert told[:2] == (413, "job-too-large")


def test_member_over_the_limit_of_files_fails_alone(start: Start) -> None:
    """It is never inflated; the others of its archive are answered."""
    server, _ = start(max_file_mib=0.5)
    packed = zipped({"good.png": GOOD, "zeros.png": bytes(2**20)})
    job = make(server, content=packed, headers=ZIP)
    assert finish(server, job)["failed"] == 1
    (failed,) = (line for line in lines(server, job) if "error" in line)
    assert failed["filename"] == "zeros.png"
    assert failed["error"]["type"] == "/problems/file-too-large"


def test_empty_file_fails_alone(start: Start) -> None:
    """The others of its form are answered."""
    server, _ = start()
    job = make(server, files=form({"empty.png": b"", "good.png": GOOD}))
    assert finish(server, job)["failed"] == 1
    told = {line["filename"]: line.get("error", {}).get("type") for line in lines(server, job)}
    assert told == {"empty.png": "/problems/empty-file", "good.png": None}


@pytest.mark.parametrize("packed", [zipped, tarred])
def test_limits_of_sources_bound_no_job(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: Any
) -> None:
    """What an archive may hold to be trained on is no limit of what is answered."""
    for field in ("members", "member_bytes", "inflated_bytes"):
        monkeypatch.setitem(vars(STRANGER.source), field, 1)
    archive = packed({"a/good.png": GOOD, "b/good.png": GOOD, "zeros.png": bytes(2**20)})
    path = tmp_path / f"set.{'zip' if packed is zipped else 'tar'}"
    path.write_bytes(archive)
    with pytest.raises(SourceError, match="1"):
        open_source(path)
    server, _ = start(max_file_mib=0.5)
    job = make(server, content=archive, headers=ZIP if packed is zipped else TAR)
    assert (finish(server, job)["failed"], len(lines(server, job))) == (1, 3)


def test_same_bytes_as_something_else_are_another_job(start: Start) -> None:
    """A zip can be one scan or many files: its key of idempotency is not that of the other."""
    server, _ = start()
    packed, key = zipped({"a.png": GOOD}), {"Idempotency-Key": "once"}
    make(server, content=packed, headers=key | ZIP)
    assert refused(server, content=packed, headers=key)[:2] == (422, "key-reused")
    key = {"Idempotency-Key": "twice"}
    job = make(server, files=form({"all": packed}), headers=key)
    again = refused(server, files=form({"all": packed}, "archive"), headers=key)
    assert again[:2] == (422, "key-reused")
    assert make(server, files=form({"all": packed}), headers=key)["id"] == job["id"]


def test_job_belongs_to_its_key(start: Start) -> None:
    """Another one neither lists, reads nor cancels it, and is not told that it is there."""
    lines_ = (f"{digest(key).hex()}" for key in (b"anna", b"otto"))
    server, session = start(key_sha256=tuple(lines_))
    session.gate.clear()
    anna, otto = ({"headers": {"Authorization": f"Bearer {key}"}} for key in ("anna", "otto"))
    job = make(server, files=form({"a.png": GOOD}), **anna)
    for method, path in (("GET", ""), ("GET", "/results"), ("DELETE", "")):
        answer = server.request(method, f"/v1/jobs/{job['id']}{path}", **otto)
        assert problem(answer)[:2] == (404, "unknown-job")
    assert server.get("/v1/jobs", **otto).json()["jobs"] == []
    assert server.get("/v1/jobs").status_code == 401
    make(server, files=form({"b.png": GOOD}), **anna)
    rest = server.get("/v1/jobs?limit=1", **anna).json()["next"]
    assert [one["id"] for one in server.get(rest, **anna).json()["jobs"]] == [job["id"]]
    assert server.get(rest, **otto).json() == {"jobs": [], "next": None}
    session.gate.set()
    assert finish(server, job, **anna)["state"] == "done"
    assert len(lines(server, job, **anna)) == 1


def test_owner_has_no_more_jobs_than_are_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is refused until the oldest has expired; it takes its answers with it."""
    monkeypatch.setattr(store, "MAX_JOBS", 1)
    server, _ = start(jobs_keep_hours=0.0005)
    job = make(server, files=form({"a.png": GOOD}))
    assert refused(server, files=form({"b.png": GOOD}))[:2] == (429, "too-many-jobs")
    wait_until(lambda: look(server, job).get("status") == 404, "the job to expire")
    make(server, files=form({"b.png": GOOD}))
