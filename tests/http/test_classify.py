"""``python -m service classify``: the answers of the server without a server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime as ort
import pytest

from media import read
from media.spec import Grid
from service.cli import offline
from service.cli.progress import AFTER_SECONDS, Progress
from service.engine import bulk
from service.engine.candidates import find_candidates
from service.engine.engine import Engine
from service.engine.failures import Failure, InferenceFailed
from service.engine.job import Outcome
from service.settings import make_settings
from tests.helpers.service_fixtures import (
    CLEAN,
    LABELS,
    ROOT,
    TINY,
    TinySession,
    children,
    clip,
    command,
    complaint,
    is_alive,
    picture,
    poison,
    run,
    scan,
    serving,
    tiny_logits,
    wait_until,
    write_tiny_bundle,
)

SMALL = {"LIERE_DECODE_WORKERS": "1", "LIERE_THREADS": "1"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny bundles that go by other labels."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root, "tiny")
    write_tiny_bundle(root, "wide", labels=tuple(f"{label} + é" for label in LABELS))
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five pictures in files."""
    root = tmp_path_factory.mktemp("pictures")
    paths = [root / f"{seed}.png" for seed in range(5)]
    for seed, path in enumerate(paths):
        path.write_bytes(picture(seed))
    return paths


def classify(
    *arguments: str | Path, **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """The command with --json: how it ended, and its lines."""
    done = run("classify", "--json", *arguments, **{**SMALL, **environment})
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def best(media: bytes, grid: str = "2x3") -> str:
    return LABELS[int(np.argmax(tiny_logits(media, grid)))]


# --- the same answers ------------------------------------------------------------------------


def test_answers_are_those_of_the_server(bundles: Path, pictures: list[Path]) -> None:
    """A line per file, in order: its name and a REST result, with the same predictions."""
    parameters = {"bundle": "wide", "grid": "3x2", "top_k": "3"}
    with serving(bundles) as server:
        files = [("file", path.read_bytes()) for path in pictures]
        answer = server.classify(files=files, params=parameters)
    expected = answer.json()["results"]
    flags = ("--bundle", "wide", "--grid", "3x2", "--top-k", "3")
    done, lines = classify(*pictures, *flags, "--bundles", bundles)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.pop("file") for line in lines] == [str(path) for path in pictures]
    for line, result in zip(lines, expected, strict=True):
        assert result.pop("filename")
        assert set(line) == set(result)
        assert set(line["timing_ms"]) == set(result["timing_ms"])
        for same in ("bundle", "version", "grid"):
            assert line[same] == result[same]
        for one, other in zip(line["predictions"], result["predictions"], strict=True):
            assert (one["label"], one["index"]) == (other["label"], other["index"])
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_people_get_a_readable_line_per_file(bundles: Path, pictures: list[Path]) -> None:
    """Name, then labels with their probabilities, the best first; the settings of the server and
    their environment count, but for its keys, which nobody needs here.
    """
    done = run(
        "classify",
        "--top-k",
        "2",
        *pictures,
        LIERE_BUNDLES=str(bundles),
        LIERE_DEFAULT_BUNDLE="tiny",
        LIERE_KEYS_FILE="/nowhere",
        LIERE_HOST="0.0.0.0",
        **SMALL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line, path in zip(done.stdout.splitlines(), pictures, strict=True):
        name, _, ranked = line.partition(": ")
        first, second = ranked.split(", ")
        assert name == str(path)
        assert first.split()[0] == best(path.read_bytes())
        assert 100 >= float(first.split()[1].rstrip("%")) >= float(second.split()[1].rstrip("%"))


def test_standard_input_is_a_file(bundles: Path, pictures: list[Path]) -> None:
    """``-`` may stand among other files, at its place."""
    asked = command("classify", "--json", pictures[1], "-", pictures[2], "--bundles", bundles)
    media = pictures[3].read_bytes()
    done = subprocess.run(
        asked, cwd=ROOT, env=CLEAN | SMALL, input=media, capture_output=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(pictures[1]), "-", str(pictures[2])]
    assert lines[1]["predictions"][0]["label"] == best(media)


def test_bad_files_fail_alone(bundles: Path, pictures: list[Path], tmp_path: Path) -> None:
    """Each has its problem at its place, the others are answered, and the status is 1."""
    good = pictures[0]
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"I am a PNG")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    expected = {
        tmp_path / "missing": ("unreadable-file", "No such file or directory"),
        tmp_path: ("unreadable-file", "Is a directory"),
        tmp_path / "empty": ("empty-file", "the file has no bytes"),
        tmp_path / "text.png": ("unsupported-media", "expected JPEG"),
        tmp_path / "cut.png": ("broken-media", "truncated"),
        tmp_path / "large": ("file-too-large", "at most 1048576 bytes"),
    }
    files = [path for bad in expected for path in (bad, good)]
    done, lines = classify(*files, "--bundles", bundles, LIERE_MAX_FILE_MIB="1")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line["file"] for line in lines] == [str(path) for path in files]
    for line, (name, words) in zip(lines[::2], expected.values(), strict=True):
        assert set(line) == {"file", "error"}
        assert set(line["error"]) == {"type", "title", "status", "detail"}
        assert line["error"]["type"] == f"/problems/{name}"
        assert words in line["error"]["detail"]
    assert {line["predictions"][0]["label"] for line in lines[1::2]} == {best(good.read_bytes())}
    for_people = run("classify", good, tmp_path / "empty", "--bundles", bundles, **SMALL)
    assert for_people.returncode == 1
    assert for_people.stdout.startswith(f"{good}: ")
    shown = f"{tmp_path / 'empty'}: A file is empty. the file has no bytes\n"
    assert for_people.stderr == shown


