"""What a manifest says of labelled data, measured again on them."""

from __future__ import annotations

import numpy as np

from export.parity import batch_of, fp16_bound, graph_logits, open_graph
from export.proof import Proof
from export.statements import stated_right
from media.dataset import Prepared, prepare_split
from media.sources import Source
from media.spec import Grid
from models.bundle import Bundle, BundleError
from models.manifest import GridEntry


def accuracy(
    bundle: Bundle, source: Source, split: str | None, workers: int, entry: GridEntry
) -> Proof:
    manifest, stated = bundle.manifest, entry.accuracy
    if source.labels != manifest.labels:
        raise BundleError(f"expected labels {list(source.labels)}, got {list(manifest.labels)}")
    grid, split = Grid.parse(entry.grid), split or stated.split
    prepared = prepare_split(source, split, manifest.input, grid, manifest.patch, workers=workers)
    if (prepared.sha256, len(prepared.ids)) != (stated.split_sha256, stated.items):
        raise BundleError(
            f"split {split!r} of {source.name} is not the one measured: expected "
            f"{stated.items} items of sha256 {stated.split_sha256[:12]}..., got "
            f"{len(prepared.ids)} of {prepared.sha256[:12]}..."
        )
    session = open_graph(bundle.path(entry.graph))
    logits = graph_logits(session, prepared.pixels, batch=batch_of(grid))  # of every view
    usual, own = fp16_bound(logits).atol, entry.parity.atol
    if manifest.precision == "fp16" and own > 1.01 * usual:  # torch's own spread is not known
        raise BundleError(f"expected a bound of {usual:.3g} for parity, got {own:.3g}")
    right, doubtful = judged(logits, prepared, entry)
    off = abs(right - round(stated_right(entry)))
    told = (
        f"top-1 {right / stated.items:.4f}, {right} of {stated.items} right, "
        f"{round(stated_right(entry))} stated; {doubtful} lie too near a tie to be sure of"
    )
    return Proof(f"accuracy {entry.grid}", off <= doubtful, told, off, doubtful)


def judged(logits: np.ndarray, prepared: Prepared, entry: GridEntry) -> tuple[int, int]:
    """Items that are right, and items that another processor may judge otherwise.

    Those are the ones whose own logit and best other one are nearer than twice the bound of
    parity: each of the two may move by that bound where sums are rounded in another order.

    Args:
        logits: [N * V, classes], of every view.
    """
    means, sizes = prepared.of_items(logits), prepared.of_items(np.abs(logits))  # [N, classes]
    items, labels = np.arange(len(means)), prepared.labels
    own, others = means[items, labels], means.copy()
    others[items, labels] = -np.inf
    rival = others.argmax(1)  # [N]
    largest = np.maximum(sizes[items, labels], sizes[items, rival])
    allowed = entry.parity.atol + entry.parity.rtol * largest
    near = np.abs(own - means[items, rival]) < 2 * allowed
    return int((means.argmax(1) == labels).sum()), int(near.sum())
