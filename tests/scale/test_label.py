"""deploy/ray/label.py: every file once, with the answers of ``classify``, whoever is killed."""

from __future__ import annotations

import dataclasses
import errno
import functools
import io
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.ray.label import main, parse
from deploy.ray.labeller import TRIES, Labeller, Work
from deploy.ray.partitions import ROWS, RUN, Output, OutputError, Run, list_fingerprint
from media.files import sha256_file
from media.index import open_media
from models.manifest import MANIFEST
from service.cli.exit_status import DEVICE_DIED, FAILED, OK, WRONG_COMMAND
from service.engine.device.session import Stop
from service.engine.engine import Engine
from service.settings import make_offline_settings
from tests.helpers.service_fixtures import (
    CLEAN,
    ENDINGS,
    LABELS,
    MEDIA,
    ROOT,
    TinySession,
    children,
    is_alive,
    picture,
    scan,
    tiny_embedding,
    tiny_logits,
    wait_until,
    write_tiny_bundle,
)

FILES, BROKEN, PER_PART = 5000, 7, 250
PARTS = -(-FILES // PER_PART)
#: Of commands under test: Ray as it is without the settings of other tests.
ALONE = {name: value for name, value in CLEAN.items() if not name.startswith("RAY_")}
ALONE |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "deploy.ray.label", *map(str, arguments)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each modality; those of images have an embedding."""
    root = tmp_path_factory.mktemp("bundles")
    for modality in MEDIA:
        write_tiny_bundle(root, modality, modality, embeds=modality == "image")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 JPEGs in folders, all different, of which some are broken."""
    root = tmp_path_factory.mktemp("photos")
    for n in range(FILES):
        path = root / f"{n % 9}" / f"{n:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(n, kind="JPEG"))
    for n in range(BROKEN):
        path = root / f"{n}" / f"{n:05}.jpg"
        path.write_bytes(path.read_bytes()[: 200 if n else 0])
    return root


def broken(id_: str) -> bool:
    return int(Path(id_).stem) < BROKEN


@contextmanager
def labelling(photos: Path, bundles: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """Two workers at work on all photos; what is left of them is killed."""
    asked = command(photos, "--bundles", bundles, "--model", "image", "--out", out)
    asked += ["--per-part", str(PER_PART), "--workers", "2", "--top-k", "2"]
    with subprocess.Popen(
        asked, cwd=ROOT, env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def workers_of(pid: int) -> list[int]:
    """Processes below one in which Ray holds a worker that is there."""
    found = [one for below in children(pid) for one in workers_of(below)]
    try:
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return found
    return found + [pid] * name.startswith(b"ray::Labeller")


def parts(out: Path) -> dict[str, int]:
    """Parts that are there, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


def check_rows(out: Path, photos: Path) -> None:
    """Every photo has one row: the answer to its own bytes, or what is wrong with it."""
    rows = pq.read_table(out).to_pylist()
    assert Counter(row["id"] for row in rows) == Counter(
        str(path.relative_to(photos)) for path in photos.rglob("*.jpg")
    )
    assert {row["id"] for row in rows if row["problem"]} == {
        row["id"] for row in rows if broken(row["id"])
    }
    assert {row["problem"] for row in rows} == {None, "broken-media", "empty-file"}
    for row in rows[::50]:
        if not broken(row["id"]):
            logits = tiny_logits((photos / row["id"]).read_bytes(), "2x3")
            assert row["labels"][0] == LABELS[int(logits.argmax())]


@pytest.mark.timeout(400)
def test_killed_worker_costs_nothing(photos: Path, bundles: Path, tmp_path: Path) -> None:
    """5,000 files, two workers, one is killed at work: it is replaced, every file has one row."""
    with labelling(photos, bundles, tmp_path / "out") as process:
        wait_until(lambda: len(parts(tmp_path / "out")) >= 2, "two parts", 120)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], 9)
        left = PARTS - len(parts(tmp_path / "out"))
        wait_until(lambda: len(workers_of(process.pid)) == 2, "another worker", 60)
        out, err = process.communicate(timeout=200)
    assert left >= 4, "it was killed too late to tell anything"
    assert process.returncode == 1, err
    assert f"{FILES} files by image@1: {FILES - BROKEN} answered, {BROKEN} with a problem" in out
    assert f"{PARTS} of {PARTS} parts" in out
    check_rows(tmp_path / "out", photos)


@pytest.mark.timeout(400)
def test_killed_command_goes_on(photos: Path, bundles: Path, tmp_path: Path) -> None:
    """SIGKILL of the command ends its workers; the same command does what is missing, no more."""
    with labelling(photos, bundles, tmp_path / "out") as process:
        wait_until(lambda: len(parts(tmp_path / "out")) >= 3, "three parts", 120)
        workers = workers_of(process.pid)
        below = [one for worker in workers for one in (worker, *children(worker))]
        process.kill()
    wait_until(lambda: not any(map(is_alive, below)), "workers and their decoders to end", 60)
    before = parts(tmp_path / "out")
    assert 3 <= len(before) < PARTS
    (tmp_path / "out" / ".part-00019.parquet.abc").write_bytes(b"half a part")
    with labelling(photos, bundles, tmp_path / "out") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert f"{len(before)} were there before" in out
    assert before.items() <= parts(tmp_path / "out").items()
    assert not list((tmp_path / "out").glob(".part*"))
    check_rows(tmp_path / "out", photos)


# --- without Ray: one worker in this process --------------------------------------------------


def run_of(source: Path, bundles: Path, model: str, per_part: int = 100, **changes: Any) -> Run:
    """What ``main`` makes of a command."""
    files = open_media(source)
    digest = sha256_file(bundles / model / MANIFEST)
    fields: dict[str, Any] = {"parameters": {}, "embedding": False} | changes
    found = list_fingerprint(files)
    return Run(str(source), len(files), found, per_part, model, "1", digest, **fields)


@contextmanager
def worker(out: Path, run: Run, bundles: Path) -> Iterator[Labeller]:
    settings = make_offline_settings(bundles=bundles, decode_workers=1, threads=1)
    with Output.opened(out) as output:
        output.begin(run, open_media(Path(run.source)))
        labeller = Labeller(Work(out, run, settings))
        try:
            yield labeller
        finally:
            labeller.close()


def classify(bundles: Path, model: str, *arguments: str | Path) -> list[dict[str, Any]]:
    """What the command says of files, a line each."""
    asked = [sys.executable, "-m", "service", "classify", "--json", "--bundles", str(bundles)]
    asked += ["--bundle", model, *map(str, arguments)]
    done = subprocess.run(
        asked, cwd=ROOT, env=CLEAN, capture_output=True, text=True, check=False, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("modality", MEDIA)
def test_rows_say_what_classify_says(modality: str, bundles: Path, tmp_path: Path) -> None:
    """Of images, clips and scans, no side like another: the same labels, probabilities, grid and
    problems, in the order of the list.
    """
    folder = tmp_path / "media"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}{ENDINGS[modality]}").write_bytes(MEDIA[modality](n))
    other = scan(9) if modality != "volume" else picture(9)
    (folder / f"4{ENDINGS[modality]}").write_bytes(other)
    (folder / f"5{ENDINGS[modality]}").write_bytes(b"")
    asked = {"grid": "auto", "top_k": "3", "abstain": "0.3"}
    run = run_of(folder, bundles, modality, per_part=4, parameters=asked)
    with worker(tmp_path / "out", run, bundles) as labeller:
        assert [labeller.label(part) for part in (1, 0)] == [(1, OK, ""), (0, OK, "")]
    flags = ["--grid", "auto", "--top-k", "3", "--abstain", "0.3"]
    lines = classify(bundles, modality, *flags, *sorted(folder.iterdir()))
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == len(lines) == 6
    for row, line in zip(rows, lines, strict=True):
        assert row["source"] == line["file"]
        assert row["id"] == Path(line["file"]).name
        assert (row["model"], row["version"], row["digest"]) == (modality, "1", run.digest)
        if "error" in line:
            assert f"/problems/{row['problem']}" == line["error"]["type"]
            assert row["detail"] == line["error"]["detail"]
            assert row["labels"] is None
        else:
            ranked = [one["label"] for one in line["predictions"]]
            assert row["labels"] == ranked
            said = [one["probability"] for one in line["predictions"]]
            np.testing.assert_allclose(row["probabilities"], said, atol=2e-6)
            assert (row["grid"], row["abstained"]) == (line["grid"], line["abstained"])
    assert [row["problem"] for row in rows[4:]] == ["unsupported-media", "empty-file"]


def test_embedding_stands_beside_labels(bundles: Path, tmp_path: Path) -> None:
    """With it every row has both, the features as classify tells them; without, no column."""
    (tmp_path / "a.png").write_bytes(picture(3))
    run = run_of(tmp_path / "a.png", bundles, "image", embedding=True)
    with worker(tmp_path / "out", run, bundles) as labeller:
        assert labeller.label(0) == (0, OK, "")
    (row,) = pq.read_table(tmp_path / "out").to_pylist()
    np.testing.assert_allclose(row["embedding"], tiny_embedding(picture(3), "2x3"), atol=1e-5)
    assert row["labels"][0] == LABELS[int(tiny_logits(picture(3), "2x3").argmax())]
    plain = dataclasses.replace(run, embedding=False)
    with worker(tmp_path / "plain", plain, bundles) as labeller:
        labeller.label(0)
    assert "embedding" not in pq.read_table(tmp_path / "plain").column_names


@pytest.mark.parametrize(
    ("model", "changes", "reason"),
    [
        ("image", {"parameters": {"grid": "9x9"}}, "unknown grid '9x9' for bundle image"),
        ("image", {"parameters": {"top_k": "6"}}, "top_k: expected"),
        ("volume", {"embedding": True}, "bundle volume has no embedding"),
        ("image", {"digest": "0" * 64}, "is another one than when the run began"),
    ],
)
def test_worker_says_why_it_cannot_answer(
    model: str, changes: dict[str, Any], reason: str, bundles: Path, tmp_path: Path
) -> None:
    """What only an engine knows to be wrong ends the command, and leaves the folder to the next."""
    (tmp_path / "a.png").write_bytes(picture())
    run = run_of(tmp_path / "a.png", bundles, model)
    with worker(tmp_path / "out", dataclasses.replace(run, **changes), bundles) as labeller:
        part, status, told = labeller.label(0)
    assert (part, status) == (0, WRONG_COMMAND)
    assert reason in told
    with worker(tmp_path / "out", run_of(tmp_path / "a.png", bundles, "image"), bundles) as right:
        assert right.label(0) == (0, OK, "")


def test_part_that_ends_every_worker_is_given_up(bundles: Path, tmp_path: Path) -> None:
    """After some workers that began a part and never said so, the command ends instead of Ray's
    trying for ever; the same command tries again.
    """
    (tmp_path / "a.png").write_bytes(picture())
    run = run_of(tmp_path / "a.png", bundles, "image")
    with worker(tmp_path / "out", run, bundles) as labeller:
        for _ in range(TRIES):
            Output(tmp_path / "out").begun(0)
        assert labeller.label(0) == (0, DEVICE_DIED, "4 workers ended at part-00000.parquet")
    with worker(tmp_path / "out", run, bundles) as labeller:
        assert labeller.label(0) == (0, OK, "")


def test_folder_that_cannot_be_written_ends_the_command(
    one: Path, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a line, whatever is to be written when the disk is full: the list, a try, a part."""
    out, run = tmp_path / "out", run_of(one, bundles, "image", per_part=500)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: object, **__: object) -> None:
        raise full

    with worker(out, run, bundles) as labeller:
        reason = f"{out}/part-00000.parquet cannot be written: No space left on device"
        for name in ("begun", "write"):
            with monkeypatch.context() as patch:
                patch.setattr(Output, name, fail)
                assert labeller.label(0) == (0, FAILED, reason)
    monkeypatch.setattr("media.index.Dataset.kept", fail)
    asked = ["--model", "image", "--bundles", str(bundles), "--out", str(out)]
    told = refused(capsys, one, *asked)
    assert told == f"--out {out} cannot be written: No space left on device"


def test_part_of_a_device_that_died_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that fail while a device dies have no row of that: the process ends before the part is
    written, and the next one answers it.
    """

    class Mortal(TinySession):
        dead = False

        def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
            if self.dead:
                answered.wait(1)  # the golden is not replayed before the part could be written
                raise RuntimeError("an illegal memory access was encountered")
            return super().run(pixels, stop)

    session, answered = Mortal(), threading.Event()
    out, written = tmp_path / "out", list[bool]()
    write_tiny_bundle(tmp_path / "b", "image")
    (tmp_path / "a.png").write_bytes(picture())
    run = run_of(tmp_path / "a.png", tmp_path / "b", "image")

    def end(engine: Engine) -> None:
        written.append(bool(parts(out)))

    monkeypatch.setattr("deploy.ray.labeller._end_with_device", end)
    mortal = functools.partial(Engine, opener=lambda *_: session)
    monkeypatch.setattr("deploy.ray.labeller.Engine", mortal)
    with worker(out, run, tmp_path / "b") as labeller:
        session.dead = True
        labeller.label(0)
        answered.set()
        wait_until(lambda: bool(written), "the device to be given up")
    assert written == [False]


def test_file_that_changed_since_it_was_listed_is_a_problem(bundles: Path, tmp_path: Path) -> None:
    """So is one that is gone, and one of a text list that was never there; the others answer."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(picture())
    (tmp_path / "list.txt").write_text("photos/a.png\n\nphotos/b.png\nphotos/c.png\nnone.png\n")
    run = run_of(tmp_path / "list.txt", bundles, "image")
    with worker(tmp_path / "out", run, bundles) as labeller:
        (folder / "a.png").write_bytes(picture(1) + b"more")
        (folder / "b.png").unlink()
        assert labeller.label(0) == (0, OK, "")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == [
        "photos/a.png", "photos/b.png", "photos/c.png", "none.png"
    ]
    assert [row["problem"] for row in rows] == [*["unreadable-file"] * 2, None, "unreadable-file"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
def test_what_the_machine_cannot_read_is_no_row(
    number: int, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is not written, the reason names the file, and the next time it is answered; what
    may not be read is a row, as that stays so.
    """
    photos, lacking = tmp_path / "photos", {"b.png": number, "c.png": errno.EACCES}
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (photos / name).write_bytes(picture())
    read = Path.read_bytes

    def read_some(path: Path) -> bytes:
        if (why := lacking.get(path.name)) is not None:
            raise OSError(why, os.strerror(why), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_some)
    out = tmp_path / "out"
    with worker(out, run_of(photos, bundles, "image"), bundles) as labeller:
        part, status, told = labeller.label(0)
        assert (part, status) == (0, FAILED)
        assert told.startswith(f"{photos}/b.png cannot be read: {os.strerror(number)}; ")
        assert parts(out) == {}
        del lacking["b.png"]
        assert labeller.label(0) == (0, OK, "")
    problems = [row["problem"] for row in pq.read_table(out).to_pylist()]
    assert problems == [None, None, "unreadable-file"]


def test_member_that_is_not_what_its_archive_says_is_a_row(bundles: Path, tmp_path: Path) -> None:
    """That is the file's own affair and stays so; the others are answered."""
    path, second = tmp_path / "photos.zip", picture(2)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.png", picture(1))
        packed.writestr("b.png", second)
    path.write_bytes(path.read_bytes().replace(second, second[:-1] + b"?"))
    with worker(tmp_path / "out", run_of(path, bundles, "image"), bundles) as labeller:
        assert labeller.label(0) == (0, OK, "")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["problem"] for row in rows] == [None, "unreadable-file"]
    assert "with their checksum, as the zip declares" in rows[1]["detail"]


# --- lists ------------------------------------------------------------------------------------


def write_shard(path: Path, *seeds: int) -> None:
    with tarfile.open(path, "w") as tar:
        for seed in seeds:
            data = picture(seed)
            member = tarfile.TarInfo(f"{seed:03}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_shards_are_read_in_place(bundles: Path, tmp_path: Path) -> None:
    """Tar shards without labels, in the order of their bytes; a row says which shard it is of."""
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(shards / "train-0.tar", 3, 1)
    write_shard(shards / "train-1.tar", 2)
    run = run_of(shards, bundles, "image")
    with worker(tmp_path / "out", run, bundles) as labeller:
        assert labeller.label(0) == (0, OK, "")
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == ["train-0/003.png", "train-0/001.png", "train-1/002.png"]
    assert [Path(row["source"]).name for row in rows] == ["train-0.tar"] * 2 + ["train-1.tar"]
    for row, seed in zip(rows, (3, 1, 2), strict=True):
        assert row["labels"][0] == LABELS[int(tiny_logits(picture(seed), "2x3").argmax())]


# --- bad input ---------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(picture())
    return tmp_path / "photos"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a command that does not begin."""
    assert main([*map(str, arguments)]) == WRONG_COMMAND
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    return line.removeprefix("python -m deploy.ray.label: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{tmp}/none"], "expected a folder, a pattern of shards or a file, got {tmp}/none"),
        (["{tmp}/photos", "--model", "vit"], "unknown bundle 'vit'; known: image, video, volume"),
        (["{tmp}/photos", "--model", "image@7"], "bundle image answers with version 1, not '7'"),
        (["{tmp}/photos", "--bundles", "{tmp}/none"],
         "--bundles {tmp}/none: there is no such folder"),
        (["{tmp}/photos", "--out", "{tmp}/photos"],
         "--out {tmp}/photos: expected an empty folder, or one of a labelling run; it holds a.png"),
        (["{tmp}/photos", "--out", "{tmp}/photos/a.png"],
         "--out {tmp}/photos/a.png cannot be used: File exists"),
        (["{tmp}/cut-{{0..0}}.tar"],
         "cut-0.tar is cut short: '001.png' has 1320 bytes and the file ends at byte 700"),
        (["{tmp}/cut-{{0..1}}.tar"], "expected shards, {tmp}/cut-1.tar is missing"),
        (["{tmp}/arrays.npz"], "{tmp}/arrays.npz: expected files, and an npz holds arrays"),
        (["{tmp}/twice.txt"], "twice: 'photos/a.png' is listed more than once"),
        (["{tmp}/bytes.txt"], "bytes.txt: expected a list in UTF-8"),
    ],
)
def test_wrong_command_is_refused_in_a_line(
    arguments: list[str], line: str, one: Path, bundles: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is wrong is named before Ray is started and before anything is written."""
    write_shard(tmp_path / "cut-0.tar", 1, 2)
    whole = (tmp_path / "cut-0.tar").read_bytes()
    (tmp_path / "cut-0.tar").write_bytes(whole[:700])
    np.savez(tmp_path / "arrays.npz", test_images=np.zeros((2, 5, 7, 3), np.uint8),
             test_labels=np.arange(2))  # fmt: skip
    (tmp_path / "twice.txt").write_text("photos/a.png\nphotos/a.png\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    defaults = {"--model": "image", "--bundles": str(bundles), "--out": str(tmp_path / "out")}
    rest = [word for flag, value in defaults.items() if flag not in given for word in (flag, value)]
    assert line.format(tmp=tmp_path) in refused(capsys, *given, *rest)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_damaged_bundle_is_refused(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose files are not those of its manifest labels nothing."""
    graph = next((write_tiny_bundle(tmp_path / "b", "image") / "graphs").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes() + b"more")
    asked = ["--model", "image", "--bundles", str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    assert f"graphs/{graph.name} has sha256" in refused(capsys, one, *asked)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ("list", "the list of files (their names, sizes or times) was"),
        ("more", "the number of files was 1 and is 2 now"),
        ("question", 'parameters was {} and is {"top_k": "2"} now'),
        ("per-part", "--per-part was 500 and is 7 now"),
        ("embedding", "--embedding was False and is True now"),
        ("bundle", "the bundle's digest was"),
        ("version", "version was 1 and is 2 now"),
        ("damaged", f"{RUN} is not there or damaged"),
    ],
)
def test_another_run_is_refused_by_name(
    changed: str, name: str, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in which parts of one run lie takes none of another, and says what is different."""
    home, out, flags = tmp_path / "b", tmp_path / "out", list[str]()
    write_tiny_bundle(home, "image", embeds=True)
    with worker(out, run_of(one, home, "image", per_part=500), home) as labeller:
        labeller.label(0)
    if changed == "list":
        (one / "a.png").write_bytes(picture(7))
    elif changed == "more":
        (one / "b.png").write_bytes(picture(7))
    elif changed in ("bundle", "version"):
        (home / "image").rename(tmp_path / "old")
        version = {"bundle": "1", "version": "2"}[changed]
        write_tiny_bundle(home, "image", embeds=True, version=version, source={"checkpoint": "x"})
    elif changed == "damaged":
        (out / RUN).write_bytes(b"{")
    else:
        flags = {"question": ["--top-k", "2"], "per-part": ["--per-part", "7"],
                 "embedding": ["--embedding"]}[changed]  # fmt: skip
    before = parts(out)
    asked = ["--model", "image", "--bundles", str(home), "--out", str(out), *flags]
    assert name in refused(capsys, one, *asked)
    assert parts(out) == before


def test_finished_run_is_told_again(
    one: Path, bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command after the end starts no worker, and ends as before; a part that is not
    whole is named.
    """
    (one / "b.png").write_bytes(b"no picture")
    (one / "notes.txt").write_text("none either")
    out, run = tmp_path / "out", run_of(one, bundles, "image", per_part=500)
    with worker(out, run, bundles) as labeller:
        labeller.label(0)
    asked = [str(one), "--model", "image", "--bundles", str(bundles), "--out", str(out)]
    assert main(asked) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        "left out: 1 .txt",
        "2 files by image@1: 1 answered, 1 with a problem",
        "  1 unsupported-media",
    ]
    assert told[3].startswith("0 of 1 parts in") and told[3].endswith("1 were there before")
    (out / "part-00000.parquet").write_bytes(b"PAR1")
    assert main(asked) == WRONG_COMMAND
    assert "remove it, and the same command makes it anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "made", "told"),
    [
        ("part-00000", "broken", "part-00000.parquet: expected a Parquet file ("),
        ("part-00000", "folder", "part-00000.parquet: expected a Parquet file ("),
        ("part-00000", "foreign",
         "part-00000.parquet: expected a column id: string not null, got a column id: int64; "),
        ("part-00000", "other form",
         "part-00000.parquet: expected no more columns, got a column embedding: list<"),
        ("part-00000", "short", "part-00000.parquet: expected 1 rows, got 0; remove it"),
        ("part-00001", "whole", "part-00001.parquet: expected parts up to part-00000.parquet; mov"),
        ("part-1", "whole",
         "part-1.parquet: expected parts of this run alone, such as part-00000.parquet; move it"),
        ("part-last", "foreign", "part-last.parquet: expected parts of this run alone"),
        ("others", "foreign", "others.parquet: expected parts of this run alone"),
    ],
)  # fmt: skip
def test_parquet_that_is_no_part_is_named(
    name: str, made: str, told: str, one: Path, bundles: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before any worker is started, with what was expected of it; others are passed over."""
    out, run = tmp_path / "out", run_of(one, bundles, "image", per_part=500)
    with worker(out, run, bundles) as labeller:
        labeller.label(0)
    (out / "part-00000.parquet.md").write_text("A note on it.")
    whole = pq.read_table(out / "part-00000.parquet", schema=run.columns)
    path = out / f"{name}.parquet"
    path.unlink(missing_ok=True)
    if made == "folder":
        path.mkdir()
    elif made == "broken":
        path.write_bytes(b"PAR1 and no more")
    else:
        foreign = pa.table({"id": [1], "problem": [2]})
        longer = whole.append_column("embedding", pa.array([[1.0]], pa.list_(pa.float32())))
        tables = {"foreign": foreign, "short": whole[:0], "other form": longer, "whole": whole}
        pq.write_table(tables[made], path)
    asked = ["--model", "image", "--bundles", str(bundles), "--out", str(out)]
    assert refused(capsys, one, *asked).startswith(f"{out}/{told}")


def test_one_command_at_a_time(tmp_path: Path) -> None:
    """A folder that a command works on is not another's until that has ended."""
    with Output.opened(tmp_path / "out"):
        asked = pytest.raises(OutputError, match="another command works on it")
        with asked, Output.opened(tmp_path / "out"):
            pass
    with Output.opened(tmp_path / "out"):
        pass


def test_cluster_that_lets_nobody_in_is_told(
    one: Path, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without its token, or of another version of Ray: in a line, whatever class Ray raises."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Token authentication is enabled\nbut no token was found")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("ray.shutdown", lambda: None)  # other tests have a cluster
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        asked = ["--model", "image", "--bundles", str(bundles), "--out", str(tmp_path / "out")]
        assert main([str(one), *asked, "--address", address]) == WRONG_COMMAND
    told = capsys.readouterr().err.splitlines()
    assert told[-1].endswith("Ray: Token authentication is enabled but no token was found")


@contextmanager
def ray_head(cpus: int) -> Iterator[str]:
    """A cluster of one machine that somebody else has started; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    ray += [f"--port={port}", f"--num-cpus={cpus}", "--include-dashboard=false"]
    ray += ["--disable-usage-stats"]
    with subprocess.Popen(
        ray, env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = ""
            while "Ray runtime started" not in told:
                assert (line := process.stdout.readline()), f"Ray did not start: {told}"
                told += line
            found = re.search(r"Local node IP\D*?([\d.]{7,})", re.sub(r"\x1b\[\d+m", "", told))
            assert found is not None
            yield f"{found[1]}:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.mark.timeout(400)
def test_cluster_of_others_is_used(one: Path, bundles: Path, tmp_path: Path) -> None:
    """With --address the workers are those of a cluster that is there: more than it has CPUs for
    are refused, and one that is not there is not waited for.
    """
    asked = command(one, "--bundles", bundles, "--model", "image", "--out", tmp_path / "out")

    def label(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*asked, *arguments], cwd=ROOT, env=ALONE, capture_output=True, text=True, check=False
        )

    with ray_head(1) as address:
        refused = label("--address", address, "--workers", "2")
        assert refused.returncode == WRONG_COMMAND
        assert "--workers 2: they need 2 CPU, and Ray has 1" in refused.stderr
        done = label("--address", address, "--workers", "1")
        assert done.returncode == 0, done.stderr
        assert "1 files by image@1: 1 answered, 0 with a problem" in done.stdout
    gone = label("--address", address, "--out", str(tmp_path / "gone"))
    assert gone.returncode == WRONG_COMMAND
    assert f"--address {address}: expected HOST:PORT of Ray: " in gone.stderr


# --- docs/label.md -----------------------------------------------------------------------------

GUIDE = (ROOT / "docs" / "label.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in FENCED if not kind for line in block.splitlines()]
#: Words of the guide's commands that are places.
PLACES = re.compile(r"^(photos|list\.txt|shards/.*|labels|embedded|sharded)$")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guide's commands find: a folder, a list of it, two shards."""
    root = tmp_path_factory.mktemp("guide")
    (root / "photos").mkdir()
    (root / "shards").mkdir()
    for n in range(3):
        (root / "photos" / f"{n}.jpg").write_bytes(picture(n, (45, 37), "JPEG"))
    (root / "photos" / "3.jpg").write_bytes(b"no picture")
    (root / "list.txt").write_text("photos/2.jpg\nphotos/0.jpg\n")
    for n in range(2):
        write_shard(root / "shards" / f"train-00{n}.tar", n)
    return root


def as_here(line: str, place: Path, *more: str) -> list[str]:
    """A command of the guide with its places below a folder."""
    words = [str(place / word) if PLACES.match(word) else word for word in shlex.split(line)]
    assert words[:3] == ["python", "-m", "deploy.ray.label"]
    return [sys.executable, *words[1:], *more]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", range(3))
def test_commands_of_the_guide_do_what_it_says(number: int, place: Path) -> None:
    """Each writes its rows with the shipped bundle, by workers of a Ray of its own."""
    asked = as_here(COMMANDS[number], place)
    done = subprocess.run(asked, cwd=ROOT, env=ALONE, capture_output=True, text=True, check=False)
    failed = (1, 0, 0)[number]
    assert done.returncode == failed, done.stderr
    out = place / ("labels", "embedded", "sharded")[number]
    rows = pq.read_table(out).to_pylist()
    expected = (
        ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
        ["photos/2.jpg", "photos/0.jpg"],
        ["train-000/000.png", "train-001/001.png"],
    )
    assert [row["id"] for row in rows] == expected[number]
    assert [row["id"] for row in rows if row["problem"]] == ["3.jpg"] * failed
    assert ("embedding" in rows[0]) == (number == 1)
    assert len(rows[0]["labels"]) == (5, 1, 5)[number]
    assert not done.stderr, "nothing is wrong, and nothing is said"


def test_guide_names_the_columns_and_the_flags(place: Path) -> None:
    """Its table is the columns that are written, in their order; its last command is one; what it
    shows of Python does what it says.
    """
    table = GUIDE.split("| column | |")[1].split("\n\n")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
             for name in re.findall(r"`(\w+)`", row)]  # fmt: skip
    assert named == ROWS.names
    assert len(COMMANDS) == 4
    assert parse(as_here(COMMANDS[3], place)[3:]).address == "10.0.0.1:6379"


def test_guide_reads_the_rows_in_python(bundles: Path, tmp_path: Path) -> None:
    """Its Python finds the rows with a problem, in a folder that holds more than rows."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture())
    (folder / "b.png").write_bytes(b"")
    with worker(tmp_path / "labels", run_of(folder, bundles, "image", 1), bundles) as labeller:
        labeller.label(0)
        labeller.label(1)
    (code,) = [block for kind, block in FENCED if kind == "python"]
    found: dict[str, Any] = {}
    exec(code.replace('"labels"', repr(str(tmp_path / "labels"))), found)
    assert found["failed"]["id"].to_pylist() == ["b.png"]


def test_help_teaches() -> None:
    """The help shows commands, says what is written, what goes on and what a status means."""
    done = subprocess.run(
        command("--help"), cwd=ROOT, env=ALONE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    for words in ("photos --model", "part-00000.parquet", "goes on after whatever end",
                  "Exit status: 0 all answered", "--per-part N"):  # fmt: skip
        assert words in told
