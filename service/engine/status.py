"""What an operator sees of a bundle: in this process, and in its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.bundle import BundleError, read_manifest
from models.versions import answering, has_versions, read_serving, version_names


def told(description: str) -> Any:
    """A field that says what it is, also to whoever makes a schema of its class."""
    return field(metadata={"description": description})


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """One bundle, in this process and in its folder."""

    name: str
    state: str | None = told("ready or refused; null where it was not loaded yet")
    loaded: str | None = told("the version that answers in this process")
    draining: tuple[str, ...] = told(
        "versions that answered before and have requests inside, or are loaded just now"
    )
    shadow: str | None = told("the version that sees copies of a share of its requests")
    versions: tuple[str, ...] = told("in the folder, oldest first")
    answering: str | None = told(
        "the version that answers by the folder: after SIGHUP or the next start"
    )
    previous: str | None = told("the version that a rollback promotes")
    writable: bool = told(
        "whether promote, rollback and retire can change the folder; no flat bundle's"
    )
    refused: str | None = told("why the newest candidate was, or the bundle itself")


def status_of(
    name: str,
    home: Path | None,
    state: str | None,
    loaded: str | None,
    open_versions: set[str],
    refused: str | None,
    *,
    shadow: str | None,
) -> BundleStatus:
    """Reads the folder; for a thread, so nothing that holds a model is passed.

    Args:
        home: None of a bundle whose folder is gone.
        open_versions: that answer, see copies or have requests inside.
    """
    by_folder = previous = None
    versions: tuple[str, ...] = ()
    if home is not None:
        try:
            versions = versions_in(home)
            by_folder = answering_in(home)
            serving = read_serving(home) if has_versions(home) else None
            previous = serving.previous if serving else None
        except BundleError as error:
            refused = refused or str(error)
        except OSError as error:
            refused = refused or f"it cannot be read: {error.strerror}"
    return BundleStatus(
        name=name,
        state=state,
        loaded=loaded,
        draining=tuple(sorted(open_versions - {loaded, shadow})),
        shadow=shadow,
        versions=versions,
        answering=by_folder,
        previous=previous,
        writable=home is not None and has_versions(home) and os.access(home, os.W_OK),
        refused=refused,
    )


def versions_in(home: Path) -> tuple[str, ...]:
    """Names, oldest first; of a flat bundle its only one."""
    return version_names(home) if has_versions(home) else (read_manifest(home).version,)


def answering_in(home: Path) -> str:
    """The version that answers by the folder."""
    return answering(home) if has_versions(home) else read_manifest(home).version
