"""``python -m client classify``: answers on the screen or in a file, also after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.__main__ import main
from client.command import OF_THE_FILE
from service.http.problems import PROBLEMS
from tests.client.relay import relaying
from tests.helpers.disks import ordinary_user, small_disk
from tests.helpers.effort import alone, effort
from tests.helpers.service_fixtures import (
    CLEAN,
    MEDIA,
    ROOT,
    RunningServer,
    TinySession,
    huge_png,
    picture,
    serving,
    tiny_logits,
    wait_until,
)

Classify = Callable[..., int]


@pytest.fixture
def classify(server: RunningServer) -> Classify:
    """The command, in this process; its exit status."""
    return lambda *arguments: main(["classify", "--url", server.url, *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures in two folders, and what is no medium."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    for n in range(9):
        (root / ("deep" if n % 2 else "") / f"{n}.png").write_bytes(picture(n))
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"no picture")
    return root


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def check_lines(path: Path, folder: Path) -> None:
    """Every picture once, with the network's own answer."""
    lines = lines_of(path)
    assert Counter(line["file"] for line in lines) == Counter(map(str, folder.rglob("[!.]*.png")))
    for line in lines:
        expected = tiny_logits(Path(line["file"]).read_bytes(), "2x3").argmax()
        assert line["predictions"][0]["index"] == expected


# --- answers ---------------------------------------------------------------------------------


def test_answers_of_every_modality_are_shown(
    classify: Classify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a file with ranked labels, by the ending of its name."""
    for name, modality in (("a.png", "image"), ("b.npy", "volume")):
        (tmp_path / name).write_bytes(MEDIA[modality](1))
    assert classify(tmp_path, "--top-k", 2, "--concurrency", 1) == 0
    told = capsys.readouterr()
    first, second = told.out.splitlines()
    assert first.startswith(f"{tmp_path}/a.png: ") and first.count("%") == 2
    assert second.startswith(f"{tmp_path}/b.npy: ")
    assert told.err == ""


def test_folder_is_answered_into_a_file(
    classify: Classify, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures alone, each once although it is named twice; the members of the server's result."""
    out = tmp_path / "out.jsonl"
    assert classify(folder, f"{folder}/0.png", "--out", out) == 0
    check_lines(out, folder)
    members = {"file", "asked", "bundle", "version", "grid", "seen", "predictions", "calibrated"}
    members |= {"timing_ms"}
    assert all(line.keys() == members for line in lines_of(out))
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "9 answered, 0 failed\n")


def test_modality_takes_every_file(classify: Classify, tmp_path: Path) -> None:
    """Scans without an ending, as they come from a scanner; a GIF as a clip."""
    for name, modality in (("IM0001", "volume"), ("IM0002", "volume")):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(MEDIA[modality](1))
    (tmp_path / "clip.gif").write_bytes(MEDIA["video"](1))
    out = tmp_path / "out.jsonl"
    assert classify(tmp_path / "scans", "--modality", "volume", "--out", out) == 0
    assert [line["bundle"] for line in lines_of(out)] == ["volume", "volume"]
    clip = [tmp_path / "clip.gif", "--modality", "video", "--out"]
    assert classify(*clip, out, "--resume") == 0
    assert lines_of(out)[2]["bundle"] == "video"
    assert classify(*clip, tmp_path / "views.jsonl", "--views", 3) == 0
    (line,) = lines_of(tmp_path / "views.jsonl")
    assert len(line["seen"]["seconds"]) == 3


