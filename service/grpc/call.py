"""One call: who makes it, by when it is due, and what became of it."""

from __future__ import annotations

import math
import secrets
import time

import grpc

from service.engine.admission import Admission
from service.http.accounts import Account
from service.http.exchange import REQUEST_ID
from service.http.trace import Span
from service.metrics import outcome_of
from service.settings import Limits

#: gRPC tells of a client's time in three digits, rounded up: its own end comes by so much sooner.
ROUNDED_UP = 0.01


class Call:
    """One call and its answer; all times are seconds, monotonic.

    Attributes:
        name: of its method.
        id: the client's, from its metadata, if it is fit for a log, else a new one.
        authorization: the values of its metadata of this name.
        left_at: when the client leaves by itself; never, if it did not say.
        deadline: of the answer, once it is known for which modality.
        kind: that modality, empty while it is not known; of a call that is no work None.
        received: bytes of its message.
        uploaded: when that was whole; 0 until then.
        status: as HTTP would have it; 0 until there is an answer.
        stranger, key, client, account, span, bundle, grid, hurried, refusal: as of an ``Exchange``.
    """

    def __init__(self, name: str, context: grpc.aio.ServicerContext) -> None:
        self.name = name
        self.context = context
        self.started = time.monotonic()
        remaining = context.time_remaining()
        self.left_at = math.inf if remaining is None else self.started + remaining
        self.deadline = math.inf
        self.uploaded = 0.0
        self.received = self.status = self._held = 0
        self.kind: str | None = None
        self.stranger = self.hurried = False
        self.refusal = ""
        self.key: str | None = None
        self.client: str | None = None
        self.account: Account | None = None
        self.bundle: str | None = None
        self.grid: str | None = None
        self._read_metadata()

    def _read_metadata(self) -> None:
        given: dict[str, list[bytes]] = {}
        for name, value in self.context.invocation_metadata():
            raw = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
            given.setdefault(name, []).append(raw)
        self.authorization = tuple(given.get("authorization", ()))
        ids = [one for one in given.get("x-request-id", ()) if REQUEST_ID.fullmatch(one)]
        self.id = ids[-1].decode() if ids else secrets.token_hex(8)
        self.span = Span.begin(given.get("traceparent", ()))

    @property
    def trace_id(self) -> str | None:
        """Of the trace that the call belongs to, for the log."""
        return self.span.trace_id if self.span else None

    def is_for(self, kind: str, limits: Limits) -> None:
        """Let it be work of a modality, due when that is, or when its client leaves."""
        self.kind = kind
        self.deadline = self.started + limits.deadline_seconds
        self.shorten(self.left_at - self.started)

    def shorten(self, seconds: float) -> None:
        """Let the answer be due so long after the start of the call, if it was due later."""
        due = self.started + seconds
        self.hurried = self.hurried or due < self.deadline
        self.deadline = min(self.deadline, due)

    def enter(self, admission: Admission) -> None:
        """Take a permit for what was received; Overloaded where there is none, or no time left."""
        assert self.kind, "only work needs a permit, and that of a modality"
        admission.enter(self.kind, self.client, self.deadline)
        try:
            admission.hold(self.kind, self.received, self.client)
            self._held = self.received
        except BaseException:
            admission.leave(self.kind, 0, self.client)
            raise

    def leave(self, admission: Admission) -> None:
        """Give it back."""
        assert self.kind, "only work has a permit"
        admission.leave(self.kind, self._held, self.client)

    def give_up(self, draining: bool) -> None:
        """The call was ended from outside: by its deadline, by the server's end, or its client."""
        if time.monotonic() - self.started >= (1 - ROUNDED_UP) * (self.left_at - self.started):
            self.status, self.hurried = 504, True
        else:
            self.status = 503 if draining else 499

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What is said behind every answer."""
        told = [("x-request-id", self.id)]
        if self.span is not None:
            told.append(("traceparent", self.span.header().decode()))
        return told

    @property
    def outcome(self) -> str:
        """What became of it, in a word: also whose affair it was, which no status says."""
        if self.stranger and self.status < 500:
            return "denied"
        if self.hurried and (self.status == 504 or self.refusal == "deadline"):
            return "hurried"
        return outcome_of(self.status)

    @property
    def fields(self) -> dict[str, str | int | float | None]:
        """The access line, as that of a request of HTTP."""
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "method": "gRPC",
            "path": self.name,
            "status": self.status,
            "modality": self.kind or None,
            "bundle": self.bundle,
            "grid": self.grid,
            "bytes": self.received,
            "ms": round((time.monotonic() - self.started) * 1000, 3),
            "key": self.key,
        }
