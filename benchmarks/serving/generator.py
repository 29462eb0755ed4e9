"""The generator behind ``benchmarks.serving.load``: no task and no timer for a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.serving.figures import Record

#: Longest time between two looks at the clock: patience may last so much longer.
TICK_SECONDS = 0.01
#: Of a socket, so that a body of 100 kB leaves in one call; the kernel may grant less.
SEND_BUFFER = 2**20
#: After which a connection of a closed loop tries again, where it got no right answer.
PAUSE_SECONDS = 0.05
LENGTH, CLOSES = b"\r\ncontent-length: ", b"\r\nconnection: close"


@dataclass(frozen=True)
class Plan:
    """What is sent, when, and how long clients wait.

    Attributes:
        messages: whole requests, heads and bodies, sent in turn.
        expected: best label of each; None where any will do.
        due: instants of an open loop, seconds after its start, ascending.
        connections: of a closed loop, which lasts ``seconds`` and has no timetable.
        patience: seconds from the due instant until the client closes its connection.
        leaving: every so many-th client waits ``leaving_patience`` only; 0 for none.
    """

    messages: Sequence[bytes]
    expected: Sequence[str | None]
    due: Sequence[float] = ()
    connections: int = 0
    seconds: float = 0.0
    patience: float = 5.0
    leaving: int = 0
    leaving_patience: float = 0.2


class Request:
    """One request on its way."""

    __slots__ = ("deadline", "due", "leaves", "link", "number", "settled")

    def __init__(self, due: float, number: int, leaves: bool, patience: float) -> None:
        self.due, self.number, self.leaves = due, number, leaves
        self.deadline = due + patience
        self.settled = False
        self.link: Link | None = None  # none while it is being opened


class Answer(NamedTuple):
    status: int
    body: bytes
    closes: bool  # the connection


def parse_answer(data: bytes) -> Answer | None:
    """The answer that ``data`` holds; None while bytes are missing.

    Raises:
        ValueError: it does not say its length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[: end + 2].lower()
    at = head.find(LENGTH)
    if at < 0:
        raise ValueError(f"expected an answer with a Content-Length, got {data[:200]!r}")
    at += len(LENGTH)
    size = int(head[at : head.find(b"\r", at)])
    if len(data) < end + 4 + size:
        return None
    return Answer(int(head[9:12]), data[end + 4 : end + 4 + size], CLOSES in head)


