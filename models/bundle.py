"""The bundle on disk: its one writer and its one reader.

    NAME/manifest.json   what it is (models/manifest.py), and the SHA-256 of every other file
         graphs/         one ONNX graph per grid, "pixels" -> "logits", and weights.bin
         golden/         encoded inputs; their logits stand in the manifest
         README.md       the model card

A bundle is immutable once written. It holds no pickle, no code and no link; what is not listed
in its manifest may not be there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from media.files import atomic_directory, sha256_file, write_atomic
from media.spec import SpecError
from media.strict_json import read_json, to_json
from models.manifest import MANIFEST, SCHEMA, Manifest, check_manifest, parse_manifest

MAX_MANIFEST_BYTES = 8 * 2**20


class BundleError(ValueError):
    """A bundle that must not be served. The message says what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A verified bundle: every file is the one that was exported."""

    root: Path
    manifest: Manifest

    def path(self, file: str) -> Path:
        return self.root / file


def write_bundle(root: Path, fill: Callable[[Path], Mapping[str, Any]]) -> Bundle:
    """Write a bundle atomically and read it back.

    Args:
        root: where it shall be; must not exist.
        fill: called with a temporary directory; writes every file but the manifest and returns
            the Manifest's fields without ``schema`` and ``files``.
    """
    with atomic_directory(root) as temporary:
        fields = fill(temporary)
        files = {str(path): sha256_file(temporary / path) for path in _files(temporary)}
        manifest = Manifest(schema=SCHEMA, files=files, **fields)
        check_manifest(manifest)
        text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False) + "\n"
        write_atomic(temporary / MANIFEST, text.encode())
        read_bundle(temporary)
    return Bundle(root, manifest)


def read_bundle(root: Path) -> Bundle:
    """Read and verify a bundle, hashing every file.

    Raises:
        BundleError: what ``read_manifest`` refuses, or a wrong hash.
    """
    manifest = read_manifest(root)
    if changed := changed_files(root, manifest.files):
        raise BundleError(f"{root.name}: {changed[0]}")
    return Bundle(root, manifest)


def read_manifest(root: Path) -> Manifest:
    """The manifest of a bundle whose files are all there, whatever is in them.

    Raises:
        BundleError: a manifest that ``parse_manifest`` refuses, a file too many or too few, a
            link, a path that leaves the directory.
    """
    if root.is_symlink() or not root.is_dir():
        raise BundleError(f"{root.name}: expected a directory (not a link)")
    path = root / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{root.name}: {MANIFEST} is missing")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{root.name}: {MANIFEST} is over {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = parse_manifest(read_json(path))
    except SpecError as error:
        raise BundleError(f"{root.name}: {error}") from error
    _check_names(root, manifest.files)
    return manifest


def _files(root: Path) -> list[Path]:
    """Every file below root, relative; links are refused, not followed."""
    found = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_symlink():
            raise BundleError(f"{root.name}: {relative} is a link")
        if path.is_dir():
            continue
        if not path.is_file() or path.stat().st_nlink != 1:
            raise BundleError(f"{root.name}: {relative} is not a plain file with one name")
        found.append(relative)
    return found


def _check_names(root: Path, listed: Mapping[str, str]) -> None:
    """Exactly the listed files."""
    present = {str(path) for path in _files(root)} - {MANIFEST}
    if missing := sorted(set(listed) - present):
        raise BundleError(f"{root.name}: {missing[0]} is listed and missing")
    if extra := sorted(present - set(listed)):
        raise BundleError(f"{root.name}: {extra[0]} is there and not listed")


def changed_files(root: Path, listed: Mapping[str, str]) -> list[str]:
    """A sentence for every file that has another hash than the listed one."""
    hashes = {name: sha256_file(root / name) for name in sorted(listed)}
    return [
        f"{name} has sha256 {actual[:12]}..., expected {listed[name][:12]}..."
        for name, actual in hashes.items()
        if actual != listed[name]
    ]
