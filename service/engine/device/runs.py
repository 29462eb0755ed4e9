"""One batch in the thread of a lane: timed, and with its failures told apart row by row."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from service.engine.device.session import Session, Stop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimedRun:
    """What a lane's thread brings back."""

    rows: list[np.ndarray | Exception]
    started: float
    seconds: float  # of the wall
    cost: float  # seconds of the lane that count as its price


def run_timed(
    session: Session, rows: list[np.ndarray], threads: int, stop: Stop | None = None
) -> TimedRun:
    """Run a batch in this thread, and price it.

    On a CPU a lane of one thread is priced by the processor time that it used: what it waited for
    others is no cost of its own. A lane of several, or of a GPU, uses its time elsewhere: there
    the wall is the measure.
    """
    started, before = time.monotonic(), time.thread_time()
    answers = run_isolated(session, rows, stop)
    seconds, used = time.monotonic() - started, time.thread_time() - before
    by_thread = session.device == "cpu" and threads == 1
    return TimedRun(answers, started, seconds, used if by_thread else seconds)


def run_isolated(
    session: Session, rows: list[np.ndarray], stop: Stop | None = None
) -> list[np.ndarray | Exception]:
    """Run a batch; if it fails, halve it until only the guilty rows fail.

    Args:
        rows: ``[*pixels per axis, channels]`` each, of the graph's dtype.
        stop: ends it; then every row fails.

    Returns:
        float32 ``[classes]`` or an exception, for every row.
    """
    try:
        logits = session.run(np.stack(rows), stop)  # [batch, classes]
        if logits.ndim != 2 or len(logits) != len(rows):
            raise ValueError(f"expected {len(rows)} rows of logits, got {list(logits.shape)}")
    except Exception:
        # New ones: what was raised knows its frames, and they would keep the rows.
        if stop is not None and stop.terminate:
            return [ValueError("the run was ended")] * len(rows)
        if len(rows) == 1:
            log.exception("a graph failed on one input")
            return [ValueError("the graph failed on this input")]
        middle = len(rows) // 2
        return run_isolated(session, rows[:middle], stop) + run_isolated(
            session, rows[middle:], stop
        )
    finite = np.isfinite(logits).all(axis=1)  # [batch]
    if not finite.all():
        log.error("a graph gave logits that are not finite for %d input(s)", (~finite).sum())
    return [
        row if good else ValueError("logits are not finite")
        for row, good in zip(logits, finite, strict=True)
    ]
