"""Signs of life, looked for twenty times a second: of the event loop, the device and the decoders.

A run that fails for every row may be the fault of the rows or of the device, and only one thing
tells them apart: a golden, whose answer is known. It is replayed through the session that failed,
in a thread of its own; while that succeeds, whatever fails is an answer of its own request alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable

from service.engine.decode.pool import DecodePool
from service.engine.device.replay import Replay
from service.engine.device.station import DeviceStation, is_hung

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05
#: Between two replays: inputs that make the device fail must not keep it busy with goldens.
REST_SECONDS = 0.5
#: A loop that stood still for so long has missed what came back: ages count from there anew. So
#: it is after SIGSTOP, or where the machine slept.
STANDSTILL_SECONDS = 1.0
#: A replay that is due after an idle interval may take half as long again.
LATE = 1.5
#: Without any decode worker, though a new one is started every second.
DECODERS_SECONDS = 60.0


class DeviceVitals:
    """Watches over one device, whose executor has a thread left for a replay beside the lanes.

    Args:
        probe_seconds: idle for so long, a golden is replayed; 0 for never.
        on_death: told once why the device does not answer any more.
    """

    def __init__(
        self,
        station: DeviceStation,
        probe_seconds: float,
        on_death: Callable[[str], None],
    ) -> None:
        self._station = station
        self._probe_seconds = probe_seconds
        self._on_death = on_death
        self._doubted: dict[Replay, None] = {}  # in the order of the failures
        self._replaying: tuple[Replay, float] | None = None  # since when, monotonic
        self._rests_until = -math.inf

    def doubt(self, golden: Replay) -> None:
        """A run of its session failed for every row: replay it soon; if it fails, that is death."""
        self._doubted[golden] = None

    @property
    def in_doubt(self) -> bool:
        """Whether a failure is not explained yet."""
        return bool(self._doubted or self._replaying)

    @property
    def unproven(self) -> bool:
        """Whether the device has given no answer for longer than it may be idle.

        One that has no graph, because it was left out, is asked for none.
        """
        limit = LATE * self._probe_seconds
        return bool(limit and self._station.goldens) and time.monotonic() - self._succeeded > limit

    @property
    def _succeeded(self) -> float:
        """When a run or a golden last gave its logits."""
        goldens = (golden.succeeded for golden in self._station.goldens)
        return max(self._station.succeeded, *goldens, -math.inf)

    def look(self, now: float, stood_still: float) -> None:
        """Once a tick; ``stood_still`` is when the loop last did, monotonic."""
        if self._hangs(now, stood_still):
            self._on_death("a run does not return")
        elif self._replaying is None and now >= self._rests_until:
            self._replay_next(now)

    def _hangs(self, now: float, stood_still: float) -> bool:
        """Whether a run or a replay will not return."""
        if self._station.hangs(stood_still):
            return True
        if self._replaying is None:
            return False
        golden, began = self._replaying
        return is_hung(now - max(began, stood_still), golden.seconds)

    def _replay_next(self, now: float) -> None:
        """What is in doubt; else, on a device that was idle for long, what waited longest."""
        idle = self._probe_seconds and now - self._succeeded >= self._probe_seconds
        if self._doubted:
            golden = next(iter(self._doubted))
            del self._doubted[golden]
            self._replay(golden, now, in_doubt=True)
        elif idle and (goldens := self._station.goldens):
            self._replay(min(goldens, key=lambda one: one.succeeded), now, in_doubt=False)

    def _replay(self, golden: Replay, now: float, in_doubt: bool) -> None:
        self._replaying = golden, now
        running = asyncio.get_running_loop().run_in_executor(self._station.executor, golden.run)
        running.add_done_callback(functools.partial(self._judge, golden, in_doubt))

    def _judge(self, golden: Replay, in_doubt: bool, running: asyncio.Future[None]) -> None:
        """A replay has ended: what fails for the first time is only in doubt."""
        self._replaying, self._rests_until = None, time.monotonic() + REST_SECONDS
        if running.cancelled() or (error := running.exception()) is None:
            return
        if in_doubt:
            self._on_death(f"a golden that it has answered before fails too: {error}")
        else:
            self.doubt(golden)


class Vitals:
    """Watches over the loop, the decoders and every device; one that dies is the end of all.

    Args:
        probe_seconds: of a device that is idle for so long a golden is replayed; 0 for never.
        on_lag: told every time by how many seconds the loop was late.
        on_death: told once why a device does not answer any more.
    """

    def __init__(
        self,
        stations: Iterable[DeviceStation],
        pool: DecodePool,
        probe_seconds: float,
        on_lag: Callable[[float], None],
        on_death: Callable[[str], None],
    ) -> None:
        self._devices: list[DeviceVitals] = []
        for station in stations:
            watched = DeviceVitals(station, probe_seconds, self._die)
            station.on_failed = watched.doubt
            self._devices.append(watched)
        self._pool = pool
        self._on_lag = on_lag
        self._on_death = on_death
        self._stood_still = -math.inf  # when that was last seen
        self._decoders_seen = time.monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._dead = False

    def start(self) -> None:
        """Begin to watch, until ``stop``."""
        self._watching = asyncio.create_task(self._watch())
        self._watching.add_done_callback(_tell_failure)

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    @property
    def in_doubt(self) -> bool:
        """Whether a failure is not explained yet."""
        return any(one.in_doubt for one in self._devices)

    async def settle(self) -> None:
        """Until no doubt is left, or a device is known to be dead."""
        while self.in_doubt and not self._ended:
            await asyncio.sleep(TICK_SECONDS)

    @property
    def lost(self) -> str | None:
        """Why only a new process helps, as far as that is not a device; None where all live."""
        if self._ended:
            return "nobody watches over the device"
        without = time.monotonic() - self._decoders_seen
        return "no decode worker comes up" if without > DECODERS_SECONDS else None

    @property
    def unproven(self) -> bool:
        """Whether a device has given no answer for longer than it may be idle."""
        return any(one.unproven for one in self._devices)

    @property
    def _ended(self) -> bool:
        return self._watching is not None and self._watching.done()

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._on_lag(max(0.0, now - due))
            if now - due > STANDSTILL_SECONDS:
                self._stood_still = now
            if self._pool.ready:
                self._decoders_seen = now
            for device in self._devices:
                device.look(now, self._stood_still)

    def _die(self, reason: str) -> None:
        """Once: there is nothing left to watch."""
        if not self._dead:
            self._dead = True
            self.stop()
            self._on_death(reason)


def _tell_failure(watching: asyncio.Task[None]) -> None:
    if not watching.cancelled() and (error := watching.exception()) is not None:
        log.error("the watch over the device failed", exc_info=error)
