"""A split whose items are read when a step wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from media import Part, read_part
from media.index import Dataset, Wanted
from media.limits import TRAINER
from media.sources.texts import Texts
from media.unread import fits
from training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Listed:
    """One split of an index. N items, by their places in the split, with V views each.

    Attributes:
        wanted: how its items are decoded.
        skipped: nothing: what cannot be read is an error when its step comes.
    """

    dataset: Dataset
    split: str
    wanted: Wanted
    skipped: tuple[tuple[str, str], ...] = ()

    @cached_property
    def places(self) -> np.ndarray:
        """Of the items in the data set, int64 [N]."""
        return self.dataset.split(self.split)

    @cached_property
    def labels(self) -> np.ndarray:
        """Int64 [N]."""
        return self.dataset.columns.labels[self.places].astype(np.int64)

    @property
    def ids(self) -> Sequence[str]:
        """N of them, each made when it is asked for."""
        return _Chosen(self.dataset.columns.ids, self.places)

    @cached_property
    def shards(self) -> np.ndarray | None:
        """That each item lies in, int32 [N]; None where there are not several."""
        return self.dataset.shards(self.split)

    @property
    def views(self) -> int:
        """V: more than 1 for some clips."""
        return self.wanted.views or self.wanted.spec.views

    def read(self, sample: int) -> np.ndarray:
        """An item decoded, [V, *pixels per axis, C]; raises as ``Dataset.read`` does."""
        return self.dataset.read(int(self.places[sample]), self.wanted)

    def read_part(self, sample: int, part: Part) -> np.ndarray:
        """A part of an item, [*pixels per axis, C]; raises as ``Dataset.read`` does."""
        media = self.dataset.read(int(self.places[sample]))
        return read_part(media, self.wanted.spec, self.wanted.pixels, part, TRAINER)

    def of_items(self, logits: np.ndarray) -> np.ndarray:
        """Logits [N * V, classes] of all views -> means over each item's views, [N, classes]."""
        return logits.reshape(len(self.places), self.views, -1).mean(axis=1)

    def __reduce__(self) -> tuple[Any, ...]:
        """A process finds places and labels in the index that it maps."""
        return Listed, (self.dataset, self.split, self.wanted)


@dataclasses.dataclass(frozen=True)
class _Chosen(Sequence[str]):
    """Some of many texts: those at ``places`` [N]."""

    texts: Texts
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.texts[int(place)] for place in self.places[index]]
        return self.texts[int(self.places[index])]


def reads_each_step(config: TrainConfig, items: int, wanted: Wanted) -> bool:
    """Whether ``items`` training items are read in each step, as ``TrainConfig.read`` says."""
    if config.read == "each-step" or config.augment.reads_parts:
        return True
    return is_too_large(config, items, wanted)


def is_too_large(config: TrainConfig, items: int, wanted: Wanted) -> bool:
    """Whether decoded items would leave too little memory, and nothing asks for them anyway."""
    if config.read == "once" or config.cache or config.skip_unreadable:
        return False
    return not fits(items, wanted)
