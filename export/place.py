"""Where a bundle is written: OUT/NAME, or OUT/NAME/VERSION beside other versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from media.spec import SpecError
from models.bundle import Bundle, write_bundle
from models.manifest import MANIFEST, NAME_PATTERN
from models.versions import (
    flat_version,
    has_versions,
    moved_aside,
    version_names,
    write_version,
)

#: What a bundle states whose maker named no version.
ONLY = "1"


def find_place(out: Path, name: str, version: str | None) -> Path:
    """The folder of the bundle, or of its versions; nothing in it will be changed.

    Raises:
        SpecError: name or version is none.
        FileExistsError: what shall be written is there, or something else is.
        BundleError: a flat bundle is there that cannot become one of several versions.
    """
    for option, word in (("name", name), ("version", version)):
        if word is not None and not re.fullmatch(NAME_PATTERN, word):
            raise SpecError(f"--{option}: expected {NAME_PATTERN}, got {word!r}")
    home = out / name
    if version is not None:
        _check_version(home, version)
    elif has_versions(home) or moved_aside(home):
        raise FileExistsError(f"{home} has several versions: name a new one with --version")
    elif home.exists():
        raise FileExistsError(
            f"{home} exists; a bundle is never changed: choose another --name, or a --version"
        )
    return home


def _check_version(home: Path, version: str) -> None:
    there = _versions(home)
    if version in there:
        raise FileExistsError(
            f"{home} has version {version}; a bundle is never changed: choose another --version "
            f"than {', '.join(there)}"
        )
    if home.is_symlink() or (home.exists() and not (there or _is_empty_folder(home))):
        raise FileExistsError(f"{home} exists and holds no bundle: choose another --name")


def _versions(home: Path) -> tuple[str, ...]:
    """Of a flat bundle the one that it states; also where a move was killed half way."""
    if (home / MANIFEST).exists():
        return (flat_version(home),)
    named = version_names(home) if has_versions(home) else ()
    return *named, *(path.name.partition("@")[2] for path in moved_aside(home))


def _is_empty_folder(home: Path) -> bool:
    return home.is_dir() and all(path.name.startswith(".") for path in home.iterdir())


def write(home: Path, version: str | None, fill: Callable[[Path], Mapping[str, Any]]) -> Bundle:
    """Write it where ``find_place`` has looked; see ``write_bundle`` and ``write_version``."""
    return write_bundle(home, fill) if version is None else write_version(home, version, fill)
