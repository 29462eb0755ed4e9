"""What is left where unsure answers are withheld."""

from __future__ import annotations

import numpy as np

from models.coverage import THRESHOLDS, coverage, risk_coverage
from models.figures import Coverage

HIGHEST = np.array([0.9, 0.6, 0.9, 0.7, 0.4])
RIGHT = np.array([True, False, True, True, False])


def test_answers_of_just_the_threshold_are_given() -> None:
    """Each threshold once, in rising order; where nothing is left, nothing is right or wrong."""
    assert coverage(HIGHEST, RIGHT, (0.95, 0.6, 0.9, 0.6)) == (
        Coverage(0.6, 0.8, 0.75), Coverage(0.9, 0.4, 1.0), Coverage(0.95, 0.0, None),
    )  # fmt: skip
    assert [row.threshold for row in coverage(HIGHEST, RIGHT)] == list(THRESHOLDS)


def test_curve_begins_with_the_surest_and_ends_with_all() -> None:
    """Items of one probability are answered together; the last point is the share of mistakes."""
    expected = [(2 / 5, 0), (3 / 5, 0), (4 / 5, 1 / 4), (1, 2 / 5)]
    np.testing.assert_allclose(risk_coverage(HIGHEST, RIGHT), expected)


def test_equally_sure_answers_are_one_point() -> None:
    """Nothing tells them apart."""
    curve = risk_coverage(np.full(4, 0.5), np.array([True, False, False, False]))
    np.testing.assert_array_equal(curve, [[1, 0.75]])


def test_curve_meets_the_table_at_every_probability() -> None:
    """The same figures, found in two ways."""
    random = np.random.default_rng(0)
    highest = random.integers(10, 30, 200) / 30
    right = random.random(200) < highest
    rows = coverage(highest, right, np.unique(highest).tolist())
    told = [(row.share, 1 - (row.accuracy or 0)) for row in reversed(rows)]
    np.testing.assert_allclose(risk_coverage(highest, right), told)
