"""How the process of a decode worker is started."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from service.engine.decode.link import DecodeError, Place, Worker

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "service.engine.decode.worker")
#: glibc gives big blocks back to the kernel at once, and every image then pays for fresh pages;
#: these keep the heap (the worker trims it itself after a large image). One thread per worker.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
INHERITED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE")
START_SECONDS = 30.0
#: Below the event loop and the device: else the decoders of what came later slow down what came
#: earlier. What is decoded at once has no need to stand back.
NICE, SMALL_NICE = 5, 0


async def start_worker(
    make: Callable[[socket.socket, Place], Worker], command: tuple[str, ...], place: Place
) -> Worker:
    """A worker that has said hello.

    Args:
        make: of the socket over which memory is lent, whose owner it becomes.

    Raises:
        DecodeError: it does not come up.
        OSError: there can be no process.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ours.shutdown(socket.SHUT_RD)  # nothing is read of what hostile bytes might send
    loop = asyncio.get_running_loop()
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with theirs:
        try:
            _, worker = await loop.subprocess_exec(
                lambda: make(ours, place),
                *command,
                str(SMALL_NICE if place.small_only else NICE),
                str(theirs.fileno()),
                *place.modalities,
                cwd=ROOT,
                env=kept | ENVIRONMENT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=None,  # until it is warm, what it says is ours
                pass_fds=(theirs.fileno(),),
            )
        except BaseException:
            ours.close()
            raise
    try:
        async with asyncio.timeout(START_SECONDS):
            await worker.ready
    except TimeoutError:
        worker.kill()
        raise DecodeError("a decode worker does not come up") from None
    return worker
