"""Jobs and their lines in SQLite: what was asked, and each item's answer, once.

A line is the answer to one item. It is written in the transaction that counts it, and only where
the item has none: so whatever kills the process, and whenever, an item has no line or one.
Nothing here knows of an engine or the web; every call may wait for the disk.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.jobs.database import Database
from service.jobs.failures import KeyReused, TooManyJobs

#: That an owner may have, those that have ended and not expired among them.
MAX_JOBS = 1000
State = Literal["queued", "running", "done", "cancelled"]
ENDED = ("done", "cancelled")
#: The origin of an item that is a path of this machine; no stored file is called so.
LOCAL = "/"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One job as it is by now.

    Attributes:
        number: the order in which jobs came.
        owner: the name of the key that made it; empty where the server has none.
        reason: why it does not go on, where that is so.
        created, ended: seconds since 1970.
        key: of idempotency, the client's.
        fingerprint: of files and parameters, hex SHA-256.
        parameters: what was asked beside the files, as text.
        candidates: who answers, see ``service.jobs.pins``.
        bytes: of its files, under the folder of jobs.
        starts: of the work on it since its last line, none of which came to an orderly end.
    """

    number: int
    id: str
    owner: str
    state: State
    reason: str | None
    created: float
    ended: float | None
    key: str | None
    fingerprint: str
    parameters: dict[str, str]
    candidates: list[dict[str, Any]]
    bytes: int
    total: int
    answered: int
    failed: int
    starts: int = 0

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class Place(NamedTuple):
    """Where a job stands among the others, as long as it was there: no two have the same."""

    created: float
    id: str


class Item(NamedTuple):
    """One file to answer.

    Attributes:
        number: from 1, in the order of the request.
        name: as the client called it.
        origin: the stored file; empty where the client named a path below the folder that is
            allowed; ``LOCAL`` where the operator named a path of this machine.
        member: of the archive that is stored; or the path.
    """

    number: int
    name: str
    origin: str
    member: str


class Line(NamedTuple):
    """The answer to one item."""

    number: int  # of the item
    text: str  # one JSON object
    is_failure: bool


FIELDS = ", ".join(field.name for field in dataclasses.fields(Job))
AS_JSON = ("parameters", "candidates")  # of them


