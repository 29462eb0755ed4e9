"""How good the answers of a graph are and how far they can be believed, as plain data."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from media.spec import SpecError

#: By so much an interval may miss a figure that all of its draws are equal to.
ROUNDING = 1e-9


def check_range(name: str, value: float | None, most: float = 1.0) -> None:
    """SpecError for a value below 0 or above the most that it can be; None is not stated."""
    if value is not None and not 0 <= value <= most:
        raise SpecError(f"{name}: expected 0 to {most:g}, got {value:g}")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One figure and its 95 % interval; None where there is none, with the reason.

    Attributes:
        draws: draws behind the interval, those that leave the figure undefined not counted.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    draws: int = 0
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What is left of a split where answers below a probability are withheld.

    Attributes:
        threshold: of the most probable class, in [0, 1]; an answer of just this is given.
        share: of the items that are answered, in [0, 1].
        accuracy: share of those that are right; None where none is answered.
    """

    threshold: float
    share: float
    accuracy: float | None

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold)
        check_range("share", self.share)
        check_range("accuracy", self.accuracy)


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of the measured split, from the probabilities that are answered: calibrated ones.

    Attributes:
        top5: only where there are more than 5 classes.
        drawn, units: what the intervals drew, and how many of them there are.
        confidence: mean probability of the most probable class.
        mix: share of the items that each label is the answer to, in the labels' order.
        coverage: thresholds rise.
    """

    top1: Estimate
    top5: Estimate | None
    balanced_accuracy: Estimate
    roc_auc: Estimate
    drawn: Literal["items", "groups"]
    units: int
    confidence: float
    mix: tuple[float, ...]
    coverage: tuple[Coverage, ...]

    def __post_init__(self) -> None:
        for name in ("top1", "top5", "balanced_accuracy", "roc_auc"):
            if (one := getattr(self, name)) is not None:
                _check_estimate(name, one)
        for name, share in (("confidence", self.confidence), *(("mix", one) for one in self.mix)):
            check_range(name, share)


def _check_estimate(name: str, one: Estimate) -> None:
    """SpecError for a share whose interval is not around it."""
    check_range(name, one.value)
    check_range(f"{name}.low", one.low)
    check_range(f"{name}.high", one.high)
    if one.low is None and one.high is None:
        return
    if one.value is None or one.low is None or one.high is None:
        raise SpecError(f"{name}: expected value, low and high, or no interval")
    if not one.low - ROUNDING <= one.value <= one.high + ROUNDING:
        told = f"{one.value:g} in {one.low:g} to {one.high:g}"
        raise SpecError(f"{name}: expected low <= value <= high, got {told}")


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How far the probabilities of a split are from what came true; 0 is the best of each.

    Attributes:
        ece: expected calibration error, as ``models/measures.py`` defines it, in [0, 1].
        nll: mean negative log-likelihood of the right class, nats.
        brier: squared distance between the probabilities of all classes and the truth, mean over
            the items, in [0, 2].
    """

    ece: float
    nll: float
    brier: float

    def __post_init__(self) -> None:
        check_range("ece", self.ece)
        check_range("nll", self.nll, math.inf)
        check_range("brier", self.brier, 2.0)


@dataclasses.dataclass(frozen=True)
class FittedOn:
    """The split that a temperature was fitted on.

    Attributes:
        items: that it was fitted on.
        split_sha256: of ids, labels and contents, in order, of the whole split.
        left_out: readable items of the split whose bytes lie in the measured split too.
    """

    split: str
    items: int
    split_sha256: str
    left_out: int = 0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Probabilities are softmax(logits / temperature).

    Attributes:
        temperature: 1 where nothing was fitted.
        reason: why nothing was.
        before, after: of the measured split, at temperature 1 and at this one; ``before`` is None
            in bundles that are older than calibration, ``after`` where nothing was fitted.
    """

    calibrated: bool = False
    temperature: float = 1.0
    reason: str = "not stated; exported before temperatures were fitted"
    fitted_on: FittedOn | None = None
    before: Reliability | None = None
    after: Reliability | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise SpecError(f"a temperature must be above 0, got {self.temperature}")
        told = (self.fitted_on, self.before, self.after)
        if self.calibrated and (None in told or self.reason):
            raise SpecError("what is calibrated says on what and how well, and gives no reason")
        if not self.calibrated and (
            self.temperature != 1 or self.fitted_on or self.after or not self.reason
        ):
            raise SpecError("what is not calibrated says why, and its temperature is 1")
