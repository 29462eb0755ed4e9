"""What the caller of ``classify`` sees: answers, a bar on a terminal, what failed on stderr."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.answer_file import AnswerFile
from client.answers import Result


class Show:
    """Counts files, as a context in which the bar stands.

    Args:
        total: files of the command, answered before or not.
        answers: where answers are written; None is standard output, as text for people.

    Attributes:
        failed: files without an answer so far.
    """

    def __init__(self, total: int, answers: AnswerFile | None) -> None:
        self._answers = answers
        self._seen = set[str]() if answers is None else answers.done
        self.failed = 0 if answers is None else answers.failed
        self._answered = 0 if answers is None else len(answers.done) - answers.failed
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed"),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=False,  # answers may go to a file there
            disable=not console.is_terminal or (answers is None and sys.stdout.isatty()),
        )
        self._bar = self._progress.add_task("", total=total, failed=self.failed)

    def __enter__(self) -> Show:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._answers is not None:
            print(f"{self._answered} answered, {self.failed} failed", file=sys.stderr)

    def unanswered(self, names: Iterable[str]) -> Iterator[str]:
        """Those without a line, each once."""
        for name in names:
            if name in self._seen:
                self._progress.advance(self._bar)
            else:
                self._seen.add(name)
                yield name

    def final(self, name: str, outcome: Any) -> None:
        """A result, or a problem of the file itself: it is not tried again."""
        if self._answers is not None:
            self._answers.write(name, outcome)
        if not isinstance(outcome, Result):
            self.passing(name, outcome)
            return
        self._answered += 1
        if self._answers is None:
            ranked = (f"{one.label} {one.probability:.1%}" for one in outcome.predictions)
            unsure = "not sure: " if outcome.abstained else ""
            print(printable(f"{name}: {unsure}{', '.join(ranked)}"), flush=True)
        self._progress.advance(self._bar)

    def passing(self, name: str, error: Any) -> None:
        """A failure, told."""
        self.failed += 1
        told = error.strerror if isinstance(error, OSError) else error
        line = printable(f"{name}: {told}")
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._bar, advance=1, failed=self.failed)


def printable(text: str) -> str:
    """The text with everything that a terminal may obey, or cannot show, written out."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