def test_name_of_a_file_is_told_as_it_is_and_cannot_forge_a_line(
    bundles: Path, tmp_path: Path
) -> None:
    """Line breaks, controls and bytes that are no text stay within the line of their file."""
    names = [b"a\nb: cat 99.9%", b"\x1b[2Jc", b"\xff\xfe", "é ü".encode()]
    paths = [os.fsencode(tmp_path) + b"/" + name for name in names]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(picture(1))
    files = [os.fsdecode(path) for path in paths]
    done, lines = classify(*files, "--bundles", bundles)
    assert done.returncode == 0
    assert [os.fsencode(line["file"]) for line in lines] == paths
    shown = run("classify", *files, "--bundles", bundles, **SMALL).stdout
    assert len(shown.splitlines()) == len(files)
    assert "\x1b" not in shown
    assert "é ü: " in shown
    in_ascii = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", **SMALL}
    asked = command("classify", "--bundle", "wide", files[-1], "--bundles", bundles)
    done = subprocess.run(
        asked, cwd=ROOT, env=CLEAN | in_ascii, capture_output=True, text=True, check=True
    )
    assert r"+ \xe9" in done.stdout


# --- clips and scans -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny bundle of every modality."""
    root = tmp_path_factory.mktemp("all")
    for modality in TINY:
        write_tiny_bundle(root, modality, modality)
    return root


def test_bytes_of_a_file_decide_who_answers(all_bundles: Path, tmp_path: Path) -> None:
    """Without --bundle the first reader that knows the type answers, whatever the name says; each
    answer tells what was seen as the server's does.
    """
    media = {"image": picture(3), "volume": scan(3), "video": mp4()}
    files = [tmp_path / f"{number}.txt" for number in range(3)]
    for path, one in zip(files, media.values(), strict=True):
        path.write_bytes(one)
    (tmp_path / "text").write_bytes(b"I am a scan")
    done, lines = classify(*files, tmp_path / "text", "--bundles", all_bundles)
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.get("bundle") for line in lines] == [*media, None]
    for line, (modality, one) in zip(lines, media.items(), strict=False):
        tiny = TINY[modality]
        sample = read(one, tiny.input, Grid.parse(tiny.grids[0]), tiny.patch)
        assert line.get("seen", {}) == sample.evidence
        expected = int(np.argmax(tiny_logits(one, tiny.grids[0], modality)))
        assert line["predictions"][0]["index"] == expected
    assert lines[3]["error"]["type"] == "/problems/unsupported-media"
    assert all(name in lines[3]["error"]["detail"] for name in ("JPEG", "NIfTI", "MP4"))


