"""Processes that a test may kill, forked from one that has imported the slow packages once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from typing import Any

#: Whoever asks first starts the server, so all ask for the same, and what is not installed is left
#: out: the first optimiser of a process imports torch._dynamo, and conftest walks all tests; both
#: take longer than a small training.
PRELOADED = [
    "torch._dynamo", "training.command", "service.cli.serve", "service.cli.offline",
    "tests.conftest",
]  # fmt: skip


def killable() -> ForkServerContext:
    """Makes processes as multiprocessing does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_forked(
    module: str, arguments: list[str], environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """``python -m MODULE ARGUMENTS`` without the time that its imports take.

    Args:
        module: a package whose ``__main__`` has a ``main`` that takes arguments; exits with what
            it returns.
        environment: all that the process gets.
        seconds: after which it is killed, and that is an AssertionError.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = DupFd(out.fileno()), DupFd(err.fileno())
        process = killable().Process(
            target=_become, args=(module, arguments, dict(environment), *streams)
        )
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{module} {arguments} took more than {seconds} s")
        for stream in (out, err):
            stream.seek(0)
        told = (out.read().decode(), err.read().decode())
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, *told)


def _become(
    module: str, arguments: list[str], environment: dict[str, str], out: Any, err: Any
) -> None:
    """In the new process: take the streams and the environment, and be that command."""
    os.dup2(out.detach(), 1)
    os.dup2(err.detach(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(importlib.import_module(f"{module}.__main__").main(arguments))
