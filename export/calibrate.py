"""One temperature a grid: probabilities that come true as often as they say.

Answers are softmax(logits / T), with the T that gives the validation split the largest likelihood
(Guo, Pleiss, Sun and Weinberger 2017). No answer changes, only how sure it is. The split that is
measured has no say in T.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from export.answers import Answers, reliability
from media.index import Dataset
from models.bootstrap import FEW, number_units
from models.figures import Calibration, FittedOn

#: The split that temperatures are fitted on.
VALIDATION = "val"
#: A temperature outside of these is none.
COLDEST, HOTTEST = 1e-3, 1e3
#: Of a temperature, relative.
PRECISION = 1e-9


class NoTemperature(ValueError):
    """No temperature can be fitted. The message says why."""


def check_validation(dataset: Dataset, measured: str) -> None:
    """NoTemperature unless there is a validation split beside the one that is measured."""
    if VALIDATION not in dataset.present():
        raise NoTemperature(f"the data have no split {VALIDATION}")
    if measured == VALIDATION:
        raise NoTemperature(f"{VALIDATION} is the split that is measured")


def calibrate(validation: Callable[[], Answers], measured: Answers) -> Calibration:
    """The temperature of a grid, and what it does for the measured split.

    Args:
        validation: gives the graph's answers to the validation split, or raises NoTemperature.
    """
    before = reliability(measured, 1)
    try:
        temperature, fitted_on = fit_apart(validation(), measured)
    except NoTemperature as error:
        return Calibration(reason=str(error), before=before)
    after = reliability(measured, temperature)
    return Calibration(True, temperature, "", fitted_on, before, after)


def fit_apart(answers: Answers, measured: Answers) -> tuple[float, FittedOn]:
    """The temperature from what is not measured too, and on what it was fitted."""
    kept = answers.without(measured.digests)
    items, left_out = len(kept.labels), len(answers.labels) - len(kept.labels)
    try:
        temperature = fit_temperature(kept)
    except NoTemperature as error:
        raise NoTemperature(f"{error}{in_both(left_out)}") from error
    return temperature, FittedOn(answers.split, items, answers.sha256, left_out)


def in_both(left_out: int) -> str:
    """What is said of items that were left out, after what is said of the others."""
    return f"; {left_out} more lie in the measured split too" if left_out else ""


def fit_temperature(answers: Answers) -> float:
    """The temperature at which the right classes are the likeliest.

    The negative log-likelihood is convex in 1/T, so its slope has one root at most: it is found by
    Newton's steps, halving (in logarithms) where one would leave what is known to hold the root.

    Raises:
        NoTemperature: too few items, or the likelihood has no largest value.
    """
    units = int(number_units(answers.groups, len(answers.labels)).max(initial=-1)) + 1
    if units < FEW:
        what = "groups of items" if any(answers.groups) else "items"
        raise NoTemperature(f"{answers.split} has {units} {what}, and {FEW} are needed")
    low, high = 1 / HOTTEST, 1 / COLDEST
    hottest, coldest = _slope(answers, low)[0], _slope(answers, high)[0]
    if not hottest < 0 < coldest:
        trend = "all are as good"
        if hottest < 0:
            trend = "the colder the likelier, as where no answer is wrong"
        elif coldest > 0:
            trend = "the hotter the likelier, as where answers are no better than chance"
        span = f"from {COLDEST:g} to {HOTTEST:g}"
        raise NoTemperature(f"no temperature {span} is the best for {answers.split}: {trend}")
    inverse = 1.0
    while high / low > 1 + PRECISION:
        slope, bend = _slope(answers, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / bend if bend > 0 else low
        if abs(newton / inverse - 1) < PRECISION:
            break
        inverse = newton if low < newton < high else math.sqrt(low * high)
    return 1 / inverse


def _slope(answers: Answers, inverse: float) -> tuple[float, float]:
    """First and second derivative of the negative log-likelihood by 1/T.

    They are the mean over the items of E[z] - z_right and of the variance of z, where z are the
    logits and a class has the probability that it has at T.
    """
    logits, items = answers.logits.astype(np.float64), np.arange(len(answers.labels))
    logits = logits - logits[items, answers.labels][:, None]  # the right one is 0
    probabilities = np.exp(answers.likelihoods(1 / inverse))  # [N, C]
    mean = (probabilities * logits).sum(1)  # [N]
    variance = (probabilities * (logits - mean[:, None]) ** 2).sum(1)  # [N]
    return float(mean.mean()), float(variance.mean())
