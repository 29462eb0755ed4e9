"""Permits: the right to enter, given before a body is read, bounded in requests and bytes."""

from __future__ import annotations

import math
import time
from collections import deque

from service.engine.failures import Overloaded

#: Departures that the drain rate is measured over.
WINDOW = 64
MIN_DEPARTURES = 8
MAX_RETRY_SECONDS = 30


class Admission:
    """How many requests, and how many bytes of their bodies, may be inside at once."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0
        self._departures: deque[float] = deque(maxlen=WINDOW)

    def enter(self) -> None:
        """Take a permit, or raise Overloaded."""
        if self.requests >= self.max_requests:
            raise self._overloaded(f"all {self.max_requests} permits are taken")
        self.requests += 1

    def hold(self, size: int) -> None:
        """Count bytes of a body that are kept in memory, or raise Overloaded."""
        if self.bytes + size > self.max_bytes:
            raise self._overloaded(f"the requests inside hold {self.bytes} bytes")
        self.bytes += size

    def leave(self, size: int) -> None:
        """Give back the permit and the bytes it held."""
        self.requests -= 1
        self.bytes -= size
        if self.requests:
            self._departures.append(time.monotonic())
        else:
            self._departures.clear()  # an idle server says nothing about how fast it drains

    def retry_seconds(self) -> int | None:
        """When a permit should be free for everyone now inside; None until that is measured."""
        if len(self._departures) < MIN_DEPARTURES:
            return None
        elapsed = time.monotonic() - self._departures[0]
        rate = (len(self._departures) - 1) / max(elapsed, 1e-6)  # requests per second
        return max(1, min(MAX_RETRY_SECONDS, math.ceil(self.requests / rate)))

    def _overloaded(self, reason: str) -> Overloaded:
        return Overloaded(f"{reason}; try again later", self.retry_seconds())
