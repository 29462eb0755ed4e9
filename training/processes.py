"""The processes that take the steps of a run together, as torchrun starts them.

Each computes its rows of every batch; gradients are added up. All know the same of the run at the
same step, so that they decide alike, and one of them, the writer, alone touches its folder and
tells of it. What they tell each other travels as numbers and JSON, over gloo; gradients on GPUs
over nccl. Nothing of it waits for a GPU.

A process that ends, for whatever reason, ends the others: whatever they exchange next fails. The
first to end leaves word in torchrun's store, so that the reason is said once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from training.memory import is_out_of_memory

T = TypeVar("T")

#: Bytes of gradients that travel together, at least.
BUCKET = 2**25
#: Keys of the store: why the run ended, and how many have reached its end.
WORD, LEFT = "ended", "left"
#: Seconds for which a process leaves it to the writer to say what all of them know.
MANNERS = 1.0


class Ended(Exception):
    """Another process of the run has ended, and with it the run.

    Attributes:
        status: exit status of whoever ended first, 1 where it could not say.
    """

    def __init__(self, what: str, status: int = 1) -> None:
        super().__init__(what)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Processes:
    """A run's processes, seen from one of them. Of this class there is one, and nothing to do.

    Attributes:
        rank: of this process, 0 to ``size`` - 1; 0 is the writer.
        local_rank: among the ``local_size`` of its machine; 0 is their leader.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def writer(self) -> bool:
        """Whether this process alone writes the run's folder and shows how far it is."""
        return self.rank == 0

    @property
    def leader(self) -> bool:
        """Whether this process does for its machine what is done once."""
        return self.local_rank == 0

    def rows(self, count: int) -> slice:
        """Those of ``count`` rows that are this process's; of equal length where it divides."""
        return slice(
            self.rank * count // self.size, (self.rank + 1) * count // self.size
        )

    def begin(self, device: torch.device, minutes: int) -> None:
        """From here on wait for each other so long; add up what lies on this device."""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes the sum over the processes, with the same bits in all of them."""

    def highest(self, number: int) -> int:
        """The largest of the numbers that the processes give."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, plain JSON, by rank."""
        return [value]

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Rows [n, ...] of every process, on the CPU, by rank: [sum of n, ...]."""
        return rows

    def from_writer(self, make: Callable[[], T]) -> T:
        """What the writer makes, plain JSON; nobody else calls the function."""
        return make()

    def copy_writers(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes the writer's."""

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader of every machine goes through the block before the others of it do."""
        yield

    def tells(self, what: str, status: int) -> bool:
        """Whether this process is the one to say why the run ends; the others hear of it."""
        return True

    def leave(self) -> None:
        """All have come to the end."""


#: A run of one process.
ALONE = Processes()


@dataclasses.dataclass(frozen=True)
class Several(Processes):
    """One of several; every method is called by all of them, in the same order.

    Every method raises Ended where another process has ended or is not heard of in time.
    """

    store: Any = None
    groups: dict[str, Any] = dataclasses.field(default_factory=dict)  # by the type of a device

    def begin(self, device: torch.device, minutes: int) -> None:
        """ConnectionError where this process has no way to the others' GPUs."""
        timeout = datetime.timedelta(minutes=minutes)
        _set_pg_timeout(timeout)  # not a group anew, in which one that has ended is waited for
        if device.type != "cuda":
            return
        torch.cuda.set_device(device)
        try:
            self.groups["cuda"] = dist.new_group(backend="nccl", timeout=timeout, device_id=device)
        except RuntimeError as error:
            self._raise_word(error)
            advice = ""
            if "shm" in str(error) or "shared memory" in str(error):
                advice = "; expected more room in /dev/shm, as docker run --shm-size 8g gives it"
            what = f"the GPUs of the run cannot be connected here: {_told(error)}{advice}"
            raise ConnectionError(what) from error

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        for bucket in buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._heard():
                dist.all_reduce(flat, group=self.groups.get(flat.device.type))
            parts = flat.split([tensor.numel() for tensor in bucket])
            sums = [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)]
            torch._foreach_copy_(bucket, sums)

    def highest(self, number: int) -> int:
        value = torch.tensor([int(number)])
        with self._heard():
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self.groups.get("cpu"))
        return int(value)

    def gather(self, value: Any) -> list[Any]:
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        return [json.loads(bytes(one.numpy())) for one in self._gather(torch.tensor(text))]

    def gather_rows(self, rows: Tensor) -> Tensor:
        return torch.cat(self._gather(rows))

    def from_writer(self, make: Callable[[], T]) -> T:
        found: T = self.gather(make() if self.writer else None)[0]
        return found

    def copy_writers(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            here = tensor.detach().cpu()  # the tensor itself, where it lies here
            with self._heard():
                dist.broadcast(here, 0, group=self.groups.get("cpu"))
            tensor.detach().copy_(here)

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        if not self.leader:
            self.highest(0)
        yield
        if self.leader:
            self.highest(0)

    def tells(self, what: str, status: int) -> bool:
        word = json.dumps({"rank": self.rank, "what": what, "status": status})
        until = time.monotonic() + (0 if self.writer else MANNERS)
        try:
            while time.monotonic() < until and not self._word():
                time.sleep(0.02)
            return bool(self.store.compare_set(WORD, "", word) == word.encode())
        except RuntimeError:  # the store has ended too: better twice than never
            return True

    def leave(self) -> None:
        """Wait for the others: whose connection closes too early, they think has failed."""
        with self._heard():
            self.store.add(LEFT, 1)
            while self.store.add(LEFT, 0) < self.size:
                if self._word():
                    raise RuntimeError("another process has failed")
                time.sleep(0.02)
        dist.destroy_process_group()

    def _gather(self, rows: Tensor) -> list[Tensor]:
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        with self._heard():
            dist.all_reduce(counts, group=self.groups.get("cpu"))
        padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        with self._heard():
            dist.all_gather(found, padded, group=self.groups.get("cpu"))
        return [one[:count] for one, count in zip(found, counts.tolist(), strict=True)]

    def _word(self) -> Any:
        """What whoever ended first left; nothing where nobody did."""
        return json.loads(self.store.get(WORD)) if self.store.check([WORD]) else None

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """A failure within is that of another process, but for memory that runs out here."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._raise_word(error)
            late = "imed out" in str(error)
            how = "was not heard of in time (timeout)" if late else "ended without a word"
            raise Ended(
                f"another process of the run {how}: it was killed, ran out of memory, or its "
                f"machine is gone; the launcher says which one; here it was: {_told(error)}"
            ) from error

    def _raise_word(self, error: RuntimeError) -> None:
        """Ended where another process has left word why."""
        with contextlib.suppress(RuntimeError):
            if word := self._word():
                told = f"process {word['rank']} of {self.size} ended: {word['what']}"
                raise Ended(told, word["status"]) from error


def _told(error: RuntimeError) -> str:
    """What torch says, in one line and without its C++ stack."""
    return " ".join(str(error).partition("Exception raised from")[0].split())


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, of at least ``BUCKET`` bytes together, but the last ones."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(one.nbytes for one in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
