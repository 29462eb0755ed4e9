"""How answers look in use, beside how those to the measured split looked: what drift is told by.

Of every grid that answers: how sure its answers are, and how often each label is the first. Counted
are files in as many views as the bundle takes by itself; prepared pixels may be of any making.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from models.figures import Figures

#: Labels of a grid with series of their own: each is two samples of every scrape, which is written
#: between two requests. The distance of two mixes is never larger for labels that count together.
NAMED = 20
#: What the others count as.
OTHER = "other"


@dataclass(slots=True)
class Tally:
    """The answers of one grid since it began to answer.

    Attributes:
        names: by class, what it counts as.
        confidence: sum of the calibrated probabilities of the first labels.
        first: answers by the name of their first label.
        mix: the same of the measured split, as shares; empty where it was not measured.
    """

    bundle: str
    version: str
    grid: str
    names: list[str]
    figures: Figures | None
    confidence: float = 0.0
    first: dict[str, int] = field(default_factory=dict)
    mix: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first = dict.fromkeys(self.names, 0)
        if self.figures is not None:
            for name, share in zip(self.names, self.figures.mix, strict=True):
                self.mix[name] = self.mix.get(name, 0.0) + share


class Drift(Collector):
    """Counts answers, and tells them with what was measured, as series.

    It is a collector, since counters of the library are slower and bring a second sample each.
    """

    def __init__(self) -> None:
        self._tallies: dict[Hashable, Tally] = {}

    def begin(
        self,
        key: Hashable,
        bundle: str,
        version: str,
        grid: str,
        labels: Sequence[str],
        figures: Figures | None,
    ) -> None:
        """Count the answers of a grid from now on, under a key of its own."""
        self._tallies[key] = Tally(bundle, version, grid, name_labels(labels, figures), figures)

    def end(self, key: Hashable) -> None:
        """It answers no more but what is inside, which is not counted."""
        del self._tallies[key]

    def count(self, key: Hashable, label: int, probability: float) -> None:
        """One answer, by the place of its first label and the calibrated probability of it."""
        if (tally := self._tallies.get(key)) is not None:
            tally.first[tally.names[label]] += 1
            tally.confidence += probability

    def collect(self) -> Iterator[Metric]:
        """Every series, as the registry asks for it."""
        confidence = SummaryMetricFamily(
            "liere_confidence",
            "Calibrated probability of the first label, of files in the bundle's own views.",
            labels=("bundle", "version", "grid"),
        )
        first = CounterMetricFamily(
            "liere_first_label",
            f"Files by their first label; beyond {NAMED} labels those that are rare in the "
            f"measured split count as {OTHER}.",
            labels=("bundle", "version", "grid", "label"),
        )
        measured = GaugeMetricFamily(
            "liere_measured_confidence",
            "Mean calibrated probability of the first label on the measured split.",
            labels=("bundle", "version", "grid"),
        )
        mix = GaugeMetricFamily(
            "liere_measured_mix",
            "Share of the measured split that each label is the first of, as liere_first_label.",
            labels=("bundle", "version", "grid", "label"),
        )
        for one in self._tallies.values():
            grid = (one.bundle, one.version, one.grid)
            confidence.add_metric(grid, sum(one.first.values()), one.confidence)
            if one.figures is not None:
                measured.add_metric(grid, one.figures.confidence)
            for name, count in one.first.items():
                first.add_metric((*grid, name), count)
            for name, share in one.mix.items():
                mix.add_metric((*grid, name), share)
        yield from (confidence, first, measured, mix)


def name_labels(labels: Sequence[str], figures: Figures | None) -> list[str]:
    """What each label counts as: itself, or OTHER where there are more than NAMED.

    Those that the measured split had most often keep their names; the first ones where that is not
    known.
    """
    if len(labels) <= NAMED:
        return list(labels)
    shares = figures.mix if figures else (0.0,) * len(labels)
    named = sorted(range(len(labels)), key=lambda place: -shares[place])[: NAMED - 1]
    return [label if place in named else OTHER for place, label in enumerate(labels)]
