"""How many replicas, by the engine's own measure: how near each is to refusing."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

#: Mean over the replicas of the predicted wait, as a share of the wait at which they refuse.
HIGH, LOW = 0.5, 0.05


def by_predicted_seconds(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """In proportion above ``HIGH``, one less below ``LOW``, as many as there are between.

    Between the two one replica less might have to refuse what these answer without a wait: a low
    wait says little of how busy they are.
    """
    replicas = context.current_num_replicas
    told = (context.aggregated_metrics or {}).get("fullness", {})
    if not told:
        return replicas, {}
    mean = sum(told.values()) / len(told)
    if mean > HIGH:
        return replicas * mean / HIGH, {}
    return (replicas - 1 if mean < LOW else replicas), {}
