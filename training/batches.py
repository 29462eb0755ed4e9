"""Batches of encoded items, each a function of its number alone, and why one cannot be read.

What a step begins with is a function of (seed, step): it is the same whatever process reads it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from media import MediaError, Part
from media.errors import reason_of
from media.index import Changed
from training.augment.draws import Draws
from training.augment.moving import draw_parts, draw_views, move
from training.config import TrainConfig
from training.listed import Listed
from training.memory import is_out_of_memory
from training.order import order_of

#: Where batches lie on their way from a worker.
SHARED = Path("/dev/shm")
#: What reading an item raises where it is the item's fault.
UNREADABLE = (MediaError, OSError, Changed)


class NoBatch(OSError):
    """A batch could not be read; the weights are as before.

    Attributes:
        settings: what a run may go on with, as ``--set`` takes it; the best first.
    """

    def __init__(self, what: str, settings: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.settings = tuple(settings)


class Batch(NamedTuple):
    """What a step begins with, moved and not changed: see ``training.augment.moving``.

    Attributes:
        pixels: [B, *sides, C] of the InputSpec's dtype, on the host; pinned for a GPU. Of a
            process of several B are its own rows.
        samples: places of the items in their split, int64 [B].
        taken: draws that every sample has used.
        problems: of items that cannot be read and are zeros here, their places in the split, each
            with the reason.
    """

    pixels: Tensor
    samples: Tensor
    taken: int
    problems: tuple[tuple[int, str], ...] = ()


class Batches:
    """The batch of every step of a run, by its number.

    Args:
        rows: those of every batch that are wanted here; a process of several has its own.
    """

    def __init__(
        self, training: Listed, config: TrainConfig, rows: slice = slice(None)
    ) -> None:
        self.training, self.config, self.rows = training, config, rows
        self.workers, self.modality = config.workers, training.wanted.spec.modality
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, step: int) -> Batch | NoBatch:
        """An error that has its reason in the data or the machine is given and not raised."""
        return given(lambda: self.read(step, self.samples(step)), self.name(step), self.workers)

    def name(self, step: int) -> str:
        """In words."""
        return f"the batch of step {step}"

    def read(self, step: int, samples: np.ndarray) -> Batch:
        """Of the samples [B] of a step the wanted ones; NoBatch where one cannot be read."""
        config, training = self.config, self.training
        draws, samples = Draws(config.seed, step, samples, rows=self.rows), samples[self.rows]
        chosen = (
            draw_parts(draws, config.augment, training.wanted.spec)
            if config.augment.reads_parts
            else draw_views(draws, training.views).tolist()
        )
        found = [self._item(*pair) for pair in zip(samples.tolist(), chosen, strict=True)]
        pixels = move(np.stack(found), draws, config.augment, training.wanted.spec)
        pixels = np.ascontiguousarray(pixels)  # [B, *sides, C]
        return Batch(torch.from_numpy(pixels), torch.from_numpy(samples), draws.taken)

    def samples(self, step: int) -> np.ndarray:
        """Of the whole batch, int64 [B]."""
        batch = self.config.batch
        epoch, position = divmod(step, len(self.training.places) // batch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of(self, epoch)
        return self._order[position * batch : (position + 1) * batch]

    def _item(self, sample: int, chosen: Part | int) -> np.ndarray:
        """A part or a view of an item, [*sides, C]."""
        training = self.training
        if isinstance(chosen, Part):
            return named(training, sample, lambda: training.read_part(sample, chosen), skip=True)
        return named(training, sample, lambda: training.read(sample), skip=True)[chosen]


class Rows:
    """The views of a split in order, [N * V, *pixels, C], of which some are decoded at a time.

    Attributes:
        shape: of all of them.
        workers: processes that read ahead.
        step: how many at a time.
        tolerant: whether an item that cannot be read is a problem of the batch and no error.
        items: those of the split that N counts.
    """

    def __init__(
        self,
        listed: Listed,
        workers: int,
        step: int = 1,
        tolerant: bool = False,
        items: slice = slice(None),
    ) -> None:
        self.listed, self.workers, self.step, self.tolerant = listed, workers, step, tolerant
        self.items = items
        self._first, end, _ = items.indices(len(listed.places))
        rows = (end - self._first) * listed.views
        self.modality = listed.wanted.spec.modality
        self.shape = (rows, *listed.wanted.pixels, listed.wanted.spec.channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int) -> Batch | NoBatch:
        """The rows from ``number * step`` on, ``step`` of them; an error is given, not raised."""
        return given(lambda: self._read(self.rows(number)), self.name(number), self.workers)

    def in_steps(self, step: int) -> Rows:
        """The same, so many at a time."""
        return Rows(self.listed, self.workers, step, self.tolerant, self.items)

    def name(self, number: int) -> str:
        """In words."""
        return f"rows {number * self.step} to {min((number + 1) * self.step, len(self))}"

    def rows(self, number: int) -> np.ndarray:
        """Int64 [step], the last ones fewer."""
        return np.arange(number * self.step, min((number + 1) * self.step, len(self)))

    def _read(self, rows: np.ndarray) -> Batch:
        views = self.listed.views
        items = range(rows[0] // views, rows[-1] // views + 1)
        problems: list[tuple[int, str]] = []
        found = [self._item(self._first + item, problems) for item in items]
        pixels = np.concatenate(found)[rows - items[0] * views]  # [step, *pixels, C]
        return Batch(torch.from_numpy(pixels), torch.from_numpy(rows), 0, tuple(problems))

    def _item(self, item: int, problems: list[tuple[int, str]]) -> np.ndarray:
        """Its views, [V, *pixels, C]."""
        listed = self.listed
        if not self.tolerant:
            return named(listed, item, lambda: listed.read(item))
        try:
            return listed.read(item)
        except UNREADABLE as error:
            problems.append((item, reason_of(error)))
            return np.zeros((listed.views, *self.shape[1:]), listed.wanted.spec.dtype)


def named(
    listed: Listed, sample: int, read: Callable[[], np.ndarray], skip: bool = False
) -> np.ndarray:
    """What is read of an item; NoBatch names one that cannot be, and whether it may be skipped."""
    try:
        return read()
    except Changed as error:
        raise NoBatch(str(error)) from error
    except UNREADABLE as error:
        id_ = listed.ids[sample]
        raise NoBatch(
            f"{id_!r} cannot be read: {reason_of(error)}", [f"skip={id_}"] * skip
        ) from error


def given(read: Callable[[], Batch], name: str, workers: int) -> Batch | NoBatch:
    """A batch, in a worker where the run can map it, or why there is none.

    DataLoader would make a text of an error, and lose it where shared memory runs out.
    """
    try:
        batch = read()
        return batch if get_worker_info() is None else _shared(batch, workers)
    except NoBatch as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return NoBatch(f"out of memory while {name} was read", fewer(workers))


def _shared(batch: Batch, workers: int) -> Batch:
    """Moved here and now: later, in a thread of the queue, an error would be lost."""
    try:
        batch.pixels.share_memory_()
        batch.samples.share_memory_()
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise too_small(workers, batch.pixels.nbytes) from error
    return batch


def too_small(workers: int, batch: int = 0) -> NoBatch:
    """Where workers leave their batches is full; ``batch`` bytes, where they are known."""
    whole, _, free = (size / 2**20 for size in shutil.disk_usage(SHARED))
    wanted = f", and a batch takes {batch / 2**20:.1f}" if batch else ""
    return NoBatch(
        f"the shared memory, through which workers give their batches, is full: {SHARED} has "
        f"{whole:.0f} MiB, {free:.1f} free{wanted}; give a container more (docker run "
        "--shm-size=1g), or read with fewer workers or none",
        fewer(workers),
    )


def fewer(workers: int) -> list[str]:
    """Settings that need less memory."""
    return ["workers=1"] * (workers > 1) + ["workers=0"] * (workers > 0)
