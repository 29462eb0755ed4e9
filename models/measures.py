"""How good a classifier is on one split: figures with 95 % intervals (see ``bootstrap.py``).

A figure is written once, for weights ``[N, D]`` that say how often each item counts in each draw:
all ones give its value. N items, C classes, D draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from models.bootstrap import DRAWS, draw_weights, number_units, with_interval
from models.coverage import coverage, risk_coverage
from models.figures import Coverage, Estimate

BINS = 15
#: ROC AUC takes fewer draws, never less than FEWEST, where N * C * D would exceed this.
WORK = 2e10
FEWEST = 200

DEFINITIONS = {
    "top1": "Share of items whose most probable class is the right one.",
    "top5": "Share of items whose right class is among the five most probable ones.",
    "balanced_accuracy": "The share of right items within each class, averaged over the classes "
    "that have items.",
    "roc_auc": "Area under the ROC curve: how often an item of a class is given a higher "
    "probability of that class than an item of another one, ties counting half. With two classes, "
    "of the second class; with more, each class against the rest, averaged over the classes that "
    "have items.",
    "ece": f"Expected calibration error: the probabilities of the most probable class fall into "
    f"{BINS} bins of equal width, (0, 1/{BINS}] to ({BINS - 1}/{BINS}, 1]; the distance between "
    "the mean probability and the share of right items in each bin, averaged with the bins' counts "
    "as weights. Chance alone makes it positive, in the draws even more so: where it is small, its "
    "interval lies too high.",
}

#: Weights [N, D] -> the figure for each draw [D], NaN where a draw leaves it undefined.
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Measures:
    """What was measured on one split.

    Attributes:
        drawn: what the bootstrap drew, ``items`` or ``groups``; an item without a group is one.
        units: how many of those there are.
        absent: classes without an item.
        figures: by the names of DEFINITIONS; ``top5`` only where there are more than 5 classes.
        confusion: items, int64 [C, C]; rows are the right classes, columns the most probable ones.
        calibration: float64 [BINS, 3]: items, mean probability, share right; NaN in empty bins.
        coverage, risk: what is left where unsure answers are withheld (``models/coverage.py``).
    """

    items: int
    drawn: Literal["items", "groups"]
    units: int
    absent: tuple[int, ...]
    figures: dict[str, Estimate]
    confusion: np.ndarray
    calibration: np.ndarray
    coverage: tuple[Coverage, ...]
    risk: np.ndarray


def measure(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Measures:
    """Every figure of one split. The same input gives the same intervals.

    Args:
        probabilities: float [N, C], each row adding up to 1.
        labels: the right classes, int [N].
        groups: what each item belongs to, "" for an item of its own.
        draws: behind each interval; 0 for the values alone.

    Raises:
        ValueError: shapes or values that are no classifier's, with what was expected and what came.
    """
    probabilities = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels)
    _check(probabilities, labels, groups)
    items, classes = probabilities.shape
    unit_of = number_units(groups, items)
    predicted, highest = probabilities.argmax(1), probabilities.max(1)  # [N]
    return Measures(
        items=items,
        drawn="items" if groups is None or not any(groups) else "groups",
        units=int(unit_of.max()) + 1,
        absent=tuple(int(label) for label in np.setdiff1d(np.arange(classes), labels)),
        figures=_figures(probabilities, labels, unit_of, draws, seed),
        confusion=np.bincount(labels * classes + predicted, minlength=classes**2).reshape(
            classes, classes
        ),
        calibration=calibration(highest, predicted == labels),
        coverage=coverage(highest, predicted == labels),
        risk=risk_coverage(highest, predicted == labels),
    )


def calibration(highest: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Items, mean probability and share right in each bin of the highest one: [BINS, 3]."""
    bins = bin_of(highest)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, values, minlength=BINS) for values in (highest, right)]
    means = [np.divide(s, counts, where=counts > 0, out=np.full(BINS, np.nan)) for s in sums]
    return np.stack([counts, *means], axis=1)  # [BINS, 3]


def bin_of(probability: np.ndarray) -> np.ndarray:
    """The bin, 0 to BINS - 1, whose half-open interval (low, high] holds a probability."""
    return np.clip(np.ceil(probability * BINS).astype(np.int64) - 1, 0, BINS - 1)


# --- figures for weighted items ---------------------------------------------------------------


def statistics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Statistic]:
    """The figures of one split as functions of how often each item counts."""
    classes = probabilities.shape[1]
    right = probabilities.argmax(1) == labels
    named: dict[str, Statistic] = {"top1": partial(share, right)}
    if classes > 5:
        named["top5"] = partial(share, places(probabilities, labels) < 5)
    named["balanced_accuracy"] = partial(balanced_accuracy, right, labels)
    named["roc_auc"] = partial(roc_auc, probabilities, labels)
    named["ece"] = partial(calibration_error, probabilities.max(1), right)
    return named


