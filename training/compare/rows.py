"""The figures of a comparison: what was measured of the runs, over the seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

from training.compare.comparison import Comparison
from training.compare.step_times import step_times


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """One figure over the seeds; no deviation and no interval where there is one seed.

    Attributes:
        half: of the 95 % interval, which goes from mean - half to mean + half.
    """

    mean: float
    seeds: int
    deviation: float | None = None
    half: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One encoding; None for what is missing. Accuracies are top-1, 0 to 1.

    Attributes:
        finished: seeds whose run is.
        failed: why the runs of other seeds cannot go on, by seed.
        accuracy: by scale of the training grid.
        points: of every finished seed, at scale 1.
        difference: to the first encoding, at scale 1.
        shuffled: with patches out of order, at scale 1.
        step_seconds, step_ratio: of steps side by side; over the first encoding's.
    """

    encoding: str
    finished: int
    failed: dict[int, str]
    accuracy: dict[float, SeedMean | None]
    points: tuple[float, ...]
    difference: SeedMean | None
    shuffled: SeedMean | None
    parameters: int | None
    encoding_parameters: int | None
    step_seconds: float | None
    step_ratio: float | None

    @property
    def lacking(self) -> str:
        """What stands in the place of a figure that is not there."""
        return "failed" if self.failed and not self.finished else "missing"


def rows_of(comparison: Comparison) -> list[Row]:
    """One row an encoding, in the order in which they were asked for."""
    finished, failures = comparison.finished(), comparison.failures()
    times = (step_times(comparison) or {}).get("seconds", {})
    first = comparison.encodings[0]
    base = {seed: top1(run) for (name, seed), run in finished.items() if name == first}
    rows = []
    for name in comparison.encodings:
        runs = {seed: run for (encoding, seed), run in finished.items() if encoding == name}
        points = {seed: top1(run) for seed, run in runs.items()}
        size = next(iter(runs.values()), {})  # the same for every seed
        row = Row(
            encoding=name,
            finished=len(runs),
            failed={seed: why for (encoding, seed), why in failures.items() if encoding == name},
            accuracy={
                scale: over_seeds([top1(run, scale) for run in runs.values()])
                for scale in comparison.recipe.scales
            },
            points=tuple(points.values()),
            difference=over_seeds([points[seed] - base[seed] for seed in points if seed in base]),
            shuffled=over_seeds([run["shuffled"] for run in runs.values()]),
            parameters=size.get("parameters"),
            encoding_parameters=size.get("encoding_parameters"),
            step_seconds=times.get(name),
            step_ratio=times[name] / times[first] if {name, first} <= set(times) else None,
        )
        rows.append(row)
    return rows


def top1(run: dict[str, Any], scale: float = 1.0) -> float:
    """The accuracy that measured.json has for a scale."""
    return run["accuracy"][f"{scale:g}"]


def over_seeds(values: Sequence[float]) -> SeedMean | None:
    """Mean, deviation and 95 % interval (Student's t); None of no values."""
    if not values:
        return None
    if len(values) == 1:
        return SeedMean(values[0], 1)
    deviation = statistics.stdev(values)
    reach = float(stats.t.ppf(0.975, len(values) - 1))
    half = reach * deviation / math.sqrt(len(values))
    return SeedMean(statistics.fmean(values), len(values), deviation, half)
