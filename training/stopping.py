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


class Stopped(Exception):
    """The run was asked to stop by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # what a shell reports of a process that a signal ended


class Stop:
    """Turns the first signal into a ``Stopped``: at once, or where ``check`` is called.

    A second signal ends the process as if nobody had listened. Outside the main thread, where
    signals never arrive, nothing is installed.
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
        """Within this block a signal is only remembered, until ``check`` is called."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self._asked:
            raise Stopped(self._asked)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._asked = number
        if not self._deferring:
            raise Stopped(number)
