"""Versions of a bundle side by side: their order, who answers, and what a damaged choice means."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import BundleError
from models.promotion import promote, retire, roll_back
from models.versions import (
    NoSuchVersion,
    answering,
    has_versions,
    order,
    read_serving,
    read_version,
    version_names,
    write_version,
)
from tests.helpers.disks import ordinary_user, small_disk
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import write_tiny_bundle, write_tiny_versions


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The versions 1, 2 and 10 of one bundle, to copy from."""
    return write_tiny_versions(tmp_path_factory.mktemp("three"), "tiny", "1", "2", "10")


@pytest.fixture
def home(three: Path, tmp_path: Path) -> Path:
    return shutil.copytree(three, tmp_path / "tiny")


def choose(home: Path, **fields: Any) -> None:
    (home / "serving.json").write_text(json.dumps({"schema": 1, **fields}))


# --- what is there ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "10"],
        ["1.9", "1.10", "2"],
        ["0.9.12", "0.10", "0.10.1", "1"],
        ["2026-09-30", "2026-10-01"],
        ["1", "1-rc1", "1-rc2", "1-rc10", "1.1"],
        ["9", "v1", "v2", "v10"],
        ["01", "1", "1a"],
    ],
)
def test_numbers_in_versions_are_compared_as_numbers(names: list[str]) -> None:
    """Whatever order they come in: numbers by their size, the rest as text, a tie as text."""
    assert sorted(reversed(names), key=order) == names


def test_what_is_no_version_is_passed_over(home: Path) -> None:
    """Half-written and retired folders are hidden; files and names of no version are nobody's."""
    for name in (".3.a1b2", "lost+found", "No Version"):
        shutil.copytree(home / "1", home / name)
    (home / "notes.txt").write_text("x")
    (home / "nowhere").symlink_to(home / "absent")
    assert version_names(home) == ("1", "2", "10")
    assert answering(home) == "10"


def test_folder_holds_versions_or_is_a_bundle(home: Path, tmp_path: Path) -> None:
    """However damaged a bundle is, its folders are not taken for versions; one version is enough,
    and so is a word about one.
    """
    assert has_versions(home)
    flat = write_tiny_bundle(tmp_path, "flat")
    assert not has_versions(flat)
    shutil.copytree(home / "1", flat / "1")
    assert not has_versions(flat)  # and its reader refuses the files that are not listed
    shutil.rmtree(flat / "1")
    (flat / "manifest.json").unlink()
    assert not has_versions(flat)
    (tmp_path / "stray/notes").mkdir(parents=True)
    assert not has_versions(tmp_path / "stray")
    assert not has_versions(tmp_path / "absent")
    choose(tmp_path / "stray", version="1")
    assert has_versions(tmp_path / "stray")


def test_version_that_lost_its_manifest_has_no_stand_in(home: Path) -> None:
    """The newest counts as one, and is refused: an older one would answer in silence."""
    (home / "10/manifest.json").unlink()
    assert answering(home) == "10"
    with pytest.raises(BundleError, match="^tiny: version 10: manifest.json is missing$"):
        read_version(home, "10")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("version", "2", "manifest.json states version 2, expected 1, as its folder is called"),
        ("name", "other", "manifest.json states name other, expected tiny, as its folder is"),
        ("schema", 9, "manifest.json.schema: this code reads 1 to 2, got 9"),
    ],
)
def test_manifest_and_folders_say_the_same(home: Path, field: str, value: Any, words: str) -> None:
    """A version is what its folder is called, of the bundle that its parent is called."""
    path = home / "1/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(BundleError, match=f"^tiny: version 1: {words}"):
        read_version(home, "1")


def test_version_is_hashed_when_it_is_read(home: Path) -> None:
    """Its files are those that were exported, or it is refused by its version."""
    assert read_version(home, "2").manifest.version == "2"
    (home / "2/README.md").write_text("other")
    with pytest.raises(BundleError, match="^tiny: version 2: README.md has sha256"):
        read_version(home, "2")
    with pytest.raises(NoSuchVersion, match="^tiny: version '3' is not there; versions: 1, 2, 10"):
        read_version(home, "3")


