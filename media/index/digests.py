"""The SHA-256 of every item's bytes, computed once for a file and kept.

Layout::

    FOLDER/sha256   rows of 48 bytes: 16 of a hash that says where an item's bytes lie, of which
                    size and time, and their SHA-256; in order; a CRC-32 of all rows at the end
          .lock     held while rows are added

Any number of data sets and processes share a folder, which may be removed at any time: what is
missing or damaged is computed again. A file that changes gets another row by its new time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from media.contents import NOTHING, Contents, content_of, contents_from
from media.files import write_atomic
from media.index.dataset import Dataset
from media.sources.stores import Files, Held, Tars, Zips

KEPT, LOCK = "sha256", ".lock"
KEY_BYTES, DIGEST_BYTES, CHECKSUM_BYTES = 16, 32, 4
#: Items that are read between two looks at the clock, and seconds between two writes.
PIECE, WRITE_SECONDS = 64, 30.0
#: Items that are looked up at a time: each takes a hundred bytes meanwhile.
LOOKED_UP = 2**13


class Digests:
    """Digests of a data set, as far as they are known. N items.

    Attributes:
        column: SHA-256 of each item's bytes, uint8 [N, 32]; zeros where it is not known yet.
        folder: where they are kept; None keeps none, as of arrays that lie in memory anyway.
    """

    def __init__(self, dataset: Dataset, folder: Path | None = None) -> None:
        self.dataset = dataset
        self.folder = None if isinstance(dataset.store, Held) else folder
        self.column = np.zeros((len(dataset), DIGEST_BYTES), np.uint8)
        self._new: list[np.ndarray] = []  # places that the folder has no rows of
        if self.folder and len(rows := _load(self.folder)):
            self._take(rows)

    def missing(self) -> np.ndarray:
        """The places of items that nobody has read, in order, int64."""
        return np.flatnonzero(~self.column.any(axis=1))

    def missing_bytes(self) -> int:
        """What these come to; rows of arrays, whose size nobody says, count nothing."""
        return int(np.maximum(self.dataset.columns.sizes[self.missing()], 0).sum())

    def forget(self) -> None:
        """Nothing is known, whatever the folder has: all will be read."""
        self.column[:] = 0

    def complete(
        self,
        advance: Callable[[int], None] = lambda items: None,
        check: Callable[[], None] = lambda: None,
        workers: int = 1,
    ) -> None:
        """Read what is missing; what was read is kept, also where this ends by an error.

        Args:
            advance: called with the number of items just read.
            check: called before each of them, by the threads that read; it may raise.
            workers: threads that read.

        Raises:
            Changed: a file is another one than was listed.
            OSError: the folder cannot be written.
        """
        missing, written = self.missing(), time.monotonic()
        with ThreadPoolExecutor(workers) as pool, self._keeping():
            for start in range(0, len(missing), PIECE):
                places = missing[start : start + PIECE]
                parts = pool.map(partial(self._read, check), np.array_split(places, workers))
                self.column[places] = np.concatenate(list(parts))
                self._new.append(places)
                advance(len(places))
                if time.monotonic() - written > WRITE_SECONDS:
                    self.keep()
                    written = time.monotonic()
            again = missing[(self.column[missing] == NOTHING).all(axis=1)]
            self.column[again] = self._read(check, again)  # a storage may have failed for a moment
            self._new.append(again)

    def contents(self) -> dict[str, Contents]:
        """What every split holds, by its name, of complete digests; nothing is read."""
        if len(missing := self.missing()):
            raise ValueError(f"expected complete digests, {len(missing)} items are not read")
        return {split: self._contents(split) for split in self.dataset.present()}

    def keep(self, folder: Path | None = None) -> None:
        """Add what was read since to the folder, if this user may write there.

        Args:
            folder: another one.
        """
        folder = folder or self.folder
        if isinstance(self.dataset.store, Held) or not folder:
            return
        if not self._new or not _may_write(folder):
            return
        places, self._new = np.concatenate(self._new), []
        places = places[(self.column[places] != NOTHING).any(axis=1)]  # these may be read next time
        rows = _rows(keys_of(self.dataset, places), self.column[places])
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / LOCK).open("ab")
        except PermissionError:  # it is another user's, as is what the folder has
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for remains in folder.glob(f".{KEPT}.*"):  # of writes that were killed
                remains.unlink()
            _write(folder, np.concatenate([_load(folder), rows]))

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.keep()

    def _take(self, rows: np.ndarray) -> None:
        """What the folder knows of the items, from at least one row [M, 48], in their order."""
        known = _keys(rows)
        for start in range(0, len(self.dataset), LOOKED_UP):
            places = np.arange(start, min(start + LOOKED_UP, len(self.dataset)))  # [P]
            keys = keys_of(self.dataset, places)
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)  # [P]
            found = known[at] == keys
            self.column[places[found]] = rows[at[found], KEY_BYTES:]

    def _read(self, check: Callable[[], None], places: np.ndarray) -> np.ndarray:
        """The digests of some items, [places, 32]."""
        digests = bytearray()
        for place in places.tolist():
            check()
            try:
                content = content_of(self.dataset.read(place))
            except OSError:
                content = b""  # an unreadable item, told where it is decoded
            digests += hashlib.sha256(content).digest()
        return np.frombuffer(bytes(digests), np.uint8).reshape(-1, DIGEST_BYTES)

    def _contents(self, split: str) -> Contents:
        places, columns = self.dataset.split(split), self.dataset.columns
        ids, labels = columns.ids.picked(places), columns.labels[places]
        return contents_from(ids, labels, self.column[places])


def digests_beside(run: Path, cache: str | None) -> Path:
    """The folder for those of a run's data: beside its cache, if that lies beside the run."""
    place = Path(cache or "")
    return run.parent / ("" if place.is_absolute() else place.parent) / ".digests"


