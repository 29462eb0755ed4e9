"""Order and draws: they depend on nothing but seed, step and sample."""

from __future__ import annotations

import numpy as np
import pytest

from training.augment.draws import (
    Draws,
    balanced_order,
    epoch_order,
    occurrences,
    sharded_order,
    step_key,
)


def test_epoch_order_is_a_permutation_of_its_own() -> None:
    """Every epoch visits every item once, in an order that seed and epoch decide."""
    orders = {
        (seed, epoch): epoch_order(seed, epoch, 1000).tolist()
        for seed in (0, 1)
        for epoch in range(3)
    }
    for (seed, epoch), order in orders.items():
        assert sorted(order) == list(range(1000))
        assert epoch_order(seed, epoch, 1000).tolist() == order
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_uniform_draws_do_not_depend_on_the_batch() -> None:
    """A sample draws the same numbers alone, in any order and among any others."""
    samples = np.random.default_rng(0).permutation(500)
    together = Draws(3, 17, samples).take(4)
    backwards = Draws(3, 17, samples[::-1]).take(4)
    assert np.array_equal(together, backwards[::-1])
    for index in range(0, 500, 50):
        alone = Draws(3, 17, samples[index : index + 1]).take(4)
        assert np.array_equal(alone[0], together[index])


def test_uniform_draws_change_with_seed_step_and_sample() -> None:
    """No two of many (seed, step, sample, draw) give the same number."""
    samples = np.arange(200)
    draws = [Draws(seed, step, samples).take(3) for seed in range(4) for step in range(10)]
    assert len(np.unique(np.stack(draws))) == 4 * 10 * 200 * 3


def test_uniform_draws_are_uniform_and_independent() -> None:
    """Means, variances, histograms and correlations are those of independent uniforms."""
    items = 20_000
    draws = np.concatenate(
        [Draws(0, step, np.arange(items)).take(3) for step in (0, 1)], axis=1
    )  # [items, 6]
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(0), 1 / 2, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 1 / 12, atol=0.003)
    for column in draws.T:
        counts, _ = np.histogram(column, bins=50, range=(0, 1))
        chi2 = ((counts - items / 50) ** 2 / (items / 50)).sum()
        assert chi2 < 100  # 49 degrees of freedom: exceeded once in 50,000
    correlation = np.corrcoef(np.concatenate([draws.T, np.roll(draws, 1, axis=0).T]))
    assert np.abs(correlation - np.eye(12)).max() < 0.03


def test_step_keys_differ_between_steps_and_seeds() -> None:
    """The generator of each step starts somewhere else."""
    keys = {int(step_key(seed, step)) for seed in range(20) for step in range(500)}
    assert len(keys) == 20 * 500


def test_draws_come_column_by_column() -> None:
    """How the columns are asked for does not change them."""
    samples = np.array([7, 3, 900])
    at_once = Draws(0, 5, samples).take(6)
    draws = Draws(0, 5, samples)
    assert np.array_equal(np.concatenate([draws.take(n) for n in (1, 3, 2)], axis=1), at_once)


def test_sample_that_comes_twice_draws_anew() -> None:
    """Balanced sampling repeats items in a batch; the copies must not be augmented alike."""
    draws = Draws(0, 5, np.array([3, 5, 3, 3])).take(8)
    assert len(np.unique(draws)) == 4 * 8
    assert np.array_equal(draws[:2], Draws(0, 5, np.array([3, 5])).take(8))
    keys = Draws(0, 5, np.array([3, 5, 3, 3])).keys()
    assert len(np.unique(keys)) == 4
    assert np.array_equal(keys[:2], Draws(0, 5, np.array([3, 5])).keys())


def test_keys_are_bits_of_their_own() -> None:
    """What a device draws of them has nothing to do with what the host draws, taken or not."""
    samples = np.arange(20_000)
    draws = Draws(3, 7, samples)
    first = draws.keys()
    taken = draws.take(2)
    assert np.array_equal(draws.keys(), first)
    assert len(np.unique(first)) == 20_000
    bits = (first[:, None] >> np.arange(64)) & 1  # [N, 64]
    np.testing.assert_allclose(bits.mean(0), 1 / 2, atol=0.02)
    correlation = np.corrcoef(np.concatenate([bits.T, taken.T]))
    assert np.abs(correlation - np.eye(66)).max() < 0.04


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([3, 5, 3, 3, 5], [0, 0, 1, 2, 1]), ([0], [0]), ([2, 1, 0], [0, 0, 0]), ([], [])],
)
def test_occurrences_are_counted_in_order(samples: list[int], expected: list[int]) -> None:
    """The first of equal samples is 0, the next 1."""
    assert occurrences(np.array(samples, dtype=np.int64)).tolist() == expected


def test_balanced_order_draws_every_class_equally_often() -> None:
    """Classes of 50, 7 and 3 items: 20 draws each, and no item twice more than another."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 7, 3]))
    order = balanced_order(1, 4, labels)
    assert np.bincount(labels[order]).tolist() == [20, 20, 20]
    for label in range(3):
        times = np.bincount(order, minlength=60)[labels == label]
        assert times.max() - times.min() <= 1
    assert np.array_equal(order, balanced_order(1, 4, labels))
    assert not np.array_equal(order, balanced_order(1, 5, labels))


def test_balanced_order_shares_out_what_does_not_divide() -> None:
    """Eleven items in four classes: three of them get one more, which ones is drawn anew."""
    labels = np.array([0] * 8 + [1, 2, 3])
    odd = set()
    for epoch in range(20):
        counts = np.bincount(labels[balanced_order(0, epoch, labels)])
        assert sorted(counts) == [2, 3, 3, 3]
        odd.add(int(counts.argmin()))
    assert odd == {0, 1, 2, 3}


def test_sharded_order_stays_in_few_shards_at_a_time() -> None:
    """Every item once, window after window of whole shards, another order every epoch."""
    shards = np.repeat(np.arange(7), 4)
    order = sharded_order(1, 2, shards, window=3)
    assert sorted(order.tolist()) == list(range(28))
    assert np.array_equal(order, sharded_order(1, 2, shards, window=3))
    assert not np.array_equal(order, sharded_order(1, 3, shards, window=3))
    windows = [set(part.tolist()) for part in np.split(shards[order], [12, 24])]
    assert [len(window) for window in windows] == [3, 3, 1]
    assert set.union(*windows) == set(range(7))
    assert (np.diff(shards[order[:12]]) != 0).sum() > 3  # not shard after shard
