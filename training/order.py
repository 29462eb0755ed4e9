"""Which items the steps of an epoch take: a pure function of (seed, epoch) and the items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from media.spec import SpecError
from training.augment.draws import balanced_order, epoch_order, sharded_order
from training.config import TrainConfig

#: Shards whose items are shuffled among themselves.
WINDOW = 16


class Items(Protocol):
    """A training split: N items."""

    @property
    def labels(self) -> np.ndarray:
        """Classes, int64 [N]."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """N of them, unique."""
        ...

    @property
    def shards(self) -> np.ndarray | None:
        """That each lies in, whole numbers [N]; None where there are not several."""
        ...


class Ordered(Protocol):
    """Who takes the steps of a run, or reads for them."""

    @property
    def config(self) -> TrainConfig:
        """Of the run."""
        ...

    @property
    def training(self) -> Items:
        """What is ordered."""
        ...


def order_of(setup: Ordered, epoch: int) -> np.ndarray:
    """Indices into the training split, in the order of one epoch; int64 [items]."""
    config, labels = setup.config, setup.training.labels
    if config.sampling == "balanced":
        order = balanced_order(config.seed, epoch, labels)
    elif setup.training.shards is not None:
        order = sharded_order(config.seed, epoch, setup.training.shards, WINDOW)
    else:
        order = epoch_order(config.seed, epoch, len(labels))
    if not config.skip:
        return order
    skip = frozenset(config.skip)  # an array of all ids would be as wide as the longest
    left_out = np.fromiter((id_ in skip for id_ in setup.training.ids), bool, len(labels))
    return with_stand_ins(order, labels, left_out)


def with_stand_ins(order: np.ndarray, labels: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The order of an epoch without some items; int64, as long as before.

    In the place of each comes another one of its class, one that comes least often, the first of
    the order: so steps, epochs and the shares of the classes are what they were, and so is the rest
    of the order.

    Args:
        order: indices into labels [items] and left_out [items], which is bool.
    """
    times = np.bincount(order, minlength=len(labels))  # [items]
    first = np.full(len(labels), len(order))  # [items], where each comes first
    first[order[::-1]] = np.arange(len(order))[::-1]
    result = order.copy()
    for label in np.unique(labels[left_out]):
        places = np.flatnonzero((labels[order] == label) & left_out[order])
        others = np.flatnonzero((labels == label) & ~left_out)
        if not len(others):  # those that skip leaves could not be read
            raise SpecError(f"skip: expected to leave items of class {label} to train on")
        ranked = others[np.lexsort((first[others], times[others]))]
        result[places] = np.resize(ranked, len(places))
    return result
