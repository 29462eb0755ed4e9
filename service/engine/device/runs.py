"""One batch in the thread of a lane: timed, and with its failures told apart row by row."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.engine.device.session import Embedder, Looker, Session, Stop

log = logging.getLogger(__name__)


class Given(NamedTuple):
    """What a graph gave for one row."""

    logits: np.ndarray  # float32 [classes]
    embedding: np.ndarray | None = None  # float32 [width], where the run was asked for it
    attention: np.ndarray | None = None  # float32 [patches], of a ``Looker``


@dataclass(frozen=True, slots=True)
class TimedRun:
    """What a lane's thread brings back."""

    rows: list[Given | Exception]
    started: float
    seconds: float  # of the wall
    cost: float  # seconds of the lane that count as its price


def run_timed(
    session: Session, rows: list[np.ndarray], threads: int, stop: Stop | None = None,
    embed: bool = False,
) -> TimedRun:
    """Run a batch in this thread, and price it.

    On a CPU a lane of one thread is priced by the processor time that it used: what it waited for
    others is no cost of its own. A lane of several, or of a GPU, uses its time elsewhere: there
    the wall is the measure.
    """
    started, before = time.monotonic(), time.thread_time()
    answers = run_isolated(session, rows, stop, embed)
    seconds, used = time.monotonic() - started, time.thread_time() - before
    by_thread = session.device == "cpu" and threads == 1
    return TimedRun(answers, started, seconds, used if by_thread else seconds)


def run_isolated(
    session: Session, rows: list[np.ndarray], stop: Stop | None = None, embed: bool = False
) -> list[Given | Exception]:
    """Run a batch; if it fails, halve it until only the guilty rows fail.

    Args:
        rows: ``[*pixels per axis, channels]`` each, of the graph's dtype.
        stop: ends it; then every row fails.
        embed: whether features are wanted too, of an ``Embedder``.

    Returns:
        What the graph gave or an exception, for every row.
    """
    try:
        found = _run(session, np.stack(rows), stop, embed)
        for one in found:  # [batch, classes], [batch, width], [batch, patches]
            if one.ndim != 2 or len(one) != len(rows):
                raise ValueError(f"expected {len(rows)} rows, got {list(one.shape)}")
    except Exception:
        # New ones: what was raised knows its frames, and they would keep the rows.
        if stop is not None and stop.terminate:
            return [ValueError("the run was ended")] * len(rows)
        if len(rows) == 1:
            log.exception("a graph failed on one input")
            return [ValueError("the graph failed on this input")]
        middle = len(rows) // 2
        return run_isolated(session, rows[:middle], stop, embed) + run_isolated(
            session, rows[middle:], stop, embed
        )
    finite = np.all([np.isfinite(one).all(axis=1) for one in found], axis=0)  # [batch]
    if not finite.all():
        log.error("a graph gave numbers that are not finite for %d input(s)", (~finite).sum())
    return [
        Given(*row) if good else ValueError("logits are not finite")
        for good, *row in zip(finite, *found, strict=True)
    ]


def _run(
    session: Session, pixels: np.ndarray, stop: Stop | None, embed: bool
) -> tuple[np.ndarray, ...]:
    """Logits, and the features if they are wanted; of a ``Looker`` all that it tells."""
    if isinstance(session, Looker):
        return session.look(pixels, stop)
    if embed and isinstance(session, Embedder):
        return session.embed(pixels, stop)
    return (session.run(pixels, stop),)
