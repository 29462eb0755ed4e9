"""One request and its answer: the ASGI channels, with an id, byte counts, times and the status."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import NamedTuple

from starlette.types import Message, Receive, Scope, Send

from service.engine.admission import Admission
from service.engine.failures import DeadlinePassed, Failure
from service.http import problems
from service.http.accounts import Account
from service.http.problems import CONTENT_TYPE, BodyTimeout, BodyTooLarge, ContentEncoded
from service.http.trace import Span

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
#: An unread body up to this size is read and thrown away, so that its connection stays usable;
#: for a larger one the connection is closed, a moment later, so that the answer is seen.
SMALL_BODY_BYTES = 2**18
LINGER_SECONDS = 2.0
LINGER_BYTES = 2**26
#: The same for whom no key lets in; of a larger body, or one of unknown size, nothing is read.
STRANGER_BODY_BYTES = 2**16
#: An upload may stand still for so long in all before its rate counts.
STALL_SECONDS = 5.0


class UploadTime(NamedTuple):
    """How long a body may take; all of the event loop's clock, in seconds and bytes.

    One that holds memory and hardly comes is ended long before ``until``.
    """

    began: float
    until: float
    least_rate: float  # bytes a second, after the first ``STALL_SECONDS``

    def end(self, received: int) -> float:
        """When to give up with so many bytes here."""
        return min(self.until, self.began + STALL_SECONDS + received / self.least_rate)


class Exchange:
    """One request and its answer.

    Attributes:
        id: the client's, if it is fit for a log, else a new one.
        unread: bytes of a body may still come.
        received: bytes of the body that were read.
        held: those of them that admission counts.
        status: 0 until an answer is on its way.
        answered: when the answer was written, seconds; 0 until then.
        uploaded: when its body was whole, seconds; 0 until then.
        stranger: the sender needs a key and has none that lets it in.
        key: whose key it came with.
        client: the same, where the keys of several are known.
        account: what that key takes, where this request counts as part of it.
        span: this server's, where the request belongs to a trace.
        bundle, grid: who answers, once that is known.
        explained: by occlusion, which takes many times as long.
        hurried: the client wants its answer before the server's own deadline.
        refusal: what there was too much of, where it was refused for that.
        timeout: ends the request, at the latest at ``deadline``.
        upload: how long the body may take.
    """

    __slots__ = (
        "_receive", "_send", "account", "admission", "answered", "authorization", "bundle",
        "client", "content_length", "deadline", "encoding", "explained", "grid", "held", "hurried",
        "id", "key", "kind", "limit", "path", "received", "refusal", "span", "started", "status",
        "stranger", "timeout", "unread", "upload", "uploaded",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limit: int,
        admission: Admission,
        kind: str,
    ) -> None:
        self._receive = receive
        self._send = send
        self.limit = limit
        self.admission = admission
        self.kind = kind
        self.path: str = scope["path"]
        self.started = time.monotonic()
        self.answered = self.uploaded = 0.0
        self.status = 0
        self.held = 0
        self.received = 0
        self.stranger = self.explained = self.hurried = False
        self.refusal = ""
        self.key: str | None = None
        self.client: str | None = None
        self.account: Account | None = None
        self.bundle: str | None = None
        self.grid: str | None = None
        self.timeout: asyncio.Timeout | None = None
        self.upload: UploadTime | None = None
        self.deadline = 0.0  # of the event loop's clock, seconds
        self._read_headers(scope["headers"])

    def _read_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.id = ""
        self.content_length: int | None = None
        self.encoding = b""
        self.authorization: tuple[bytes, ...] = ()
        traceparents: tuple[bytes, ...] = ()
        self.unread = False
        for name, value in headers:
            if name == b"content-length":
                self.content_length = int(value)  # the HTTP parser has checked it
                self.unread = self.content_length > 0
            elif name == b"transfer-encoding":
                self.unread = True
            elif name == b"content-encoding":
                self.encoding = value.strip().lower()
            elif name == b"authorization":
                self.authorization += (value,)
            elif name == b"traceparent":
                traceparents += (value,)
            elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                self.id = value.decode()
        self.id = self.id or secrets.token_hex(8)
        self.span = Span.begin(traceparents)

    @property
    def trace_id(self) -> str | None:
        """Of the trace that the request belongs to, for the log."""
        return self.span.trace_id if self.span else None

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
            if not self.unread:
                self.uploaded = time.monotonic()
            if self.received > self.limit:
                raise self._too_large()
            if self.received > self.held:  # of unknown length: counted as it comes
                self.hold(self.received - self.held)
            self._reschedule()
        else:
            self.unread = False
        return message

    def shorten(self, seconds: float) -> None:
        """Let the answer be due so long after the start of the request, if it was due later."""
        if self.upload is not None:
            due = self.upload.began + seconds
            self.hurried = self.hurried or due < self.deadline
            self.deadline = min(self.deadline, due)
            self._reschedule()

    def _reschedule(self) -> None:
        if self.timeout is not None and self.upload is not None:
            end = self.upload.end(self.received) if self.unread else self.deadline
            self.timeout.reschedule(min(end, self.deadline))

    @property
    def monotonic_deadline(self) -> float:
        """``deadline`` of the clock that the engine goes by."""
        return self.deadline - asyncio.get_running_loop().time() + time.monotonic()

    def hold(self, size: int) -> None:
        """Count bytes of the body, here or still to come, among those in memory."""
        self.admission.hold(self.kind, size, self.client)
        self.held += size

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.id.encode())]
            if self.span is not None:
                message["headers"].append((b"traceparent", self.span.header()))
        await self._send(message)

    async def refuse(self, failure: Failure) -> None:
        """Answer with a problem; deal with the rest of the body so that the answer arrives."""
        body = problems.encode(failure, self.id, self.path)
        told = problems.headers_of(failure)
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), text.encode()) for name, text in told.items()),
        ]
        too_slow = isinstance(failure, (BodyTimeout, DeadlinePassed))
        if self.unread and (self._is_large() or too_slow):
            headers.append((b"connection", b"close"))
        status = problems.problem_of(failure).status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": self.unread})
        self.answered = time.monotonic()
        if self.unread:
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _is_large(self) -> bool:
        """Whether the connection is cheaper to close than the body is to read."""
        small = STRANGER_BODY_BYTES if self.stranger else SMALL_BODY_BYTES
        return self.content_length is None or self.content_length > small

    async def _linger(self) -> None:
        """Closing at once would reset the connection under the answer: read what comes, or wait."""
        if self.stranger and self._is_large():
            return await asyncio.sleep(LINGER_SECONDS)
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
