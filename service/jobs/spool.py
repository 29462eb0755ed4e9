"""The files of jobs on the disk: received, put in their place, read, given back.

``DIR/files/ID/`` holds those of one job. What is still received lies in ``DIR/incoming/``. What no
job needs is removed at start; nothing is that was not made here. Every call may wait for the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from media.files import sync_directory, sync_tree
from service.jobs.database import FILE, FULL
from service.jobs.failures import JobsFull

LOCK, RECEIVED = "lock", "job-"
#: How folders are called that are made here: of a job, of what is still received.
OURS = re.compile(rf"[0-9a-f]{{24}}|{RECEIVED}[a-z0-9_]{{8}}")
#: What a folder may hold before there are jobs: of a start that was killed, of a file system.
BEFORE_JOBS = {LOCK, "lost+found"}


class InUse(Exception):
    """Another process works on the jobs of this folder."""


class NoJobs(Exception):
    """The folder holds something, and no jobs."""


class Spool:
    """A folder of jobs, which this process alone works on until ``close``; ``keep`` comes first.

    Args:
        most: bytes that the files and answers of all jobs may have.

    Attributes:
        used: bytes that the files have.

    Raises:
        InUse, NoJobs: see above.
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._files, self._incoming = folder / "files", folder / "incoming"
        self.used = 0
        self._answers: Callable[[], int] = int
        self._counting = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in folder.iterdir()}
        if FILE not in held and held - BEFORE_JOBS:
            raise NoJobs
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError:
            os.close(self._lock)
            raise InUse from None

    def close(self) -> None:
        os.close(self._lock)

    def keep(self, jobs: Collection[str], answers: Callable[[], int]) -> None:
        """Remove the files of all jobs but these, and count what is left.

        Args:
            answers: bytes that those of all jobs have by now; from any thread.
        """
        self._answers = answers
        for parent in (self._files, self._incoming):
            parent.mkdir(exist_ok=True)
            for folder in parent.iterdir():
                if folder.name not in jobs and OURS.fullmatch(folder.name):
                    shutil.rmtree(folder)
        inside = (path for job in jobs for path in self.place(job).rglob("*"))
        self.used = sum(path.stat().st_size for path in inside if path.is_file())

    def claim(self, size: int) -> None:
        """Count bytes that are about to be written; JobsFull where they are too many."""
        with self._counting:
            free = max(0, self.most - self.used - self._answers())
            if size > free or not free:
                raise JobsFull(
                    f"the files and answers of all jobs may have {self.most} bytes; {free} are free"
                )
            self.used += size

    def release(self, size: int) -> None:
        with self._counting:
            self.used -= size

    def receive(self) -> Incoming:
        """Where the files of a new job go; JobsFull where the disk is."""
        with full_disk_told():
            self.claim(0)  # a job of paths has no files, and answers as any
            return Incoming(self, Path(tempfile.mkdtemp(prefix=RECEIVED, dir=self._incoming)))

    def place(self, job: str) -> Path:
        """The folder of a job's files."""
        return self._files / job

    def remove(self, job: str, size: int) -> None:
        """Give back what the files of a job take."""
        shutil.rmtree(self.place(job), ignore_errors=True)
        self.release(size)


class Incoming:
    """The files of a job that is still received; ``drop`` them unless they are placed.

    Every method raises JobsFull where the disk, or the room for jobs, is full.

    Attributes:
        folder: where they are.
        bytes: written by now.
    """

    def __init__(self, spool: Spool, folder: Path) -> None:
        self._spool = spool
        self.folder = folder
        self.bytes = 0
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._one_at_a_time = threading.Lock()  # who gives up does not wait for a write

    def begin(self, name: str) -> None:
        """Begin a file."""
        with full_disk_told():
            self._file = (self.folder / name).open("xb", buffering=0)
        self._hash = hashlib.sha256()

    def write(self, data: bytes | bytearray) -> None:
        """More bytes of the file that was begun."""
        with self._one_at_a_time, full_disk_told():
            assert self._file is not None
            self._spool.claim(len(data))
            self.bytes += len(data)
            self._hash.update(data)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def end(self) -> str:
        """End the file; the hex SHA-256 of its bytes."""
        assert self._file is not None
        with full_disk_told():
            self._file.close()
        return self._hash.hexdigest()

    def place(self, job: str) -> None:
        """Let the files be those of a job, whatever happens to the machine from now on."""
        target = self._spool.place(job)
        with full_disk_told():
            sync_tree(self.folder)
            self.folder.rename(target)
            self.folder = target
            sync_directory(target.parent)

    def drop(self) -> None:
        """Remove them."""
        with self._one_at_a_time:
            if self._file is not None:
                self._file.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._spool.release(self.bytes)
            self.bytes = 0


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """A disk that is full as JobsFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise JobsFull("the disk of the jobs is full") from error
    except sqlite3.Error as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise JobsFull("the disk of the jobs is full") from error