class Store:
    """The database of a folder of jobs; made where it is not there.

    One thread at a time may use it; several processes may have it open.

    Attributes:
        database: its file, and the reserve of the disk.

    Raises:
        StoreError: it cannot be used.
        OSError, sqlite3.Error: it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder)
        self._sql, self._transaction = self.database.sql, self.database.transaction

    def close(self) -> None:
        self.database.close()

    # --- jobs --------------------------------------------------------------------------------

    def add(self, job: Job, items: Iterable[Item]) -> Job:
        """Enter a job, or find the one that its idempotency key has made before.

        Args:
            job: its ``number`` is given here.

        Raises:
            KeyReused: that one was another job.
            TooManyJobs: its owner has ``MAX_JOBS``.
        """
        with self._transaction():
            if (same := self._made_before(job)) is not None:
                return same
            (count,) = self._sql.execute(
                "SELECT count(*) FROM jobs WHERE owner = ?", (job.owner,)
            ).fetchone()
            if count >= MAX_JOBS:
                raise TooManyJobs(f"at most {MAX_JOBS} jobs are kept; the oldest expire first")
            values = dataclasses.asdict(job)
            values |= {name: json.dumps(values[name]) for name in AS_JSON}
            del values["number"]
            names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            added = self._sql.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", values)
            self._sql.executemany(
                "INSERT INTO items (job, number, name, origin, member) VALUES (?, ?, ?, ?, ?)",
                ((added.lastrowid, *item) for item in items),
            )
            return dataclasses.replace(job, number=added.lastrowid or 0)

    def _made_before(self, job: Job) -> Job | None:
        if job.key is None:
            return None
        same = self._jobs("owner = ? AND key = ?", job.owner, job.key)
        if same and same[0].fingerprint != job.fingerprint:
            raise KeyReused("this Idempotency-Key was sent before, with other files or parameters")
        return same[0] if same else None

    def get(self, id_: str) -> Job | None:
        """The job of an id, whoever owns it."""
        found = self._jobs("id = ?", id_)
        return found[0] if found else None

    def of_owner(
        self, owner: str | None, before: Place | None = None, most: int = -1
    ) -> list[Job]:
        """The jobs of one owner, or of all; newest first.

        Args:
            before: the place that they are behind of, where it is given.
            most: of them; all where it is negative.
        """
        created, id_ = before or (None, None)
        where = "(? IS NULL OR owner = ?) AND (? IS NULL OR (created, id) < (?, ?))"
        ranked = f"{where} ORDER BY created DESC, id DESC LIMIT ?"
        return self._jobs(ranked, owner, owner, created, created, id_, most)

    def open(self) -> list[Job]:
        """What has not ended; oldest first."""
        return self._jobs("state NOT IN (?, ?) ORDER BY number", *ENDED)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state that there is one in."""
        return dict(self._sql.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())

    def _jobs(self, where: str, *values: object) -> list[Job]:
        rows = self._sql.execute(f"SELECT {FIELDS} FROM jobs WHERE {where}", values).fetchall()
        return [_job(row) for row in rows]

    def begin(self, job: Job) -> bool:
        """Say that a job is worked on; False where it has ended meanwhile."""
        return self._change(job, "state = 'running', reason = NULL")

    def start(self, job: Job) -> int:
        """Count a start of the work on a job, before it: how many since its last line."""
        self._change(job, "starts = starts + 1")
        now = self.get(job.id)
        return now.starts if now is not None else 0

    def settle(self, job: Job) -> None:
        """The work on a job came to an orderly end: its starts say nothing against its items."""
        self._change(job, "starts = 0")

    def wait(self, job: Job, reason: str) -> bool:
        """Say that a job cannot go on, and why; False where it has ended meanwhile."""
        return self._change(job, "state = 'queued', reason = ?", reason)

    def cancel(self, job: Job) -> Job | None:
        """No line is added any more; a job that has ended stays as it is. None if it is gone.

        Where the disk is full, the reserve makes room for this.
        """
        what = "state = 'cancelled', reason = NULL, ended = ?"
        try:
            self._change(job, what, time.time())
        except sqlite3.Error as error:
            is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            if not is_full or not self.database.reserve.give_up():
                raise
            self._change(job, what, time.time())
        return self.get(job.id)

    def _change(self, job: Job, what: str, *values: object) -> bool:
        """Of a job that has not ended."""
        statement = f"UPDATE jobs SET {what} WHERE id = ? AND state NOT IN (?, ?)"
        with self._transaction():
            return bool(self._sql.execute(statement, (*values, job.id, *ENDED)).rowcount)

    def remove_ended(self, before: float) -> list[Job]:
        """Forget jobs, with their lines, that ended before a time (seconds since 1970)."""
        if expired := self._jobs("ended < ?", before):
            with self._transaction():
                numbers = [(job.number,) for job in expired]
                self._sql.executemany("DELETE FROM jobs WHERE number = ?", numbers)
        return expired

    # --- items and lines ---------------------------------------------------------------------

    def unanswered(self, job: Job, after: int, most: int) -> list[Item]:
        """Items without a line, in order: at most so many, of higher numbers than ``after``."""
        rows = self._sql.execute(
            "SELECT number, name, origin, member FROM items "
            "WHERE job = ? AND number > ? AND place IS NULL ORDER BY number LIMIT ?",
            (job.number, after, most),
        )
        return [Item(*row) for row in rows]

    def record(self, job: Job, lines: Sequence[Line]) -> Job | None:
        """Add lines, each if its item has none; with the last of a job it is done.

        Returns:
            The job as it is by now, which has taken nothing if it had ended; None if it is gone.
        """
        with self._transaction():
            now = self.get(job.id)
            if now is None or now.has_ended:
                return now
            answered, failed = now.answered, now.failed
            for line in lines:
                added = self._sql.execute(
                    "UPDATE items SET line = ?, place = ? "
                    "WHERE job = ? AND number = ? AND place IS NULL",
                    (line.text, answered + 1, job.number, line.number),
                ).rowcount
                answered, failed = answered + added, failed + added * line.is_failure
            done = answered == now.total
            state, ended = ("done", time.time()) if done else (now.state, None)
            self._sql.execute(
                "UPDATE jobs SET answered = ?, failed = ?, state = ?, ended = ?, starts = 0 "
                "WHERE number = ?",
                (answered, failed, state, ended, job.number),
            )
            return self.get(job.id)

    def lines(self, job: Job, after: int, most: int) -> list[str]:
        """Lines in the order in which they were added, without the first ``after``."""
        rows = self._sql.execute(
            "SELECT line FROM items WHERE job = ? AND place > ? ORDER BY place LIMIT ?",
            (job.number, after, most),
        )
        return [line for (line,) in rows]


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(FIELDS.split(", "), row, strict=True))
    return Job(**values | {name: json.loads(values[name]) for name in AS_JSON})
