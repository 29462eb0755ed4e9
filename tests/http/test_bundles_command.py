"""``python -m service bundles``: who answers is seen and chosen; what fails changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from models.promotion import promote
from models.versions import answering
from service.cli import bundles
from tests.helpers.disks import ordinary_user
from tests.helpers.service_fixtures import run, write_tiny_bundle, write_tiny_versions

#: What a command said and how it ended: status, stdout, stderr.
Told = tuple[int, str, str]

@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat bundle and one with three versions, to copy from."""
    root = tmp_path_factory.mktemp("made")
    write_tiny_bundle(root, "flat", version="7")
    write_tiny_versions(root, "tiny", "1", "2", "10")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "bundles")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """A command in this process, which keeps its own signals; its child says something too."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("LIERE_DECODE_WORKERS", "1")
    monkeypatch.setenv("LIERE_THREADS", "1")

    def carry_out(*words: str | Path) -> Told:
        status = bundles.main([*map(str, words)])
        return status, *capfd.readouterr()

    return carry_out


def test_version_is_promoted_taken_back_and_retired(
    root: Path, command: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole road: 10 answers as the newest, then 1 by promotion, 10 again, and 1 is gone; who
    is the default of a server, and who may ask it, does not matter.
    """
    monkeypatch.setenv("LIERE_DEFAULT_BUNDLE", "gone")
    monkeypatch.setenv("LIERE_KEYS_FILE", "/nowhere")
    monkeypatch.setenv("LIERE_BUNDLES", str(root))
    said = "tiny: version 1 answers (10 before) when a server starts, or gets SIGHUP\n"
    assert command("promote", "tiny", "1") == (0, said, "")
    listed = (
        "flat: 7 answers (only); versions: 7\n"
        "tiny: 1 answers (serving.json, 10 before); versions: 1, 2, 10\n"
    )
    assert command("list") == (0, listed, "")
    said = "tiny: version 10 answers (1 before) when a server starts, or gets SIGHUP\n"
    assert command("rollback", "tiny") == (0, said, "")
    said = "tiny: version 1 is removed; version 10 answers\n"
    assert command("retire", "tiny", "1") == (0, said, "")
    assert not (root / "tiny/1").exists()


def test_list_is_there_for_machines_too(root: Path, command: Callable[..., Told]) -> None:
    """One object; a bundle that nobody can choose from says why."""
    (root / "tiny/serving.json").write_text("{")
    (root / "flat/manifest.json").unlink()
    done = run("bundles", "list", "--json", "--bundles", root)
    flat, tiny = json.loads(done.stdout)["bundles"]
    assert (done.returncode, done.stderr) == (0, "")
    assert flat == {
        "name": "flat", "answers": None, "by": None, "previous": None, "versions": [],
        "reason": "flat: manifest.json is missing",
    }  # fmt: skip
    assert (tiny["answers"], tiny["versions"]) == (None, ["1", "2", "10"])
    assert tiny["reason"].startswith("tiny: serving.json: not valid JSON")
    _, out, _ = command("list", "--bundles", root)
    assert out.splitlines()[0] == "flat: none answers: flat: manifest.json is missing"


def damage(home: Path) -> str:
    (home / "2/graphs/weights.bin").write_bytes(bytes(288 * 5 * 4))
    return "2"


def rename(home: Path) -> str:
    (home / "2").rename(home / "3")
    return "3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage, "tiny: version 2: graphs/weights.bin has sha256"),
        (rename, "tiny: version 3: manifest.json states version 2, expected 3, as its folder is"),
    ],
)
def test_candidate_that_fails_its_proof_is_not_promoted(
    root: Path, command: Callable[..., Told], change: Callable[[Path], str], words: str
) -> None:
    """What is wrong with it is told, and which version answers as before."""
    home = root / "tiny"
    promote(home, "1")
    candidate = change(home)
    status, out, error = command("promote", "tiny", candidate, "--bundles", root)
    assert (status, out) == (1, "")
    assert words in error
    told = f"tiny {candidate} is not promoted, as its proof failed with status 1; version 1 answers"
    assert error.splitlines()[-1].endswith(told)
    assert answering(home) == "1"


def test_proof_that_takes_its_process_down_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Told]
) -> None:
    """A runtime that dies of a graph costs the candidate, and not the command."""
    (root / "dies").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (root / "dies").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(root / "dies"))
    status, _, error = command("promote", "tiny", "1", "--bundles", root)
    told = "tiny 1 is not promoted, as its proof ended by signal 11; version 10 answers\n"
    assert status == 1
    assert error.endswith(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("promote nope 1", "no bundle 'nope'; known: flat, tiny"),
        ("promote tiny 3", "tiny: version '3' is not there; versions: 1, 2, 10"),
        ("promote flat 7", "flat lies in its folder itself, as its only version: python -m export"),
        ("rollback tiny", "tiny: none is known that answered before; versions: 1, 2, 10"),
        ("retire tiny ../flat", "tiny: version '../flat' is not there"),
        ("verify tiny 1 --device cuda", "--device cuda needs"),
    ],
)
def test_wrong_command_says_what_there_is(
    made: Path, command: Callable[..., Told], words: str, told: str
) -> None:
    """Exit 2, one sentence."""
    status, out, error = command(*words.split(), "--bundles", made)
    (line,) = error.splitlines()
    assert (status, out) == (2, "")
    assert told in line


def test_version_that_answers_is_not_retired(made: Path, command: Callable[..., Told]) -> None:
    """Exit 1: the command was right, and nobody would answer any more."""
    status, _, error = command("retire", "tiny", "10", "--bundles", made)
    assert status == 1
    assert error.endswith("tiny: version 10 answers; promote another one first\n")
    assert (made / "tiny/10").exists()


def test_folder_that_may_not_be_written_is_told_with_what_holds(
    made: Path, command: Callable[..., Told]
) -> None:
    """The system's own words, and who answers as before."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path is nobody else's to look into
        Path(name).chmod(0o755)
        home = shutil.copytree(made / "tiny", Path(name) / "tiny")
        promote(home, "1")
        home.chmod(0o555)
        with ordinary_user():
            for words in ("rollback tiny", "retire tiny 2"):
                status, out, error = command(*words.split(), "--bundles", name)
                assert (status, out) == (1, "")
                told = "tiny cannot be changed: Permission denied; version 1 answers\n"
                assert error.endswith(told)


def test_help_teaches_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what it is for, and the order of versions where one chooses."""
    with pytest.raises(SystemExit, match="0"):
        bundles._parse(["--help"])
    told = capsys.readouterr().out
    for name in ("list", "promote", "verify", "rollback", "retire"):
        assert f"  {name} " in told
    assert "1.9 is older than 1.10" in told
    with pytest.raises(SystemExit, match="2"):
        bundles._parse([])
