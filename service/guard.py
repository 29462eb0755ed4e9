"""The gate around the application: pure ASGI, and it decides before the first byte of a body.

It gives every request an id, refuses what cannot be served (draining, compressed, too large, no
permit left), counts the bytes of bodies whatever their headers said, keeps the deadline, and is
the one place where an exception becomes an answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    CONTENT_TYPE,
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    ContentEncoded,
    DeadlinePassed,
    Draining,
    InternalError,
    Problem,
)
from service.service import Service

log = logging.getLogger(__name__)

#: What is guarded, and the modality it is counted under.
WORK = {"/v1/classify/image": "image"}
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
#: An unread body up to this size is read and thrown away, so that its connection stays usable;
#: for a larger one the connection is closed, a moment later, so that the answer is seen.
SMALL_BODY_BYTES = 2**18
LINGER_SECONDS = 2.0
LINGER_BYTES = 2**26


class Exchange:
    """One request and its answer: the ASGI channels, with an id, byte counts and the status."""

    __slots__ = (
        "_receive", "_send", "admission", "content_length", "encoding", "held", "id",
        "limit", "received", "started", "status", "unread",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, service: Service) -> None:
        self._receive = receive
        self._send = send
        self.started = time.monotonic()
        self.limit = service.settings.max_body_bytes
        self.admission = service.admission
        self.status = 0  # until an answer is on its way
        self.held = 0  # bytes counted by admission
        self.received = 0
        self._read_headers(scope["headers"])

    def _read_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.id = ""
        self.content_length: int | None = None
        self.encoding = b""
        self.unread = False  # bytes of a body may still come
        for name, value in headers:
            if name == b"content-length":
                self.content_length = int(value)  # the HTTP parser has checked it
                self.unread = self.content_length > 0
            elif name == b"transfer-encoding":
                self.unread = True
            elif name == b"content-encoding":
                self.encoding = value.strip().lower()
            elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                self.id = value.decode()
        self.id = self.id or secrets.token_hex(8)

    def check(self) -> None:
        """Refuse by the headers alone."""
        if self.encoding not in (b"", b"identity"):
            raise ContentEncoded("expected no Content-Encoding, or identity")
        if self.content_length is not None and self.content_length > self.limit:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next piece of the body, counted."""
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.unread = message.get("more_body", False)
            self.received += size
            if self.received > self.limit:
                raise self._too_large()
            self.admission.hold(size)
            self.held += size
        else:
            self.unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.id.encode())]
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem; deal with the rest of the body so that the answer arrives."""
        body = problem.encode(self.id)
        large = self.content_length is None or self.content_length > SMALL_BODY_BYTES
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), text.encode()) for name, text in problem.headers.items()),
        ]
        if self.unread and large:
            headers.append((b"connection", b"close"))
        await self.send(
            {"type": "http.response.start", "status": problem.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": self.unread})
        if self.unread:
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        """Read what still comes: closing at once would reset the connection under the answer."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while self.unread and self.received < self.limit + LINGER_BYTES:
                    message = await self._receive()
                    self.received += len(message.get("body", b""))
                    self.unread = message.get("more_body", False)
        except TimeoutError:
            pass  # it is closed now, whatever they still have to say

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"a request body may have at most {self.limit} bytes")


class Guard:
    """ASGI middleware around every route."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange(scope, receive, send, self.service)
        scope["exchange"] = exchange
        modality = WORK.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            if modality is None:
                await self.app(scope, receive, exchange.send)
            else:
                await self._work(scope, exchange)
        except ClientGone as problem:
            exchange.status = problem.status
        except asyncio.CancelledError:
            await self._give_up(exchange)
        except Exception as error:
            await self._answer(exchange, error)
        finally:
            self._count(modality, exchange)
            del scope["exchange"]  # the scope knows the channels and they know it: a cycle

    async def _work(self, scope: Scope, exchange: Exchange) -> None:
        """Run a request that needs a permit, within its deadline."""
        if self.service.draining:
            raise Draining("the server is shutting down; connect again")
        exchange.check()
        admission = self.service.admission
        admission.enter()
        try:
            async with asyncio.timeout(self.service.settings.deadline_seconds) as deadline:
                await self.app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not deadline.expired():
                raise
            seconds = f"within {self.service.settings.deadline_seconds:g} seconds"
            if exchange.unread:
                raise BodyTimeout(f"the body was not complete {seconds}") from None
            raise DeadlinePassed(f"there was no answer {seconds}") from None
        finally:
            admission.leave(exchange.held)

    async def _answer(self, exchange: Exchange, error: Exception) -> None:
        """An exception as an answer; what is not a Problem stays in the log."""
        if not isinstance(error, Problem):
            log.error("request %s failed", exchange.id, exc_info=error)
            error = InternalError("the server made a mistake; it is in its log under this id")
        elif error.status >= 500:
            log.warning("request %s: %s %s", exchange.id, error.status, error.detail)
        if exchange.status == 0:
            await exchange.refuse(error)

    async def _give_up(self, exchange: Exchange) -> None:
        """The server ends before the request did: say so, and wait for nothing."""
        exchange.unread = False
        await self._answer(exchange, Draining("the server had to end before this request did"))

    def _count(self, modality: str | None, exchange: Exchange) -> None:
        if modality is not None:
            metrics = self.service.metrics
            metrics.requests.labels(modality, str(exchange.status)).inc()
            metrics.stages["total"].observe(time.monotonic() - exchange.started)
