"""How many batches a device runs at the same time, and with how many threads each."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.engine.costs import ladder
from service.engine.device.session import DeviceName, OpenSession, Session
from service.settings import Settings

log = logging.getLogger(__name__)

#: Of each way, once it is warm.
TRIAL_SECONDS = 0.3
NEARLY = 0.9


class Lanes(NamedTuple):
    """Batches at the same time, and threads of each."""

    lanes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.lanes} of {self.threads} thread{'s' * (self.threads > 1)}"


def choose_lanes(
    settings: Settings, open_session: OpenSession, graph: Path, device: DeviceName, row: np.ndarray
) -> Lanes:
    """What the operator says; of what is left open the faster way for single rows of this graph.

    Several threads in one run wait for one another at every operator, and small models have many
    small ones: two runs of one thread each are then faster than one of two. For a large model, or
    other cores, it may be the other way round. Of ways that are nearly as fast the one with the
    fewest lanes is taken: there a single row is answered soonest.

    Args:
        row: ``[1, *pixels per axis, channels]`` of the graph's dtype.
    """
    if settings.lanes and settings.threads:
        return Lanes(settings.lanes, settings.threads)
    cpus = settings.cpu_count
    if device != "cpu" and open_session(graph, device, cpus).device == "cuda":
        return Lanes(settings.lanes or 1, settings.threads or cpus)
    if settings.lanes or settings.threads:
        lanes = settings.lanes or max(1, cpus // settings.threads)
        return Lanes(lanes, settings.threads or max(1, cpus // lanes))
    rates = {
        lanes: rate(open_session(graph, "cpu", lanes.threads), lanes, row, TRIAL_SECONDS)
        for lanes in (Lanes(count, cpus // count) for count in ladder(cpus))
    }
    told = "; ".join(f"{lanes}: {rows:.0f} rows/s" for lanes, rows in rates.items())
    best = max(rates.values())
    chosen = next(lanes for lanes, rows in rates.items() if rows >= NEARLY * best)
    log.info("lanes of the device, measured at batch 1: %s; taken: %s", told, chosen)
    return chosen


def rate(session: Session, lanes: Lanes, rows: np.ndarray, seconds: float) -> float:
    """Runs a second, each of ``rows``, of which ``lanes.lanes`` are under way at any time."""
    session.run(rows)  # the first run of a shape makes room for it

    def count(_: int) -> int:
        runs, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            session.run(rows)
            runs += 1
        return runs

    with ThreadPoolExecutor(lanes.lanes) as threads:
        started = time.monotonic()
        runs = sum(threads.map(count, range(lanes.lanes)))
        return runs / (time.monotonic() - started)
