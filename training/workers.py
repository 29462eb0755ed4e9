"""The processes that read batches ahead: how they begin, and with whom they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver
from typing import Any


def start_server(module: str) -> Any:
    """The context of processes that are forked from a server, with one thread each.

    Args:
        module: that the server has loaded, and all that it needs, once for all of them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # what the server is born with its workers have
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["OMP_NUM_THREADS"]
        os.environ.update({} if threads is None else {"OMP_NUM_THREADS": threads})
    return context


def begin_worker(number: int) -> None:
    """A worker ends with the run, and not at a Ctrl-C: the run wants its batch until it has heard.

    DataLoader's workers watch their parent, which is the server here and lives on as long as they.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process()], daemon=True).start()


def _end_with(run: Any) -> None:
    run.join()
    os._exit(0)
