"""A split that is too large for the memory: listed, and decoded where it is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from media.contents import Contents, contents_of
from media.errors import MediaError, reason_of
from media.index.dataset import Dataset, Wanted
from media.limits import memory_bytes
from media.sources import SourceError

#: Of the memory, that a decoded split may take; a larger one is decoded where it is asked for.
SHARE = 0.5


def decoded_bytes(wanted: Wanted) -> int:
    """What an item takes once it is decoded, with all its views."""
    spec = wanted.spec
    values = (wanted.views or spec.views) * math.prod(wanted.pixels) * spec.channels
    return values * np.dtype(spec.dtype).itemsize


def fits(items: int, wanted: Wanted) -> bool:
    """Whether so many decoded items leave enough memory."""
    return decoded_bytes(wanted) * items <= SHARE * memory_bytes()


@dataclasses.dataclass(frozen=True)
class Views:
    """Prepared views [N * V, *pixels per axis, C], as an array that decodes what is taken of it.

    Attributes:
        places: of the N items in the data set, int64.
        workers: threads that decode.
    """

    dataset: Dataset
    places: np.ndarray
    wanted: Wanted
    workers: int

    @property
    def each(self) -> int:
        """V: more than 1 for some clips."""
        return self.wanted.views or self.wanted.spec.views

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self.wanted.pixels, self.wanted.spec.channels

    def __len__(self) -> int:
        return len(self.places) * self.each

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some rows, [n, *pixels per axis, C].

        Raises:
            SourceError: an item cannot be read, or its file is another one by now.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.wanted.spec.dtype)
        items, own = np.unique(rows // self.each, return_inverse=True)
        with self._pool() as pool:
            found = list(pool.map(self._decoded, self.places[items].tolist()))
        return np.stack(found)[own, rows % self.each]  # of [items, V, *pixels per axis, C]

    def of(self, items: slice) -> Views:
        """The views of some items; nothing is decoded."""
        return dataclasses.replace(self, places=self.places[items])

    def problems(self) -> dict[int, str]:
        """Why items cannot be read, by their place among the N; all are decoded for it once."""
        with self._pool() as pool:
            reasons = list(pool.map(self._problem, self.places.tolist()))
        return {item: reason for item, reason in enumerate(reasons) if reason}

    def _decoded(self, place: int) -> np.ndarray:
        """An item, [V, *pixels per axis, C]."""
        try:
            return self.dataset.read(place, self.wanted)
        except (MediaError, OSError) as error:
            id_ = self.dataset.columns.ids[place]
            raise SourceError(f"{id_!r} cannot be read: {reason_of(error)}") from error

    def _problem(self, place: int) -> str:
        try:
            self.dataset.read(place, self.wanted)
        except (MediaError, OSError) as error:
            return reason_of(error)
        return ""

    @contextlib.contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Without warnings: as in ``media.dataset``, their filters belong to the whole process."""
        with warnings.catch_warnings(), ThreadPoolExecutor(self.workers) as pool:
            warnings.simplefilter("ignore")
            yield pool


@dataclasses.dataclass(frozen=True)
class Unread:
    """What ``media.dataset.Prepared`` is of a decoded split. N items with V views each.

    Attributes:
        pixels: [N * V, *pixels per axis, C], decoded when they are taken.
        labels, ids, sha256, digests, skipped: as of ``Prepared``.
    """

    pixels: Views
    labels: np.ndarray
    ids: tuple[str, ...]
    sha256: str
    digests: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def views(self) -> int:
        """V: more than 1 for some clips."""
        return self.pixels.each

    def of_items(self, logits: np.ndarray) -> np.ndarray:
        """Logits [N * V, classes] of ``pixels`` -> means over each item's views, [N, classes]."""
        return logits.reshape(len(self.ids), self.views, -1).mean(axis=1)


def list_split(
    dataset: Dataset,
    split: str,
    wanted: Wanted,
    *,
    workers: int = 1,
    skip_unreadable: bool = False,
    contents: Contents | None = None,
) -> Unread:
    """A split of which nothing is decoded yet.

    Args:
        workers: threads that decode.
        skip_unreadable: leave broken items out, for which all are decoded here, and once more where
            they are asked for; else one is an error then.
        contents: of the split, where somebody has read it already; else its bytes are read here.

    Raises:
        SourceError: the split has no items, or none that can be read.
    """
    places = dataset.split(split)
    if contents is None:
        source = dataset.view(split)
        contents = contents_of(source, source.split(split))
    views = Views(dataset, places, wanted, workers)
    problems = views.problems() if skip_unreadable else {}
    if len(problems) == len(places):
        raise SourceError(f"{dataset.name}: no item of split {split!r} can be read")
    own, ids = np.delete(np.arange(len(places)), list(problems)), contents.ids
    return Unread(
        dataclasses.replace(views, places=places[own]),
        dataset.columns.labels[places[own]].astype(np.int64),
        tuple(ids[item] for item in own.tolist()),
        contents.sha256,
        contents.digests[own],
        tuple((ids[item], reason) for item, reason in problems.items()),
    )
