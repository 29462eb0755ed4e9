"""How far a long command is, on one line of a terminal and nowhere else."""

from __future__ import annotations

import sys
import time

AFTER_SECONDS = 2.0  # short work is over before anyone asks
EVERY_SECONDS = 0.2


class Progress:
    """Counts what is done; shown on stderr if that is a terminal and stdout is not the same."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._done = 0
        self._wanted = sys.stderr.isatty() and not sys.stdout.isatty()
        self._next = time.monotonic() + AFTER_SECONDS
        self._drawn = False

    def step(self, count: int = 1) -> None:
        self._done += count
        if self._wanted and (now := time.monotonic()) >= self._next:
            self._next = now + EVERY_SECONDS
            self._drawn = True
            line = f"\r{self._done} of {self._total} {self._unit}"
            print(line, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away, for good or for another one on the same terminal."""
        if self._drawn:
            self._drawn = False
            print("\r\033[K", end="", file=sys.stderr, flush=True)
