"""What was measured of a bundle, and how its probabilities were calibrated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is left of the split that a bundle was measured on, at a threshold."""

    threshold: float  # of the first label's calibrated probability
    share: float  # of the items that reach it, 0 to 1
    accuracy: float | None  # share of those that are right; None where none reaches it


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; None where there is none, with the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    draws: int = 0  # behind the interval
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the measured split, by calibrated probabilities.

    Attributes:
        top5: only where there are more than 5 labels.
        drawn, units: what the intervals drew (items or groups), and how many there are.
        confidence: mean probability of the first label.
        mix: ``[labels]``, share of the items that each is the answer to.
        coverage: thresholds rise.
    """

    top1: Estimate
    top5: Estimate | None
    balanced_accuracy: Estimate
    roc_auc: Estimate
    drawn: str
    units: int
    confidence: float
    mix: tuple[float, ...]
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far probabilities are from what came true; 0 is the best of each."""

    ece: float  # expected calibration error, 0 to 1
    nll: float  # mean negative log-likelihood, nats
    brier: float  # 0 to 2


@dataclass(frozen=True, slots=True)
class FittedOn:
    """The split that a temperature was fitted on.

    Attributes:
        left_out: items of it whose bytes lie in the measured split too.
    """

    split: str
    items: int
    split_sha256: str
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Probabilities are softmax(logits / temperature).

    Attributes:
        reason: why nothing was fitted.
        before, after: of the measured split, at temperature 1 and at this one.
    """

    calibrated: bool
    temperature: float
    reason: str = ""
    fitted_on: FittedOn | None = None
    before: Reliability | None = None
    after: Reliability | None = None
