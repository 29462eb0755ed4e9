"""HTTP/1.1 as uvicorn speaks it, with what it leaves open settled.

An answer leaves in one write. Heads end, in bytes and in seconds. Upgrades are ignored. A client
that has stopped sending is told apart from one that has left. What is no request is refused with a
problem document.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.engine.failures import Failure
from service.http import problems
from service.http.problems import BadRequest, HeadTimeout, HeadTooLarge

#: What one request may send in a row that is no body: its head, or trailers after its body. The
#: parser keeps all of it, and no body cap sees it.
MAX_HEAD_BYTES = 2**16
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Between two looks whether a client that stopped sending has left: at first, and at most.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.001, 0.1
#: Between two interim answers: who stopped sending first and leaves later is found by the next one.
PROBE_SECONDS = 1.0
#: See ``HttpProtocol``.
Refuse = Callable[[bytes, list[tuple[bytes, bytes]]], tuple[bytes, bytes] | None]
#: Of the kernel's states: a connection that was reset, one whose other end stopped sending.
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8


class _Gathering:
    """A transport that holds a first write until the second one, or the next turn of the loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            self._transport.write(self._held + data)
            self._held = b""
        else:
            self._held = data
            self._loop.call_soon(self.flush)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Let go of what is held; where the loop is about to close the transport, it is due now."""
        if self._held and not self._transport.is_closing():
            self._transport.write(self._held)
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HttpProtocol(HttpToolsProtocol):
    """One connection. ``self.cycle`` is the newest request, answered or not.

    Args:
        head_seconds: time for the head of a request, from its first byte, and for the first byte
            of a new connection.
        is_leaving: whether the server is about to end.
        refuse: of a POST's path and headers the head and the body of its refusal, or None.
    """

    def __init__(
        self,
        *arguments: Any,
        head_seconds: float,
        is_leaving: Callable[[], bool],
        refuse: Refuse,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._head_seconds = head_seconds
        self._is_leaving = is_leaving
        self._refuse_work = refuse
        self._passing_over = False  # the body of a request that was refused by its head
        self._alarm: asyncio.TimerHandle | None = None  # rings when a head has not come in time
        self._in_head = False
        self._idle_bytes = 0  # since something was complete or some of a body came
        self._refused = False  # nothing that still comes is read
        self._answered: RequestResponseCycle | None = None  # the request that is being answered
        self._sending_ended = False
        self._looking = False  # for the end of a connection that is not read
        self._probed = -PROBE_SECONDS  # when, by the loop's clock

    @property
    def _is_idle(self) -> bool:
        """Every request that came has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._gathering = _Gathering(transport)
        super().connection_made(cast(asyncio.Transport, self._gathering))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._silence_alarm()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True  # uvicorn tells the newest request alone
            self._answered.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    # --- what comes ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refused:
            return
        self._idle_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self._refuse(BadRequest("expected a request as HTTP/1.1 writes it"))
        else:
            if self._idle_bytes > MAX_HEAD_BYTES + len(data):
                self._refuse(HeadTooLarge(f"the head of a request may have {MAX_HEAD_BYTES} bytes"))
            elif self._is_idle:
                self._await_head()

    def _feed(self, data: bytes) -> None:
        """Parse; where the parser leaves the rest to another protocol, go on with the same one.

        RFC 9110, 7.8: a server may ignore an upgrade. The head is told to a new parser without it.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [b"%s: %s" % one for one in self.headers if one[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(b"\r\n".join([*lines, b"\r\n"]))

    def on_message_begin(self) -> None:
        self._in_head = True
        self._await_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # after the body it would be a trailer, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("there are no tunnels here")
            return  # it comes again, without the upgrade
        self._in_head = False
        self._idle_bytes = 0
        self._silence_alarm()
        self._passing_over = self._is_idle and self._turned_away()
        if self._passing_over:
            return
        before = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._look_for_end()
        if self._is_leaving():
            self.leave()
            if self.pipeline:
                before.keep_alive = True  # its answer is not the last one any more

    def _turned_away(self) -> bool:
        """Answer a request for work that may not enter; its body is passed over as it comes."""
        if self.parser.get_method() != b"POST" or not self.parser.should_keep_alive():
            return False
        told = self._refuse_work(self.url.partition(b"?")[0], self.headers)
        if told is None:
            return False
        head = [b"%s: %s\r\n" % one for one in self.server_state.default_headers]
        self.transport.write(b"".join([STATUS_LINE[429], *head, *told]))
        return True

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        if not self._passing_over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._idle_bytes = 0
        if not self._passing_over:
            super().on_message_complete()

    # --- what does not come ----------------------------------------------------------------------

    def _await_head(self) -> None:
        """From now on there is so much time until a head is complete."""
        if self._alarm is None:
            self._alarm = self.loop.call_later(self._head_seconds, self._end_head)

    def _silence_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _end_head(self) -> None:
        if self._in_head:
            seconds = f"{self._head_seconds:g} seconds"
            self._refuse(HeadTimeout(f"the head of the request was not complete within {seconds}"))
        else:
            self.transport.close()  # nobody asked anything

    def _refuse(self, failure: Failure) -> None:
        """Answer what is no request, unless the answer to one before it is due, and end."""
        self._refused = True
        self._forget_half_sent()
        if not (self._is_idle or self.cycle.more_body):
            self.cycle.keep_alive = False
            return
        if self._is_idle or not (self._answered is self.cycle and self.cycle.response_started):
            self.transport.write(_encode(failure, self.server_state.default_headers))
        self.transport.close()

    def _forget_half_sent(self) -> None:
        """A request whose body ends too early, behind others whose answers are due, is none."""
        if self.pipeline and self.cycle.more_body:
            assert self._answered is not None  # others wait behind it alone
            self.pipeline.popleft()  # the newest one
            self.cycle = self.pipeline[0][0] if self.pipeline else self._answered

    # --- who is to look elsewhere ----------------------------------------------------------------

    def leave(self) -> None:
        """Let the answer to the newest request, where one is due, be the last and say so."""
        if not (self._is_idle or self.cycle.response_started):
            self.cycle.keep_alive = False

    # --- who is still there ----------------------------------------------------------------------

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


def _encode(failure: Failure, headers: list[tuple[bytes, bytes]]) -> bytes:
    """A problem document with its head, the last answer of a connection."""
    request_id = secrets.token_hex(8)
    body = problems.encode(failure, request_id)
    headers = [
        *headers,
        (b"content-type", problems.CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    status = STATUS_LINE[problems.problem_of(failure).status]
    return status + b"".join(b"%s: %s\r\n" % one for one in headers) + b"\r\n" + body
