"""What a key takes: requests a second and requests at once, counted for itself alone."""

from __future__ import annotations

import math

from service.http.key_lines import Key
from service.http.problems import KeyLimited

#: Sums of seconds may be off by less.
ROUNDING = 1e-6
MAX_RETRY_SECONDS = 30  # where only an estimate is known
SHARE = 0.2  # of the newest request in the mean


class Account:
    """A key, and what its requests take at the moment.

    The bucket of tokens holds those of one second, at least one. It is one number: when it will be
    full again if nobody comes; each request moves that by the time that its token takes.

    Attributes:
        key: another one of the same digest after the keys were read again.
        inside: requests that have no answer yet.
    """

    __slots__ = ("_full_at", "_mean_seconds", "inside", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.inside = 0
        self._full_at = 0.0
        self._mean_seconds = 0.0  # of a request

    def enter(self, now: float) -> None:
        """Count a request that begins; one that is refused changes nothing, see ``check``."""
        self.check(now)
        self._full_at = max(self._full_at, now) + 1 / self.key.rate
        self.inside += 1

    def check(self, now: float) -> None:
        """Whether a request may begin.

        Args:
            now: seconds of a clock that never goes back.

        Raises:
            KeyLimited: it has to wait, and so long.
        """
        key, step = self.key, 1 / self.key.rate
        if self.inside >= key.concurrency:
            seconds = math.ceil(self._mean_seconds / self.inside)
            seconds = max(1, min(MAX_RETRY_SECONDS, seconds))
            raise KeyLimited(f"this key has {self.inside} requests inside, all it may", seconds)
        wait = self._full_at - now - max(0.0, 1 - step)
        if wait > ROUNDING:
            allowed = f"this key may send {key.rate:g} requests a second"
            raise KeyLimited(allowed, math.ceil(wait - ROUNDING))

    def leave(self, seconds: float) -> None:
        """A request has its answer, after so long."""
        self.inside -= 1
        weight = SHARE if self._mean_seconds else 1.0
        self._mean_seconds += weight * (seconds - self._mean_seconds)

    def renew(self, key: Key) -> None:
        """Hold it to what its line says now; another rate begins with a full bucket."""
        if key.rate != self.key.rate:
            self._full_at = 0.0
        self.key = key
