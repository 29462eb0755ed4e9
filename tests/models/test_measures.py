"""Figures with intervals: the values are scikit-learn's, the intervals hold what they promise."""

from __future__ import annotations

import dataclasses
import math
import statistics as standard

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, top_k_accuracy_score

from models import measures
from models.bootstrap import draw_weights
from models.figures import Estimate
from models.measures import BINS, DEFINITIONS, calibration, measure


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def classifier(items: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a classifier that is often right, with many ties, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=items)
    logits = random.integers(0, 4, (items, classes)).astype(np.float64)
    logits[np.arange(items), labels] += random.integers(0, 3, items)
    return softmax(logits), labels


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "classes"), [(211, 2), (157, 7), (401, 23)])
@pytest.mark.parametrize("weighted", [False, True])
def test_measures_agree_with_scikit_learn(items: int, classes: int, weighted: bool) -> None:
    """Every figure, plain and weighted, ties included, is scikit-learn's to 1e-12."""
    probabilities, labels = classifier(items, classes)
    weights = np.ones(items)
    if weighted:
        weights = np.random.default_rng(1).integers(0, 5, items).astype(np.float64)
    predicted = probabilities.argmax(1)
    areas = [
        roc_auc_score(labels == label, probabilities[:, label], sample_weight=weights)
        for label in range(classes)
    ]
    expected = {
        "top1": np.average(predicted == labels, weights=weights),
        "balanced_accuracy": balanced_accuracy_score(labels, predicted, sample_weight=weights),
        "roc_auc": areas[1] if classes == 2 else np.mean(areas),
    }
    if classes > 5:
        # scikit-learn lets the higher index win a tie, the service and this project the lower
        expected["top5"] = top_k_accuracy_score(
            classes - 1 - labels, probabilities[:, ::-1], k=5, sample_weight=weights,
            labels=np.arange(classes),
        )  # fmt: skip
    named = measures.statistics(probabilities, labels)
    for name, value in expected.items():
        assert abs(named[name](weights[:, None])[0] - value) < 1e-12, name
    assert set(named) == set(expected) | {"ece"}


def test_measures_of_several_draws_are_those_of_each_draw() -> None:
    """Draws computed together give what each gives alone."""
    probabilities, labels = classifier(83, 7)
    weights = np.concatenate(list(draw_weights(np.arange(83), 5, seed=3)), axis=1)
    for name, statistic in measures.statistics(probabilities, labels).items():
        alone = [statistic(weights[:, [column]])[0] for column in range(5)]
        np.testing.assert_allclose(statistic(weights), alone, atol=1e-14, err_msg=name)


def test_calibration_error_is_what_its_definition_says() -> None:
    """Three bins by hand: the error is the mean gap, weighted by the bins' counts."""
    highest = np.array([0.55, 0.6, 0.6, 0.75, 0.95, 0.95])
    probabilities = np.stack([highest, 1 - highest], axis=1)
    labels = np.array([0, 1, 0, 0, 0, 1])  # right: 1 0 1, 1, 1 0
    # 0.55, 0.6, 0.6 share (8/15, 9/15]; 0.75 lies in (11/15, 12/15], 0.95 in (14/15, 1]
    expected = (abs(2 - 1.75) + abs(1 - 0.75) + abs(1 - 1.9)) / 6
    value = measure(probabilities, labels).figures["ece"].value
    assert value == pytest.approx(expected, abs=1e-12)


