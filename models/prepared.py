"""Whole splits as prepared arrays, decoded once through the serving path.

Torch-free: training and export measure on exactly the arrays that the service would see.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from models.inputs import MediaError, prepare
from models.sources import Item, Source, SourceError
from models.spec import Grid, InputSpec

#: Items handed to a worker process at a time.
PIECE = 256


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One split, ready for the network. N items.

    Attributes:
        pixels: uint8 [N, *pixels per axis, C].
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
        workers: processes that decode; 1 decodes here.
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
    jobs = _pieces(source, items, hasher, spec, grid, patch)
    for piece, results in zip(_cut(items), _run(jobs, workers), strict=True):
        for item, result in zip(piece, results, strict=True):
            if isinstance(result, str):
                failures.append((item.id, result))
            else:
                kept.append(item)
                arrays.append(result)
        advance(len(piece))
    if failures and not skip_unreadable:
        names = "; ".join(f"{id_}: {reason}" for id_, reason in failures[:10])
        raise SourceError(f"{len(failures)} of {len(items)} items cannot be read: {names}")
    if not kept:
        raise SourceError(f"{source.name}: no item of split {split!r} can be read")
    labels = np.array([item.label for item in kept], dtype=np.int64)
    ids = tuple(item.id for item in kept)
    return Prepared(np.stack(arrays), labels, ids, hasher.hexdigest(), tuple(failures))


def _cut(items: list[Item]) -> Iterator[list[Item]]:
    for start in range(0, len(items), PIECE):
        yield items[start : start + PIECE]


def _pieces(source, items, hasher, spec, grid, patch) -> Iterator[tuple]:  # type: ignore[no-untyped-def]
    """Read the media of each piece, hashing on the way."""
    for piece in _cut(items):
        media = [source.read(item.id) for item in piece]
        for item, medium in zip(piece, media, strict=True):
            content = medium if isinstance(medium, bytes) else np.ascontiguousarray(medium)
            digest = hashlib.sha256(content).hexdigest()
            hasher.update(f"{item.id}\0{item.label}\0{digest}\n".encode())
        yield media, spec, grid, patch


def _run(jobs: Iterator[tuple], workers: int) -> Iterator[list[np.ndarray | str]]:
    if workers == 1:
        yield from (_prepare_piece(job) for job in jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_prepare_piece, jobs)


def _prepare_piece(job: tuple) -> list[np.ndarray | str]:
    """Prepared arrays; the reason instead, where an item cannot be decoded."""
    media, spec, grid, patch = job
    results: list[np.ndarray | str] = []
    for medium in media:
        try:
            results.append(prepare(medium, spec, grid, patch))
        except MediaError as error:
            results.append(str(error))
    return results
