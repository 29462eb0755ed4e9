"""Refusing work by its head alone, below the framework: what a refusal costs caps all the rest.

Of a server that is asked for three times what it can do, two thirds of the requests are refused,
and every millisecond for those is one less for the others. So what is refused only because there
is too much to do never becomes a request of the application, nor one of the parser: its answer is
written as soon as its head is there, and its body is thrown away as it comes. Whatever needs a
second look goes the usual way, where ``service.http.guard`` would refuse it as well.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from service.engine.engine import Engine
from service.engine.failures import Failure, Overloaded
from service.http import problems
from service.http.accounts import Account
from service.http.exchange import REQUEST_ID, SMALL_BODY_BYTES
from service.http.guard import WORK, access
from service.http.keys import Keys
from service.http.plain_heads import PlainHead, read_plain_head
from service.http.problems import PROBLEMS, KeyLimited

#: With one of these there is more to say than that it is refused, or another way to say it.
SECOND_LOOK = frozenset((b"content-encoding", b"origin", b"traceparent"))
MODALITIES = {path.encode(): modality for path, modality in WORK.items()}
#: Stands for the id in what is prepared.
ID = b"the-id-of-the-request"
Busy = Overloaded | KeyLimited


class Refusal(NamedTuple):
    """What is said to a request that may not enter."""

    answer: bytes  # after the status line, which is that of 429, and the server's own headers
    size: int  # bytes of the request, its body included
    closes: bool  # the connection, which is cheaper than a large body


class Turnstile:
    """Looks at requests for work, as they come from the network."""

    def __init__(self, engine: Engine, keys: Keys) -> None:
        self._engine = engine
        self._keys = keys
        self._limits = {one: engine.settings.limits(one).body_bytes for one in WORK.values()}

    def refuse(self, data: bytes) -> Refusal | None:
        """The refusal of the request that the data begins with; it is counted as every other.

        None where it may enter, or has to be looked at again.
        """
        engine = self._engine
        if engine.leaving or engine.draining or engine.died or access.isEnabledFor(logging.INFO):
            return None
        head = read_plain_head(data)
        if head is None or not SECOND_LOOK.isdisjoint(head.headers):
            return None
        modality = MODALITIES.get(head.path)
        if modality is None or head.length > self._limits[modality]:
            return None
        failure = self._failure(modality, head) if self._is_served(modality) else None
        if failure is None:
            return None
        outcome = "denied" if isinstance(failure, KeyLimited) else "refused"
        engine.metrics.request(modality, "", PROBLEMS[type(failure)].status, outcome, 0.0)
        closes = head.length > SMALL_BODY_BYTES
        answer = _answer(failure, head.headers, closes)
        return Refusal(answer, head.size + head.length, closes)

    def _is_served(self, modality: str) -> bool:
        """Whether anybody answers it; else it is refused for that, however much there is to do."""
        try:
            self._engine.catalog.check_modality(modality)
        except Failure:
            return False
        return True

    def _failure(self, modality: str, head: PlainHead) -> Busy | None:
        """Why it may not enter; strangers, and keys that may not do this, go the usual way."""
        if not self._keys:
            return self._engine.admission.refusal(modality)
        authorization = head.headers.get(b"authorization")
        try:
            account = self._keys.find([authorization] if authorization else [])
            account.key.check(head.path.decode())
        except Failure:
            return None
        return self._failure_of_key(modality, account)

    def _failure_of_key(self, modality: str, account: Account) -> Busy | None:
        """What the key takes is asked first, and counted only where the answer is given here."""
        now = time.monotonic()
        try:
            account.check(now)
        except KeyLimited as limited:
            return limited
        failure = self._engine.admission.refusal(modality)
        if failure is not None:
            account.enter(now)
            account.leave(time.monotonic() - now)
        return failure


def _answer(failure: Busy, headers: dict[bytes, bytes], closes: bool) -> bytes:
    """As ``Exchange.refuse`` writes it."""
    request_id = headers.get(b"x-request-id", b"")
    if not REQUEST_ID.fullmatch(request_id):
        request_id = secrets.token_hex(8).encode()
    kind: Callable[..., Failure] = type(failure)
    head, before, after = _prepare(kind, failure.detail, failure.retry_seconds, closes)
    size = len(before) + len(request_id) + len(after)
    told = b"%scontent-length: %d\r\nx-request-id: %s\r\n\r\n%s%s%s"
    return told % (head, size, request_id, before, request_id, after)


@lru_cache(maxsize=512)
def _prepare(
    kind: Callable[..., Failure], detail: str, retry_seconds: int | None, closes: bool
) -> tuple[bytes, bytes, bytes]:
    """Headers that all such answers share, and their document before and after the id."""
    failure = kind(detail, retry_seconds)
    told = problems.headers_of(failure) | {"content-type": problems.CONTENT_TYPE}
    if closes:
        told["connection"] = "close"
    head = "".join(f"{name.lower()}: {value}\r\n" for name, value in told.items()).encode()
    before, _, after = problems.encode(failure, ID.decode()).rpartition(ID)
    return head, before, after
