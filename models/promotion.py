"""Who answers of the versions of a bundle: serving.json is written here, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from pathlib import Path

from media.files import write_atomic
from media.strict_json import to_json
from models.bundle import BundleError
from models.versions import (
    SCHEMA,
    SERVING,
    NoSuchVersion,
    Serving,
    answering,
    check_there,
    has_versions,
    move,
    read_serving,
    read_version,
    version_names,
)


def promote(home: Path, version: str) -> Serving:
    """Let a version answer; that it can is for the caller to have seen.

    Raises:
        NoSuchVersion: it is not there.
        OSError: serving.json cannot be written, and is as it was.
    """
    check_there(home, version)
    return _write(home, Serving(SCHEMA, version, _before(home, version)))


def _before(home: Path, version: str) -> str | None:
    """Who answers now, or did before if that is this version; None if it is nobody."""
    try:
        if (now := answering(home)) != version:
            return now
        serving = read_serving(home)
    except BundleError:  # a version that can answer is the way out of that
        return None
    return serving.previous if serving else None


def roll_back(home: Path) -> Serving:
    """Let the version answer that did before, and keep this one as the one before.

    Raises:
        NoSuchVersion: there is none, or not any more.
        BundleError: serving.json cannot be used, or that version is damaged.
        OSError: as of ``promote``.
    """
    serving = read_serving(home)
    if serving is None or serving.previous is None:
        there = ", ".join(version_names(home))
        raise NoSuchVersion(f"{home.name}: none is known that answered before; versions: {there}")
    read_version(home, serving.previous)
    return _write(home, Serving(SCHEMA, serving.previous, serving.version))


def retire(home: Path, version: str) -> None:
    """Remove a version; a kill leaves it whole, or hidden.

    Raises:
        NoSuchVersion: it is not there.
        BundleError: it answers, or nobody knows who does.
        OSError: it cannot be removed.
    """
    if not has_versions(home):
        raise NoSuchVersion(f"{home.name}: it lies in its folder itself, as its only version")
    check_there(home, version)
    if answering(home) == version:
        raise BundleError(f"{home.name}: version {version} answers; promote another one first")
    serving = read_serving(home)
    if serving is not None and serving.previous == version:
        _write(home, dataclasses.replace(serving, previous=None))
    hidden = home / f".{version}.{secrets.token_hex(4)}"
    move(home / version, hidden)
    if hidden.is_symlink():
        hidden.unlink()
    else:
        shutil.rmtree(hidden)


def _write(home: Path, serving: Serving) -> Serving:
    write_atomic(home / SERVING, (json.dumps(to_json(serving), indent=1) + "\n").encode())
    return serving
