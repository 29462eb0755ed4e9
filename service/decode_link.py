"""The service's end of one decode worker: what it was given, what it said, and its alarm clock."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import cast

import numpy as np

from service import errors
from service.frames import LENGTHS, MAX_HEADER_BYTES

log = logging.getLogger(__name__)

#: A worker may hold this many items, the second one only if both are small: while it answers one
#: it already has the next, which saves a sleep and a wake-up for each.
DEPTH = 2
SMALL_FRAME_BYTES = 2**14

FAILURES: dict[str, type[errors.Problem]] = {
    "UnsupportedMedia": errors.UnsupportedMedia,
    "BrokenMedia": errors.BrokenMedia,
    "MediaTooLarge": errors.MediaTooLarge,
    "MediaError": errors.BrokenMedia,
}


class DecodeError(RuntimeError):
    """The pool itself cannot work."""


class Task:
    """One item on its way through a worker."""

    __slots__ = ("attempts", "frame", "future", "shape", "size")

    def __init__(self, frame: bytes, shape: tuple[int, ...], future: asyncio.Future[np.ndarray]):
        self.frame = frame
        self.shape = shape
        self.size = math.prod(shape)  # bytes of its pixels
        self.future = future
        self.attempts = 0


class Worker(asyncio.SubprocessProtocol):
    """One process and the items it holds.

    Args:
        seconds: wall time for one item; then the process is killed.
        on_start: called when there is a process, which is not ready yet.
        on_free: called when it can be given another item.
        on_death: called when the process has ended, whatever it still held.
    """

    def __init__(
        self,
        seconds: float,
        *,
        on_start: Callable[[Worker], None],
        on_free: Callable[[], None],
        on_death: Callable[[Worker], None],
    ) -> None:
        self._seconds = seconds
        self._on_start = on_start
        self._on_free = on_free
        self._on_death = on_death
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tasks: deque[Task] = deque()  # the first is being decoded
        self._reply = bytearray()
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.process = cast(asyncio.SubprocessTransport, transport)
        self.stdin = cast(asyncio.WriteTransport, self.process.get_pipe_transport(0))
        self._on_start(self)

    def takes(self, task: Task) -> bool:
        """Whether it may be given this item now."""
        if not self.tasks:
            return True
        small = max(len(task.frame), len(self.tasks[0].frame)) <= SMALL_FRAME_BYTES
        return small and len(self.tasks) < DEPTH

    def give(self, task: Task) -> None:
        self.tasks.append(task)
        self.stdin.write(task.frame)
        if len(self.tasks) == 1:
            self._watch()

    def _watch(self) -> None:
        """The first item begins: its time runs from now."""
        self.tasks[0].attempts += 1
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(self._seconds, self._time_out)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Gather replies; the length of each must be the one that was asked for."""
        reply = self._reply
        reply += data
        while len(reply) >= LENGTHS.size:
            header_bytes, body_bytes = LENGTHS.unpack_from(reply)
            expected = self.tasks[0].size if self.tasks else 0
            if header_bytes > MAX_HEADER_BYTES or body_bytes not in (0, expected):
                log.warning("decode worker %d broke the protocol", self.process.get_pid())
                return self.kill()
            body_at = LENGTHS.size + header_bytes
            end = body_at + body_bytes
            if len(reply) < end:
                return None
            header, body = bytes(reply[LENGTHS.size : body_at]), bytes(reply[body_at:end])
            del reply[:end]
            self._finish(header, body)
        return None

    def _finish(self, header: bytes, body: bytes) -> None:
        if not self.ready.done():
            return self.ready.set_result(None)
        if not self.tasks:
            return self.kill()  # nobody asked
        task = self.tasks.popleft()
        if self._alarm is not None:
            self._alarm.cancel()
        if self.tasks:
            self._watch()
        if not task.future.done():
            _resolve(task, header, body)
        return self._on_free()

    def _time_out(self) -> None:
        """Blame the first item now: once the process has ended, another may be the first."""
        future = self.tasks[0].future
        if not future.done():
            message = f"decoding took longer than {self._seconds:g} seconds"
            future.set_exception(errors.DecodeTimeout(message))
        self.kill()

    def kill(self) -> None:
        if self.process.get_returncode() is None:
            self.process.kill()

    def process_exited(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if not self.ready.done():
            self.ready.set_exception(DecodeError("a decode worker ended before it was ready"))
        self._on_death(self)
        self.process.close()


def _resolve(task: Task, header: bytes, body: bytes) -> None:
    """A reply as pixels or as the problem that it names."""
    try:
        reply = json.loads(header)
        status, message = reply["status"], str(reply.get("message", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        status, message = "BrokenMedia", "the file cannot be decoded"
    if status == "ok" and len(body) == task.size:
        task.future.set_result(np.frombuffer(body, np.uint8).reshape(task.shape))
    else:
        task.future.set_exception(FAILURES.get(status, errors.BrokenMedia)(message))
