"""The answers of a long command as JSON Lines, whole after every line: a killed one goes on.

A line is ``{"file": NAME, "asked": {...}, ...}`` with the members of the server's result, or with
``error``: a problem of the file itself, which would be the same tomorrow. ``asked`` are the
parameters of its request: what they were cannot always be told from the result.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.answers import Result
from client.calls import text_of
from client.errors import Problem

#: Parameters that a line need not repeat: its result tells what became of them.
TOLD = {"modality", "bundle", "grid"}


class WrongFile(Exception):
    """The file is not one that this command goes on with; the message says why."""


class AnswerFile:
    """Where answers are written.

    Args:
        asked: parameters of every request. Lines that were asked with others, or that another
            bundle, version or grid answered, are of another question.

    Attributes:
        done: names of the files that have a line.
        failed: how many of these lines are errors.

    Raises:
        WrongFile: it is there and ``resume`` is not said, or holds something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, resume: bool, asked: Mapping[str, Any]) -> None:
        self._asked = {name: asked[name] for name in sorted(asked.keys() - TOLD)}
        bundle, _, version = asked.get("bundle", "").partition("@")
        grid = asked.get("grid", "")
        self._wanted = {"bundle": bundle, "version": version, "grid": grid.replace("auto", "")}
        self.done: set[str] = set()
        self.failed = 0
        if path.exists():
            if not resume:
                raise WrongFile(f"{path} is there already: --resume goes on with it")
            if not path.is_file():
                raise WrongFile(f"{path} is no file to go on with")
            self._read(path)
        # Without a buffer, which Python would write once more after an error.
        self._stream = path.open("ab", buffering=0)

    def _read(self, path: Path) -> None:
        """Take what is there; half a line at the end, of a command that was killed, is cut off."""
        whole = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):
                    self._take(line, f"{path} line {number}")
                    whole += len(line)
        os.truncate(path, whole)

    def _take(self, line: bytes, where: str) -> None:
        try:
            said = json.loads(line)
            name, asked, failed = str(said["file"]), dict(said["asked"]), "error" in said
            got = {} if failed else {member: said[member] for member in self._wanted}
        except (ValueError, TypeError, KeyError) as error:
            raise WrongFile(f"{where}: expected an answer of this command") from error
        if asked != self._asked:
            raise WrongFile(f"{where}: {_told(asked)} answered, not {_told(self._asked)}")
        for member, wanted in self._wanted.items():
            if wanted and got.get(member, wanted) != wanted:
                raise WrongFile(f"{where}: {member} {got[member]!a} answered, not {wanted!a}")
        self.done.add(name)
        self.failed += failed

    def write(self, name: str, outcome: Result | Problem) -> None:
        """Add a line; once this returns it outlives the process."""
        line: dict[str, Any] = {"file": name, "asked": self._asked}
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


def _told(asked: Mapping[str, Any]) -> str:
    """Parameters as the command's options."""
    words = (f"--{name.replace('_', '-')} {text_of(value)!a}" for name, value in asked.items())
    return " ".join(words).replace(" 'true'", "") or "a request without options"
