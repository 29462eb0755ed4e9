"""Runs of several processes as torchrun starts them, forked from one that has imported torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from benchmarks.processes import launched
from tests.helpers.forks import killable
from training.__main__ import main

#: Seconds after which processes are killed.
MOST = 100

Act = Callable[[int], None]


@dataclasses.dataclass
class Group:
    """The processes of one run, by rank, the file that each of them talks to, and their store."""

    processes: list[BaseProcess]
    logs: list[Path]
    store: Any

    def end(self) -> list[int | None]:
        """Their statuses, once all have ended."""
        for process in self.processes:
            process.join(MOST)
            if process.exitcode is None:
                process.kill()
                process.join()
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        """All that all of them said."""
        return "".join(log.read_text() for log in self.logs)


def start(
    folder: Path, count: int, arguments: Callable[[int], Sequence[str]], act: Act | None = None
) -> Group:
    """``python -m training`` in ``count`` processes.

    Args:
        folder: for what they say.
        arguments: of a rank.
        act: called in each process, with its rank, before the command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's
    logs = [folder / f"rank-{rank}.txt" for rank in range(count)]
    processes: list[BaseProcess] = []
    for rank, log in enumerate(logs):
        environment = launched(rank, count, store)
        process = killable().Process(
            target=_take_part, args=(list(arguments(rank)), environment, log, rank, act)
        )
        process.start()
        processes.append(process)
    return Group(processes, logs, store)


def run(
    folder: Path, count: int, arguments: Sequence[str], act: Act | None = None
) -> tuple[list[int | None], str]:
    """The same command in every process, to its end: their statuses and what they said."""
    group = start(folder, count, lambda rank: arguments, act)
    return group.end(), group.said()


def _take_part(
    arguments: list[str], environment: dict[str, str], log: Path, rank: int, act: Any
) -> None:
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if act:
        act(rank)
    os._exit(main(arguments))
