"""SIGTERM and SIGINT: a run that is asked to stop keeps what it has."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The run was asked to stop by a signal.

    Like KeyboardInterrupt no Exception: a library that tries something and goes on would take it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # what a shell reports of a process that a signal ended


class Stop:
    """Turns the first signal into a ``Stopped``: at once, or where ``check`` is called.

    A second signal ends the process at once. Outside the main thread, where signals never arrive,
    nothing is installed.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._deferring = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        else:
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a signal is only remembered, until ``check`` is called or it ends."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        with self.together():
            self.check()

    @contextlib.contextmanager
    def at_once(self, allowed: bool) -> Iterator[None]:
        """Within ``deferred``: a part that a signal may end anywhere, if nothing is lost by it."""
        self._deferring = not allowed
        try:
            self.check()
            yield
        finally:
            self._deferring = True

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part of the run at whose end several processes know of each other (``SharedStop``)."""
        yield

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self._asked:
            raise Stopped(self._asked)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            _end(number, frame)
        self._asked = number
        if not self._deferring:
            raise Stopped(number)


def end_quietly() -> None:
    """Until a ``Stop`` listens, a signal ends the process, also as PID 1, which has no default."""
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """End here and now: no exception, which an import in progress could swallow or print."""
    os._exit(128 + number)
