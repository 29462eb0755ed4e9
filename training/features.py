"""What the head of a checkpoint reads of every item of a split, computed once and kept.

Features are kept by what decides them: the ids and bytes of the items but not their labels, the
weights, the architecture (the same weights pool as it says), the input and its size. The same split
under the same checkpoint is never decoded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from media.cache import Add, CacheError, cache_key, cached
from media.contents import Contents
from media.dataset import TOLD, Notes
from media.index import Dataset, Wanted
from media.sources import SourceError
from media.spec import Grid, InputSpec
from media.strict_json import to_json
from models.checkpoint import Description
from models.vit import VisionTransformer
from training.answers import answers_of
from training.batches import NoBatch, Rows
from training.listed import Listed
from training.progress import Progress

#: Part of every key. Raise it with any change of what a network gives for the same weights.
FEATURES = 1


@dataclasses.dataclass(frozen=True)
class Features:
    """Of one split, N items.

    Attributes:
        rows: float32 [N, F], means over the views of a clip.
        labels: int64 [N].
        ids: of the N items.
        skipped: (id, reason) of the unreadable items that were left out on request.
    """

    rows: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Computes features, in fp32 as everything that is measured is.

    Attributes:
        body: the network without its head, where it shall run.
        grid: tokens per axis.
        folder: that keeps features.
        batch, workers: items at a time, processes that read ahead.
    """

    body: VisionTransformer
    description: Description
    grid: Grid
    folder: Path
    batch: int
    workers: int
    progress: Progress

    def split(
        self, dataset: Dataset, name: str, contents: Contents, skip_unreadable: bool
    ) -> Features:
        """The features of a split.

        Args:
            contents: of the split.
            skip_unreadable: leave items out that cannot be read, and name them.

        Raises:
            SourceError: an item cannot be read, or none can.
            FloatingPointError: the network's answer is no number.
            CacheError: features cannot be kept, or what was kept is damaged.
            NoBatch, OutOfMemory: too little memory, or no worker can be started.
        """
        wanted = Wanted(self.description.input, self.grid.pixels(self.body.spec.patch))
        decides = (
            f"{FEATURES} {self.description.weights_sha256} {torch.__version__} "
            f"{json.dumps(to_json(self.body.spec), sort_keys=True)} "
            f"{cache_key(items_sha256(contents), wanted.spec, wanted.pixels)}"
        )
        key = hashlib.sha256(decides.encode()).hexdigest()

        listed, row = Listed(dataset, name, wanted), (self.body.spec.features,)
        try:
            rows, notes = cached(
                self.folder, key, row, "float32", lambda add: self._compute(listed, add)
            )
        except CacheError as error:
            if isinstance(error.__cause__, NoBatch):  # which is an OSError too
                raise error.__cause__ from None
            raise
        skipped = tuple((id_, reason) for id_, reason in notes["skipped"])
        check_skipped(listed, skipped, skip_unreadable)
        self.progress.skipped(name, skipped)
        left_out = {id_ for id_, _ in skipped}
        own = np.array([id_ not in left_out for id_ in listed.ids])  # [items]
        ids = tuple(id_ for id_ in listed.ids if id_ not in left_out)
        return Features(np.asarray(rows), listed.labels[own], ids, skipped)

    def _compute(self, listed: Listed, add: Add) -> Notes:
        """Hand the features of all items over that can be read; the others are notes."""
        skipped: list[tuple[str, str]] = []
        rows = Rows(listed, self.workers, self.batch * listed.views, tolerant=True)
        with (
            self.progress.computing(listed.split, len(listed.places)) as advance,
            contextlib.closing(answers_of(self.body, rows)) as answers,
        ):
            for first, found, problems in answers:
                names = range(first, first + len(found))
                good = [name not in problems for name in names]
                for name, row in zip(names, found, strict=True):
                    if name not in problems and not np.isfinite(row).all():
                        raise FloatingPointError(
                            f"the features of {listed.ids[name]!r} are not finite"
                        )
                skipped += [(listed.ids[name], reason) for name, reason in problems.items()]
                add(found[good])
                advance(len(found))
        return {"skipped": skipped}


def items_sha256(contents: Contents) -> str:
    """Of a split's ids and bytes, in order, whatever its items are called by their labels."""
    whole = hashlib.sha256()
    for id_, digest in zip(contents.ids, contents.digests, strict=True):
        whole.update(json.dumps([id_, digest.tobytes().hex()]).encode())
    return whole.hexdigest()


def check_skipped(
    listed: Listed, skipped: tuple[tuple[str, str], ...], allowed: bool
) -> None:
    """SourceError where items were left out and may not, or where nothing is left."""
    items, split = len(listed.places), listed.split
    if skipped and not allowed:
        names = "; ".join(f"{id_}: {reason}" for id_, reason in skipped[:TOLD])
        raise SourceError(
            f"{len(skipped)} of {items} items in split {split!r} cannot be read: {names}"
            f"{'; ...' if len(skipped) > TOLD else ''}; --skip-unreadable leaves them out"
        )
    if len(skipped) == items:
        raise SourceError(f"{listed.dataset.name}: no item of split {split!r} can be read")


def without_head(model: VisionTransformer, input_spec: InputSpec) -> VisionTransformer:
    """The same network in evaluation mode, whose answers are what the head reads, [B, F]."""
    body = VisionTransformer(dataclasses.replace(model.spec, classes=0), input_spec)
    state = model.state_dict()
    body.load_state_dict({name: state[name] for name in body.state_dict()})
    return body.eval()
