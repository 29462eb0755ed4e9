"""The folder of bundles as it lies on the disk: which there are, by what names, for what."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from media.spec import AXES
from models.bundle import MAX_MANIFEST_BYTES, Bundle, BundleError, read_bundle, read_manifest
from models.manifest import MANIFEST, Manifest
from models.versions import (
    SERVING,
    answering,
    has_versions,
    is_no_bundle,
    read_serving,
    read_version,
    version_names,
)
from service.settings import SettingsError

log = logging.getLogger(__name__)

#: How a manifest states its modality: for itself, and once more for its input.
STATED = re.compile(rb'"modality"\s*:\s*"(\w+)"')


class NoBundles(RuntimeError):
    """What shall be served is not there. The message says where it was looked for."""


def bundle_folders(root: Path) -> list[Path]:
    """The folders to examine, by name; NoBundles if there are none or nobody may look."""
    try:
        if not root.is_dir():
            raise NoBundles(f"--bundles {root}: there is no such folder")
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise NoBundles(f"--bundles {root}: the folder cannot be read: {error.strerror}") from None
    if not folders:
        raise NoBundles(f"--bundles {root}: there is no bundle in this folder")
    return folders


def named_folders(root: Path, bundle: str | None) -> list[Path]:
    """The folder of a bundle, NAME or NAME@VERSION, if it goes by that name; else all of them."""
    folders = bundle_folders(root)
    named = {bundle, bundle.partition("@")[0]} if bundle else set()
    return [folder for folder in folders if folder.name in named] or folders


def modality_of(folder: Path) -> str | None:
    """What a bundle says it is for, however damaged it is; None if not even that can be read.

    Of versions the one that answers decides, or all of them where that cannot be told.
    """
    stated = {word for one in _deciding(folder) for word in _modalities(one)}
    return stated.pop() if len(stated) == 1 else None


def _deciding(folder: Path) -> list[Path]:
    if not has_versions(folder):
        return [folder]
    try:
        return [folder / answering(folder)]
    except (BundleError, OSError):
        return [folder / name for name in versions_there(folder)]


def _modalities(folder: Path) -> set[str]:
    """All that the manifest of one version names."""
    try:
        with (folder / MANIFEST).open("rb") as manifest:
            text = manifest.read(MAX_MANIFEST_BYTES)
    except OSError:
        return set()
    return {word.decode() for word in STATED.findall(text)} & set(AXES)


def name_bundles(
    folders: Iterable[Path], known: Mapping[Path, str] = MappingProxyType({})
) -> dict[str, Path]:
    """Name -> folder: its manifest's name where that can be read and is free, else the folder's.

    Versions go by the name of their folder. A folder that holds nothing takes nobody's name.

    Args:
        known: what folders were called before. One that was damaged since is called so still.
    """
    named: dict[str, Path] = {}
    for folder in sorted(folders, key=is_empty):
        stated = _stated_name(folder) or known.get(folder, folder.name)
        names = [stated, folder.name, f"{folder.name} (again)"]
        named[next(name for name in names if name not in named)] = folder
    return named


def _stated_name(folder: Path) -> str | None:
    if has_versions(folder):
        return folder.name
    try:
        return read_manifest(folder).name
    except (BundleError, OSError):
        return None


def check_defaults(defaults: Sequence[str], bundles: Mapping[str, Path]) -> None:
    """Whether the operator's defaults are among the bundles, one for each modality.

    Raises:
        SettingsError: there are bundles, and others than these.
        NoBundles: there is none yet.
    """
    for name in defaults:
        if name not in bundles:
            found = sorted(one for one, folder in bundles.items() if not is_empty(folder))
            kind = SettingsError if found else NoBundles
            known = ", ".join(found) or "none"
            raise kind(f"--default-bundle {name}: no such bundle; known: {known}")
    for modality, count in Counter(modality_of(bundles[name]) for name in defaults).items():
        if modality is not None and count > 1:
            given = ",".join(defaults)
            raise SettingsError(f"--default-bundle {given}: {count} are for modality {modality}")


def read_answering(folder: Path) -> tuple[Bundle, tuple[str, ...]]:
    """The verified bundle that answers, and the names of all versions that are there.

    One that may not be read is refused as any other that is damaged.
    """
    try:
        any(folder.iterdir())  # of one that may not be listed every file seems to be missing
        if not has_versions(folder):
            bundle = read_bundle(folder)
            return bundle, (bundle.manifest.version,)
        names, version = version_names(folder), answering(folder)
        if read_serving(folder) is None:
            told = f"bundle %s: no {SERVING}, so the newest of %s answers: %s"
            log.info(told, folder.name, ", ".join(names), version)
        return read_version(folder, version), names
    except OSError as error:
        inside = os.path.relpath(error.filename or folder, folder)
        what = "the folder" if inside == "." else inside
        raise BundleError(f"{what} cannot be read: {error.strerror}") from error


def manifest_in(home: Path, version: str) -> Manifest:
    """Of one version; its files are there and are not hashed. BundleError, OSError as read."""
    return read_manifest(home / version if has_versions(home) else home)


def is_still(home: Path, version: str, manifest: Manifest) -> bool:
    """Whether a version is the one with this manifest; every file is hashed."""
    if manifest.version != version:
        return False
    try:
        bundle = read_version(home, version) if has_versions(home) else read_bundle(home)
    except (BundleError, OSError):
        return False
    return bundle.manifest == manifest


def versions_there(folder: Path) -> tuple[str, ...]:
    """Oldest first; none of a flat bundle, and of a folder that cannot be read."""
    try:
        return version_names(folder) if has_versions(folder) else ()
    except OSError:
        return ()


def is_empty(folder: Path) -> bool:
    """Whether there is neither a bundle nor a version of one."""
    return is_no_bundle(folder) and not has_versions(folder)
