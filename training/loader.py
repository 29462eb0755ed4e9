"""Batches of encoded items, read ahead of the steps by processes of their own.

What a batch holds is a function of (seed, step) alone: it is the same whatever the number of
workers, and a run that goes on begins at its step. Torch's DataLoader carries the batches; what it
calls an index is the number of the step.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from media import MediaError, Part
from media.index import Changed
from training.augment.draws import Draws
from training.augment.moving import draw_parts, draw_views, move
from training.config import TrainConfig
from training.listed import Listed
from training.memory import is_out_of_memory
from training.order import order_of
from training.workers import begin_worker, start_server

#: Where batches lie on their way from a worker.
SHARED = Path("/dev/shm")
#: Batches that every worker reads ahead.
AHEAD = 2


class NoBatch(OSError):
    """The batch of a step could not be read; the weights are as before.

    Attributes:
        settings: what a run may go on with, as ``--set`` takes it; the best first.
    """

    def __init__(self, what: str, settings: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.settings = tuple(settings)


class Batch(NamedTuple):
    """What a step begins with, moved and not changed: see ``training.augment.moving``.

    Attributes:
        pixels: [B, *sides, C] of the InputSpec's dtype, on the host; pinned for a GPU.
        samples: places of the items in the training split, int64 [B].
        taken: draws that every sample has used.
    """

    pixels: Tensor
    samples: Tensor
    taken: int


class Batches:
    """The batch of every step of a run, by its number."""

    def __init__(self, training: Listed, config: TrainConfig) -> None:
        self.training, self.config = training, config
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, step: int) -> Batch | NoBatch:
        """An error that has its reason in the data or the machine is given and not raised.

        DataLoader would make a text of it, and lose it where shared memory runs out.
        """
        try:
            batch = self.read(step, self.samples(step))
            return batch if get_worker_info() is None else _shared(batch, self.config.workers)
        except NoBatch as error:
            return error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory while the batch of step {step} was read"
            return NoBatch(reason, _fewer(self.config.workers))

    def read(self, step: int, samples: np.ndarray) -> Batch:
        """The given samples [B] as they are in a step; NoBatch where one cannot be read."""
        config, training = self.config, self.training
        draws = Draws(config.seed, step, samples)
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
        """Int64 [B]."""
        batch = self.config.batch
        epoch, position = divmod(step, len(self.training.places) // batch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of(self, epoch)
        return self._order[position * batch : (position + 1) * batch]

    def _item(self, sample: int, chosen: Part | int) -> np.ndarray:
        """A part or a view of an item, [*sides, C]; NoBatch names one that cannot be read."""
        try:
            if isinstance(chosen, Part):
                return self.training.read_part(sample, chosen)
            return self.training.read(sample)[chosen]
        except Changed as error:
            raise NoBatch(str(error)) from error
        except (MediaError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            id_ = self.training.ids[sample]
            raise NoBatch(f"{id_!r} cannot be read: {reason}", [f"skip={id_}"]) from error


class Loader:
    """The batches of the steps from ``first`` to the last, in order."""

    def __init__(
        self,
        batches: Batches,
        first: int,
        total: int,
        device: torch.device,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the workers.

        Args:
            check: called where a worker has died; it may raise, of a signal that both have got.

        Raises:
            NoBatch: no process can be started.
        """
        self._workers, self._check = batches.config.workers, check
        before = multiprocessing.active_children()
        try:
            self._batches = iter(_data_loader(batches, range(first, total), device))
        except (OSError, EOFError) as error:
            reason = f"no worker process can be started: {str(error) or type(error).__name__}"
            raise NoBatch(reason, _fewer(self._workers)) from error
        self._processes = [one for one in multiprocessing.active_children() if one not in before]

    def take(self, step: int, samples: np.ndarray) -> Batch:
        """The next batch, which is that of this step and its samples [B].

        Raises:
            NoBatch: with what to do.
        """
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            self._check()
            if died := self._died(step):
                raise died from error
            raise
        if isinstance(batch, NoBatch):
            raise batch
        assert np.array_equal(batch.samples.numpy(), samples)  # steps are taken in their order
        return batch

    def close(self) -> None:
        """End the workers."""
        del self._batches

    def _died(self, step: int) -> NoBatch | None:
        """What became of a worker, in words; None where all are well."""
        codes = [one.exitcode for one in self._processes if one.exitcode]
        if not codes:
            return None
        if codes[0] == -signal.SIGBUS:
            return _too_small(self._workers)
        how = f"ended with status {codes[0]}"
        if codes[0] < 0:
            how = f"was ended by {signal.Signals(-codes[0]).name}"
        if codes[0] == -signal.SIGKILL:
            how += ", as the kernel does where memory runs out"
        return NoBatch(f"a worker {how}, before the batch of step {step}", _fewer(self._workers))


def _data_loader(batches: Batches, steps: range, device: torch.device) -> DataLoader[Any]:
    options: dict[str, Any] = {}
    if batches.config.workers:
        options = {
            "multiprocessing_context": start_server(__name__),
            "persistent_workers": True,
            "prefetch_factor": AHEAD,
            "worker_init_fn": begin_worker,
        }
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are CPUs
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=steps,
        num_workers=batches.config.workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # of seeds that nobody uses; torch's own stays as it is
        **options,
    )


def _as_it_is(batch: Batch | NoBatch) -> Batch | NoBatch:
    return batch


def _shared(batch: Batch, workers: int) -> Batch:
    """The batch where the run can map it; later, in a thread, an error would be lost."""
    try:
        batch.pixels.share_memory_()
        batch.samples.share_memory_()
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise _too_small(workers, batch.pixels.nbytes) from error
    return batch


def _too_small(workers: int, batch: int = 0) -> NoBatch:
    """Where workers leave their batches is full; ``batch`` bytes, where they are known."""
    whole, _, free = (size / 2**20 for size in shutil.disk_usage(SHARED))
    wanted = f", and a batch takes {batch / 2**20:.1f}" if batch else ""
    return NoBatch(
        f"the shared memory, through which workers give their batches, is full: {SHARED} has "
        f"{whole:.0f} MiB, {free:.1f} free{wanted}; give a container more (docker run "
        "--shm-size=1g), or read with fewer workers or none",
        _fewer(workers),
    )


def _fewer(workers: int) -> list[str]:
    """Settings that need less memory."""
    return ["workers=1"] * (workers > 1) + ["workers=0"] * (workers > 0)
