"""Mixup and cutmix: shares, partners and targets that fit the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.augment.draws import Draws
from training.augment.mixing import circle_of, mix, partners
from training.config import Augment

LABELS = np.arange(40) % 7


def mixed(spec: Augment, count: int = 40, step: int = 0) -> tuple[Tensor, Tensor]:
    """Items whose pixels are all their own index: [count, 6, 10, 1], and their targets."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, 6, 10, 1)
    draws = Draws(0, step, np.arange(count))
    return mix(pixels, LABELS[np.arange(count) % 40], 7, draws, spec)


def test_partners_form_one_circle() -> None:
    """Everyone is a partner once, nobody is their own."""
    partner = partners(Draws(0, 0, np.arange(33)).take(1)[:, 0])
    seen, at = [], 0
    for _ in range(33):
        seen.append(at)
        at = int(partner[at])
    assert sorted(seen) == list(range(33))
    assert partners(np.array([0.3])).tolist() == [0]


@pytest.mark.parametrize(
    ("batch", "circle"),
    [(64, 8), (16, 2), (24, 3), (8, 2), (12, 3), (20, 5), (6, 3), (4, 2), (2, 2), (33, 33), (1, 1)],
)
def test_circles_lie_inside_fixed_parts_of_the_batch(batch: int, circle: int) -> None:
    """Eighths where each has two items or more, else quarters, halves, the whole."""
    assert circle_of(batch) == circle
    partner = partners(Draws(0, 0, np.arange(batch)).take(1)[:, 0])
    assert sorted(partner) == list(range(batch))
    assert (partner // circle == np.arange(batch) // circle).all()
    assert batch == 1 or (partner != np.arange(batch)).all()


@pytest.mark.parametrize("batch", [64, 16, 24, 8])
def test_processes_mix_their_part_as_one_process_the_whole(batch: int) -> None:
    """Nobody's partner is with another process, whatever the number of them."""
    spec = Augment(mixup=1.0, cutmix=1.0)
    whole = mixed(spec, batch)
    for processes in (2, 4, 8):
        own = batch // processes
        if own < 2:
            continue
        for process in range(processes):
            rows = np.arange(process * own, (process + 1) * own)
            pixels = torch.from_numpy(rows)[:, None, None, None].repeat(1, 6, 10, 1)
            labels, circle = LABELS[rows % 40], circle_of(batch)
            part = mix(pixels, labels, 7, Draws(0, 0, rows), spec, circle)
            assert all(map(torch.equal, part, (one[rows] for one in whole)))


@pytest.mark.parametrize(
    "spec", [Augment(mixup=0.3), Augment(cutmix=1.0), Augment(mixup=1.0, cutmix=1.0)]
)
def test_targets_are_the_shares_of_the_pixels(spec: Augment) -> None:
    """The target of an item holds as much of the partner's label as its pixels of the partner."""
    pixels, targets = mixed(spec)
    draws = Draws(0, 0, np.arange(40)).take(5)
    partner = partners(draws[:, 0])
    torch.testing.assert_close(targets.sum(1), torch.ones(40))
    for index in range(40):
        other = int(partner[index])
        # pixels are own index where kept, the partner's where not, so their mean tells the share
        share = (pixels[index].mean().item() - other) / (index - other)
        expected = torch.zeros(7)
        expected[LABELS[index]] += share
        expected[LABELS[other]] += 1 - share
        torch.testing.assert_close(targets[index], expected, atol=1e-4, rtol=0)


def test_mixup_blends_and_cutmix_pastes() -> None:
    """A blended item has one value everywhere, a pasted one two, in a rectangle."""
    blended, _ = mixed(Augment(mixup=1.0))
    assert all(len(item.unique()) == 1 for item in blended)
    pasted, _ = mixed(Augment(cutmix=1.0))
    assert max(len(item.unique()) for item in pasted) == 2
    assert set(pasted.unique().tolist()) <= set(range(40))


def test_where_both_are_on_each_item_goes_through_one() -> None:
    """Of many items about half are blended and half pasted, in one batch."""
    pixels, _ = mixed(Augment(mixup=1.0, cutmix=1.0))
    whole = (pixels == pixels.round()).flatten(1).all(1).sum().item()
    assert 10 <= whole <= 30


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)), each item with a share of its own."""
    shares = []
    for step in range(150):
        pixels, _ = mixed(Augment(mixup=alpha), step=step)
        partner = partners(Draws(0, step, np.arange(40)).take(1)[:, 0])
        index = np.arange(40)
        shares.append((pixels[:, 0, 0, 0].numpy() - partner) / (index - partner))
    values = np.concatenate(shares)  # [6000]
    assert abs(values.mean() - 0.5) < 0.02
    assert abs(values.var() / (1 / (4 * (2 * alpha + 1))) - 1) < 0.08
    assert len(np.unique(values.round(9))) > 5000


def test_draws_do_not_depend_on_the_other_items_but_for_the_partner() -> None:
    """The share of an item is its own draw: the same in a batch of 40 and in one of 20."""
    many, few = mixed(Augment(mixup=1.0))[1], mixed(Augment(mixup=1.0), count=20)[1]
    own_many = many[torch.arange(20), torch.from_numpy(LABELS[:20])]
    own_few = few[torch.arange(20), torch.from_numpy(LABELS[:20])]
    same = (own_many - own_few).abs() < 1e-6
    assert same.sum() > 12  # others have a partner of their own class in one of them
