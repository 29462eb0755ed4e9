"""The service's end of one decode worker: what it was given, what it said, and its alarm clock."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from service.engine import failures
from service.engine.decode.evidence import check_evidence
from service.engine.decode.memory import Loan, StillWritable
from service.engine.decode.task import Decoded, Task
from service.engine.decode.wire import LENGTHS, MAX_HEADER_BYTES, head

log = logging.getLogger(__name__)

#: A worker may hold this many items, the second one only if both are small images: while it
#: answers one it already has the next, which saves a sleep and a wake-up for each.
DEPTH = 2
#: A worker uses at least the so many-th part of the time that it works on an item.
IDLE_SHARE = 50
#: After so many another worker takes its place: what decoders leave behind goes with the process.
#: Of a clip libav keeps some 60 bytes for good, and the heap another 300.
MOST_ITEMS = 10_000
#: Of a file, written in one turn of the loop: what the pipe does not take the transport copies.
SLICE_BYTES = 2**18

FAILURES: dict[str, type[failures.Failure]] = {
    "UnsupportedMedia": failures.UnsupportedMedia,
    "BrokenMedia": failures.BrokenMedia,
    "MediaTooLarge": failures.MediaTooLarge,
    "MediaError": failures.BrokenMedia,
}


class DecodeError(RuntimeError):
    """The pool itself cannot work."""


class Place(NamedTuple):
    """What a worker is there for."""

    modalities: tuple[str, ...]  # that it is warm for
    small_only: bool  # it is kept for what is decoded at once


class Worker(asyncio.SubprocessProtocol):
    """One process and the items it holds.

    Args:
        channel: over which memory is lent.
        on_start: called when there is a process, which is not ready yet.
        on_decoded: called with an item that was decoded and the processor seconds that it took.
        on_free: called when it can be given another item.
        on_death: called when the process has ended, whatever it still held.
    """

    def __init__(
        self,
        channel: socket.socket,
        place: Place,
        *,
        on_start: Callable[[Worker], None],
        on_decoded: Callable[[Task, float], None],
        on_free: Callable[[], None],
        on_death: Callable[[Worker], None],
    ) -> None:
        self.place = place
        self._on_start = on_start
        self._on_decoded = on_decoded
        self._on_free = on_free
        self._on_death = on_death
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tasks: deque[Task] = deque()  # the first is being decoded
        self._given = 0
        self._channel = channel
        self._loans: dict[Task, Loan] = {}
        self._unsent: deque[memoryview] = deque()
        self._is_full = False  # the pipe to it
        self._sends_on = False  # in the next turn of the loop
        self._reply = bytearray()
        self._alarm: asyncio.TimerHandle | None = None
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.process = cast(asyncio.SubprocessTransport, transport)
        self.stdin = cast(asyncio.WriteTransport, self.process.get_pipe_transport(0))
        self._on_start(self)

    @property
    def is_worn(self) -> bool:
        """Whether another should take its place; it goes on until that is there."""
        return self._given >= MOST_ITEMS

    def takes(self, task: Task) -> bool:
        """Whether it may be given this item now."""
        if not self.tasks:
            return True
        return len(self.tasks) < DEPTH and task.is_small and self.tasks[0].is_small

    def give(self, task: Task) -> None:
        self.tasks.append(task)
        self._given += 1
        task.given = time.monotonic()
        self._unsent.append(memoryview(head(self._ask(task), len(task.media))))
        self._unsent.append(memoryview(task.media))
        if not self._sends_on:
            self._send_on()
        if len(self.tasks) == 1:
            self._watch()

    def _send_on(self) -> None:
        """Write a slice, and the next one in a later turn of the loop.

        A worker may read as fast as we write: its pipe is never full then, and a file of 99 MB
        would hold the loop up until its end.
        """
        self._sends_on, left = False, SLICE_BYTES
        while self._unsent and left and not self._is_full and not self.stdin.is_closing():
            part = self._unsent.popleft()
            self.stdin.write(part[:left])
            if len(part) > left:
                self._unsent.appendleft(part[left:])
            left -= min(left, len(part))
        if self._unsent and not self._is_full:
            self._send_soon()

    def _send_soon(self) -> None:
        if not self._sends_on:
            self._sends_on = True
            asyncio.get_running_loop().call_soon(self._send_on)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._send_soon()

    def _ask(self, task: Task) -> bytes:
        """The header for an item, with memory for its pixels beside it where they may be large."""
        asked = task.preparation
        if not asked.lending_header:
            return asked.header
        try:
            self._loans[task] = Loan(asked.most_bytes, self._channel)
        except BrokenPipeError:  # it has ended, and what it holds goes to another
            return asked.header
        except OSError as error:
            cause = error.strerror
            log.warning("no memory can be lent to a decode worker, the pipe serves: %s", cause)
            return asked.header
        return asked.lending_header

    def _watch(self) -> None:
        """The first item begins: its time runs from now."""
        self.tasks[0].attempts += 1
        self.tasks[0].began = time.monotonic()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(self.tasks[0].preparation.seconds, self._time_out)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Gather replies; the length of each must be one that was asked for."""
        if self._over:
            return None  # another worker was given what this one held
        reply = self._reply
        reply += data
        while len(reply) >= LENGTHS.size:
            header_bytes, body_bytes = LENGTHS.unpack_from(reply)
            known = body_bytes == 0 or (
                bool(self.tasks) and body_bytes in self.tasks[0].preparation.lengths
            )
            if header_bytes > MAX_HEADER_BYTES or not known:
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
        loan = self._loans.pop(task, None)
        try:
            self._resolve(task, header, body, loan)
        finally:
            if loan is not None:
                loan.close()
        return self._on_free()

    def _resolve(self, task: Task, header: bytes, body: bytes, loan: Loan | None) -> None:
        """A reply as pixels or as the problem that it names; what it took is learnt in any case."""
        failure: failures.Failure
        try:
            reply = json.loads(header)
            used = _believed(reply.get("cpu"), task)
            self._on_decoded(task, used)
            if reply["status"] == "ok":
                decoded = _decoded(task, reply, body, loan, used)
                if not task.gone:
                    task.future.set_result(decoded)
                return
            failure = FAILURES[reply["status"]](str(reply["message"]))
        except (AttributeError, ValueError, TypeError, KeyError, RecursionError):
            failure = failures.BrokenMedia("the file cannot be decoded")
        except StillWritable:
            log.warning("decode worker %d holds on to its pixels", self.process.get_pid())
            failure = failures.BrokenMedia("the file breaks its decoder")
            self.kill()
        except (OSError, MemoryError):
            log.exception("pixels of decode worker %d cannot be read", self.process.get_pid())
            failure = failures.InternalError("the pixels of the file cannot be read")
        if not task.gone:
            task.future.set_exception(failure)

    def _time_out(self) -> None:
        """Blame the first item now: once the process has ended, another may be the first."""
        task = self.tasks[0]
        self._on_decoded(task, task.preparation.seconds)
        if not task.gone:
            message = f"decoding took longer than {task.preparation.seconds:g} seconds"
            task.future.set_exception(failures.DecodeTimeout(message))
        self.kill()

    def kill(self) -> None:
        if self.process.get_returncode() is None:
            self.process.kill()

    def process_exited(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if not self.ready.done():
            self.ready.set_exception(DecodeError("a decode worker ended before it was ready"))
            self.ready.exception()  # seen: where the pool is closing nobody waits for it any more
        self._over = True
        for loan in self._loans.values():
            loan.close()
        self._channel.close()
        self._unsent.clear()
        self._on_death(self)
        self.process.close()


def _decoded(
    task: Task, reply: dict[str, Any], body: bytes, loan: Loan | None, cpu_seconds: float
) -> Decoded:
    """Pixels and what was seen; ValueError, KeyError if either is not what was asked for.

    Raises:
        StillWritable: the pixels should lie in memory that was lent, and could still change.
    """
    preparation = task.preparation
    shape, dtype = preparation.shapes[reply["grid"]], preparation.dtype
    seen = check_evidence(preparation.modality, shape, reply["seen"])
    if loan is not None and not body:
        pixels = loan.read(dtype, shape)
    else:
        pixels = np.frombuffer(body, dtype).reshape(shape)
    return Decoded(reply["grid"], pixels, seen, task.began - task.asked, cpu_seconds)


def _believed(told: object, task: Task) -> float:
    """The processor seconds that a worker says; it touched untrusted bytes, so within reason.

    It cannot have used more than went by since it was given the item, and one that says that it
    used next to nothing of the time since it began would make the rest believe that.
    """
    now = time.monotonic()
    least = (now - task.began) / IDLE_SHARE
    if isinstance(told, float) and least <= told <= now - task.given:
        return told
    return now - task.began