def mp4() -> bytes:
    """A second of MPEG-4 video, 10 frames of 48x32 pixels."""
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(10):
            shade = np.full((32, 48, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade)))
        container.mux(stream.encode())
    return encoded.getvalue()


def test_named_bundle_decides_what_a_file_is(all_bundles: Path, tmp_path: Path) -> None:
    """A GIF is an image unless the bundle is for clips; --views goes to clips alone."""
    path = tmp_path / "moving.gif"
    path.write_bytes(clip(2, frames=30))
    asked = (path, "--bundles", all_bundles)
    _, (line,) = classify(*asked)
    assert (line["bundle"], line["seen"].keys()) == ("image", {"size", "turn", "box"})
    _, (line,) = classify(*asked, "--bundle", "video", "--views", "3", "--grid", "16x1x1")
    assert (line["bundle"], line["grid"]) == ("video", "16x1x1")
    assert [len(view) for view in line["seen"]["seconds"]] == [16, 16, 16]
    (tmp_path / "photo").write_bytes(picture(3))
    for words in (("--views", "1"), ("--grid", "16x1x1")):  # that says it is a clip
        _, (line, other) = classify(path, tmp_path / "photo", *asked[1:], *words)
        assert line["bundle"] == "video"
        assert words[0].removeprefix("--") in other["error"]["detail"]
        assert "bundle image" in other["error"]["detail"]
    done, (line,) = classify(*asked, "--bundle", "volume")
    assert done.returncode == 1
    assert line["error"]["detail"].startswith("expected NIfTI")


def test_refused_default_answers_nothing_and_nobody_in_its_place(
    all_bundles: Path, tmp_path: Path
) -> None:
    """Files of its modality get the reason, a GIF too, which a bundle for clips could read; the
    others are answered as ever, and a word of the user brings the GIF to that bundle.
    """
    bundles = shutil.copytree(all_bundles, tmp_path / "bundles")
    (bundles / "image/graphs/weights.bin").write_bytes(b"other")
    media = {"photo": picture(3), "gif": clip(2, frames=30), "scan": scan(3), "clip": mp4()}
    files = [tmp_path / name for name in media]
    for path, one in zip(files, media.values(), strict=True):
        path.write_bytes(one)
    done, lines = classify(*files, "--bundles", bundles)
    assert done.returncode == 1
    for line in lines[:2]:
        assert line["error"]["type"] == "/problems/bundle-refused"
        assert "bundle image, the default for image, is not served" in line["error"]["detail"]
    assert [line["bundle"] for line in lines[2:]] == ["volume", "video"]
    _, (line,) = classify(files[1], "--bundles", bundles, "--views", "1")
    assert line["bundle"] == "video"
    done = run("classify", files[0], "--bundles", bundles, "--bundle", "image", **SMALL)
    assert done.returncode == 2


def test_largest_file_is_that_of_its_modality(all_bundles: Path, tmp_path: Path) -> None:
    """What is too large for an image may be a scan; too large for all is told with their limit."""
    limits = {
        "LIERE_MAX_FILE_MIB": "0.0001",
        "LIERE_MAX_VIDEO_MIB": "0.0001",
        "LIERE_MAX_VOLUME_MIB": "0.02",
    }
    (tmp_path / "scan").write_bytes(scan(1))
    (tmp_path / "large").write_bytes(bytes(int(0.02 * 2**20) + 1))
    files = (tmp_path / "scan", tmp_path / "large")
    done, lines = classify(*files, "--bundles", all_bundles, **limits)
    assert done.returncode == 1
    assert lines[0]["bundle"] == "volume"
    assert lines[1]["error"]["detail"] == "a file may have at most 20971 bytes"


