"""How far the answers of a candidate version agree with those that were given, as series.

Of every bundle that has a shadow (``service.engine.shadow``): each copy of a request ends as one of
``OUTCOMES``. Two answers agree where their first labels are the same text; how far apart they are
is the largest difference of the probabilities of any label, calibrated as each version answers, and
a label that one of them does not have has 0 there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

OUTCOMES = ("agreed", "differed", "shed", "failed")
#: Pairs of labels that are counted each for itself, of one shadow: with a thousand labels there
#: may be a million, and what is rare tells nothing.
MOST_PAIRS = 2000


@dataclass(slots=True)
class Agreement:
    """What a candidate said of the copies that it saw, beside what was answered.

    Attributes:
        share: of the requests that are copied, in [0, 1].
        shed: copies that were let go of unseen, by the reason.
        failed: those that the candidate cannot answer, by the kind of failure.
        difference, squares, largest: of the largest difference of each copy the sum, that of its
            squares, and the largest of all.
        sureness: sums of the probabilities of the first labels, theirs second.
        seconds: of a lane, sums of what answering took, theirs second.
        first, first_of_candidate, agreed: copies by first label; those with the same by it.
        pairs: copies by two first labels that differ, at most ``MOST_PAIRS`` of them.
    """

    bundle: str
    version: str
    share: float
    shed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    difference: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    sureness: tuple[float, float] = (0.0, 0.0)
    seconds: tuple[float, float] = (0.0, 0.0)
    first: Counter[str] = field(default_factory=Counter)
    first_of_candidate: Counter[str] = field(default_factory=Counter)
    agreed: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def compare(
        self,
        first: tuple[str, str],
        apart: float,
        sureness: tuple[float, float],
        seconds: tuple[float, float],
    ) -> None:
        """Count one copy; of two values that of the candidate is the second.

        Args:
            first: labels.
            apart: the largest difference of the probabilities of any label.
            sureness: probabilities of the first labels.
            seconds: of a lane.
        """
        mine, theirs = first
        self.compared += 1
        self.difference += apart
        self.squares += apart * apart
        self.largest = max(self.largest, apart)
        self.sureness = self.sureness[0] + sureness[0], self.sureness[1] + sureness[1]
        self.seconds = self.seconds[0] + seconds[0], self.seconds[1] + seconds[1]
        self.first[mine] += 1
        self.first_of_candidate[theirs] += 1
        if mine == theirs:
            self.agreed[mine] += 1
        elif first in self.pairs or len(self.pairs) < MOST_PAIRS:
            self.pairs[first] += 1

    @property
    def outcomes(self) -> dict[str, int]:
        """Copies by what became of them."""
        agreed = self.agreed.total()
        ends = (agreed, self.compared - agreed, self.shed.total(), self.failed.total())
        return dict(zip(OUTCOMES, ends, strict=True))


class Agreements(Collector):
    """Tells the tallies of all shadows that there are as series, when the registry asks."""

    def __init__(self) -> None:
        self.tallies: Sequence[Agreement] = ()

    def collect(self) -> Iterator[Metric]:
        """Every series; a shadow that ended has none."""
        labels = ("bundle", "version")
        items = CounterMetricFamily(
            "liere_shadow_items",
            "Copies of files for a candidate version: its first label is that of the answer "
            "(agreed) or another (differed), it cannot answer (failed), or was not asked (shed).",
            labels=(*labels, "outcome"),
        )
        difference = SummaryMetricFamily(
            "liere_shadow_difference",
            "Of copies that were compared: the largest difference of the probabilities of a label.",
            labels=labels,
        )
        largest = GaugeMetricFamily(
            "liere_shadow_largest_difference",
            "The largest of these since the shadow began.",
            labels=labels,
        )
        share = GaugeMetricFamily(
            "liere_shadow_share", "Of the requests that are copied.", labels=labels
        )
        for one in self.tallies:
            named = (one.bundle, one.version)
            for outcome, count in one.outcomes.items():
                items.add_metric((*named, outcome), count)
            difference.add_metric(named, one.compared, one.difference)
            largest.add_metric(named, one.largest)
            share.add_metric(named, one.share)
        yield from (items, difference, largest, share)