def test_calibration_curve_counts_every_item_once() -> None:
    """Bins are closed above; an empty one has no mean; the bins add up to the split."""
    highest = np.array([1 / 15, 1 / 15 + 1e-9, 0.5, 0.52, 1.0])
    table = calibration(highest, np.array([True, False, True, False, True]))
    assert table.shape == (BINS, 3)
    assert table[:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(table[7], [2, 0.51, 0.5])
    assert np.isnan(table[2, 1:]).all()


def test_confusion_matrix_has_right_classes_as_rows() -> None:
    """Classes without items keep their row and column."""
    probabilities = np.eye(4)[[1, 1, 2, 0, 1]]
    measured = measure(probabilities, np.array([1, 2, 2, 2, 1]))
    expected = [[0, 0, 0, 0], [0, 2, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert measured.confusion.tolist() == expected
    assert measured.absent == (0, 3)


def test_classes_without_items_do_not_count() -> None:
    """Balanced accuracy and ROC AUC average over the classes that have items."""
    probabilities, labels = classifier(90, 7)
    labels[labels == 4] = 5
    present = [label for label in range(7) if label != 4]
    predicted = probabilities.argmax(1)
    figures = measure(probabilities, labels).figures
    shares = [(predicted[labels == label] == label).mean() for label in present]
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in present]
    assert figures["balanced_accuracy"].value == pytest.approx(np.mean(shares), abs=1e-12)
    assert figures["roc_auc"].value == pytest.approx(np.mean(areas), abs=1e-12)


def test_perfect_classifier() -> None:
    """Everything is 1 in every draw, and nothing is off in calibration."""
    labels = np.arange(60) % 7
    measured = measure(np.eye(7)[labels], labels)
    for name in ("top1", "top5", "balanced_accuracy", "roc_auc"):
        figure = measured.figures[name]
        assert (figure.value, figure.low, figure.high) == (1, 1, 1), name
    assert measured.figures["ece"].value == 0


def test_constant_classifier() -> None:
    """One answer for every item: no class is told from another, and ties count half."""
    labels = np.arange(70) % 7
    probabilities = np.tile(softmax(np.arange(7.0)[None]), (70, 1))
    figures = measure(probabilities, labels).figures
    assert figures["roc_auc"].value == figures["roc_auc"].low == figures["roc_auc"].high == 0.5
    assert figures["balanced_accuracy"].value == pytest.approx(1 / 7)
    assert figures["top5"].value == pytest.approx(5 / 7)
    assert figures["ece"].value == pytest.approx(probabilities[0, 6] - 1 / 7)


def test_one_class_alone_has_no_roc_auc() -> None:
    """What cannot be computed is None with a reason, and the rest is still there."""
    probabilities, _ = classifier(20, 3)
    figures = measure(probabilities, np.full(20, 2)).figures
    assert figures["roc_auc"].value is None
    assert "two classes" in figures["roc_auc"].reason
    assert figures["balanced_accuracy"] == figures["top1"]


def test_few_items_or_groups_have_no_interval() -> None:
    """Fewer than ten, however many items the groups hold, show too little of the spread."""
    probabilities, labels = classifier(60, 3)
    for count, low_is_known in ((9, False), (10, True)):
        groups = [str(index % count) for index in range(60)]
        few = measure(probabilities[:count], labels[:count])
        for measured in (few, measure(probabilities, labels, groups)):
            figure = measured.figures["top1"]
            assert figure.value is not None
            assert measured.units == count
            assert (figure.low is not None) == (figure.high is not None) == low_is_known
            assert ("no interval" in figure.reason) != low_is_known


def test_rare_class_leaves_draws_without_it_out() -> None:
    """Draws in which a figure is undefined are not counted."""
    probabilities, labels = classifier(40, 2)
    labels[:] = 0
    labels[3] = 1
    figures = measure(probabilities, labels).figures
    assert 580 < figures["roc_auc"].draws < 680  # 1 - 1/e of the draws hold the item of class 1
    assert figures["roc_auc"].low is not None
    assert figures["balanced_accuracy"].draws == 1000


def test_no_draws_give_values_without_intervals() -> None:
    """Every figure is what it is with intervals."""
    probabilities, labels = classifier(60, 7)
    quick, whole = (measure(probabilities, labels, draws=draws).figures for draws in (0, 20))
    for name, figure in quick.items():
        assert (figure.value, figure.low, figure.draws) == (whole[name].value, None, 0)
        assert figure.reason == "no interval: no draw defines it"


def test_figures_are_never_nan() -> None:
    """Over many small splits every number is finite or None."""
    for seed in range(20):
        probabilities, labels = classifier(1 + seed % 5, 2 + seed, seed)
        for name, figure in measure(probabilities, labels, draws=50).figures.items():
            numbers = [n for n in dataclasses.astuple(figure)[:3] if n is not None]
            assert all(math.isfinite(number) for number in numbers), name
            assert name in DEFINITIONS


@pytest.mark.parametrize(
    ("probabilities", "labels", "groups", "message"),
    [
        (np.full((3, 1), 1.0), [0, 0, 0], None, r"expected probabilities \[items, classes\]"),
        (np.full((0, 2), 0.5), [], None, r"got \(0, 2\)"),
        (np.full((3, 2), 0.5), [0, 1], None, r"expected 3 whole labels, got int64 \(2,\)"),
        (np.full((3, 2), 0.5), [0, 1, 2], None, "expected labels from 0 to 1, got 2"),
        (np.full((3, 2), 0.5), [0, 1, 1], ["a"], "a group for each of 3 items, got 1"),
        (np.full((3, 2), np.nan), [0, 1, 1], None, "add up to 1 in every row"),
        (np.full((3, 2), 0.4), [0, 1, 1], None, "add up to 1 in every row"),
        (np.array([[1.5, -0.5]]), [0], None, "add up to 1 in every row"),
    ],
)
def test_measure_refuses_what_is_no_classifier(
    probabilities: np.ndarray, labels: list[int], groups: list[str] | None, message: str
) -> None:
    """Bad shapes and values are named, with what was expected."""
    with pytest.raises(ValueError, match=message):
        measure(probabilities, np.array(labels), groups)


# --- intervals --------------------------------------------------------------------------------


def test_intervals_are_deterministic() -> None:
    """The same split and seed give the same figures; another seed gives other intervals."""
    probabilities, labels = classifier(157, 7)
    first, again = measure(probabilities, labels), measure(probabilities, labels)
    assert first.figures == again.figures
    assert measure(probabilities, labels, seed=1).figures["ece"].low != first.figures["ece"].low


def test_draws_take_as_many_units_as_there_are() -> None:
    """Each draw takes G of G groups, with replacement, and all items of a group together."""
    unit_of = np.array([0, 1, 1, 2, 2, 2, 3])
    weights = np.concatenate(list(draw_weights(unit_of, 2000, seed=0)), axis=1)
    assert weights.shape == (7, 2000)
    assert (weights[1] == weights[2]).all()
    assert (weights[3] == weights[4]).all()
    assert (weights[[0, 1, 3, 6]].sum(0) == 4).all()
    assert np.abs(weights.mean(1) - 1).max() < 0.08
    assert weights[0].var() == pytest.approx(0.75, abs=0.1)  # binomial(4, 1/4)


def test_large_splits_state_fewer_draws_for_roc_auc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ROC AUC would take too long it takes fewer draws, and says how many."""
    monkeypatch.setattr(measures, "WORK", 300 * 60 * 7)
    probabilities, labels = classifier(60, 7)
    figures = measure(probabilities, labels).figures
    assert (figures["roc_auc"].draws, figures["top1"].draws) == (300, 1000)
    monkeypatch.setattr(measures, "WORK", 1)
    assert measure(probabilities, labels).figures["roc_auc"].draws == measures.FEWEST


def covers(figure: Estimate, truth: float) -> bool:
    assert figure.low is not None
    assert figure.high is not None
    return figure.low <= truth <= figure.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 splits of a binary classifier that is known exactly, 95 % hold the true figures.

    The logit of class 1 is normal around -0.7 or 0.7 with variance 1, and 30 % of the items are
    of class 1, so the area under the curve is Phi(1.4 / sqrt 2) and both recalls are Phi(0.7).
    """
    normal = standard.NormalDist()
    truths = {
        "top1": normal.cdf(0.7),
        "balanced_accuracy": normal.cdf(0.7),
        "roc_auc": normal.cdf(1.4 / math.sqrt(2)),
    }
    hits = dict.fromkeys(truths, 0)
    random = np.random.default_rng(0)
    for trial in range(300):
        labels = (random.random(150) < 0.3).astype(np.int64)
        logits = random.normal(1.4 * labels - 0.7)
        probabilities = softmax(np.stack([np.zeros(150), logits], axis=1))
        figures = measure(probabilities, labels, draws=500, seed=trial).figures
        for name, truth in truths.items():
            hits[name] += covers(figures[name], truth)
    for name, count in hits.items():
        assert 0.91 <= count / 300 <= 0.98, (name, count)


def test_interval_of_the_calibration_error_holds_a_large_error() -> None:
    """A classifier that says 0.9 and is right in 70 % of the cases is off by 0.2."""
    random = np.random.default_rng(1)
    probabilities = np.tile([0.05, 0.9, 0.05], (120, 1))
    hits = 0
    for trial in range(300):
        labels = np.where(random.random(120) < 0.7, 1, 2)
        figures = measure(probabilities, labels, draws=500, seed=trial).figures
        hits += covers(figures["ece"], 0.2)
    assert 0.91 <= hits / 300 <= 0.98


def test_intervals_of_grouped_items_draw_groups() -> None:
    """Items of a group err together: only intervals that draw groups hold the truth.

    Each of 50 patients has 6 slices, and all of a patient's slices are right or none is. Drawing
    slices promises intervals that are sqrt(6) times too narrow.
    """
    random = np.random.default_rng(2)
    groups = [f"patient {index // 6}" for index in range(300)]
    hits = {"items": 0, "groups": 0}
    for trial in range(200):
        right = np.repeat(random.random(50) < 0.75, 6)
        probabilities = np.tile([0.2, 0.5, 0.3], (300, 1))
        labels = np.where(right, 1, 0)
        for given in (None, groups):
            measured = measure(probabilities, labels, given, draws=300, seed=trial)
            hits[measured.drawn] += covers(measured.figures["top1"], 0.75)
    assert measured.units == 50
    assert 0.9 <= hits["groups"] / 200 <= 0.985
    assert hits["items"] / 200 < 0.65


def test_items_without_a_group_are_drawn_alone() -> None:
    """Two items with an empty group do not belong together."""
    probabilities, labels = classifier(6, 3)
    measured = measure(probabilities, labels, ["a", "", "a", "", "b", ""])
    assert (measured.drawn, measured.units) == ("groups", 5)
    alone = measure(probabilities, labels, [""] * 6)
    assert alone.drawn == "items"
    assert alone.figures == measure(probabilities, labels).figures
