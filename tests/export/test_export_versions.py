"""``python -m export --version``: beside other versions, and what was there stays what it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import export.command
from export.__main__ import main
from export.place import find_place
from media.spec import SpecError
from models.bundle import BundleError, read_bundle
from models.promotion import promote
from models.versions import read_version, version_names
from tests.helpers.export_bundles import checkpoint_of, know_graphs, squares


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle squares, version 1, in its folder itself; to copy from."""
    return squares(tmp_path_factory).root


def test_version_is_written_beside_a_flat_bundle(
    flat: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which moves to a folder of its own version, byte for byte; who answers is said."""
    checkpoint = checkpoint_of(read_bundle(flat))
    know_graphs(monkeypatch, read_bundle(flat))
    home = tmp_path / "bundles/squares"
    shutil.copytree(flat, home)
    words = [str(checkpoint), "--grid", "3x2", "--out", str(home.parent), "--name", home.name]
    words += ["--parity-items", "36"]
    assert main([*words, "--version", "1.1"]) == 0
    assert version_names(home) == ("1", "1.1")
    assert read_version(home, "1").manifest == read_bundle(flat).manifest
    assert read_version(home, "1.1").manifest.version == "1.1"
    assert sorted(path.name for path in home.parent.iterdir()) == ["squares"]
    wrote, answers = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote {home}/1.1; serve it with: python -m service --bundles {home.parent}"
    assert answers == "version 1.1 of squares answers"
    assert main(["verify", str(home)]) == 2
    assert "has versions: name the folder of one: 1, 1.1" in capsys.readouterr().err
    promote(home, "1")
    monkeypatch.setattr(export.command, "make_bundle", lambda *_: read_version(home, "1.1"))
    assert main([*words, "--version", "1.1"]) == 0  # as if it had been written now
    answers = capsys.readouterr().out.splitlines()[1]
    command = f"python -m service bundles promote squares 1.1 --bundles {home.parent}"
    assert answers == f"version 1 of squares answers; for this one: {command}"


def test_place_of_a_new_bundle_is_its_own_folder(tmp_path: Path) -> None:
    """With or without a version, also where the folder of bundles is not there yet, and where a
    folder of versions was left empty.
    """
    out = tmp_path / "bundles"
    assert find_place(out, "new", None) == out / "new"
    assert find_place(out, "new", "1.0") == out / "new"
    (out / "new/.1.0.partial").mkdir(parents=True)
    assert find_place(out, "new", "1.0") == out / "new"


@pytest.mark.parametrize(
    ("name", "version", "error", "words"),
    [
        ("squares", None, FileExistsError, "squares exists; a bundle is never changed: choose"),
        ("squares", "1", FileExistsError, "squares has version 1; .*--version than 1$"),
        ("several", None, FileExistsError, "several has several versions: name a new one with"),
        ("several", "2", FileExistsError, "several has version 2; .*--version than 1, 2$"),
        ("aside", None, FileExistsError, "aside has several versions: name a new one with"),
        ("aside", "1", FileExistsError, "aside has version 1; .*--version than 1$"),
        ("notes", "1", FileExistsError, "notes exists and holds no bundle: choose another --name"),
        ("link", "1", FileExistsError, "link exists and holds no bundle: choose another --name"),
        ("renamed", "2", BundleError, "renamed: manifest.json states name squares, expected that"),
        ("broken", "2", BundleError, "broken: manifest.json: not valid JSON"),
        ("../up", "2", SpecError, "--name: expected"),
        ("new", "../2", SpecError, "--version: expected .* got '../2'"),
        ("new", "", SpecError, "--version: expected .* got ''"),
        ("new", ".1", SpecError, "--version: expected .* got '.1'"),
    ],
)
def test_what_is_there_is_never_changed(
    flat: Path, tmp_path: Path, name: str, version: str | None, error: type[Exception], words: str
) -> None:
    """Known before anything is computed, with what to say instead."""
    for folder in ("squares", "several/1", "several/2", "aside@1", "renamed"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(flat / "manifest.json", tmp_path / folder)
        if folder in ("squares", "renamed"):
            shutil.copytree(flat, tmp_path / folder, dirs_exist_ok=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "notes")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/manifest.json").write_text("{")
    with pytest.raises(error, match=words):
        find_place(tmp_path, name, version)
