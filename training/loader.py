"""Batches read ahead of whoever wants them, by processes of their own.

Torch's DataLoader carries them; what it calls an index is the number of a batch. So a run that
goes on begins at its step, and the number of workers changes nothing.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from media import INPUTS
from training.batches import Batch, Batches, NoBatch, Rows, fewer, too_small
from training.workers import begin_worker, start_server

#: Batches that every worker reads ahead.
AHEAD = 2
#: Seconds from the first sign that a worker has died to its exit status, at most.
DYING = 5


class Loader:
    """The batches from ``first`` to before ``end``, in order."""

    def __init__(
        self,
        batches: Batches | Rows,
        first: int,
        end: int,
        device: torch.device,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the workers.

        Args:
            check: called where a worker has died or does not start; it may raise, of a signal that
                both have got.

        Raises:
            NoBatch: no process can be started.
        """
        self._source, self._check = batches, check
        before = multiprocessing.active_children()
        try:
            self._batches = iter(_data_loader(batches, range(first, end), device))
        except (OSError, EOFError) as error:  # of their server too, which may have got a signal
            check()
            reason = f"no worker process can be started: {str(error) or type(error).__name__}"
            raise NoBatch(reason, fewer(batches.workers)) from error
        self._processes = [one for one in multiprocessing.active_children() if one not in before]

    def take(self, number: int, samples: np.ndarray) -> Batch:
        """The next batch, which is that of this number and these samples [B].

        Raises:
            NoBatch: with what to do.
        """
        try:
            batch = next(self._batches)
        except (RuntimeError, OSError, EOFError) as error:  # of a worker that died, or its socket
            self._check()
            if self._processes and (died := self._died(number)):
                raise died from error
            raise
        if isinstance(batch, NoBatch):
            raise batch
        assert np.array_equal(batch.samples.numpy(), samples)  # they are taken in their order
        return batch

    def close(self) -> None:
        """End the workers."""
        del self._batches

    def _died(self, number: int) -> NoBatch | None:
        """What became of a worker, in words; None where all are well."""
        workers = self._source.workers
        wait([one.sentinel for one in self._processes], DYING)
        codes = [one.exitcode for one in self._processes if one.exitcode]
        if not codes:
            return None
        if codes[0] == -signal.SIGBUS:
            return too_small(workers)
        how = f"ended with status {codes[0]}"
        if codes[0] < 0:
            how = f"was ended by {signal.Signals(-codes[0]).name}"
        if codes[0] == -signal.SIGKILL:
            how += ", as the kernel does where memory runs out"
        return NoBatch(f"a worker {how}, before {self._source.name(number)}", fewer(workers))


def _data_loader(batches: Batches | Rows, numbers: range, device: torch.device) -> DataLoader[Any]:
    options: dict[str, Any] = {}
    if batches.workers:
        options = {
            "multiprocessing_context": start_server(__name__, INPUTS[batches.modality]),
            "persistent_workers": True,
            "prefetch_factor": AHEAD,
            "worker_init_fn": begin_worker,
        }
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are CPUs
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=batches.workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # of seeds that nobody uses; torch's own stays as it is
        **options,
    )


def _as_it_is(batch: Batch | NoBatch) -> Batch | NoBatch:
    return batch