class Link(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    __slots__ = ("_news", "buffer", "is_open", "load", "request", "transport")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.request: Request | None = None
        self.buffer = b""
        self.is_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._news = select.poll()
        self._news.register(connection.fileno(), select.POLLIN)
        self.is_open = True

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent, by the kernel: this loop may not have seen the end yet.

        Clients look as well before they use a connection again; a server ends idle ones.
        """
        return self.is_open and not self._news.poll(0)

    def send(self, request: Request) -> None:
        self.request, request.link = request, self
        self.transport.write(self.load.plan.messages[request.number])

    def close(self) -> None:
        """At once, whatever is still to be sent."""
        self.is_open, self.request = False, None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        request = self.request
        if request is None:
            self.close()  # said without being asked: the farewell of an idle connection
            return
        try:
            answer = parse_answer(self.buffer)
            outcome = self.load.judge(request, answer) if answer else ""
        except ValueError as error:
            self.load.fail(error)
            return
        if answer:
            self.buffer, self.request = b"", None
            if answer.closes:
                self.close()
            else:
                self.load.idle.append(self)
            self.load.settle(request, outcome)

    def connection_lost(self, error: Exception | None) -> None:
        request, self.request, self.is_open = self.request, None, False
        if request is not None:
            self.load.settle(request, "lost")


class Load:
    """A plan being carried out; ``records`` and ``lags`` (seconds) hold what came of it.

    ``begin`` is the instant that due times count from, of the monotonic clock, which all processes
    of a machine share.
    """

    def __init__(self, host: str, port: int, plan: Plan) -> None:
        self.host, self.port, self.plan = host, port, plan
        self.records: list[Record] = []
        self.lags: list[float] = []
        self.idle: list[Link] = []
        self._queues: tuple[deque[Request], deque[Request]] = deque(), deque()  # staying, leaving
        self._opening: set[asyncio.Task[None]] = set()
        self._sent = self._inside = 0

    async def run(self) -> None:
        """Send everything and wait for the last answer."""
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        self.begin = time.monotonic()
        for _ in range(self.plan.connections):
            self._send_again()
        self._tick()
        await self._finished
        for link in self.idle:
            link.close()

    def fail(self, error: Exception) -> None:
        """End the load: its figures would mean nothing."""
        if not self._finished.done():
            self._finished.set_exception(error)

    def judge(self, request: Request, answer: Answer) -> str:
        """The outcome of an answer; ValueError where a 200 names no label."""
        expected = self.plan.expected[request.number]
        if answer.status != 200 or expected is None:
            return str(answer.status)
        try:
            best = json.loads(answer.body)["results"][0]["predictions"][0]["label"]
        except (LookupError, TypeError) as error:
            said = f"{answer.body[:200]!r}"
            raise ValueError(f"expected results with predictions, got {said}") from error
        return "200" if best == expected else "wrong"

    def settle(self, request: Request, outcome: str) -> None:
        """Note what became of a request; in a closed loop send the next one."""
        now = self._now()
        request.settled = True
        self._inside -= 1
        self.records.append(Record(request.due, now - request.due, outcome, request.number))
        if self.plan.connections:
            if outcome == "200":
                self._send_again()
            else:
                self._loop.call_later(PAUSE_SECONDS, self._send_again)

    # uvloop's own clock and timers have a resolution of a millisecond, hence another clock. Waking
    # costs about 0.02 ms of processor time: one timer for all requests, set to the next due one.

    def _now(self) -> float:
        return time.monotonic() - self.begin

    def _tick(self) -> None:
        """Send what is due, give up what has waited too long."""
        now, due = self._now(), self.plan.due
        while self._sent < len(due) and due[self._sent] <= now:
            self.lags.append(now - due[self._sent])
            self._send(due[self._sent])
        for queue in self._queues:
            while queue and (queue[0].settled or queue[0].deadline <= now):
                self._give_up(queue.popleft())
        if not self._inside and self._sent >= len(due) and now >= self.plan.seconds:
            if not self._finished.done():
                self._finished.set_result(None)
        else:
            wait = due[self._sent] - now if self._sent < len(due) else TICK_SECONDS
            self._loop.call_later(min(TICK_SECONDS, math.ceil(1000 * wait) / 1000), self._tick)

    def _send_again(self) -> None:
        if (now := self._now()) < self.plan.seconds:
            self._send(now)

    def _send(self, due: float) -> None:
        plan = self.plan
        leaves = plan.leaving > 0 and self._sent % plan.leaving == 0
        patience = plan.leaving_patience if leaves else plan.patience
        request = Request(due, self._sent % len(plan.messages), leaves, patience)
        self._queues[leaves].append(request)
        self._sent += 1
        self._inside += 1
        while self.idle:
            link = self.idle.pop()
            if link.is_usable:
                link.send(request)
                return
        task = self._loop.create_task(self._open(request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: Request) -> None:
        """A new connection for a request; for another one if this one's client has left."""
        link = None
        with contextlib.suppress(OSError):
            _, link = await self._loop.create_connection(lambda: Link(self), self.host, self.port)
        if request.settled:
            self.idle += [link] if link else []
        elif link and link.is_open:
            link.send(request)
        else:
            self.settle(request, "unreached")

    def _give_up(self, request: Request) -> None:
        if not request.settled:
            if request.link is not None:
                request.link.close()
            self.settle(request, "left" if request.leaves else "timeout")
