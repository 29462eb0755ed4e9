"""Whole splits as prepared arrays, decoded once through the serving path.

Torch-free: training and export measure on exactly the arrays that the service would see. With a
cache a split is decoded once for all runs, and may be larger than the memory.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from media import Media, MediaError, read
from media.cache import Add, cache_key, cached
from media.contents import DIGEST_BYTES, Contents, Hashes, contents_of, read_pieces
from media.errors import reason_of
from media.index.dataset import Dataset
from media.limits import TRAINER
from media.sources import Item, Source, SourceError
from media.spec import Grid, InputSpec

#: Unreadable items that an error names.
TOLD = 10

#: What is known of a decoded split: its ``sha256``, and ``skipped`` as pairs of id and reason.
Notes = dict[str, Any]
#: Prepared views [V, *pixels per axis, C]; the reason instead, where an item cannot be decoded.
Result = np.ndarray | str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One split, ready for the network. N items with V views each.

    Attributes:
        pixels: [N * V, *pixels per axis, C] of the InputSpec's dtype; an item's views lie side by
            side.
        labels: int64 [N].
        ids: N item ids, in order.
        sha256: of ids, labels and contents, in order: the same data give the same hash.
        skipped: (id, reason) of the unreadable items that were left out on request.
        digests: of the N items' bytes, as ``Contents`` has them; empty of what was made, not read.
        shards: that the N items lie in, whole numbers [N]; None where there are not several.
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    sha256: str
    skipped: tuple[tuple[str, str], ...] = ()
    digests: np.ndarray = dataclasses.field(
        default_factory=lambda: np.empty((0, DIGEST_BYTES), np.uint8)
    )
    shards: np.ndarray | None = None

    @property
    def views(self) -> int:
        """V: more than 1 for some clips."""
        return len(self.pixels) // len(self.ids)

    def of_items(self, logits: np.ndarray) -> np.ndarray:
        """Logits [N * V, classes] of ``pixels`` -> means over each item's views, [N, classes]."""
        return logits.reshape(len(self.ids), self.views, -1).mean(axis=1)


