"""A signal to one process of a run stops all of them, at the same step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from training.batches import NoBatch
from training.processes import Processes
from training.stopping import Stop, Stopped

#: Seconds within which a launcher passes on to its processes what they may have got themselves.
PASSED_ON = 1.0


class SharedStop(Stop):
    """The ``Stop`` of a run of several processes: one stops where all do."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes
        self._apart = False  # whether what this process does is its own
        self._since = 0.0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part that every process does for itself, and then knows what became of the others.

        Raises:
            Stopped, NoBatch: in all of them where one was asked to stop, or could not read.
        """
        mine: Stopped | NoBatch | None = None
        self._apart = True
        try:
            yield
            self.check()
        except (Stopped, NoBatch) as error:
            mine = error
        finally:
            self._apart = False
        if self._processes.highest(mine is not None):  # mostly 0, and one number is all
            raise _first(self._processes.gather(_as_json(mine))) from mine

    def check(self) -> None:
        """Raise Stopped if a signal came, within ``together`` alone."""
        if self._apart:
            super().check()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked and time.monotonic() < self._since + PASSED_ON:
            return
        self._since = time.monotonic()
        super()._on_signal(number, frame)


def _as_json(error: Stopped | NoBatch | None) -> Any:
    match error:
        case Stopped():
            return [error.status - 128]
        case NoBatch():
            return [str(error), *error.settings]
    return None


def _first(told: list[Any]) -> Stopped | NoBatch:
    what, *settings = next(one for one in told if one)
    return Stopped(what) if isinstance(what, int) else NoBatch(what, settings)
