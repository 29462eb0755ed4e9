"""How does a server bear a load that does not wait for it? A generator of requests.

    python -m benchmarks.serving.load http://127.0.0.1:8000/v1/classify/image photo.jpg \\
        --phases 60x5,900x20,60x5 --patience 5
    ... --closed 16x10                16 connections for 10 s: what the server can do at most
    ... --burst 48 --patience 0.3     48 requests at once, whose clients all leave after 0.3 s

Phases are an open loop: requests are sent at a constant rate, on a timetable, whether earlier ones
were answered or not, each on a connection of its own that is kept alive for later ones. Latency
counts from the instant at which a request was due, so that a server that stalls, or a generator
that comes late, cannot hide it. A client whose patience is over closes its connection. With
--expect an answer counts as right only if its best label is the expected one.

Outcomes are the status, or one of: wrong (200 with another best label), timeout (patience was
over), left (the same of a client that was to leave, --leaving), lost (no connection, or it closed
before a whole answer). The lag is how late the generator itself sent: where it is large, the
figures are the generator's and not the server's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import math
import resource
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import uvloop

from benchmarks.serving.figures import Record, percentiles, summary

#: Longest time between two looks at the clock: patience may last so much longer.
TICK_SECONDS = 0.01
#: Of a socket, so that a body of 100 kB leaves in one call; the kernel may grant less.
SEND_BUFFER = 2**20
#: After which a connection of a closed loop tries again, where it got no right answer.
PAUSE_SECONDS = 0.05
#: Two numbers of an option, like a rate and the seconds of a phase.
Pair = tuple[float, float]
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

    __slots__ = ("buffer", "is_open", "load", "request", "transport")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.request: Request | None = None
        self.buffer = b""
        self.is_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.is_open = True

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
        except ValueError as error:
            self.load.fail(error)
            return
        if answer is not None:
            self.buffer, self.request = b"", None
            if answer.closes:
                self.close()
            else:
                self.load.idle.append(self)
            self.load.settle(request, self.load.judge(request, answer))

    def connection_lost(self, error: Exception | None) -> None:
        request, self.request, self.is_open = self.request, None, False
        if request is not None:
            self.load.settle(request, "lost")


class Load:
    """A plan being carried out; ``records`` and ``lags`` (seconds) hold what came of it."""

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
        self._begin = time.monotonic()
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
        """The outcome of an answer."""
        expected = self.plan.expected[request.number]
        if answer.status == 200 and expected is not None:
            best = json.loads(answer.body)["results"][0]["predictions"][0]["label"]
            return "200" if best == expected else "wrong"
        return str(answer.status)

    def settle(self, request: Request, outcome: str) -> None:
        """Note what became of a request; in a closed loop send the next one."""
        now = self._now()
        request.settled = True
        self._inside -= 1
        self.records.append(Record(request.due, now - request.due, outcome))
        if self.plan.connections:
            if outcome == "200":
                self._send_again()
            else:
                self._loop.call_later(PAUSE_SECONDS, self._send_again)

    # uvloop's own clock and timers have a resolution of a millisecond, hence another clock. Waking
    # costs about 0.02 ms of processor time: one timer for all requests, set to the next due one.

    def _now(self) -> float:
        return time.monotonic() - self._begin

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
            if link.is_open:
                link.send(request)
                return
        task = self._loop.create_task(self._open(request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: Request) -> None:
        """A new connection for a request; for another one if this one's client has left."""
        link = None
        with contextlib.suppress(OSError):  # it is lost then, and counted so
            _, link = await self._loop.create_connection(lambda: Link(self), self.host, self.port)
        if request.settled:
            self.idle += [link] if link else []
        elif link and link.is_open:
            link.send(request)
        else:
            self.settle(request, "lost")

    def _give_up(self, request: Request) -> None:
        if not request.settled:
            if request.link is not None:
                request.link.close()
            self.settle(request, "left" if request.leaves else "timeout")


# --- the command -------------------------------------------------------------------------------


def main() -> None:
    """Send, then print what came of each phase and one JSON line."""
    options = parse()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    messages = [message(options.url, path.read_bytes()) for path in options.files]
    expected = options.expect or [None] * len(messages)
    connections, seconds = options.closed
    every, sooner = options.leaving
    plan = Plan(
        messages, expected, options.due, int(connections), seconds,
        options.patience, int(every), sooner,
    )  # fmt: skip
    load = Load(options.url.hostname, options.url.port or 80, plan)
    gc.disable()  # a pause of the generator would be taken for one of the server
    spent = time.process_time()
    uvloop.run(load.run())
    spent = time.process_time() - spent
    result: dict[str, Any] = {
        "benchmark": "serving.load",
        "requests": len(load.records),
        "client_cpu_ms": 1000 * spent / max(1, len(load.records)),
        "lag_p99_ms": percentiles(load.lags)[1],
    }
    if options.records:
        result["records"] = load.records
    else:
        result["phases"] = [
            summary([one for one in load.records if begin <= one.due < end], end - begin)
            for begin, end in options.spans
        ]
        for phase in result["phases"]:
            print(phase)
    print(json.dumps(result), flush=True)


def message(url: SplitResult, media: bytes) -> bytes:
    """A whole request with ``media`` as its body."""
    path = url.path + ("?" + url.query if url.query else "")
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {url.netloc}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(media)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + media


def pair(text: str) -> Pair:
    """``"900x20"`` -> (900.0, 20.0)."""
    first, second = text.split("x")
    return float(first), float(second)


def timetable(phases: Sequence[Pair]) -> tuple[list[float], list[Pair]]:
    """Due instants of (requests per second, seconds), and where each phase begins and ends."""
    due, spans, begin = [], [], 0.0
    for rate, seconds in phases:
        due += [begin + number / rate for number in range(int(rate * seconds))]
        spans.append((begin, begin + seconds))
        begin += seconds
    return due, spans


def parse() -> argparse.Namespace:
    """The options, with the timetable that they ask for: ``due``, ``spans``, ``closed``."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("url", type=urlsplit, help="where to POST to, like http://127.0.0.1:8000/v1/classify/image")
    add("files", nargs="+", type=Path, help="bodies, sent in turn")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--phases", help="RATExSECONDS, several by commas: requests per second")
    way.add_argument("--closed", help="CONNECTIONSxSECONDS: each sends when it has its answer")
    way.add_argument("--burst", type=int, help="so many requests at once")
    add("--patience", type=float, default=5.0, help="seconds that a client waits (default: 5)")
    leaving = "NxSECONDS: every N-th client leaves after so long already"
    add("--leaving", type=pair, default=(0.0, 0.0), help=leaving)
    add("--expect", nargs="+", help="the best label of each file")
    add("--records", action="store_true", help="put (due, seconds, outcome) of each into the JSON")
    options = parser.parse_args()
    if options.expect and len(options.expect) != len(options.files):
        counts = f"{len(options.expect)} for {len(options.files)} files"
        parser.error(f"--expect: expected one label for each file, got {counts}")
    try:
        phases = [pair(text) for text in (options.phases or "").split(",") if text]
        connections, seconds = pair(options.closed or "0x0")
        if any(rate <= 0 for rate, _ in phases):
            raise ValueError
    except ValueError:
        parser.error("expected numbers like 900x20 for --phases and --closed, above 0")
    options.due, options.spans = timetable(phases)
    if options.burst:
        options.due = [0.0] * options.burst
    options.spans = options.spans or [(0.0, seconds or options.patience)]
    options.closed = connections, seconds
    return options


if __name__ == "__main__":
    main()
