"""Writing files so that a reader never sees half of one, and hashing them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make the names inside a directory durable (a rename alone is not, on Linux)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """fsync every file and directory below ``root``."""
    for path in root.rglob("*"):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_directory(root)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, as ``atomic_file`` does."""
    with atomic_file(path) as stream:
        stream.write(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that becomes ``path`` only if the block ends without an error.

    Temporary name beside it, fsync, rename, fsync the folder.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def check_new(folder: Path) -> None:
    """FileExistsError where a folder cannot be made: it is there, or a file is above it."""
    if folder.exists():
        raise FileExistsError(
            f"expected a new folder: {folder} exists already and is never overwritten"
        )
    for above in folder.absolute().parents:
        if above.exists() and not above.is_dir():
            raise FileExistsError(f"expected a new folder, got {folder}: {above} is a file")


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary directory that becomes ``path`` only if the block ends without an error.

    Raises:
        FileExistsError: ``path`` is already there; a finished directory is never overwritten.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists already and is never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        sync_tree(temporary)
        temporary.chmod(0o755)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)
