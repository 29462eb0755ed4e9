"""The database of a folder of jobs: opened or made, brought to today's schema, changed as a whole.

Every call may wait for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

SCHEMA = 2
FILE = "jobs.sqlite"
#: Room on the disk that is given up where it is full, so that a job can be cancelled still.
RESERVE, RESERVE_BYTES = "reserve", 2**20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # as a disk says it
MAX_LOG_BYTES = 2**22  # of the database's log, once it is in the database
#: Another process may be writing, for so long.
BUSY_SECONDS = 10.0
TABLES = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    created REAL NOT NULL,
    ended REAL,
    key TEXT,
    fingerprint TEXT NOT NULL,
    parameters TEXT NOT NULL,
    candidates TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    total INTEGER NOT NULL,
    answered INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    starts INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, key)
);
CREATE TABLE items (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    member TEXT NOT NULL,
    place INTEGER,
    line TEXT,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX lines ON items (job, place) WHERE place IS NOT NULL;
"""


class StoreError(Exception):
    """The database is of another version, or none."""


class Database:
    """Made where it is not there.

    Attributes:
        sql: its connection, for one thread at a time.
        reserve: of the disk.

    Raises:
        StoreError: it cannot be used.
        OSError, sqlite3.Error: it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.reserve = Reserve(folder / RESERVE)
        self.sql = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self.sql.execute("PRAGMA auto_vacuum = FULL")  # of a new one: it shrinks too
            self._make_tables()  # first: of another's database nothing is changed
            self.sql.execute("PRAGMA journal_mode = WAL")
            self.sql.execute("PRAGMA synchronous = FULL")  # a line that was read stays
            self.sql.execute("PRAGMA foreign_keys = ON")
            self.sql.execute(f"PRAGMA journal_size_limit = {MAX_LOG_BYTES}")
        except BaseException:
            self.sql.close()
            raise

    def _make_tables(self) -> None:
        with self.transaction():
            (version,) = self.sql.execute("PRAGMA user_version").fetchone()
            if version not in (0, 1, SCHEMA):
                raise StoreError(f"expected jobs of schema {SCHEMA}, got {version}")
            if version == 1:
                self.sql.execute("ALTER TABLE jobs ADD COLUMN starts INTEGER NOT NULL DEFAULT 0")
            if version == 0:
                if self.sql.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise StoreError(f"{FILE} holds other tables than those of jobs")
                for statement in filter(str.strip, TABLES.split(";")):
                    self.sql.execute(statement)
            self.sql.execute(f"PRAGMA user_version = {SCHEMA}")

    def close(self) -> None:
        self.sql.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block, or nothing of it; nobody else writes meanwhile."""
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.sql.execute("COMMIT")
        except BaseException:
            if self.sql.in_transaction:  # a full disk may have ended it
                self.sql.execute("ROLLBACK")
            raise

    def size(self) -> int:
        """Bytes of the database on the disk, its log included; from any thread."""
        beside = (self._path, self._path.with_name(f"{FILE}-wal"))
        return sum(path.stat().st_size for path in beside if path.exists())


class Reserve:
    """``RESERVE_BYTES`` in a file, which are given up where the disk is full."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> None:
        """Have it again, unless the disk is full."""
        if self._path.exists():
            return
        try:
            with self._path.open("xb") as stream:
                os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            if error.errno not in FULL:
                raise

    def give_up(self) -> bool:
        """Whether there was any."""
        if not self._path.exists():
            return False
        self._path.unlink()
        return True
