"""A process that decodes untrusted bytes for the service and can be killed at any moment.

What it is asked arrives on stdin and its answers leave on stdout (see ``wire``), but for large
pixels, which it writes into memory that it is lent (``memory``). It imports numpy and ``media``; it
holds no secret, no session and no socket but the one that brings such memory. It ends when stdin
does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from typing import Any, BinaryIO

import numpy as np

from media import MediaError, read_fitting
from service.engine.decode.memory import fill, receive
from service.engine.decode.warm import warm_up
from service.engine.decode.wire import LENGTHS, head, parse_task

ADDRESS_SPACE_BYTES = 1536 * 2**20
OPEN_FILES = 64
#: After a slow or a large item the heap is large, and the allocator is told never to shrink it by
#: itself.
TRIM_AFTER_SECONDS = 0.1
TRIM_AFTER_BYTES = 2**23


def main(nice: str, channel: str, *modalities: str) -> None:
    """Warm up, say hello, then answer one frame after another until stdin closes.

    Args:
        nice: how far below the event loop and the device this process stands for the kernel.
        channel: number of the socket that brings memory.
    """
    os.nice(int(nice))
    _limit_resources()
    warm_up(modalities)
    _forbid_processes()
    source, sink = open(0, "rb", buffering=2**16), open(1, "wb")  # noqa: SIM115 (process lifetime)
    _send(sink, {"status": "hello"})
    _silence_stderr()
    while lengths := source.read(LENGTHS.size):
        header_bytes, body_bytes = LENGTHS.unpack(lengths)
        started = time.monotonic()
        _answer(sink, int(channel), source.read(header_bytes), source.read(body_bytes))
        if body_bytes > TRIM_AFTER_BYTES or time.monotonic() - started > TRIM_AFTER_SECONDS:
            _trim_heap()


def _answer(sink: BinaryIO, channel: int, header: bytes, media: bytes) -> None:
    """Decode one item within its time; every failure is a status, never the end of the process."""
    spec, grids, patch, views, seconds, lends = parse_task(header)
    memory = receive(channel) if lends else None
    _limit_time(seconds)
    # Of this thread: while a limit of processor time is set, that of the process moves in ticks.
    started, body = time.thread_time(), b""
    try:
        sample, grid = read_fitting(media, spec, grids, patch, views)
        body = _hand_over(sample.pixels, memory)
        reply: dict[str, Any] = {"status": "ok", "grid": str(grid), "seen": sample.evidence}
    except MediaError as error:
        reply = {"status": type(error).__name__, "message": str(error)[:500]}
    except Exception:
        message = "the file cannot be decoded within the limits"
        reply = {"status": "BrokenMedia", "message": message}
    if memory is not None:
        os.close(memory)
    _send(sink, reply | {"cpu": time.thread_time() - started}, body)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _hand_over(pixels: np.ndarray, memory: int | None) -> bytes:
    """What goes through the pipe: nothing where the pixels lie in memory that was lent."""
    if memory is not None:
        with contextlib.suppress(OSError):  # then the pipe serves
            fill(memory, pixels)
            return b""
    return pixels.tobytes()


def _send(sink: BinaryIO, reply: dict[str, Any], body: bytes = b"") -> None:
    sink.write(head(json.dumps(reply).encode(), len(body)))
    sink.write(body)
    sink.flush()


def _limit_resources() -> None:
    """What the kernel shall refuse; signals meant for the service are not for its workers."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _forbid_processes() -> None:
    """No further process or thread, unless the service itself runs as root, who is exempt."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _limit_time(seconds: float) -> None:
    """End this process after so much wall time, or CPU time of all threads, of the next item."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(time.process_time() + seconds)  # in whole seconds, since the process began
    if most == resource.RLIM_INFINITY or until < most:
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))


def _silence_stderr() -> None:
    """Decoders print about hostile bytes; nobody should be able to fill the service's log."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _trim_heap() -> None:
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(*sys.argv[1:])
    sys.stdout = None  # nothing to flush: the pipe may be gone
