"""Temperatures and what they do for probabilities, against values found by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from export.answers import Answers, figures, reliability
from export.calibrate import NoTemperature, calibrate, fit_temperature
from models.coverage import THRESHOLDS
from models.figures import FittedOn, Reliability


def answers(logits: object, labels: object, groups: tuple[str, ...] = ()) -> Answers:
    array, right = np.array(logits, np.float32), np.array(labels)
    digests = np.random.default_rng().integers(0, 256, (len(right), 16), np.uint8)
    return Answers(array, right, groups or ("",) * len(right), "val", "0" * 64, digests)


def split(items: int, classes: int, temperature: float, seed: int = 0) -> Answers:
    """Of a classifier that knows exactly how sure it is, but for the temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (items, classes))
    drawn = (logits + random.gumbel(size=logits.shape)).argmax(1)  # by softmax(logits)
    return answers(temperature * logits, drawn)


def plain_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The definition, bin by bin and item by item."""
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [i for i, row in enumerate(probabilities) if low < max(row) <= high]
        if inside:
            sure = sum(max(probabilities[i]) for i in inside)
            right = sum(probabilities[i].argmax() == labels[i] for i in inside)
            total += abs(right - sure)
    return total / len(labels)


# --- how far probabilities are from what comes true -----------------------------------------------


def test_reliability_is_what_is_found_by_hand() -> None:
    """Two items of three classes: (1/2, 1/4, 1/4) is right, (1/4, 1/4, 1/2) should be the first."""
    told = reliability(answers(np.log([[2, 1, 1], [1, 1, 2]]), [0, 0]), 1)
    assert told.ece == pytest.approx(abs(1 - 2 * 0.5) / 2, abs=1e-6)
    assert told.nll == pytest.approx((math.log(2) + math.log(4)) / 2)
    one, other = 0.5**2 + 2 * 0.25**2, 0.75**2 + 0.25**2 + 0.5**2
    assert told.brier == pytest.approx((one + other) / 2)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_reliability_is_that_of_plain_formulas(temperature: float) -> None:
    """ECE, likelihood and Brier score of 300 items, written out."""
    given = split(300, 7, 1.7)
    powers = np.exp(given.logits.astype(np.float64) / temperature)
    probabilities = powers / powers.sum(1, keepdims=True)
    truth = np.eye(7)[given.labels]
    told = reliability(given, temperature)
    assert told.ece == pytest.approx(plain_calibration_error(probabilities, given.labels))
    assert told.nll == pytest.approx(-np.log((probabilities * truth).sum(1)).mean())
    assert told.brier == pytest.approx(((probabilities - truth) ** 2).sum() / 300)


def test_perfect_answers_are_perfectly_reliable() -> None:
    """As sure as can be and always right: nothing is left to be wrong by."""
    told = reliability(answers(1000 * np.eye(4), range(4)), 1)
    assert told == Reliability(0, 0, 0)


def test_huge_logits_give_finite_figures() -> None:
    """No exponential overflows and no logarithm is taken of 0, where an answer is surely wrong."""
    told = reliability(answers(1e30 * np.eye(3), [1, 1, 2]), 1)
    assert told.nll == pytest.approx(1e30 / 3)
    assert (told.ece, told.brier) == pytest.approx((1 / 3, 2 / 3))


# --- temperatures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "gap"), [(8, 2.0), (6, 2.0), (9, 0.1), (8, 300.0)])
def test_temperature_is_what_is_found_by_hand(right: int, gap: float) -> None:
    """Logits (gap, 0), right for some of ten: the likeliest probability is that share."""
    labels = [0] * right + [1] * (10 - right)
    found = fit_temperature(answers([[gap, 0.0]] * 10, labels))
    assert found == pytest.approx(gap / math.log(right / (10 - right)), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_known_temperature_is_recovered(temperature: float) -> None:
    """What a classifier that was exact is too sure by is found, and makes it exact again."""
    given = split(20_000, 5, temperature)
    found = fit_temperature(given)
    assert found == pytest.approx(temperature, rel=0.03)
    assert reliability(given, found).ece < 0.015


@pytest.mark.parametrize("seed", range(8))
def test_no_other_temperature_is_likelier(seed: int) -> None:
    """A search that knows the likelihood alone, and not its slope, ends at the same place."""
    given = split(40 + seed, 3, 0.5 + seed, seed)
    best = minimize_scalar(
        lambda power: reliability(given, math.exp(power)).nll, bounds=(-3, 4), method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    assert fit_temperature(given) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_temperature_follows_the_scale_of_the_logits() -> None:
    """Probabilities after it are the same, whatever the unit."""
    given = split(50, 4, 1.0)
    other = dataclasses.replace(given, logits=given.logits * 64)
    assert fit_temperature(other) == pytest.approx(64 * fit_temperature(given), rel=1e-6)


def test_one_class_alone_gives_a_temperature() -> None:
    """It takes wrong answers, not other right ones."""
    assert fit_temperature(answers([[2.0, 0.0]] * 8 + [[0.0, 2.0]] * 2, [0] * 10)) == pytest.approx(
        2 / math.log(4)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (answers(np.eye(2)[[0, 1] * 10], [0, 1] * 10), "the colder the likelier"),
        (answers(1e30 * np.eye(2)[[0, 1] * 10], [0, 1] * 10), "all are as good"),
        (answers(np.eye(2)[[0, 1] * 10], [1, 0] * 10), "no better than chance"),
        (answers(1e30 * np.eye(2)[[0, 1] * 10], [0, 1] * 9 + [1, 0]), "hotter the likelier"),
        (answers(np.zeros((20, 2)), [0, 1] * 10), "all are as good"),
        (answers(np.eye(2)[[0] * 9], [0] * 8 + [1]), "val has 9 items, and 10 are needed"),
        (
            answers(np.eye(2)[[0] * 20], [0] * 18 + [1] * 2, tuple("ab" * 10)),
            "val has 2 groups of items, and 10 are needed",
        ),
    ],
    ids=["perfect", "perfect and huge", "always wrong", "huge", "no opinion", "tiny", "two groups"],
)
def test_split_without_a_best_temperature_is_named(given: Answers, message: str) -> None:
    """Nothing is fitted to the end of a range, or to a handful of items."""
    with pytest.raises(NoTemperature, match=message):
        fit_temperature(given)


def test_nothing_that_was_fitted_says_why() -> None:
    """The measured split is told as it is, at temperature 1."""
    measured, tiny = split(60, 3, 3.0), split(5, 3, 3.0)
    told = calibrate(lambda: tiny, measured)
    assert (told.calibrated, told.temperature, told.after) == (False, 1, None)
    assert told.reason == "val has 5 items, and 10 are needed"
    assert told.before == reliability(measured, 1)


def test_measured_split_has_no_say() -> None:
    """Whatever is measured, the temperature is that of the validation split."""
    validation = split(80, 3, 3.0)
    told = [calibrate(lambda: validation, split(60, 3, scale, seed=1)) for scale in (0.2, 9.0)]
    assert {one.temperature for one in told} == {fit_temperature(validation)}
    assert told[0].after != told[1].after


def test_items_that_are_measured_have_no_say_either() -> None:
    """Those of validation with the same bytes are left out, with their groups, and counted."""
    measured = split(60, 3, 0.5, seed=1)
    validation = dataclasses.replace(split(80, 3, 3.0), groups=tuple("abcde" * 16))
    digests = validation.digests.copy()
    digests[[3, *range(20, 50)]] = measured.digests[:31]
    kept = np.delete(np.arange(80), [3, *range(20, 50)])
    alone = answers(validation.logits[kept], validation.labels[kept])
    mixed = dataclasses.replace(validation, digests=digests, groups=("",) * 80)
    told = calibrate(lambda: mixed, measured)
    assert told.temperature == fit_temperature(alone) != fit_temperature(mixed)
    assert told.fitted_on == FittedOn("val", 49, "0" * 64, 31)
    grouped = dataclasses.replace(mixed, groups=tuple("abcdefghijk"[i % 11] for i in range(80)))
    few = dataclasses.replace(grouped, digests=np.where(
        (np.arange(80) % 11 < 2)[:, None], measured.digests[0], grouped.digests
    ))  # fmt: skip
    assert calibrate(lambda: few, measured).reason.startswith("val has 9 groups of items")
    same = dataclasses.replace(measured, split="val")
    assert calibrate(lambda: same, measured).reason == (
        "val has 0 items, and 10 are needed; 60 more lie in the measured split too"
    )


# --- figures --------------------------------------------------------------------------------------


def test_figures_are_those_of_calibrated_probabilities() -> None:
    """Mean probability and coverage move with the temperature, answers do not."""
    given = answers([[2.0, 0.0], [4.0, 0.0], [0.0, 2.0], [0.0, 4.0]], [0, 0, 0, 1])
    told = figures(given, 2, (*THRESHOLDS, 0.85))
    low, high = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))  # 0.73, 0.88
    assert told.confidence == pytest.approx((low + high) / 2)
    assert told.mix == (0.5, 0.5)
    assert told.top1.value == 0.75
    assert told.top5 is None
    left = {row.threshold: (row.share, row.accuracy) for row in told.coverage}
    assert left == {
        0.5: (1, 0.75), 0.6: (1, 0.75), 0.7: (1, 0.75), 0.8: (0.5, 1), 0.85: (0.5, 1),
        0.9: (0, None), 0.95: (0, None), 0.99: (0, None),
    }  # fmt: skip


def test_figures_without_draws_are_the_same_values() -> None:
    """What is only wanted for its value costs no bootstrap."""
    given = split(90, 7, 2.0)
    whole, quick = (figures(given, 2, THRESHOLDS, draws) for draws in (1000, 0))
    assert (quick.top1.value, quick.roc_auc.value) == (whole.top1.value, whole.roc_auc.value)
    assert whole.top5 is not None
    assert whole.top1.low is not None
    assert quick.top1.low is None
    assert (quick.mix, quick.coverage) == (whole.mix, whole.coverage)
