"""Decoded splits on disk: what one run has decoded, the next one maps into its memory.

Layout::

    CACHE/KEY/pixels.npy    rows [R, *pixels per axis, C]
              notes.json    their checksum, and what else is known of them
          .lock             held while something is built: one build at a time

An entry is written under a temporary name, fsynced and renamed, and never changes afterwards.
Nothing is pickled. An entry that is not what it was is refused by name. A cache may be removed
whenever nobody uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from media.files import atomic_directory
from media.spec import InputSpec
from media.strict_json import to_json

#: Part of every key. Raise it with any change of what the readers in ``media`` give.
PREPROCESSING = 2
#: What decodes: distribution -> the package that is imported. Their versions are part of every key:
#: another decoder may give other pixels.
DECODERS = {
    "av": "av",
    "nibabel": "nibabel",
    "numpy": "numpy",
    "pillow": "PIL",
    "pydicom": "pydicom",
}
PIXELS, NOTES, LOCK = "pixels.npy", "notes.json", ".lock"
#: Temporary folders that killed builds leave; the folder of a cache may hold other things too.
REMAINS = f".{'[0-9a-f]' * 64}.*"
#: Rows whose checksum is computed at a time.
PIECE = 64

Shape = tuple[int, ...]
#: Takes the next rows, [any number, *row].
Add = Callable[[np.ndarray], None]


class CacheError(OSError):
    """A cache that cannot be written, or an entry that is not what it was."""


def cache_key(content: str, spec: InputSpec, pixels: Shape) -> str:
    """The name of a split's entry: a hash of everything that decides its pixels.

    Args:
        content: the split's own hash, of ids, labels and contents.
        pixels: per axis.
    """
    decides = {
        "content": content,
        "input": to_json(spec),
        "pixels": pixels,
        "preprocessing": PREPROCESSING,
        "decoders": {name: _version(name) for name in DECODERS},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def cached(
    folder: Path, key: str, row: Shape, dtype: str, build: Callable[[Add], dict[str, Any]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The rows of an entry [R, *row] as a memory map, and its notes; built where it is not there.

    Changes to the rows stay in memory and never reach the file.

    Args:
        build: hands rows over in order and returns the notes, plain JSON. What it raises is
            raised, and nothing is kept.

    Raises:
        CacheError: the entry cannot be written, or is damaged.
    """
    entry = folder / key
    if not entry.exists():
        try:
            with _locked(folder):
                if not entry.exists():  # else another run has built it meanwhile
                    _write(entry, row, dtype, build)
        except OSError as error:
            raise CacheError(
                f"the cache {folder} cannot be written: {error.strerror or error}; make room, name "
                "another folder or go without (--set cache=null)"
            ) from error
    return _open(entry, row, dtype)


def _version(distribution: str) -> str | None:
    """None for one that is not installed: it decodes nothing then."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Ours alone until the block ends, without what killed builds left; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for remains in folder.glob(REMAINS):
            shutil.rmtree(remains)
        yield


def _write(entry: Path, row: Shape, dtype: str, build: Callable[[Add], dict[str, Any]]) -> None:
    """Rows go through plain writes: a full disk under a memory map would kill the process."""
    with atomic_directory(entry) as part:
        with (part / PIXELS).open("wb") as stream:
            rows, checksum = 0, 0

            def add(array: np.ndarray) -> None:
                nonlocal rows, checksum
                data = np.ascontiguousarray(array).data
                stream.write(data)
                rows, checksum = rows + len(array), zlib.crc32(data, checksum)

            _write_header(stream, (rows, *row), dtype)
            notes = build(add)
            stream.seek(0)
            _write_header(stream, (rows, *row), dtype)
        (part / NOTES).write_text(json.dumps({"crc32": checksum, "notes": notes}))


def _write_header(stream: BinaryIO, shape: Shape, dtype: str) -> None:
    """numpy leaves room in it for any number of rows, so that it can be written again."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _open(entry: Path, row: Shape, dtype: str) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        kept = json.loads((entry / NOTES).read_bytes())
        checksum, notes = kept["crc32"], kept["notes"]
        # "c": private to this process and writable, which torch asks of arrays that it shares
        pixels = np.lib.format.open_memmap(os.fspath(entry / PIXELS), mode="c")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise _damaged(entry, f"it cannot be read ({type(error).__name__})") from error
    if (pixels.shape[1:], pixels.dtype) != (row, np.dtype(dtype)):
        raise _damaged(entry, f"expected {dtype} {row}, got {pixels.dtype} {pixels.shape[1:]}")
    found = 0
    for start in range(0, len(pixels), PIECE):
        found = zlib.crc32(pixels[start : start + PIECE].data, found)
    if found != checksum:
        raise _damaged(entry, f"expected checksum {checksum}, got {found}")
    return pixels, notes


def _damaged(entry: Path, reason: str) -> CacheError:
    return CacheError(f"{entry} is damaged: {reason}; remove it, and it is built anew")
