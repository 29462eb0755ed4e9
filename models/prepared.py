"""Whole splits as prepared arrays, decoded once through the serving path.

Torch-free: training and export measure on exactly the arrays that the service would see.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from models.inputs import Media, MediaError, read
from models.sources import Item, Source, SourceError
from models.spec import Grid, InputSpec

#: Items that a thread takes at a time. At most two pieces per thread are read ahead, so that
#: a split of large photographs never lies in memory encoded.
PIECE = 32

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
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    sha256: str
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def views(self) -> int:
        """V: more than 1 for some clips."""
        return len(self.pixels) // len(self.ids)

    def of_items(self, logits: np.ndarray) -> np.ndarray:
        """Logits [N * V, classes] of ``pixels`` -> means over each item's views, [N, classes]."""
        return logits.reshape(len(self.ids), self.views, -1).mean(axis=1)


def prepare_split(
    source: Source,
    split: str,
    spec: InputSpec,
    grid: Grid,
    patch: tuple[int, ...],
    *,
    workers: int = 1,
    skip_unreadable: bool = False,
    advance: Callable[[int], None] = lambda items: None,
    limit: int | None = None,
) -> Prepared:
    """Decode a split for one grid.

    Args:
        workers: threads that decode; the decoders leave the interpreter to the others meanwhile.
        skip_unreadable: leave broken items out (they are named in the result) instead of
            refusing the split.
        advance: called with the number of items just done, for a progress display.
        limit: take the first items only.

    Raises:
        SourceError: unreadable items, counted and named.
    """
    items = source.split(split)[:limit]
    hasher = hashlib.sha256()
    arrays: list[np.ndarray] = []
    kept: list[Item] = []
    failures: list[tuple[str, str]] = []
    pieces = _read(source, items, hasher)
    for piece, results in _decode(pieces, lambda one: read(one, spec, grid, patch).pixels, workers):
        for item, result in zip(piece, results, strict=True):
            if isinstance(result, str):
                failures.append((item.id, result))
            else:
                kept.append(item)
                arrays.append(result)
        advance(len(piece))
    if failures and not skip_unreadable:
        count = f"{len(failures)} of {len(items)} items"
        raise SourceError(f"{count} in split {split!r} cannot be read: {_told(failures)}")
    if not kept:
        raise SourceError(f"{source.name}: no item of split {split!r} can be read")
    labels = np.array([item.label for item in kept], dtype=np.int64)
    ids = tuple(item.id for item in kept)
    return Prepared(np.concatenate(arrays), labels, ids, hasher.hexdigest(), tuple(failures))


def split_sha256(source: Source, split: str) -> str:
    """The hash that ``prepare_split`` gives, without decoding."""
    hasher = hashlib.sha256()
    for _ in _read(source, source.split(split), hasher):
        pass
    return hasher.hexdigest()


def _told(failures: list[tuple[str, str]], shown: int = 10) -> str:
    names = "; ".join(f"{id_}: {reason}" for id_, reason in failures[:shown])
    return names + ("; ..." if len(failures) > shown else "")


def _read(
    source: Source, items: list[Item], hasher: hashlib._Hash
) -> Iterator[tuple[list[Item], list[Media | OSError]]]:
    """Pieces of a split with their media, hashed on the way."""
    for start in range(0, len(items), PIECE):
        piece = items[start : start + PIECE]
        media = [_read_one(source, item) for item in piece]
        for item, medium in zip(piece, media, strict=True):
            digest = hashlib.sha256(_content(medium)).hexdigest()
            hasher.update(f"{item.id}\0{item.label}\0{digest}\n".encode())
        yield piece, media


def _read_one(source: Source, item: Item) -> Media | OSError:
    """A file that cannot be opened is an unreadable item like one that cannot be decoded."""
    try:
        return source.read(item.id)
    except OSError as error:
        return error


def _content(medium: Media | OSError) -> bytes:
    """What the hash covers: of an array its type and shape too."""
    if isinstance(medium, OSError):
        return b""
    if isinstance(medium, bytes):
        return medium
    return f"{medium.dtype}{medium.shape}".encode() + medium.tobytes()


def _decode(
    pieces: Iterable[tuple[list[Item], list[Media | OSError]]],
    decode: Callable[[Media], np.ndarray],
    workers: int,
) -> Iterator[tuple[list[Item], list[Result]]]:
    """Each piece with its arrays, in order; a bounded number of pieces is under way."""
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
        return medium.strerror or type(medium).__name__
    try:
        return decode(medium)
    except MediaError as error:
        return str(error)
