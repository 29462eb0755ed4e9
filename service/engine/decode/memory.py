"""Memory that a worker writes and the service reads: large pixels are not sent at all.

Every large item has a memfd of its own. The service makes it, as large as the pixels may become,
and seals it: nobody can grow it, and nobody shrink it, which would end whoever reads it then. The
worker may make no file larger (its RLIMIT_FSIZE is 0), so it maps what it was lent, writes, unmaps,
and seals it against writing, which the kernel refuses as long as anybody could still write. Only
then does the service look: what it sees nobody changes any more, also no worker that hostile bytes
have taken over, and nothing in it belongs to another item.

Pages are there from the first touch on and until the last user has gone, so memory that was lent
comes back whatever became of the item: it was answered, failed or left, or its worker died.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import math
import mmap
import os
import queue
import socket
import threading
import weakref

import numpy as np

log = logging.getLogger(__name__)

#: Smaller pixels go through the pipe: of 150 kB both ways take the same processor time, and what
#: was lent takes a file descriptor until nobody reads it any more. See BENCHMARKS.md.
LEAST_BYTES = 192 * 2**10
#: Only Linux has it; elsewhere all goes through the pipe.
IS_THERE = hasattr(os, "memfd_create")


class StillWritable(Exception):
    """A worker says that its pixels are there and could still change them."""


class Loan:
    """Memory for the pixels of one item; close it once they were read, or will not be.

    Args:
        size: in bytes.
        channel: whoever reads the other end may write into it.

    Raises:
        OSError: the kernel has none, or no file descriptor, or nobody reads there.
    """

    def __init__(self, size: int, channel: socket.socket) -> None:
        self._file = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._file, size)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            socket.send_fds(channel, [b"\0"], [self._file])
        except OSError:
            self.close()
            raise

    def read(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        """What a worker wrote, without copying it: read-only, and it outlives this loan.

        Raises:
            StillWritable: it is not sealed.
        """
        if not fcntl.fcntl(self._file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
            raise StillWritable
        size = math.prod(shape) * dtype.itemsize
        try:
            # Private: before Linux 6.7 what is sealed cannot be mapped as shared, also to read.
            mapped = mmap.mmap(self._file, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except OSError as error:
            log.warning("pixels are copied, their memory cannot be mapped: %s", error)
            return np.frombuffer(os.pread(self._file, size, 0), dtype).reshape(shape)
        flat = np.frombuffer(mapped, dtype)  # what every view of it is based on
        weakref.finalize(flat, _returned().put, mapped).atexit = False
        return flat.reshape(shape)

    def close(self) -> None:
        os.close(self._file)


@functools.cache
def _returned() -> queue.SimpleQueue[mmap.mmap]:
    """Takes the last reference to memory that nobody reads any more.

    To free 67 MB takes the kernel 12 ms, which the event loop should not wait for. A SimpleQueue
    may be put to from wherever the collector of garbage happens to run.
    """
    returned: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()

    def free() -> None:
        while True:
            returned.get()

    threading.Thread(target=free, name="memory", daemon=True).start()
    return returned


def receive(channel: int) -> int:
    """The worker's end: a file descriptor of what was lent for the next item."""
    with socket.fromfd(channel, socket.AF_UNIX, socket.SOCK_STREAM) as receiving:
        _, (memory,), _, _ = socket.recv_fds(receiving, 1, 1)
    return memory


def fill(memory: int, pixels: np.ndarray) -> None:
    """Write pixels for good; OSError where that is not possible."""
    with mmap.mmap(memory, pixels.nbytes) as mapped:
        mapped.write(np.ascontiguousarray(pixels).data)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
