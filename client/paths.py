"""Which files a command means: those that it names, and those in the folders that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.calls import ENDINGS

KNOWN = tuple(ending for endings in ENDINGS.values() for ending in endings)


def walk(paths: Sequence[str], every: bool) -> Iterator[str]:
    """The files, in the order of the paths, of a folder by name; found while they are asked for.

    What begins with a dot is left out of folders, and links to folders are not followed.

    Args:
        every: whether all files of a folder are meant, or those whose names end like media.

    Raises:
        OSError: a folder cannot be read.
    """
    for path in paths:
        if Path(path).is_dir():
            yield from _walk_folder(path, every)
        else:
            yield str(Path(path))


def _walk_folder(folder: str, every: bool) -> Iterator[str]:
    for here, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (every or name.lower().endswith(KNOWN)):
                yield str(Path(here, name))


def _raise(error: OSError) -> None:
    raise error
