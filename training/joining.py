"""How a process that torchrun has started finds the others of its run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator

import torch.distributed as dist

from media.spec import SpecError
from training.processes import ALONE, Ended, Processes, Several

#: How long processes wait for each other before they know the run's ``timeout``.
MEETING = datetime.timedelta(minutes=10)
#: What torchrun says to each process that it starts.
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started() -> int:
    """How many processes torchrun has started for the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun has started, from here to the end of the block.

    Raises:
        SpecError: whoever started this process has not said all that it has to.
        Ended: the others are not there.
    """
    if started() == 1:
        yield ALONE
        return
    if missing := [name for name in TOLD if name not in os.environ]:
        raise SpecError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: expected {', '.join(missing)} too, as "
            "torchrun sets them; start the processes with torchrun, or one without WORLD_SIZE"
        )
    _end_with_launcher()
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in TOLD[:4])
    try:
        store = _met(next(dist.rendezvous("env://", timeout=MEETING))[0], rank, size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=MEETING)
    except RuntimeError as error:
        raise Ended(f"the processes of the run do not find each other: {error}") from error
    processes = Several(rank, size, local_rank, local_size, store)
    try:
        yield processes
    except BaseException as error:
        processes.tells(f"{type(error).__name__}: {error}", 1)
        raise
    finally:
        if dist.is_initialized() and "cuda" not in processes.groups:
            dist.destroy_process_group()  # nccl would wait for those who have failed


def _met(store: dist.Store, rank: int, size: int) -> dist.Store:
    """A part of the store that these processes alone know.

    Torchrun keeps it when it starts processes again, with all that those before them had said.
    So the first of them gives the part a new name, and tells the others theirs: who finds its own
    there knows that the name is not an old one.
    """
    mine = uuid.uuid4().hex
    if rank == 0:
        store.set("meeting", mine)
        names = [store.get(f"{mine}/{other}").decode() for other in range(1, size)]  # waits
        store.set(f"{mine}/all", json.dumps(names))
        return dist.PrefixStore(mine, store)
    until = time.monotonic() + MEETING.total_seconds()
    while time.monotonic() < until:
        meeting = store.get("meeting").decode()
        store.set(f"{meeting}/{rank}", mine)
        if store.check([f"{meeting}/all"]) and mine in json.loads(store.get(f"{meeting}/all")):
            return dist.PrefixStore(meeting, store)
        time.sleep(0.05)
    raise RuntimeError("process 0 did not come in time")


def _end_with_launcher() -> None:
    """A launcher that is killed leaves its processes behind: they would write where others do."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