def prepare_split(
    source: Source | Dataset,
    split: str,
    spec: InputSpec,
    grid: Grid,
    patch: tuple[int, ...],
    *,
    workers: int = 1,
    skip_unreadable: bool = False,
    advance: Callable[[int], None] = lambda items: None,
    limit: int | None = None,
    cache: Path | None = None,
    contents: Contents | None = None,
) -> Prepared:
    """Decode a split for one grid.

    Args:
        workers: threads that decode; the decoders leave the interpreter to the others meanwhile.
        skip_unreadable: leave broken items out (they are named in the result) instead of
            refusing the split.
        advance: called with the number of items just decoded, for a progress display.
        limit: take the first items only.
        cache: folder where decoded splits are kept (``media.cache``); the pixels are then a
            memory map. None keeps them in memory alone.
        contents: of the split, where somebody has read it already; of no use with other items.

    Raises:
        SourceError: unreadable items, counted and named, or items that changed meanwhile.
        CacheError: a cache that cannot be written, or is damaged.
    """
    shards = source.shards(split) if isinstance(source, Dataset) else None
    if isinstance(source, Dataset):
        source = source.view(split, limit)
    items = source.split(split)[:limit]
    wanted = _Wanted(source, split, items, spec, grid, patch, skip_unreadable)
    if contents and list(contents.ids) != [item.id for item in items]:
        contents = None
    if cache and not contents:
        contents = contents_of(source, items)

    def build(add: Add) -> Notes:
        nonlocal contents
        hashes = Hashes()
        skipped = wanted.decode(add, hashes, workers, advance)
        found = hashes.contents(items)
        if contents and contents.sha256 != found.sha256:
            raise SourceError(f"{source.name}: split {split!r} changed while it was read")
        contents = found
        return {"sha256": found.sha256, "skipped": skipped}

    if cache and contents:
        key = cache_key(contents.sha256, spec, grid.pixels(patch))
        pixels, notes = cached(cache, key, wanted.row, spec.dtype, build)
        wanted.check(notes["skipped"])  # whoever filled it may have left items out
    else:
        pixels, notes = _in_memory(len(items) * spec.views, wanted.row, spec.dtype, build)
    skipped = {id_: reason for id_, reason in notes["skipped"]}
    kept = [item for item in items if item.id not in skipped]
    labels = np.array([item.label for item in kept], dtype=np.int64)
    ids = tuple(item.id for item in kept)
    assert contents  # a cache asks for them, and who decodes makes them
    own = np.array([item.id not in skipped for item in items])
    digests = contents.digests[own]  # [N, 16]
    shards = None if shards is None else shards[: len(items)][own]
    told = tuple(skipped.items())
    return Prepared(pixels, labels, ids, notes["sha256"], told, digests, shards)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A split that is to be decoded."""

    source: Source
    split: str
    items: list[Item]
    spec: InputSpec
    grid: Grid
    patch: tuple[int, ...]
    skip_unreadable: bool

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one view."""
        return (*self.grid.pixels(self.patch), self.spec.channels)

    def decode(
        self, add: Add, hashes: Hashes, workers: int, advance: Callable[[int], None]
    ) -> list[tuple[str, str]]:
        """Hand every item's views over, in order; what was left out."""
        skipped: list[tuple[str, str]] = []
        pieces = read_pieces(self.source, self.items, hashes)
        for piece, results in _decode(pieces, self._views, workers):
            for item, result in zip(piece, results, strict=True):
                if isinstance(result, str):
                    skipped.append((item.id, result))
                else:
                    add(result)
            advance(len(piece))
        self.check(skipped)
        return skipped

    def _views(self, medium: Media) -> np.ndarray:
        pixels = read(medium, self.spec, self.grid, self.patch, limits=TRAINER).pixels
        assert pixels.shape == (self.spec.views, *self.row)
        assert pixels.dtype == np.dtype(self.spec.dtype)
        return pixels

    def check(self, skipped: Sequence[Sequence[str]]) -> None:
        """SourceError where items were left out and may not, or where nothing is left."""
        if skipped and not self.skip_unreadable:
            names = "; ".join(f"{id_}: {reason}" for id_, reason in skipped[:TOLD])
            raise SourceError(
                f"{len(skipped)} of {len(self.items)} items in split {self.split!r} cannot be "
                f"read: {names}{'; ...' if len(skipped) > TOLD else ''}"
            )
        if len(skipped) == len(self.items):
            raise SourceError(
                f"{self.source.name}: no item of split {self.split!r} can be read"
            )


def _in_memory(
    rows: int, row: tuple[int, ...], dtype: str, build: Callable[[Add], Notes]
) -> tuple[np.ndarray, Notes]:
    """At most so many rows, written where they stay: a split is never there twice."""
    array, filled = np.empty((rows, *row), dtype), 0

    def add(views: np.ndarray) -> None:
        nonlocal filled
        array[filled : filled + len(views)] = views
        filled += len(views)

    notes = build(add)
    return array[:filled], notes


def _decode(
    pieces: Iterable[tuple[list[Item], list[Media | OSError]]],
    decode: Callable[[Media], np.ndarray],
    workers: int,
) -> Iterator[tuple[list[Item], list[Result]]]:
    """Each piece with its arrays, in order; at most two for each worker are read ahead."""
    waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    # The decoders silence warnings each for itself, and the filters belong to the whole process:
    # with an outer filter of the same kind it does not matter in which order they restore them.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")
        for piece, media in pieces:
            waiting.append((piece, pool.submit(_decode_piece, media, decode)))
            if len(waiting) > 2 * workers:
                done, results = waiting.popleft()
                yield done, results.result()
        while waiting:
            done, results = waiting.popleft()
            yield done, results.result()


def _decode_piece(
    media: list[Media | OSError], decode: Callable[[Media], np.ndarray]
) -> list[Result]:
    return [_decode_one(medium, decode) for medium in media]


def _decode_one(medium: Media | OSError, decode: Callable[[Media], np.ndarray]) -> Result:
    if isinstance(medium, OSError):
        return reason_of(medium)
    try:
        return decode(medium)
    except MediaError as error:
        return str(error)
