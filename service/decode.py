"""Bytes -> pixels in worker processes that can be killed: a small pool over asyncio subprocesses.

Why not ``concurrent.futures`` or pebble: both unpickle what the worker sends, and the worker has
touched untrusted bytes. Here a reply is one JSON sentence and raw pixels of a size known before.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from service import errors
from service.frames import LENGTHS, MAX_HEADER_BYTES, pack

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "service.decode_worker")
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
RESPAWN_SECONDS = 1.0
#: Bytes may kill this many workers before they are blamed; a worker killed from outside costs
#: its request nothing.
ATTEMPTS = 2

FAILURES: dict[str, type[errors.Problem]] = {
    "UnsupportedMedia": errors.UnsupportedMedia,
    "BrokenMedia": errors.BrokenMedia,
    "MediaTooLarge": errors.MediaTooLarge,
    "MediaError": errors.BrokenMedia,
}


class DecodeError(RuntimeError):
    """The pool itself cannot work."""


class _Task:
    """One item on its way through a worker."""

    __slots__ = ("attempts", "frame", "future", "shape")

    def __init__(self, frame: bytes, shape: tuple[int, ...], future: asyncio.Future[np.ndarray]):
        self.frame = frame
        self.shape = shape
        self.future = future
        self.attempts = 0


class _Worker(asyncio.SubprocessProtocol):
    """The service's end of one process: what was sent, what came back, and its alarm clock."""

    def __init__(self, pool: DecodePool) -> None:
        self.pool = pool
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: _Task | None = None
        self.timed_out = False
        self._reply = bytearray()
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.process = cast(asyncio.SubprocessTransport, transport)
        self.stdin = cast(asyncio.WriteTransport, self.process.get_pipe_transport(0))

    def begin(self, task: _Task) -> None:
        self.task = task
        task.attempts += 1
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(self.pool.seconds, self._time_out)
        self.stdin.write(task.frame)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Gather one reply; its length must be the one that was asked for."""
        reply = self._reply
        reply += data
        if len(reply) < LENGTHS.size:
            return
        header_bytes, body_bytes = LENGTHS.unpack_from(reply)
        expected = math.prod(self.task.shape) if self.task else 0
        if header_bytes > MAX_HEADER_BYTES or body_bytes not in (0, expected):
            log.warning("decode worker %d broke the protocol", self.process.get_pid())
            self.kill()
        elif len(reply) >= LENGTHS.size + header_bytes + body_bytes:
            body_at = LENGTHS.size + header_bytes
            header, body = bytes(reply[LENGTHS.size : body_at]), bytes(reply[body_at:])
            reply.clear()
            self._finish(header, body)

    def _finish(self, header: bytes, body: bytes) -> None:
        if self.task is None:
            if not self.ready.done():
                self.ready.set_result(None)
            return
        task, self.task = self.task, None
        if self._alarm is not None:
            self._alarm.cancel()
        if not task.future.done():
            _resolve(task, header, body)
        self.pool.released(self)

    def _time_out(self) -> None:
        self.timed_out = True
        self.kill()

    def kill(self) -> None:
        if self.process.get_returncode() is None:
            self.process.kill()

    def process_exited(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if not self.ready.done():
            self.ready.set_exception(DecodeError("a decode worker ended before it was ready"))
        self.pool.died(self)
        self.process.close()


def _resolve(task: _Task, header: bytes, body: bytes) -> None:
    """A reply as pixels or as the problem that it names."""
    try:
        reply = json.loads(header)
        status, message = reply["status"], str(reply.get("message", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        status, message = "BrokenMedia", "the file cannot be decoded"
    if status == "ok" and len(body) == math.prod(task.shape):
        task.future.set_result(np.frombuffer(body, np.uint8).reshape(task.shape))
    else:
        task.future.set_exception(FAILURES.get(status, errors.BrokenMedia)(message))


class DecodePool:
    """``workers`` processes, each with at most one item; the rest wait in order.

    The wait is bounded by the permits that let requests in and by each request's deadline.

    Args:
        seconds: wall time for one item; then the worker is killed and replaced.
        on_restart: called whenever a worker is replaced.
    """

    def __init__(
        self,
        workers: int,
        seconds: float,
        on_restart: Callable[[], None] = lambda: None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self.workers = workers
        self.seconds = seconds
        self._on_restart = on_restart
        self._command = command
        self._waiting: deque[_Task] = deque()
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._spawning: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        """Start and warm every worker; DecodeError if one cannot start."""
        await asyncio.gather(*(self._spawn() for _ in range(self.workers)))

    async def prepare(self, header: bytes, media: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Decode one item.

        Args:
            header: from ``frames.task_header``.
            media: the encoded file.
            shape: what the header asks for, ``[*pixels per axis, channels]``.

        Returns:
            uint8 of ``shape``, read-only.

        Raises:
            Problem: 415 or 422; the bytes are at fault.
        """
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Task(pack(header, media), shape, future))
        self._begin_next()
        return await future

    @property
    def depth(self) -> int:
        """Items that wait for a worker."""
        return len(self._waiting)

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.get_pid() for worker in self._alive]

    def _begin_next(self) -> None:
        while self._idle and self._waiting:
            task = self._waiting.popleft()
            if not task.future.done():  # the client may have left
                self._idle.pop().begin(task)

    def released(self, worker: _Worker) -> None:
        self._idle.append(worker)
        self._begin_next()

    def died(self, worker: _Worker) -> None:
        """Replace a worker; decide what becomes of the item that it held."""
        self._alive.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.task is not None:
            self._bereave(worker.task, worker.timed_out)
        if not self._closing:
            self._on_restart()
            log.warning("decode worker %d ended and is replaced", worker.process.get_pid())
            respawn = asyncio.get_running_loop().create_task(self._respawn())
            self._spawning.add(respawn)
            respawn.add_done_callback(self._spawning.discard)

    def _bereave(self, task: _Task, timed_out: bool) -> None:
        if task.future.done():
            return
        if timed_out:
            message = f"decoding took longer than {self.seconds:g} seconds"
            task.future.set_exception(errors.DecodeTimeout(message))
        elif task.attempts >= ATTEMPTS or self._closing:
            task.future.set_exception(errors.BrokenMedia("the file breaks its decoder"))
        else:
            self._waiting.appendleft(task)

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        _, worker = await loop.subprocess_exec(
            lambda: _Worker(self),
            *self._command,
            cwd=ROOT,
            env=kept | ENVIRONMENT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None,  # until it is warm, what it says is ours
        )
        self._alive.add(worker)
        async with asyncio.timeout(START_SECONDS):
            await worker.ready
        self.released(worker)

    async def _respawn(self) -> None:
        """Keep trying, slowly: the pool must not turn into a fork bomb."""
        while not self._closing:
            try:
                return await self._spawn()
            except (DecodeError, TimeoutError, OSError):
                log.exception("a decode worker cannot be started")
                await asyncio.sleep(RESPAWN_SECONDS)

    async def close(self) -> None:
        """End every worker."""
        self._closing = True
        for respawn in self._spawning:
            respawn.cancel()
        for worker in list(self._alive):
            worker.kill()
        for _ in range(100):  # at most a second; the kernel needs a moment
            if not self._alive:
                return
            await asyncio.sleep(0.01)
