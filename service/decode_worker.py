"""A process that decodes untrusted bytes for the service and can be killed at any moment.

Frames arrive on stdin and leave on stdout (see ``frames``). It imports numpy, the decoders and
``models``; it holds no secret, no socket and no session. It ends when stdin does.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import json
import os
import resource
import signal
import sys
import time
from typing import BinaryIO

from PIL import Image

from models.inputs import MediaError, prepare
from models.inputs.image import FORMATS
from models.spec import Grid, InputSpec, from_json
from service.frames import LENGTHS, pack

ADDRESS_SPACE_BYTES = 1536 * 2**20
OPEN_FILES = 64
#: After a slow item the heap is large, and the allocator is told never to shrink it by itself.
TRIM_AFTER_SECONDS = 0.1


def main() -> None:
    """Warm up, say hello, then answer one frame after another until stdin closes."""
    _limit_resources()
    _warm_up()
    source, sink = open(0, "rb", buffering=2**16), open(1, "wb")  # noqa: SIM115 (process lifetime)
    _send(sink, b'{"status": "hello"}', b"")
    _silence_stderr()
    while lengths := source.read(LENGTHS.size):
        header_bytes, body_bytes = LENGTHS.unpack(lengths)
        _answer(sink, source.read(header_bytes), source.read(body_bytes))


def _answer(sink: BinaryIO, header: bytes, media: bytes) -> None:
    """Decode one item under an alarm; every failure is a status, never the end of the process."""
    spec, grid, patch, seconds = _parse_task(header)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        pixels = prepare(media, spec, grid, patch)
        _send(sink, b'{"status": "ok"}', pixels.tobytes())
    except MediaError as error:
        _send_failure(sink, type(error).__name__, str(error))
    except BrokenPipeError:
        raise  # the service is gone
    except Exception:
        _send_failure(sink, "BrokenMedia", "the file cannot be decoded within the limits")
    signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - started > TRIM_AFTER_SECONDS:
        _trim_heap()


@functools.lru_cache(maxsize=64)
def _parse_task(header: bytes) -> tuple[InputSpec, Grid, tuple[int, ...], float]:
    task = json.loads(header)
    spec = from_json(InputSpec, task["input"], "input")
    return spec, Grid.parse(task["grid"]), tuple(task["patch"]), task["seconds"]


def _send(sink: BinaryIO, header: bytes, body: bytes) -> None:
    sink.write(pack(header, body))
    sink.flush()


def _send_failure(sink: BinaryIO, status: str, message: str) -> None:
    _send(sink, json.dumps({"status": status, "message": message[:500]}).encode(), b"")


def _limit_resources() -> None:
    """What the kernel shall refuse; signals meant for the service are not for its workers."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _warm_up() -> None:
    """Load every decoder, so that the first request does not pay for it."""
    for name in FORMATS:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, name)
        prepare(encoded.getvalue(), InputSpec(), Grid((1, 1)), (4, 4))


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
        main()
    sys.stdout = None  # nothing to flush: the pipe may be gone
