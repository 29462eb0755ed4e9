"""What work costs, learnt from measurements: means, outliers, sizes that nobody has measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.costs import FIRST_GUESS_SECONDS, DecodeCosts, RunCosts, Window, ladder

SECONDS = st.floats(1e-6, 10)


def window_of(*measured: float) -> Window:
    window = Window()
    for seconds in measured:
        window.add(seconds)
    return window


def test_window_follows_the_newest_measurements() -> None:
    """Sixteen of the new cost, and nothing is left of the old one."""
    window = window_of(*[0.3] * 50, *[0.1] * 16)
    assert (window.mean, window.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_one_absurd_measurement_moves_little() -> None:
    """A laptop that slept for an hour in a run counts as four runs."""
    assert window_of(*[0.01] * 15, 3600.0).mean == pytest.approx(0.01 * (15 + 4) / 16)


def test_high_is_the_ninth_of_ten() -> None:
    """Of 0.01 to 0.10 it is 0.09."""
    assert window_of(*(i / 100 for i in range(1, 11))).high == pytest.approx(0.09)


@given(st.lists(SECONDS, min_size=1, max_size=40))
def test_window_stays_within_what_was_measured(measured: list[float]) -> None:
    """Whatever comes; nothing is believed to cost nothing."""
    window = window_of(*measured)
    assert 1e-4 * 0.999 <= window.mean <= max(*measured, 1e-4) * 1.001
    assert window.mean <= window.high * 1.001 or len(measured) > 9
    assert window.high <= max(*measured, 1e-4) * 1.001


def test_a_cost_of_nothing_does_not_last() -> None:
    """Sixteen answers that took no time, and then the truth, which is believed within a second."""
    window = window_of(*[0.0] * 16, *[0.01] * 48)
    assert window.mean == pytest.approx(0.01)


def test_decoding_is_predicted_by_bytes() -> None:
    """Each power of two for itself; beyond what was measured at most four times, or a quarter."""
    costs = DecodeCosts()
    assert costs.mean(10**6) == FIRST_GUESS_SECONDS
    for _ in range(16):
        costs.learn(100_000, 0.004)
    assert costs.mean(100_000) == pytest.approx(0.004)
    assert costs.high(130_000) == pytest.approx(0.004)
    assert costs.mean(200_000) == pytest.approx(0.008)
    assert costs.mean(10**9) == pytest.approx(0.016)
    assert costs.mean(10) == pytest.approx(0.001)


def test_thumbnails_say_nothing_of_photographs() -> None:
    """A hundred small files do not make a large one expensive, nor the other way round."""
    costs = DecodeCosts()
    for _ in range(100):
        costs.learn(1_500, 0.0008)
    costs.learn(5_000_000, 0.12)
    assert costs.mean(5_000_000) == pytest.approx(0.12)
    assert costs.mean(1_500) == pytest.approx(0.0008)


def test_runs_between_measured_sizes_lie_between_their_costs() -> None:
    """1 and 4 rows were measured: 2 and 3 lie on a line between, 8 are twice 4."""
    costs = RunCosts()
    costs.learn(1, 0.004)
    costs.learn(4, 0.010)
    for rows, seconds in ((1, 0.004), (2, 0.006), (3, 0.008), (4, 0.010), (8, 0.020)):
        assert costs.seconds(rows) == pytest.approx(seconds)
    assert costs.row == pytest.approx(0.0025)


def test_a_batch_is_never_believed_to_cost_more_than_its_rows() -> None:
    """A cold first run of a size would keep that size from ever being tried again."""
    costs = RunCosts()
    costs.learn(1, 0.01)
    costs.learn(2, 0.08)
    assert costs.seconds(2) == pytest.approx(0.02)


@given(st.lists(st.tuples(st.integers(1, 64), SECONDS), max_size=30))
def test_a_prediction_is_there_for_every_size(measured: list[tuple[int, float]]) -> None:
    """Positive and finite, whatever was measured, in whatever order."""
    costs = RunCosts()
    for rows, seconds in measured:
        costs.learn(rows, seconds)
    assert all(0 < costs.seconds(rows) < 1e5 for rows in range(1, 100))
    assert 0 < costs.row <= costs.seconds(1) * 1.001


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (11, [1, 2, 4, 8, 11])]
)
def test_ladder_ends_at_the_largest_batch(most: int, expected: list[int]) -> None:
    """Powers of two, and the limit itself."""
    assert list(ladder(most)) == expected
