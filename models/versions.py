"""Versions of a bundle side by side in one folder, and which of them answers.

    NAME/manifest.json             flat: the folder is the bundle, its only version
    NAME/VERSION/manifest.json     a folder of versions, each a bundle that states this version
         serving.json              who answers, and who did before; without it the newest does
                                   (models/promotion.py writes it)

Files beside the versions, and folders whose name could be no version's (a dot at its start: half
written), are nobody's. Whatever else is a folder counts as a version, however damaged: a newest
one that cannot be read is refused, and no older one answers in its place.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from media.files import sync_directory
from media.spec import SpecError
from media.strict_json import from_json, read_json
from models.bundle import Bundle, BundleError, read_bundle, read_manifest, write_bundle
from models.manifest import MANIFEST, NAME_PATTERN, Manifest
from models.spec import of_known_schema

SERVING, SCHEMA = "serving.json", 1
MAX_SERVING_BYTES = 4096


class NoSuchVersion(BundleError):
    """A version that is not there. The message says which are."""


@dataclasses.dataclass(frozen=True)
class Serving:
    """serving.json, field by field."""

    schema: int
    version: str  # who answers
    previous: str | None = None  # who did before, for a way back


def has_versions(home: Path) -> bool:
    """Whether a folder holds versions; one that nobody may look into is taken for a bundle."""
    try:
        if (home / MANIFEST).exists():
            return False
        return os.path.lexists(home / SERVING) or not all(map(is_no_bundle, _folders(home)))
    except OSError:
        return False


def is_no_bundle(folder: Path) -> bool:
    """Whether there is neither a manifest nor a graph; one that nobody may look into may be one."""
    try:
        return not {MANIFEST, "graphs"} & {path.name for path in folder.iterdir()}
    except OSError:
        return False


def version_names(home: Path) -> tuple[str, ...]:
    """What a folder of versions holds, oldest first."""
    return tuple(sorted((path.name for path in _folders(home)), key=order))


def _folders(home: Path) -> list[Path]:
    return [p for p in home.iterdir() if re.fullmatch(NAME_PATTERN, p.name) and p.is_dir()]


def order(version: str) -> tuple[list[str | int], str]:
    """A key to sort by: numbers as numbers, the rest as text, so 1.9 < 1.10 < 2 < 10 < rc1."""
    parts = re.split(r"(\d+)", version)  # text, number, text, ...: only likes are compared
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], version


def answering(home: Path) -> str:
    """The version that answers: the one that serving.json names, else the newest.

    Raises:
        BundleError: nobody answers, as serving.json cannot be used.
        NoSuchVersion: it names a version that is not there, and none stands in for it.
    """
    if home.is_symlink():
        raise BundleError(f"{home.name}: expected a directory (not a link)")
    serving = read_serving(home)
    if serving is None:
        return version_names(home)[-1]
    check_there(home, serving.version, f"{SERVING} names version {serving.version[:64]!a}, which")
    return serving.version


def read_serving(home: Path) -> Serving | None:
    """What serving.json says; None where there is none, BundleError where it says nothing."""
    path = home / SERVING
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{home.name}: {SERVING} is not a plain file")
    if path.stat().st_size > MAX_SERVING_BYTES:
        raise BundleError(f"{home.name}: {SERVING} is over {MAX_SERVING_BYTES} bytes")
    try:
        return from_json(Serving, of_known_schema(read_json(path), SCHEMA, SERVING), SERVING)
    except SpecError as error:
        raise BundleError(f"{home.name}: {error}") from error


def check_there(home: Path, version: str, which: str | None = None) -> None:
    """NoSuchVersion, with the versions that there are, unless this is one of them."""
    if version not in (names := version_names(home)):
        which = which or f"version {version[:64]!a}"
        there = ", ".join(names) or "none"
        raise NoSuchVersion(f"{home.name}: {which} is not there; versions: {there}")


def read_version(home: Path, version: str) -> Bundle:
    """One of the versions, every file hashed, that states the name and the version of its folders.

    Raises:
        NoSuchVersion: it is not there.
        BundleError: what ``read_bundle`` refuses, or another name or version.
    """
    check_there(home, version)
    try:
        bundle = read_bundle(home / version)
    except BundleError as error:
        told = str(error).removeprefix(f"{version}: ")
        raise BundleError(f"{home.name}: version {version}: {told}") from error
    check_stated(home, version, bundle.manifest)
    return bundle


def check_stated(home: Path, version: str, manifest: Manifest) -> None:
    """BundleError unless a manifest states the name and the version of the folders it lies in."""
    for field, expected in (("name", home.name), ("version", version)):
        if (stated := getattr(manifest, field)) != expected:
            raise BundleError(
                f"{home.name}: version {version}: {MANIFEST} states {field} {stated}, "
                f"expected {expected}, as its folder is called"
            )


# --- one version more ------------------------------------------------------------------------


def write_version(home: Path, version: str, fill: Callable[[Path], Mapping[str, Any]]) -> Bundle:
    """Write a bundle beside the other versions; a flat one that is there becomes one of them.

    Nothing that is there is touched before the new one is whole.

    Args:
        home: the folder of versions; need not be there.
        fill: as of ``write_bundle``; the fields state this version, and the name of ``home``.

    Raises:
        FileExistsError: the version is there.
        BundleError: a flat bundle is there that states another name, or cannot be read.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as hidden:
        made = write_bundle(Path(hidden) / version, fill)
        make_room(home)
        if (home / version).exists():
            raise FileExistsError(f"{home / version} exists already and is never overwritten")
        move(made.root, home / version)
    return Bundle(home / version, made.manifest)


def make_room(home: Path) -> None:
    """Make ``home`` a folder of versions; a flat bundle there becomes the first of them.

    Killed between any two steps, a reader finds the bundle: flat as NAME, flat as NAME@VERSION (its
    manifest says whose it is), or as NAME/VERSION. The next call goes on from there.
    """
    if (home / MANIFEST).exists():
        move(home, home.with_name(f"{home.name}@{flat_version(home)}"))
    if not home.exists():
        home.mkdir()
        home.chmod(0o755)  # as of every bundle, whatever the umask
    sync_directory(home.parent)
    for aside in moved_aside(home):
        move(aside, home / aside.name.partition("@")[2])


def flat_version(home: Path) -> str:
    """What a flat bundle states, which can be one of several versions if it has its folder's name.

    Raises:
        BundleError: it has another name, or ``read_manifest`` refuses it.
    """
    manifest = read_manifest(home)
    if manifest.name != home.name:
        raise BundleError(
            f"{home.name}: {MANIFEST} states name {manifest.name}, expected that of its folder"
        )
    return manifest.version


def moved_aside(home: Path) -> list[Path]:
    """NAME@VERSION: where a flat bundle is between two steps of ``make_room``."""
    return [path for path in home.parent.glob(f"{home.name}@*") if (path / MANIFEST).exists()]


def move(path: Path, to: Path) -> None:
    """Rename a folder, for good."""
    path.rename(to)
    for folder in {to.parent, path.parent}:
        sync_directory(folder)
