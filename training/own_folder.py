"""A folder in this machine's temporary one that lasts as long as its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "liere-index-"


def own_folder() -> tempfile.TemporaryDirectory[str]:
    """An empty one, locked until this process ends; those that killed ones left are removed.

    Raises:
        OSError: there is no room for it.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # in use, another user's, or removed meanwhile
        with contextlib.suppress(BlockingIOError, PermissionError, FileNotFoundError):
            lock = _locked(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                shutil.rmtree(old)
            finally:
                os.close(lock)
    while True:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        with contextlib.suppress(FileNotFoundError):  # somebody took it for one that was left
            _locked(Path(folder.name), fcntl.LOCK_EX)
            if Path(folder.name).exists():
                return folder


def _locked(folder: Path, how: int) -> int:
    """A descriptor that holds the lock; the kernel gives it up with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
