"""Processes that a test may kill, forked from one that has imported the slow packages once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

#: Whoever asks first starts the server, so all ask for the same: the first optimiser of a process
#: imports torch._dynamo, and conftest walks all tests; both take longer than a small training.
PRELOADED = ["torch._dynamo", "training.command", "tests.conftest"]


def killable() -> ForkServerContext:
    """Makes processes as multiprocessing does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
