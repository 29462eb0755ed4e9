"""Folders of bundles, flat and with versions: found by name at every instant of a move."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.promotion import promote
from models.versions import make_room
from service.engine.folders import (
    bundle_folders,
    is_empty,
    modality_of,
    name_bundles,
    read_answering,
)
from tests.helpers.service_fixtures import write_tiny_bundle, write_tiny_versions


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that lies in its folder itself, to copy from."""
    return write_tiny_bundle(tmp_path_factory.mktemp("flat"), version="1.0")


class Killed(BaseException):
    """In the place of a signal that nobody can handle: the code under test has no ``finally``."""


class Steps:
    """Counts what changes a file system, and dies at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, deadly: int, done: bool) -> None:
        self.left, self.done = deadly, done
        for name in ("rename", "mkdir", "fsync"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.left -= 1
            if self.left or self.done:
                call(*arguments)
            if not self.left:
                raise Killed

        return counted


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_move_to_versions_can_be_killed_at_every_step(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """Before and after each step a server finds the bundle whole, under its name; begun again, the
    move comes to its end.
    """
    for deadly in range(1, 100):
        root = tmp_path / str(deadly)
        home = root / "tiny"
        shutil.copytree(flat, home)
        with monkeypatch.context() as patched:
            steps = Steps(patched, deadly, done)
            try:
                make_room(home)
            except Killed:
                pass
            else:
                break
        folder = name_bundles(bundle_folders(root))["tiny"]
        bundle, versions = read_answering(folder)
        assert (bundle.manifest.version, versions) == ("1.0", ("1.0",)), deadly
        make_room(home)
        assert [path.name for path in root.iterdir()] == ["tiny"]
        assert [path.name for path in home.iterdir()] == ["1.0"]
        assert read_answering(home)[0].manifest == bundle.manifest
    assert steps.left > 0
    assert deadly == 8  # after two renames, a new folder, and all of their names made to last


def test_names_are_those_of_manifests_and_of_folders_of_versions(
    flat: Path, tmp_path: Path
) -> None:
    """An empty folder takes no name away, and of two with one name the first by folder has it."""
    shutil.copytree(flat, tmp_path / "tiny@1.0")
    (tmp_path / "tiny").mkdir()
    several = write_tiny_versions(tmp_path, "several", "1", "2")
    assert name_bundles(bundle_folders(tmp_path)) == {
        "several": several,
        "tiny": tmp_path / "tiny@1.0",
        "tiny (again)": tmp_path / "tiny",
    }
    assert [is_empty(tmp_path / name) for name in ("tiny", "several", "tiny@1.0")] == [
        True, False, False,
    ]  # fmt: skip


def test_modality_is_that_of_the_version_that_answers(tmp_path: Path) -> None:
    """Or of all of them, where it cannot be told which that is."""
    home = write_tiny_versions(tmp_path, "tiny", "1", "2", modality="video")
    assert modality_of(home) == "video"
    (home / "serving.json").write_text("{")
    assert modality_of(home) == "video"
    shutil.rmtree(home / "1")
    write_tiny_bundle(tmp_path, "other", version="1").rename(home / "1")
    assert modality_of(home) is None
    promote(home, "1")
    assert modality_of(home) == "image"