def test_files_at_fault_fail_alone(
    classify: Classify, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of the file are lines, and not tried again; those of this machine are no lines."""
    (folder / "broken.png").write_bytes(picture()[:60])
    (folder / "huge.png").write_bytes(huge_png(60_000, 60_000))
    (folder / "empty.png").touch()
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "line\nbreak\x1b[2J.png").write_bytes(b"\x00")
    out = tmp_path / "out.jsonl"
    assert classify(folder, "--out", out) == 1
    wrong = {Path(one["file"]).name: one["error"] for one in lines_of(out) if "error" in one}
    assert {name: one["type"].rpartition("/")[2] for name, one in wrong.items()} == {
        "broken.png": "broken-media",
        "huge.png": "media-too-large",
        "empty.png": "empty-body",
        "line\nbreak\x1b[2J.png": "unsupported-media",
    }
    assert all(one.keys() == {"type", "title", "status", "detail"} for one in wrong.values())
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 6 and told[-1] == "9 answered, 5 failed"
    assert f"{folder}/dangling.png: No such file or directory" in told
    assert sum(r"line\nbreak\x1b[2J.png: 415 /problems/" in line for line in told) == 1
    (folder / "dangling.png").unlink()
    assert classify(folder, "--out", out, "--resume") == 1  # four are without an answer still
    assert capsys.readouterr().err == "9 answered, 4 failed\n"
    assert len(lines_of(out)) == 13


# --- going on --------------------------------------------------------------------------------


@alone
def test_killed_command_goes_on(bundles: Path, tmp_path: Path) -> None:
    """SIGKILL with answers missing: the same command with --resume answers the rest, each once."""
    photos, out = tmp_path / "photos", tmp_path / "out.jsonl"
    photos.mkdir()
    for n in range(effort(60, 2000)):
        (photos / f"{n}.png").write_bytes(picture(n))
    session = TinySession()
    command = [sys.executable, "-m", "client", "classify", str(photos), "--out", str(out)]
    with serving(bundles, lambda *_: session, ready=True) as server:
        command += ["--url", server.url]
        session.batches.clear()
        with subprocess.Popen(command, cwd=ROOT, env=CLEAN, stderr=subprocess.PIPE) as process:
            wait_until(lambda: out.exists() and len(lines_of(out)) >= 5, "five answers")
            session.gate.clear()
            process.kill()
        before = lines_of(out)
        assert 5 <= len(before) < effort(60, 2000)
        with out.open("ab") as stream:  # as if it had died within a line
            stream.write(json.dumps(before[0]).encode()[:20])
        session.gate.set()
        command.append("--resume")
        again = subprocess.run(
            command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, check=False
        )
    assert again.returncode == 0, again.stderr
    assert lines_of(out)[: len(before)] == before
    check_lines(out, photos)


@alone
def test_signals_end_the_command_with_a_hint(bundles: Path, folder: Path, tmp_path: Path) -> None:
    """SIGTERM as Ctrl-C: no trace, what was answered stays, and how to go on."""
    out, session = tmp_path / "out.jsonl", TinySession()
    with serving(bundles, lambda *_: session, ready=True) as server:
        command = [sys.executable, "-m", "client", "classify", str(folder), "--url", server.url]
        session.gate.clear()
        with subprocess.Popen(
            [*command, "--out", str(out)], cwd=ROOT, env=CLEAN, stderr=subprocess.PIPE, text=True
        ) as process:
            wait_until(lambda: server.metric("liere_in_flight") == 8, "eight files to be inside")
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=20)
        session.gate.set()
    assert process.returncode == 130
    assert told.splitlines() == [
        "0 answered, 0 failed",
        "python -m client: interrupted; the same command with --resume goes on",
    ]


def test_out_is_never_written_over(
    classify: Classify, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer file needs --resume; what holds something else is left as it is."""
    out = tmp_path / "out.jsonl"
    out.write_text("notes of mine\n")
    assert classify(folder, "--out", out) == 2
    assert "is there already: --resume goes on with it" in capsys.readouterr().err
    wrong = "notes of mine", "[]", "3", '{"file": "a"}', '{"file": "a", "asked": 3, "error": {}}'
    for text in (f"{one}\n" for one in wrong):
        out.write_text(text)
        assert classify(folder, "--out", out, "--resume") == 2
        assert "line 1: expected an answer of this command" in capsys.readouterr().err
        assert out.read_text() == text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bundle", "other"], "bundle 'image' answered, not 'other'"),
        (["--bundle", "image@2"], "version '1' answered, not '2'"),
        (["--grid", "3x2"], "grid '2x3' answered, not '3x2'"),
        (["--top-k", "2"], "a request without options answered, not --top-k '2'"),
        (["--abstain", "0.5"], "a request without options answered, not --abstain '0.5'"),
        (["--raw"], "a request without options answered, not --raw"),
    ],
)
def test_answers_of_another_question_are_not_mixed(
    classify: Classify,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    """Going on with another bundle, version, grid or option is refused, and nothing is sent."""
    out = tmp_path / "out.jsonl"
    assert classify(f"{folder}/0.png", "--out", out) == 0
    assert classify(folder, "--out", out, "--resume", *words) == 2
    assert f"line 1: {told}\n" in capsys.readouterr().err
    assert len(lines_of(out)) == 1


def test_the_same_question_goes_on_whatever_it_was(
    classify: Classify, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all of its options, and not without them."""
    out = tmp_path / "out.jsonl"
    asked = ["--out", out, "--bundle", "image@1", "--grid", "auto", "--top-k", "2", "--raw"]
    assert classify(f"{folder}/0.png", *asked) == 0
    assert classify(folder, "--out", out, "--resume") == 2
    told = "line 1: --raw --top-k '2' answered, not a request without options\n"
    assert told in capsys.readouterr().err
    assert classify(folder, *asked, "--resume") == 0
    assert len(lines_of(out)) == 9


# --- wrong commands, and servers that go -----------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere/photo.png"], "there is no file or folder 'nowhere/photo.png'"),
        ([".", "--url", "localhost"], "expected an address like http://127.0.0.1:8000"),
        ([".", "--key-file", "nowhere"], "nowhere: No such file or directory"),
        ([".", "--ca-file", "README.md"], "README.md: "),
        ([".", "--resume"], "say --out FILE"),
        ([".", "--concurrency", "0"], "expected a whole number from 1 to 1000, got '0'"),
        ([".", "--deadline", "soon"], "expected seconds from 0 to 86400, got 'soon'"),
        ([".", "--modality", "sound"], "invalid choice: 'sound'"),
        ([], "the following arguments are required: PATH"),
    ],
)
def test_wrong_commands_are_told(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and a line that says what was expected, before anything is sent."""
    try:
        status = main(["classify", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--bundle", "nobody"], "404 /problems/unknown-bundle"),
        (["--grid", "9x9"], "422 /problems/unknown-grid"),
        (["--top-k", "many"], "422 /problems/bad-parameter"),
    ],
)
def test_what_every_file_would_be_told_ends_the_command(
    classify: Classify,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    """Status 2 at the first one, and nothing is written."""
    out = tmp_path / "out.jsonl"
    assert classify(folder, "--out", out, *arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"python -m client: {told}")
    assert out.read_bytes() == b""


def test_key_is_read_from_a_file(
    bundles: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With it an answer; without it the command ends before it makes a file."""
    key, key_file = "an-example-key-of-43-characters-0123456789a", tmp_path / "key"
    key_file.write_text(f"{key}\n")
    out = tmp_path / "out.jsonl"
    with serving(bundles, key_sha256=(hashlib.sha256(key.encode()).hexdigest(),)) as server:
        command = ["classify", str(folder), "--url", server.url, "--out", str(out)]
        assert main(command) == 2
        assert "401 /problems/unauthorized" in capsys.readouterr().err
        assert not out.exists()
        assert main([*command, "--key-file", str(key_file)]) == 0
    check_lines(out, folder)


def test_only_files_are_gone_on_with(
    classify: Classify, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that never ends is not read."""
    assert classify(folder, "--out", "/dev/zero", "--resume") == 2
    assert "/dev/zero is no file to go on with" in capsys.readouterr().err


def test_server_that_goes_ends_the_command(
    server: RunningServer, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After three files without an answer the others are not tried; later --resume is whole."""
    out = tmp_path / "out.jsonl"
    with relaying(server.port, *[None] * 99) as relay:
        command = ["classify", str(folder), "--out", str(out), "--retries", "1"]
        assert main([*command, "--url", relay.url]) == 3  # nobody answers at all
        assert not out.exists()
        capsys.readouterr()
    with relaying(server.port) as relay:
        relay.spoil_after(1, 99)
        command += ["--concurrency", "1"]
        assert main([*command, "--url", relay.url]) == 3
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 5 and told[-2] == "0 answered, 3 failed"
        assert "the server answers no more: no answer: " in told[-1]
        assert told[-1].endswith("; the same command with --resume goes on")
    assert main([*command, "--url", server.url, "--resume"]) == 0
    check_lines(out, folder)


@alone
def test_full_disk_ends_the_command(
    classify: Classify, folder: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 and the system's word for it; once there is room, --resume has every file once."""
    out = disk / "out.jsonl"
    with small_disk(disk, 8192):
        (disk / "ballast").write_bytes(bytes(4096))
        shown = folder.parent / "long"
        shown.mkdir()
        for n in range(40):
            (shown / f"{n:0200}.png").write_bytes(picture(n))
        assert classify(shown, "--out", out) == 1
        assert re.search("No space left|File too large", capsys.readouterr().err)
    assert classify(shown, "--out", out, "--resume") == 0
    check_lines(out, shown)


@alone
def test_unreadable_folder_ends_the_command(
    classify: Classify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not passed over in silence."""
    (tmp_path / "closed").mkdir(mode=0)
    with ordinary_user():
        status = classify(tmp_path / "closed")
    assert status == 1
    assert "closed: Permission denied" in capsys.readouterr().err


def test_errors_of_files_are_errors_of_the_server() -> None:
    """Every name in the command's list is a problem of the service, and none is the caller's."""
    names = {one.name: one.status for one in PROBLEMS.values()}
    assert names.keys() >= OF_THE_FILE
    assert not {"unauthorized", "forbidden", "overloaded", "bad-parameter"} & OF_THE_FILE


# --- what it says of itself ------------------------------------------------------------------


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Examples, what --out holds, how to go on, and the exit status."""
    with pytest.raises(SystemExit) as ended:
        main(["classify", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for words in ("classify photos/ --out answers.jsonl --resume", "Exit status: 0"):
        assert words in told


@pytest.mark.parametrize("arguments", [[], ["clasify"]])
def test_unknown_commands_are_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and the commands there are."""
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith("known: classify, jobs\n")


def test_bar_is_drawn_on_a_terminal_alone(
    server: RunningServer, folder: Path, tmp_path: Path
) -> None:
    """On a terminal: how many of how many; and its cursor is shown again."""
    leader, follower = os.openpty()
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "client", "classify", str(folder), "--url", server.url]
    environment = CLEAN | {"TERM": "xterm", "COLUMNS": "80"}
    drawn = io.BytesIO()
    with subprocess.Popen(
        [*command, "--out", str(out)], cwd=ROOT, env=environment, stderr=follower
    ) as process:
        os.close(follower)
        # Linux says EIO of a terminal that everybody has left.
        with contextlib.suppress(OSError):
            while data := os.read(leader, 65536):
                drawn.write(data)
    os.close(leader)
    assert process.returncode == 0
    assert b"9/9" in drawn.getvalue()
    assert drawn.getvalue().rfind(b"\x1b[?25h") > drawn.getvalue().rfind(b"\x1b[?25l")


# --- as a package ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> dict[str, Any]:
    return tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())


def test_client_builds_from_the_checkout(tmp_path: Path) -> None:
    """What ``pip install ./client`` copies runs elsewhere: every module, and the mark of types."""
    shutil.copytree(ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("__py*"))
    site = tmp_path / "site"
    build = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()"]
    subprocess.run(
        [*build, "-q", "build_py", "--build-lib", str(site)], cwd=tmp_path / "client", check=True
    )
    names = {path.name for path in (ROOT / "client").glob("*.py")} | {"py.typed"}
    assert {path.name for path in (site / "client").iterdir()} == names
    told = subprocess.check_output(
        [sys.executable, "-m", "client", "classify", "--help"],
        env=CLEAN | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
        text=True,
    )
    assert "Exit status" in told


def test_package_asks_for_what_the_checkout_has(package: dict[str, Any]) -> None:
    """The same build tool, and floors that the extra of the tests has too."""
    checkout = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert package["build-system"] == checkout["build-system"]
    floors = checkout["project"]["optional-dependencies"]["dev"]
    assert set(package["project"]["dependencies"]) <= set(floors)
