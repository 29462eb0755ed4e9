"""How many replicas, by the engine's own measure: how much work it is asked for."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ray.serve.config import AutoscalingContext

#: Of every second of a replica, what work may take: requests do not come evenly.
BUSY = 0.6
#: The predicted wait, as a share of the wait at which a replica refuses.
FULL = 0.5
#: Who is refused may come again at once, and then counts again: at most so much is believed.
MOST_ASKED = 2.0


def by_predicted_seconds(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many as keep the mean of them below ``BUSY`` and below ``FULL``.

    The wait alone would not do: below the load at which a queue forms it says nothing, so one
    replica less would be wanted until those that are left refuse again. The seconds that are asked
    for count whether they were let in or not, and fall with the load alone. What nobody predicts,
    such as HTTP, is in the processor time. The wait tells where a replica can do less than that,
    as others use its processors.
    """
    told = context.aggregated_metrics or {}
    asked, busy, fullness = (told.get(name, {}) for name in ("asked", "busy", "fullness"))
    if not asked:
        return context.target_num_replicas, {}
    work = sum(max(min(seconds, MOST_ASKED), busy[one]) for one, seconds in asked.items())
    wanted = work / BUSY
    if (full := fmean(fullness.values())) > FULL:
        wanted = max(wanted, len(fullness) * full / FULL)
    return wanted, {}
