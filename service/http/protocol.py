"""HTTP/1.1 as uvicorn speaks it, with what it leaves open of requests settled.

Heads end, in bytes and in seconds. Upgrades are ignored. What is no request is refused with a
problem document.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.engine.failures import Failure
from service.http import problems
from service.http.connection import AGAIN_SECONDS, Connection
from service.http.discard import Discard
from service.http.problems import BadRequest, HeadTimeout, HeadTooLarge
from service.http.turnstile import Refusal

#: What one request may send in a row that is no body: its head, or trailers after its body. The
#: parser keeps all of it, and no body cap sees it.
MAX_HEAD_BYTES = 2**16
#: See ``HttpProtocol``.
Refuse = Callable[[bytes], Refusal | None]


class HttpProtocol(Connection):
    """What comes over one connection.

    Args:
        head_seconds: time for the head of a request, from its first byte, and for the first byte
            of a new connection.
        is_leaving: whether the server is about to end.
        refuse: of bytes that begin with a request its refusal, or None.
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
        self._unwanted = 0  # bytes to come of a request that was refused by its head
        self._discard: Discard | None = None  # of them, where the connection is closed behind them
        self._alarm: asyncio.TimerHandle | None = None  # rings when a head may be due
        self._head_due = math.inf  # by the loop's clock
        self._in_message = self._in_head = False
        self._idle_bytes = 0  # since something was complete or some of a body came
        self._refused = False  # nothing that still comes is read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._discard is not None:
            self._discard.close()
            self._discard = None

    # --- what comes ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refused:
            return
        data = self._turn_away(data)
        if not data:
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

    def _turn_away(self, data: bytes) -> bytes:
        """Answer requests for work that may not enter; of them nothing reaches the parser.

        That has taken whole messages alone, so it can go on with what is left of the data, if
        anything is.
        """
        if self._unwanted:
            self._unwanted, data = max(0, self._unwanted - len(data)), data[self._unwanted :]
        while data and not self._in_message and self._is_idle and not self.flow.write_paused:
            refusal = self._refuse_work(data)
            if refusal is None:
                break
            head = [b"%s: %s\r\n" % one for one in self.server_state.default_headers]
            self._gathering.write_now(b"".join([STATUS_LINE[429], *head, refusal.answer]))
            self._idle_bytes = 0
            self._unwanted, data = max(0, refusal.size - len(data)), data[refusal.size :]
            self._silence_alarm()
            if refusal.closes:
                self._end_unread()
                return b""
            self._await_head()
        return data

    def _end_unread(self) -> None:
        """Close the connection, after what still comes of the request that was refused."""
        self._refused = True
        if self._unwanted:
            self._discard = Discard(self._gathering.transport, self._unwanted)
        else:
            self.transport.close()

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
        self._in_message = self._in_head = True
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
        before = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._look_for_end()
        if self._is_leaving():
            self.leave()
            if self.pipeline:
                before.keep_alive = True  # its answer is not the last one any more

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_message = False
        self._idle_bytes = 0
        super().on_message_complete()

    # --- what does not come ----------------------------------------------------------------------

    def _await_head(self) -> None:
        """From now on there is so much time until a head is complete."""
        if self._head_due == math.inf:
            self._head_due = self.loop.time() + self._head_seconds
            if self._alarm is None:
                self._alarm = self.loop.call_at(self._head_due, self._ring)

    def _silence_alarm(self) -> None:
        self._head_due = math.inf

    def _ring(self) -> None:
        """End a head that is due; most came in time, and a timer for each would cost too much."""
        self._alarm = None
        if self._head_due <= self.loop.time():
            if self._has_unread:
                self._alarm = self.loop.call_later(AGAIN_SECONDS, self._ring)
            else:
                self._end_head()
        elif self._head_due < math.inf:
            self._alarm = self.loop.call_at(self._head_due, self._ring)

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

    # --- who is to look elsewhere ----------------------------------------------------------------

    def leave(self) -> None:
        """Let the answer to the newest request, where one is due, be the last and say so."""
        if not (self._is_idle or self.cycle.response_started):
            self.cycle.keep_alive = False


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
