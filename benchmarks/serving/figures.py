"""What the records of a load say: how many answers were right, how soon, and since when again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: Outcomes that are a server's own word that it is too busy.
REFUSALS = ("429", "503")


class Record(NamedTuple):
    """One request: when it was due (seconds after the start), how long it took, what came."""

    due: float
    seconds: float
    outcome: str
    number: int = 0  # of the message


def percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Median and 99th percentile of seconds, in milliseconds; None of nothing."""
    if not len(values):
        return None, None
    p50, p99 = np.percentile(values, (50, 99))
    return round(1000 * float(p50), 2), round(1000 * float(p99), 2)


def summary(records: Sequence[Record], seconds: float) -> dict[str, Any]:
    """Outcomes, right answers a second, and latencies in milliseconds."""
    right = [one.seconds for one in records if one.outcome == "200"]
    refused = [one.seconds for one in records if one.outcome in REFUSALS]
    p50, p99 = percentiles(right)
    refusal_p50, refusal_p99 = percentiles(refused)
    return {
        "outcomes": dict(sorted(Counter(one.outcome for one in records).items())),
        "right_per_second": round(len(right) / seconds, 2),
        "p50_ms": p50,
        "p99_ms": p99,
        "refusal_p50_ms": refusal_p50,
        "refusal_p99_ms": refusal_p99,
    }


def ended_between(records: Sequence[Record], begin: float, end: float) -> list[Record]:
    """Those whose outcome came within a span."""
    return [one for one in records if begin <= one.due + one.seconds < end]


def due_between(records: Sequence[Record], begin: float, end: float) -> list[Record]:
    """Those that were due within a span."""
    return [one for one in records if begin <= one.due < end]


def recovery_seconds(records: Sequence[Record], begin: float, limit: float) -> float | None:
    """How long after ``begin`` answers were soon enough again, and stayed so.

    The least t such that of what was due from ``begin`` + t on at most one in a hundred was no
    right answer within ``limit`` seconds; None if there is no such t.
    """
    slow, best = 0, None
    later = sorted((one for one in records if one.due >= begin), reverse=True)
    for count, one in enumerate(later, 1):
        slow += one.outcome != "200" or one.seconds > limit
        if slow <= count / 100:
            best = one.due - begin
    return best
