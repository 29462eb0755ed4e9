"""What work costs, in processor seconds: measured while warming up, and again while running.

Processor seconds, not wall seconds: those grow with the load, and a server that believed them would
refuse work because it refuses work. Every figure is of a window of the newest measurements, so a
change of the machine or of the traffic is followed within a few items.
"""

from __future__ import annotations

import bisect
import statistics
from collections import deque
from collections.abc import Iterable

#: Measurements that count: enough for a mean of independent errors, few enough to follow a change.
NEWEST = 16
#: A measurement above so many times the median is taken for that: one cold start, or one machine
#: that slept, must not refuse everything that follows.
OUTLIER = 4.0
#: Of an item of which nothing was measured yet; any guess is gone after the first goldens.
FIRST_GUESS_SECONDS = 0.005
#: Nothing is cheaper: a window that believes in nothing at all would never believe otherwise.
LEAST_SECONDS = 0.0001
#: A file of a size that nobody has measured costs so many times the nearest one at most.
MOST_SCALE = 4.0


class Window:
    """The newest measurements of one figure, seconds."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=NEWEST)
        self.mean = FIRST_GUESS_SECONDS
        self.high = FIRST_GUESS_SECONDS  # the 90th percentile

    def add(self, seconds: float) -> None:
        seconds = max(seconds, LEAST_SECONDS)
        if self._newest:
            seconds = min(seconds, OUTLIER * statistics.median(self._newest))
        self._newest.append(seconds)
        self.mean = sum(self._newest) / len(self._newest)
        self.high = sorted(self._newest)[(9 * len(self._newest) - 1) // 10]


class DecodeCosts:
    """Of one kind of files: seconds by their bytes, which are known before anything is parsed.

    Each power of two of bytes has figures of its own: thumbnails say little of photographs.
    """

    def __init__(self) -> None:
        self._windows: dict[int, Window] = {}  # by bits of the number of bytes

    def learn(self, size: int, seconds: float) -> None:
        """One file of ``size`` bytes took so long."""
        self._windows.setdefault(size.bit_length(), Window()).add(seconds)

    def mean(self, size: int) -> float:
        """Expected seconds of a file of ``size`` bytes."""
        window, scale = self._nearest(size)
        return window.mean * scale

    def high(self, size: int) -> float:
        """Seconds that nine of ten such files stay below."""
        window, scale = self._nearest(size)
        return window.high * scale

    def _nearest(self, size: int) -> tuple[Window, float]:
        """The figures of the nearest size, and what they are multiplied by."""
        bits = size.bit_length()
        if not self._windows:
            return Window(), 1.0
        nearest = min(self._windows, key=lambda measured: abs(measured - bits))
        scale = min(max(2.0 ** (bits - nearest), 1 / MOST_SCALE), MOST_SCALE)
        return self._windows[nearest], scale


class RunCosts:
    """Of one graph: seconds of a run by its number of rows, measured at some and between them.

    Attributes:
        row: seconds of one row in a run of the size that is cheapest for each.
    """

    def __init__(self) -> None:
        self.row = FIRST_GUESS_SECONDS
        self._ladder: dict[int, Window] = {}
        self._sizes: list[int] = []

    def learn(self, rows: int, seconds: float) -> None:
        """A run of so many rows took so long. Sizes count to the next power of two."""
        size = 1 << (rows - 1).bit_length()
        if size not in self._ladder:
            self._ladder[size] = Window()
            bisect.insort(self._sizes, size)
        self._ladder[size].add(seconds * size / rows)
        # Once a run, not as often as it is asked for, which is seven times a request.
        self.row = min(self._ladder[known].mean / known for known in self._sizes)

    def seconds(self, rows: int) -> float:
        """Expected seconds of a run of so many rows: no more than of so many runs of one."""
        seconds = self._between(rows)
        return min(seconds, rows * self._ladder[1].mean) if 1 in self._ladder else seconds

    def _between(self, rows: int) -> float:
        """On a line between the measured sizes below and above."""
        if not self._sizes:
            return FIRST_GUESS_SECONDS * rows
        place = bisect.bisect_left(self._sizes, rows)
        if place == len(self._sizes):
            largest = self._sizes[-1]
            return self._ladder[largest].mean * rows / largest
        above = self._sizes[place]
        if place == 0:
            return self._ladder[above].mean * rows / above
        below = self._sizes[place - 1]
        low, high = self._ladder[below].mean, self._ladder[above].mean
        return low + (high - low) * (rows - below) / (above - below)

    @property
    def high(self) -> float:
        """Seconds that nine of ten runs of one row stay below."""
        return self._ladder[1].high if 1 in self._ladder else self.seconds(1)


def ladder(most: int) -> Iterable[int]:
    """1, 2, 4, 8 ... up to ``most``, which is the last one."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most
