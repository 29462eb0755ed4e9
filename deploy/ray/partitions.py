"""The folder of a labelling run: what was asked of which files, and a Parquet file for each part.

    OUT/part-00000.parquet the rows of the first ``per_part`` files of the list, and so on
        _run/              which readers of Parquet pass over, by its name
            run.json       what was asked: by it a restart knows whether this is the same run
            list/          the files as they were found, as columns (``media.index``)
            shards/        indexes of tar shards, where none can be kept beside these
            tries/         how often a worker has begun each part since the command was given
            lock           held by the command that works here

A part is written under another name and renamed: it is there whole or not at all, and is never
made twice. The list and what was asked of it are fixed by the first part that is there.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from media.files import atomic_file, write_atomic
from media.index import Dataset, fingerprint

OWN = "_run"
RUN, LIST, SHARDS, TRIES, LOCK = (
    f"{OWN}/{name}" for name in ("run.json", "list", "shards", "tries", "lock")
)
#: How the name of a part begins, and the type of its number there.
PART, DIGITS = "part-", "05"
#: Of ``run.json``; one of another is refused like a run of other settings.
SCHEMA = 1

WORD = pa.dictionary(pa.int32(), pa.string())  # few different ones
ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("probabilities", pa.list_(pa.float64())),
        pa.field("abstained", pa.bool_()),
        pa.field("embedding", pa.list_(pa.float32())),
        pa.field("grid", WORD),
        pa.field("model", WORD, nullable=False),
        pa.field("version", WORD, nullable=False),
        pa.field("digest", WORD, nullable=False),
        pa.field("problem", WORD),
        pa.field("detail", pa.string()),
    ]
)


class OutputError(ValueError):
    """The folder cannot be used. The message is written for whoever typed the command."""


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the rows depend on.

    Attributes:
        files: how many there are.
        list: SHA-256 of their names and sizes (``items``) and of when they changed (``times``).
        per_part: files of a part.
        model, version: who answers.
        digest: SHA-256 of the bundle's manifest, which has those of all its files.
        parameters: what is asked of every file, as a request would say it.
        embedding: whether rows have one.
    """

    source: str
    files: int
    list: dict[str, str]
    per_part: int
    model: str
    version: str
    digest: str
    parameters: dict[str, str]
    embedding: bool
    schema: int = SCHEMA

    @property
    def parts(self) -> int:
        return -(-self.files // self.per_part)

    @property
    def columns(self) -> pa.Schema:
        """Of the rows."""
        return ROWS if self.embedding else ROWS.remove(ROWS.get_field_index("embedding"))

    def places(self, part: int) -> range:
        """Of the files of a part, in the list."""
        return range(part * self.per_part, min((part + 1) * self.per_part, self.files))


class Output:
    """A folder that one command at a time works on; ``opened`` locks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Output]:
        """The folder, made if it is not there, and nobody else's until the block ends.

        Raises:
            OutputError: it cannot be written, holds something else, or another command has it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = {path.name for path in folder.iterdir()}
            if held and OWN not in held:
                raise OutputError(
                    f"--out {folder}: expected an empty folder, or one of a labelling run; it "
                    f"holds {min(held)}"
                )
            (folder / OWN).mkdir(exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"--out {folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
            for remains in folder.glob(f".{PART}*"):  # of writes that were killed
                remains.unlink()
            yield cls(folder)
        except BlockingIOError:
            raise OutputError(f"--out {folder}: another command works on it") from None
        finally:
            os.close(lock)

    def begin(self, run: Run, files: Dataset) -> None:
        """Go on with the run that is there, or begin.

        Raises:
            OutputError: that is another one, or the folder cannot be written.
        """
        try:
            shutil.rmtree(self.folder / TRIES, ignore_errors=True)
            (self.folder / TRIES).mkdir()
            if found := self.finished():
                self._check(run)
                if (last := max(found)) >= run.parts:
                    self._refuse(self.path(last), f"parts up to {self.path(run.parts - 1).name}")
                return
            shutil.rmtree(self.folder / LIST, ignore_errors=True)
            files.kept(self.folder / LIST)
            told = json.dumps(dataclasses.asdict(run), indent=1) + "\n"
            write_atomic(self.folder / RUN, told.encode())
        except OSError as error:
            told = f"--out {self.folder} cannot be written: {error.strerror}"
            raise OutputError(told) from error

    def _check(self, run: Run) -> None:
        """OutputError names the first thing in which a run differs from the one that is there."""
        try:
            kept = json.loads((self.folder / RUN).read_bytes())
            assert isinstance(kept, dict)
        except (OSError, ValueError, AssertionError):
            raise OutputError(f"--out {self.folder}: {RUN} is not there or damaged") from None
        for name, value in dataclasses.asdict(run).items():
            if kept.get(name) != value:
                before, now = (_told(one) for one in (kept.get(name), value))
                raise OutputError(
                    f"--out {self.folder} holds answers of another run: {_NAMES.get(name, name)} "
                    f"was {before} and is {now} now; take another folder, or ask as before"
                )

    def finished(self) -> set[int]:
        """The numbers of the parts that are there; OutputError names a Parquet file that is none.

        Whoever reads the folder would take its rows for answers.
        """
        found = set()
        for path in sorted(self.folder.glob("[!._]*.parquet")):  # others are passed over, as _run
            number = path.stem.removeprefix(PART)
            if not (number.isdecimal() and path == self.path(int(number))):
                self._refuse(path, f"parts of this run alone, such as {self.path(0).name}")
            found.add(int(number))
        return found

    def _refuse(self, path: Path, expected: str) -> NoReturn:
        raise OutputError(f"{path}: expected {expected}; move it to another folder")

    def path(self, part: int) -> Path:
        return self.folder / f"{PART}{part:{DIGITS}}.parquet"

    def begun(self, part: int) -> int:
        """How often a part was begun; this time is counted."""
        with (self.folder / TRIES / str(part)).open("ab") as stream:
            stream.write(b".")
            return stream.tell()

    def write(self, part: int, rows: Sequence[dict[str, Any]], run: Run) -> None:
        """Write a part, whole or not at all."""
        table = pa.Table.from_pylist(list(rows), schema=run.columns)
        with atomic_file(self.path(part)) as stream:
            pq.write_table(table, stream, compression="zstd")

    def problems(self, part: int, run: Run) -> Counter[str]:
        """How many rows of a part have which problem; OutputError if it is damaged, or no part."""
        path, expected = self.path(part), len(run.places(part))
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow.remove_metadata()
                if not schema.equals(run.columns):
                    raise OutputError(f"{path}: {_difference(schema, run.columns)}; {_AGAIN}")
                found = file.read(columns=["problem"])["problem"].to_pylist()
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            told = " ".join(str(error).split())
            raise OutputError(f"{path}: expected a Parquet file ({told}); {_AGAIN}") from error
        if len(found) != expected:
            raise OutputError(f"{path}: expected {expected} rows, got {len(found)}; {_AGAIN}")
        return Counter(one for one in found if one is not None)


def _difference(schema: pa.Schema, expected: pa.Schema) -> str:
    """The first column that is another one than expected."""
    for field, other in zip_longest(expected, schema):
        if field is None or other is None or not field.equals(other):
            wanted, got = (_told_field(one) for one in (field, other))
            return f"expected {wanted}, got {got}"
    raise AssertionError("they are equal")


def _told_field(field: pa.Field | None) -> str:
    if field is None:
        return "no more columns"
    return f"a column {field.name}: {field.type}{'' if field.nullable else ' not null'}"


_AGAIN = "remove it, and the same command makes it anew"
_NAMES = {
    "files": "the number of files",
    "list": "the list of files (their names, sizes or times)",
    "per_part": "--per-part",
    "digest": "the bundle's digest",
    "embedding": "--embedding",
    "schema": "the form of this folder",
}


def _told(value: object) -> str:
    """One value of a run as a complaint has it."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


def list_fingerprint(files: Dataset) -> dict[str, str]:
    """``Run.list`` of what was found."""
    return fingerprint(files, None)