def keys_of(dataset: Dataset, places: np.ndarray) -> np.ndarray:
    """What tells the bytes of items apart, 16 bytes each, [len(places)]; of items in files.

    The path of the file that holds them, where they begin in it, their size and its time.
    """
    columns, store = dataset.columns, dataset.store
    assert isinstance(store, Files | Tars | Zips)
    roots = [os.fspath(path.absolute()) for path in store.files]
    own, keys = isinstance(store, Files), bytearray()
    for place in places.tolist():
        root = roots[columns.files[place]]
        path = f"{root}\0{columns.paths[place]}" if own else root
        told = f"{path}\0{columns.starts[place]}\0{columns.sizes[place]}\0{dataset.stamp(place)}"
        keys += hashlib.sha256(os.fsencode(told)).digest()[:KEY_BYTES]
    return np.frombuffer(bytes(keys), f"S{KEY_BYTES}")


def fingerprint(dataset: Dataset, split: str | None) -> dict[str, str]:
    """What is known of a split, or of all items, before anything is read, as two hashes.

    ``items`` is of ids, labels and sizes, in order; ``times`` of when their files changed.
    """
    columns = dataset.columns
    places = np.arange(len(dataset)) if split is None else dataset.split(split)
    stamps = np.array([changed for _, changed in dataset.stamps], np.int64)
    times = stamps[columns.files[places]] if len(stamps) else columns.times[places]
    ids = columns.ids.picked(places)
    items = hashlib.sha256(ids.data.tobytes())
    for numbers in (ids.offsets, columns.labels[places], columns.sizes[places]):
        items.update(numbers.astype("<i8").tobytes())
    return {
        "items": items.hexdigest(),
        "times": hashlib.sha256(times.astype("<i8").tobytes()).hexdigest(),
    }


def _may_write(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(there, os.W_OK | os.X_OK)


def _rows(keys: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Rows [M, 48] of keys [M] and digests [M, 32]."""
    return np.concatenate([keys.view(np.uint8).reshape(-1, KEY_BYTES), digests], axis=1)


def _keys(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows[:, :KEY_BYTES]).view(f"S{KEY_BYTES}")[:, 0]


def _load(folder: Path) -> np.ndarray:
    """The rows of a folder [M, 48]; none where there are none, or where they are damaged."""
    none = np.empty((0, KEY_BYTES + DIGEST_BYTES), np.uint8)
    try:
        data = (folder / KEPT).read_bytes()
    except FileNotFoundError:
        return none
    rows, checksum = memoryview(data)[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(rows) % none.shape[1] or checksum != _checksum(rows):
        return none
    return np.frombuffer(rows, np.uint8).reshape(-1, none.shape[1])


def _write(folder: Path, rows: np.ndarray) -> None:
    """In order, one row for a key: the newest of those that have the same."""
    _, first = np.unique(_keys(rows[::-1]), return_index=True)
    data = rows[::-1][first].tobytes()
    write_atomic(folder / KEPT, data + _checksum(data))


def _checksum(rows: bytes | memoryview) -> bytes:
    return zlib.crc32(rows).to_bytes(CHECKSUM_BYTES)