# --- wrong commands --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "nope"], "unknown bundle 'nope'; known: tiny, wide"),
        (["--views", "2"], "views: of clips only; bundle tiny is for image"),
        (["--grid", "9x9"], "unknown grid '9x9' for bundle tiny; known: 2x3, 3x2, auto"),
        (["--top-k", "6"], "top_k: expected a whole number from 1 to 5, got '6'"),
        (["--bundles", "/nowhere"], "--bundles /nowhere: there is no such folder"),
        (["--device", "tpu"], "device: expected auto, cpu, cuda, or cuda:N"),
    ],
)
def test_wrong_command_is_one_sentence(
    bundles: Path, pictures: list[Path], arguments: list[str], words: str
) -> None:
    """What cannot be answered for any file is exit 2, with what there is."""
    line = complaint(run("classify", pictures[0], "--bundles", bundles, *arguments, **SMALL), 2)
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: FILE"),
        (["-", "a", "-"], "standard input (-) can be read once only"),
        (["a", "--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_wrong_arguments_show_the_usage(arguments: list[str], words: str) -> None:
    """A mistyped command is exit 2 with the usage."""
    done = run("classify", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "usage: python -m service classify" in done.stderr


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this runtime offers CUDA"
)
def test_absent_gpu_is_not_replaced_by_the_cpu(bundles: Path, pictures: list[Path]) -> None:
    """--device cuda without one answers nothing."""
    asked = ("classify", pictures[0], "--bundles", bundles, "--device", "cuda")
    assert "--device cuda needs a GPU build" in complaint(run(*asked), 2)


def test_bundle_that_fails_its_goldens_answers_nothing(
    bundles: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """The same proof as in the server: a changed byte is a refusal with its reason."""
    shutil.copytree(bundles / "tiny", tmp_path / "tiny")
    with (tmp_path / "tiny/graphs/weights.bin").open("r+b") as stream:
        stream.write(b"\x00\x01")
    done = run("classify", pictures[0], "--bundles", tmp_path, "--bundle", "tiny", **SMALL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bundle tiny is not served: graphs/weights.bin has sha256" in done.stderr
    assert "Traceback" not in done.stderr


def test_named_bundle_alone_is_examined(
    bundles: Path, pictures: list[Path], tmp_path: Path
) -> None:
    """A broken neighbour costs neither time nor words, and the server's default does not matter."""
    shutil.copytree(bundles / "tiny", tmp_path / "tiny")
    (tmp_path / "broken").mkdir()
    asked = ("classify", pictures[0], "--bundles", tmp_path)
    done = run(*asked, "--bundle", "tiny", LIERE_DEFAULT_BUNDLE="gone", **SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(*asked, **SMALL)
    assert done.returncode == 0
    assert "bundle broken is refused" in done.stderr


# --- many files ------------------------------------------------------------------------------


async def answers_of(engine: Engine, files: list[str]) -> AsyncIterator[offline.Answer]:
    """The command without its output, for a service of the test's choice."""
    await engine.start([engine.settings.bundles / "tiny"])
    try:
        async for answer in offline._answers(engine, files, find_candidates(engine, {})):
            yield answer
    finally:
        await engine.close()


def collect(
    bundles: Path, session: TinySession, files: list[str], **settings: Any
) -> list[offline.Answer]:
    chosen = make_settings(bundles=bundles, decode_workers=1, threads=1, **settings)

    async def play() -> list[offline.Answer]:
        engine = Engine(chosen, lambda *_: session)
        return [answer async for answer in answers_of(engine, files)]

    return asyncio.run(play())


def test_many_files_are_batched_and_stay_in_order(bundles: Path, tmp_path: Path) -> None:
    """While one batch runs the next one gathers; a file that breaks the graph fails alone."""
    media = [picture(seed) for seed in range(40)]
    media[17] = poison()
    files = []
    for number, one in enumerate(media):
        files.append(str(tmp_path / f"{number}.png"))
        Path(files[-1]).write_bytes(one)
    session = SlowSession()
    answers = collect(bundles, session, files, max_batch=8)
    assert [name for name, _ in answers] == files
    for number, (_, answer) in enumerate(answers):
        if number == 17:
            assert isinstance(answer, InferenceFailed)
        else:
            assert isinstance(answer, Outcome)
            assert answer.predictions[0]["label"] == best(media[number])
    assert max(session.batches) == 8


class SlowSession(TinySession):
    """A device that is busy for a while, so that items gather."""

    def run(self, pixels: np.ndarray, stop: object = None) -> np.ndarray:
        self.gate.clear()
        self.gate.wait(0.05)
        self.gate.set()
        return super().run(pixels)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"max_in_flight": 3}, 3),
        ({"max_in_flight_mib": 2.5 * len(picture(0)) / 2**20}, 2),
        ({"max_in_flight_mib": 0.5 * len(picture(0)) / 2**20}, 1),
    ],
    ids=["files", "bytes", "bytes of less than one file"],
)
def test_files_under_way_are_bounded(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, most: int
) -> None:
    """However many files there are, no more are in memory than the server would let in."""
    path = tmp_path / "0.png"
    path.write_bytes(picture(0))
    inside, seen = 0, []

    async def counting(*arguments: Any) -> Outcome | Failure:
        nonlocal inside
        inside += 1
        seen.append(inside)
        try:
            return await answer(*arguments)
        finally:
            inside -= 1

    answer = bulk._answer
    monkeypatch.setattr(bulk, "_answer", counting)
    answers = collect(bundles, SlowSession(), [str(path)] * 20, max_batch=1, **settings)
    assert all(isinstance(one, Outcome) for _, one in answers)
    assert len(answers) == len(seen) == 20
    assert max(seen) == most


def test_mistake_while_files_are_read_ends_the_command(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for files that nobody reads any more."""
    path = tmp_path / "0.png"
    path.write_bytes(picture(0))
    monkeypatch.setattr(offline, "_read", lambda file, most: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collect(bundles, TinySession(), [str(path)] * 3)


# --- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 2], ids=["at the start", "in a read"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_ends_the_command_at_once(bundles: Path, name: str, seconds: float) -> None:
    """Also while it waits for standard input: the status of the signal, no trace, no orphan."""
    asked = command("classify", "-", "--bundles", bundles)
    with subprocess.Popen(
        asked,
        cwd=ROOT,
        env=CLEAN | SMALL,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: children(process.pid), "the workers")
            time.sleep(seconds)
            workers = children(process.pid)
            process.send_signal(signal.Signals[name])
            assert process.wait(10) == 128 + signal.Signals[name]
            wait_until(lambda: not any(map(is_alive, workers)), "the workers to end")
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_reader_that_goes_away_is_no_disaster(bundles: Path, pictures: list[Path]) -> None:
    """With ``| head -1`` or a full disk the command ends with a sentence, and without a trace."""
    asked = command("classify", *pictures * 20, "--bundles", bundles)
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for stdout, words in ((writing, "Broken pipe"), (full, "No space")):
        done = subprocess.run(
            asked,
            cwd=ROOT,
            env=CLEAN | SMALL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(stdout)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "cannot write the answers" in line
        assert words in line


# --- progress --------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("stdout", [False, True])
@pytest.mark.parametrize("stderr", [False, True])
def test_progress_is_for_a_terminal_that_shows_nothing_else(
    monkeypatch: pytest.MonkeyPatch, stdout: bool, stderr: bool
) -> None:
    """Only on stderr, only if the answers go elsewhere, only after a while; then it is gone."""
    now = 100.0
    screen = Screen(stderr)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", Screen(stdout))
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(10, "files")
    progress.step()
    assert screen.getvalue() == ""
    now += AFTER_SECONDS
    progress.step()
    progress.step()
    wanted = stderr and not stdout
    assert screen.getvalue() == ("\r2 of 10 files" if wanted else "")
    progress.clear()
    progress.clear()
    assert screen.getvalue() == ("\r2 of 10 files\r\033[K" if wanted else "")
