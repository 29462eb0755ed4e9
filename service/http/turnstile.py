"""Refusing work by its head alone, below the framework: what a refusal costs caps all the rest.

Of a server that is asked for three times what it can do, two thirds of the requests are refused,
and every millisecond for those is one less for the others. So what is refused only because there
is too much to do never becomes a request of the application: its answer is written as soon as its
head is read, and of its body nothing is kept. Whatever needs a second look goes the usual way,
where ``service.http.guard`` would refuse it as well.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence

from service.engine.engine import Engine
from service.engine.failures import Failure
from service.http import problems
from service.http.exchange import REQUEST_ID, SMALL_BODY_BYTES
from service.http.guard import WORK, access
from service.http.keys import Keys
from service.http.problems import problem_of

Headers = list[tuple[bytes, bytes]]
#: With one of these there is more to say than that it is refused, or another way to say it.
SECOND_LOOK = frozenset(
    (b"content-encoding", b"expect", b"origin", b"traceparent", b"transfer-encoding", b"upgrade")
)
MODALITIES = {path.encode(): modality for path, modality in WORK.items()}


class Turnstile:
    """Looks at heads of requests for work."""

    def __init__(self, engine: Engine, keys: Keys) -> None:
        self._engine = engine
        self._keys = keys
        self._limits = {one: engine.settings.limits(one).body_bytes for one in WORK.values()}

    def refuse(self, path: bytes, headers: Headers) -> tuple[bytes, bytes] | None:
        """Head (after the status line and the server's own headers) and body of a refusal.

        None where the request may enter, or has to be looked at again. It is counted as every
        other answer.

        Args:
            path: as it was sent, without a query.
        """
        modality = MODALITIES.get(path)
        engine = self._engine
        if modality is None or engine.leaving or engine.died or access.isEnabledFor(logging.INFO):
            return None
        length, request_id, authorization = -1, "", list[bytes]()
        for name, value in headers:
            if name in SECOND_LOOK:
                return None
            if name == b"content-length":
                length = int(value)  # the parser has checked it
            elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                request_id = value.decode()
            elif name == b"authorization":
                authorization.append(value)
        if not 0 <= length <= min(SMALL_BODY_BYTES, self._limits[modality]):
            return None
        if self._keys and not self._lets_in(authorization, path.decode()):
            return None
        failure = self._engine.admission.refusal(modality)
        if failure is None:
            return None
        request_id = request_id or secrets.token_hex(8)
        body = problems.encode(failure, request_id)
        told = problems.headers_of(failure) | {
            "content-type": problems.CONTENT_TYPE,
            "content-length": str(len(body)),
            "x-request-id": request_id,
        }
        head = "".join(f"{name.lower()}: {value}\r\n" for name, value in told.items())
        self._engine.metrics.request(modality, "", problem_of(failure).status, 0.0)
        return head.encode() + b"\r\n", body

    def _lets_in(self, authorization: Sequence[bytes], path: str) -> bool:
        """Whether the key may ask for this, as often as it likes: all that is not counted here."""
        try:
            key = self._keys.find(authorization).key
            key.check(path)
        except Failure:
            return False
        return key.rate == key.concurrency == math.inf
