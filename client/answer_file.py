"""The answers of a long command as JSON Lines, whole after every line: a killed one goes on.

A line is ``{"file": NAME, ...}`` with the members of the server's result, or with ``error``: a
problem of the file itself, which would be the same tomorrow.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from client.answers import Result
from client.errors import Problem


class WrongFile(Exception):
    """The file is not one that this command goes on with; the message says why."""


class AnswerFile:
    """Where answers are written.

    Attributes:
        done: names of the files that have a line.
        failed: how many of these lines are errors.

    Raises:
        WrongFile: it is there and ``resume`` is not said, or holds something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, resume: bool, bundle: str | None, grid: str | None) -> None:
        self.done: set[str] = set()
        self.failed = 0
        if path.exists():
            if not resume:
                raise WrongFile(f"{path} is there already: --resume goes on with it")
            if not path.is_file():
                raise WrongFile(f"{path} is no file to go on with")
            self._read(path, bundle, grid)
        # Without a buffer, which Python would write once more after an error.
        self._stream = path.open("ab", buffering=0)

    def _read(self, path: Path, bundle: str | None, grid: str | None) -> None:
        """Take what is there; half a line at the end, of a command that was killed, is cut off."""
        whole = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):
                    self._take(line, f"{path} line {number}", bundle, grid)
                    whole += len(line)
        os.truncate(path, whole)

    def _take(self, line: bytes, where: str, bundle: str | None, grid: str | None) -> None:
        try:
            said = json.loads(line)
            name, failed = str(said["file"]), "error" in said
            got = {} if failed else {"bundle": said["bundle"], "grid": said["grid"]}
        except (ValueError, TypeError, KeyError) as error:
            raise WrongFile(f"{where}: expected an answer of this command") from error
        asked = {"bundle": (bundle or "").partition("@")[0], "grid": grid if grid != "auto" else ""}
        for member, wanted in asked.items():
            if wanted and got.get(member, wanted) != wanted:
                raise WrongFile(f"{where}: {member} {got[member]!a} answered, not {wanted!a}")
        self.done.add(name)
        self.failed += failed

    def write(self, name: str, outcome: Result | Problem) -> None:
        """Add a line; once this returns it outlives the process."""
        line: dict[str, Any] = {"file": name}
        if isinstance(outcome, Result):
            line |= outcome.document
        else:
            members = ("type", "title", "status", "detail")
            line["error"] = {member: getattr(outcome, member) for member in members}
        data = json.dumps(line).encode() + b"\n"
        if self._stream.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self._stream.close()