# --- who answers -----------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "version that is not there": (
        lambda home: choose(home, version="3"),
        "serving.json names version '3', which is not there; versions: 1, 2, 10",
    ),
    "path": (lambda home: choose(home, version="../tiny/1"), "'../tiny/1', which is not there"),
    "no version": (choose, "serving.json: missing key 'version'"),
    "number": (lambda home: choose(home, version=1), "version: expected str, got int 1"),
    "unknown key": (lambda home: choose(home, version="1", x=1), "unknown key 'x'"),
    "newer schema": (
        lambda home: choose(home, version="1", schema=2),
        r"serving.json.schema: this code reads 1 to 1, got 2, which newer code wrote",
    ),
    "no JSON": (
        lambda home: (home / "serving.json").write_text("1"),
        "serving.json: expected an object, got int",
    ),
    "cut": (
        lambda home: (home / "serving.json").write_text('{"schema": 1, "ver'),
        "serving.json: not valid JSON",
    ),
    "large": (
        lambda home: (home / "serving.json").write_text(" " * 5000),
        "serving.json is over 4096 bytes",
    ),
    "folder": (lambda home: (home / "serving.json").mkdir(), "serving.json is not a plain file"),
    "link": (
        lambda home: (home / "serving.json").symlink_to(home / "absent"),
        "serving.json is not a plain file",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_choice_that_cannot_be_read_is_nobodys(home: Path, kind: str) -> None:
    """Neither the newest nor any other answers then; promoting one is the way out."""
    damage, words = DAMAGE[kind]
    damage(home)
    with pytest.raises(BundleError, match=f"^tiny: .*{words}"):
        answering(home)
    with pytest.raises(BundleError, match=words):
        retire(home, "1")
    if kind != "folder":  # nothing can be written in its place
        promote(home, "2")
        assert answering(home) == "2"


def test_link_in_place_of_the_folder_is_refused(home: Path, tmp_path: Path) -> None:
    """As a bundle that is one: what it leads to could be exchanged."""
    (tmp_path / "link").symlink_to(home, target_is_directory=True)
    with pytest.raises(BundleError, match="^link: expected a directory"):
        answering(tmp_path / "link")
    (home / "20").symlink_to(home / "1", target_is_directory=True)
    with pytest.raises(BundleError, match="^tiny: version 20: expected a directory"):
        read_version(home, answering(home))


def test_promoted_version_answers_and_can_be_taken_back(home: Path) -> None:
    """From the newest to 1, to 2, and back and forth between these."""
    with pytest.raises(NoSuchVersion, match="none is known that answered before; versions: 1, "):
        roll_back(home)
    assert promote(home, "1").previous == "10"
    assert promote(home, "2").previous == "1"
    assert promote(home, "2").previous == "1"  # again: the way back is kept
    for expected in ("1", "2", "1"):
        roll_back(home)
        assert answering(home) == expected
    with pytest.raises(NoSuchVersion, match="version '3' is not there"):
        promote(home, "3")
    assert answering(home) == "1"
    assert [path.name for path in home.iterdir() if path.name[0] == "."] == []


def test_newest_can_be_made_to_stay(home: Path) -> None:
    """Promoted though it answers anyway, it answers when a newer one comes."""
    assert promote(home, "10").previous is None
    shutil.copytree(home / "10", home / "11")
    assert answering(home) == "10"


def test_way_back_leads_to_what_is_whole(home: Path) -> None:
    """A version that was damaged or deleted meanwhile does not answer again."""
    promote(home, "1")
    promote(home, "2")
    (home / "1/graphs/weights.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="version 1: graphs/weights.bin has sha256"):
        roll_back(home)
    shutil.rmtree(home / "1")
    with pytest.raises(NoSuchVersion, match="version '1' is not there"):
        roll_back(home)
    assert answering(home) == "2"


def test_retired_version_is_gone_and_who_answers_stays(home: Path) -> None:
    """Only what does not answer is removed, and nobody goes back to it."""
    with pytest.raises(BundleError, match="version 10 answers; promote another one first"):
        retire(home, "10")
    promote(home, "2")
    retire(home, "10")
    serving = read_serving(home)
    assert serving is not None
    assert (serving.version, serving.previous) == ("2", None)
    retire(home, "1")
    assert sorted(path.name for path in home.iterdir()) == ["2", "serving.json"]
    with pytest.raises(NoSuchVersion):
        retire(home, "1")


@alone
def test_full_disk_keeps_who_answers(three: Path, disk: Path) -> None:
    """The old choice is whole, nothing is left behind, and with room it can be changed."""
    with small_disk(disk, 200_000):
        if not disk.is_mount():
            pytest.skip("no small file system can be mounted here")
        home = shutil.copytree(three, disk / "tiny")
        promote(home, "1")
        with pytest.raises(OSError, match="No space left"), (disk / "ballast").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        before = sorted(home.iterdir())
        with pytest.raises(OSError, match="No space left"):
            promote(home, "2")
        assert sorted(home.iterdir()) == before
        assert answering(home) == "1"
    assert promote(home, "2").previous == "1"


def test_folder_that_may_not_be_written_keeps_who_answers(three: Path) -> None:
    """Nothing is promoted, taken back or retired where this user may only read."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path is nobody else's to look into
        Path(name).chmod(0o755)
        home = shutil.copytree(three, Path(name) / "tiny")
        promote(home, "2")
        home.chmod(0o555)
        with ordinary_user():
            for change in (lambda: promote(home, "1"), lambda: roll_back(home)):
                with pytest.raises(PermissionError):
                    change()
            with pytest.raises(PermissionError):
                retire(home, "1")
            assert (answering(home), version_names(home)) == ("2", ("1", "2", "10"))
        home.chmod(0o755)


# --- one version more ------------------------------------------------------------------------


def filler(made: Path, version: str) -> Callable[[Path], dict[str, Any]]:
    """Writes the bundle ``made`` once more, as another version."""

    def fill(folder: Path) -> dict[str, Any]:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        manifest = read_version(made.parent, made.name).manifest
        fields = {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}
        del fields["schema"], fields["files"]
        return fields | {"version": version}

    return fill


def test_first_version_of_a_new_bundle_makes_its_folder(three: Path, tmp_path: Path) -> None:
    """And the second lies beside it; nothing else is left, and whoever serves may read them."""
    home = tmp_path / "bundles/tiny"
    umask = os.umask(0o077)
    for version in ("1.0", "1.1"):
        write_version(home, version, filler(three / "1", version))
    os.umask(umask)
    for version in ("1.0", "1.1"):
        assert read_version(home, version).manifest.version == version
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == [
        "bundles/tiny"
    ]
    assert sorted(path.name for path in home.iterdir()) == ["1.0", "1.1"]
    assert [path.stat().st_mode & 0o777 for path in (home, home / "1.1")] == [0o755, 0o755]


def test_failed_version_changes_nothing(three: Path, tmp_path: Path) -> None:
    """A flat bundle stays where it is until the new one is whole."""
    flat = shutil.copytree(three / "1", tmp_path / "tiny")

    def fail(folder: Path) -> dict[str, Any]:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    for home in (flat, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            write_version(home, "2", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (flat / "manifest.json").exists()


def test_version_that_is_there_is_never_overwritten(home: Path) -> None:
    """Not even where another process wrote it meanwhile."""
    before = (home / "2/manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_version(home, "2", filler(home / "1", "2"))
    assert (home / "2/manifest.json").read_bytes() == before
    assert [path.name for path in home.parent.iterdir()] == ["tiny"]


def test_flat_bundle_of_another_name_is_not_moved(three: Path, tmp_path: Path) -> None:
    """Its versions would lie in a folder that is not called as they are."""
    flat = shutil.copytree(three / "1", tmp_path / "first")
    with pytest.raises(BundleError, match="manifest.json states name tiny, expected that of its"):
        write_version(flat, "2", filler(three / "2", "2"))
    assert (flat / "manifest.json").exists()
