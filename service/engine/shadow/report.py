"""What a shadow has found so far, for whoever decides whether to promote its candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from service.agreement import Agreement
from service.engine.status import told

#: Of the normal distribution: 19 of 20 intervals hold what they are of.
Z = 1.959964
#: Pairs of labels that are told, the most frequent ones.
MOST_TOLD = 100


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval, as if every copy had been drawn for itself."""

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, count: int, of: int) -> Interval | None:
        """A share, in the interval of Wilson 1927; None of nothing."""
        if not of:
            return None
        share, square = count / of, Z * Z
        middle = (count + square / 2) / (of + square)
        half = Z / (of + square) * math.sqrt(of * share * (1 - share) + square / 4)
        return cls(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))

    @classmethod
    def of_mean(cls, total: float, squares: float, count: int) -> Interval | None:
        """The mean of values in [0, 1] by their sum and that of their squares; None of one."""
        if count < 2:
            return None
        mean = total / count
        variance = max(0.0, squares - total * mean) / (count - 1)
        half = Z * math.sqrt(variance / count)
        return cls(mean, max(0.0, mean - half), min(1.0, mean + half))


@dataclass(frozen=True, slots=True)
class OfBoth:
    """A number of each of the two versions."""

    answering: float
    candidate: float


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """The copies with one first label."""

    label: str
    answering: int = told("copies whose answer it was")
    candidate: int = told("copies that the candidate gives it to")
    agreement: Interval | None = told("share of the first that are of the second too")


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Copies with two first labels."""

    answering: str
    candidate: str
    items: int


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """One shadow, from its beginning on."""

    bundle: str
    answering: str = told("the version that answers, or did")
    candidate: str = told("the version that sees copies")
    share: float = told("of the requests that are copied, 0 to 1")
    state: str = told("running or ended")
    reason: str | None = told("why it ended")
    began: float = told("seconds since 1970")
    waiting: int = told("copies that are not compared yet")
    compared: int = told("copies that the candidate answered")
    agreed: int = told("of those: whose first label is the same")
    shed: dict[str, int] = told(
        "copies let go of unseen: requests were waiting (busy), or memory was full (room)"
    )
    failed: dict[str, int] = told("copies that the candidate cannot answer, by the failure")
    agreement: Interval | None = told("agreed over compared")
    difference: Interval | None = told(
        "of each copy the largest difference of the probabilities of a label; their mean"
    )
    largest_difference: float | None = told("of all of them")
    confidence: OfBoth | None = told("mean probability of the first label, calibrated")
    lane_ms: OfBoth | None = told("mean of what a lane takes for one file, milliseconds")
    labels: tuple[LabelAgreement, ...] = told("that came first at least once, most frequent first")
    differed: tuple[LabelPair, ...] = told(f"most frequent first, at most {MOST_TOLD}")

    @classmethod
    def of(
        cls, tally: Agreement, *, answering: str, ended: str | None, began: float, waiting: int
    ) -> ShadowReport:
        """What a tally says; ``ended`` is why it did, None while it goes on."""
        count, agreed = tally.compared, tally.agreed.total()
        return cls(
            bundle=tally.bundle,
            answering=answering,
            candidate=tally.version,
            share=tally.share,
            state="running" if ended is None else "ended",
            reason=ended,
            began=began,
            waiting=waiting,
            compared=count,
            agreed=agreed,
            shed=_descending(tally.shed),
            failed=_descending(tally.failed),
            agreement=Interval.of_share(agreed, count),
            difference=Interval.of_mean(tally.difference, tally.squares, count),
            largest_difference=tally.largest if count else None,
            confidence=_mean(tally.sureness, count),
            lane_ms=_mean(tally.seconds, count / 1000),
            labels=_labels(tally),
            differed=tuple(
                LabelPair(*labels, items) for labels, items in tally.pairs.most_common(MOST_TOLD)
            ),
        )


def _mean(sums: tuple[float, float], count: float) -> OfBoth | None:
    return OfBoth(*(one / count for one in sums)) if count else None


def _descending(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _labels(tally: Agreement) -> tuple[LabelAgreement, ...]:
    seen = tally.first | tally.first_of_candidate
    return tuple(
        LabelAgreement(
            label,
            tally.first[label],
            tally.first_of_candidate[label],
            Interval.of_share(tally.agreed[label], tally.first[label]),
        )
        for label, _ in seen.most_common()
    )