def places(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the right one, [N]; the lower index wins a tie."""
    own = np.take_along_axis(probabilities, labels[:, None], 1)  # [N, 1]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]  # [N, C]
    return ((probabilities > own) | ((probabilities == own) & earlier)).sum(1)


def share(right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted share of right items."""
    return right.astype(np.float64) @ weights / weights.sum(0)  # [D]


def balanced_accuracy(right: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes that have weight of the share of right items."""
    totals = _sums(weights, labels)  # [classes present, D]
    hits = _sums(weights * right[:, None], labels)
    shares = np.divide(hits, totals, where=totals > 0, out=np.zeros_like(hits))
    return shares.sum(0) / (totals > 0).sum(0)  # [D]


def calibration_error(highest: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Naeini, Cooper and Hauskrecht 2015, of the most probable class, as DEFINITIONS says."""
    gaps = _sums(weights * (right - highest)[:, None], bin_of(highest))  # [bins that count, D]
    return np.abs(gaps).sum(0) / weights.sum(0)  # [D]


def roc_auc(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each class against the rest, averaged; with two classes the second alone."""
    classes = probabilities.shape[1]
    wanted = [1] if classes == 2 else np.unique(labels)
    total = np.zeros(weights.shape[1])
    defined = np.zeros_like(total)
    for label in wanted:
        area = class_auc(probabilities[:, label], labels == label, weights)
        total += np.nan_to_num(area)
        defined += ~np.isnan(area)
    return np.divide(total, defined, where=defined > 0, out=np.full_like(total, np.nan))  # [D]


def class_auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted share of (positive, negative) pairs in the right order, ties counting half; [D].

    NaN where one of the two kinds has no weight.
    """
    order = np.argsort(scores)
    scores, own = scores[order], np.flatnonzero(positive[order])
    negative = weights[order]  # [N, D]
    gained = negative[own]  # [positives, D]
    negative[own] = 0
    below = np.zeros((len(scores) + 1, weights.shape[1]))  # weight of the first k negatives
    np.cumsum(negative, axis=0, out=below[1:])
    first, last = (np.searchsorted(scores, scores[own], side) for side in ("left", "right"))
    pairs = (gained * (below[first] + below[last])).sum(0) / 2
    possible = gained.sum(0) * below[-1]
    return np.divide(pairs, possible, where=possible > 0, out=np.full_like(pairs, np.nan))


def _sums(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Rows of [N, D] added up by key, [different keys, D], in the keys' order."""
    order = np.argsort(keys, kind="stable")
    _, starts = np.unique(keys[order], return_index=True)
    return np.add.reduceat(values[order], starts, axis=0)


# --- all of them --------------------------------------------------------------------------------


def _figures(
    probabilities: np.ndarray, labels: np.ndarray, unit_of: np.ndarray, draws: int, seed: int
) -> dict[str, Estimate]:
    named = statistics(probabilities, labels)
    drawn = {name: [np.empty(0)] for name in named}
    counts = dict.fromkeys(named, draws)
    counts["roc_auc"] = min(draws, max(FEWEST, int(WORK / probabilities.size)))
    done = 0
    for weights in draw_weights(unit_of, draws, seed):
        for name, statistic in named.items():
            if done < counts[name]:
                drawn[name].append(statistic(weights[:, : counts[name] - done]))
        done += weights.shape[1]
    ones, units = np.ones((len(labels), 1)), int(unit_of.max()) + 1
    return {
        name: with_interval(statistic(ones).item(), np.concatenate(drawn[name]), units)
        for name, statistic in named.items()
    }


def _check(probabilities: np.ndarray, labels: np.ndarray, groups: Sequence[str] | None) -> None:
    if probabilities.ndim != 2 or probabilities.shape[0] < 1 or probabilities.shape[1] < 2:
        raise ValueError(f"expected probabilities [items, classes], got {probabilities.shape}")
    items, classes = probabilities.shape
    if labels.shape != (items,) or labels.dtype.kind not in "iu":
        raise ValueError(f"expected {items} whole labels, got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels.max()}")
    if groups is not None and len(groups) != items:
        raise ValueError(f"expected a group for each of {items} items, got {len(groups)}")
    if not np.allclose(probabilities.sum(1), 1, atol=1e-6) or probabilities.min() < 0:
        raise ValueError("expected probabilities that add up to 1 in every row")
