"""One connection as uvicorn keeps it, with what it leaves open of writing and ending settled.

An answer leaves in one write. A client that has stopped sending is told apart from one that has
left.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import termios
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Between two looks whether a client that stopped sending has left: at first, and at most.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.001, 0.1
#: Between two interim answers: who stopped sending first and leaves later is found by the next one.
PROBE_SECONDS = 1.0
#: What waits to be read is read within this.
AGAIN_SECONDS = 0.05
#: Of the kernel's states: a connection that was reset, one whose other end stopped sending.
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8


class Gathering:
    """A transport that holds a first write until the second one, or the next turn of the loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            self.write_now(data)
        else:
            self._held = data
            self._loop.call_soon(self.flush)

    def write_now(self, data: bytes) -> None:
        """Behind what is held, which does not wait any longer."""
        self.transport.write(self._held + data)
        self._held = b""

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def flush(self) -> None:
        """Let go of what is held; where the loop is about to close the transport, it is due now."""
        if self._held and not self.transport.is_closing():
            self.transport.write(self._held)
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class Connection(HttpToolsProtocol):
    """What is written to a client, and whether it is still there.

    ``self.cycle`` is the newest request, answered or not.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._answered: RequestResponseCycle | None = None  # the request that is being answered
        self._sending_ended = False
        self._looking = False  # for the end of a connection that is not read
        self._probed = -PROBE_SECONDS  # when, by the loop's clock

    @property
    def _is_idle(self) -> bool:
        """Every request that came has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._gathering = Gathering(transport)
        super().connection_made(cast(asyncio.Transport, self._gathering))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True  # uvicorn tells the newest request alone
            self._answered.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def timeout_keep_alive_handler(self) -> None:
        """As uvicorn's own; but a request that waits to be read has come in time."""
        if self.transport.is_closing():
            return  # its socket may be closed already
        if self._has_unread:
            again = self.loop.call_later(AGAIN_SECONDS, self.timeout_keep_alive_handler)
            self.timeout_keep_alive_task = again
        else:
            super().timeout_keep_alive_handler()

    @property
    def _has_unread(self) -> bool:
        """Whether something waits in the kernel: a late loop rings its timers before it reads."""
        connection = self.transport.get_extra_info("socket")
        unread = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
        return any(unread)

    def _forget_half_sent(self) -> None:
        """A request whose body ends too early, behind others whose answers are due, is none."""
        if self.pipeline and self.cycle.more_body:
            assert self._answered is not None  # others wait behind it alone
            self.pipeline.popleft()  # the newest one
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answered

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay open: the client has stopped sending, or it has left.

        Both send the same FIN. What is written then is taken by a client that listens, and answered
        with a reset where nobody does. There is an interim answer that may be written at any time,
        but not to HTTP/1.0; and who stops in the middle of a body has left, unless answers to
        requests before it are due.
        """
        self._forget_half_sent()
        waiting = self._answered
        if (
            self._is_idle
            or self.cycle.more_body
            or waiting is None
            or waiting.scope["http_version"] != "1.1"
        ):
            self._gathering.flush()
            return False
        self.cycle.keep_alive = False
        self._sending_ended = True
        self._look_for_end()
        return True

    def _look_for_end(self) -> None:
        """Begin to look whether the client has left.

        Nobody reads from a connection whose client stopped sending, nor, for the time being, from
        one with a request behind the one that is being answered: its end has to be looked for.
        """
        if not self._looking:
            self._looking = True
            self._look(FIRST_LOOK_SECONDS)

    def _look(self, seconds: float) -> None:
        if self.transport.is_closing() or not (self._sending_ended or self.pipeline):
            self._looking = False
            return
        connection = self.transport.get_extra_info("socket")
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == TCP_CLOSE:
            self.transport.abort()
            return
        if state == TCP_CLOSE_WAIT and self._probe():
            seconds = FIRST_LOOK_SECONDS
        self.loop.call_later(seconds, self._look, min(2 * seconds, LOOK_SECONDS))

    def _probe(self) -> bool:
        """Write what a client may ignore where an answer has not begun and a probe is due."""
        waiting, now = self._answered, self.loop.time()
        due = (
            waiting is not None
            and not waiting.response_started
            and waiting.scope["http_version"] == "1.1"
            and now >= self._probed + PROBE_SECONDS
        )
        if due:
            self._probed = now
            self.transport.write(CONTINUE)
        return due
