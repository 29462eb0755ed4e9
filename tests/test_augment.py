"""Augmentation: draws that depend on nothing but seed, step and sample, and what they do."""

from __future__ import annotations

import numpy as np
import pytest

from training.augment import crop_and_flip, epoch_order, step_key, uniform


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
    together = uniform(3, 17, samples, 4)
    backwards = uniform(3, 17, samples[::-1], 4)
    assert np.array_equal(together, backwards[::-1])
    for index in range(0, 500, 50):
        assert np.array_equal(uniform(3, 17, samples[index : index + 1], 4)[0], together[index])
    assert np.array_equal(uniform(3, 17, samples, 2), together[:, :2])


def test_uniform_draws_change_with_seed_step_and_sample() -> None:
    """No two of many (seed, step, sample, draw) give the same number."""
    samples = np.arange(200)
    draws = [uniform(seed, step, samples, 3) for seed in range(4) for step in range(10)]
    assert len(np.unique(np.stack(draws))) == 4 * 10 * 200 * 3


def test_uniform_draws_are_uniform_and_independent() -> None:
    """Means, variances, histograms and correlations are those of independent uniforms."""
    items = 20_000
    draws = np.concatenate(
        [uniform(0, step, np.arange(items), 3) for step in (0, 1)], axis=1
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


def plain_crop(image: np.ndarray, draws: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    """Pad with mirrored edges, cut out, mirror: one image, as one would write it down."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    top, left = (int(draw * (2 * padding + 1)) for draw in draws[:2])
    cut = padded[top : top + height, left : left + width]
    return cut[:, ::-1] if flip and draws[2] < 0.5 else cut


@pytest.mark.parametrize("padding", [0, 1, 4, 9])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_and_flip_equals_a_plain_implementation(padding: int, flip: bool) -> None:
    """The vectorised version gives every image what padding, cutting and mirroring give it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 7, 11, 3), dtype=np.uint8)
    draws = rng.random((40, 3))
    most = 1 - 1e-6
    draws[:4] = np.array([[0, 0, 0], [0, most, 0.5], [most, 0, 0.499], [most, most, most]])
    expected = np.stack(
        [plain_crop(one, row, padding, flip) for one, row in zip(pixels, draws, strict=True)]
    )
    result = crop_and_flip(pixels, draws, padding, flip)
    assert result.dtype == np.uint8
    assert np.array_equal(result, expected)


def test_crop_and_flip_leaves_its_input_alone() -> None:
    """The prepared split is shared by all epochs and must not change."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 9, 1), dtype=np.uint8)
    before = pixels.copy()
    crop_and_flip(pixels, np.full((4, 3), 0.1), 2, True)[:] = 0
    assert np.array_equal(pixels, before)


def test_crop_and_flip_reaches_every_shift_equally_often() -> None:
    """With padding 1 the nine shifts come up a ninth of the time each, mirrored half of it."""
    pixels = np.arange(3 * 4, dtype=np.uint8).reshape(1, 3, 4, 1).repeat(9000, axis=0)
    results = crop_and_flip(pixels, uniform(0, 0, np.arange(9000), 3), 1, True)
    _, counts = np.unique(results.reshape(9000, -1), axis=0, return_counts=True)
    assert len(counts) == 18
    np.testing.assert_allclose(counts, 500, atol=110)
