"""The gate around the application: pure ASGI, and it decides before the first byte of a body.

It asks for a key where keys are set, refuses what the key may not and what cannot be served
(draining, compressed, too large, no permit left), counts the bytes of bodies whatever their headers
said, keeps the times for the upload and for the answer, is the one place where an exception becomes
an answer, and writes the access log.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from media.spec import AXES
from service.engine.engine import NO_ANSWER, Engine
from service.engine.failures import (
    DeadlinePassed,
    Draining,
    Failure,
    InternalError,
    NotReady,
    Overloaded,
)
from service.http import request_span
from service.http.exchange import Exchange, UploadTime
from service.http.keys import Keys
from service.http.problems import (
    NOTHING_HERE,
    BodyTimeout,
    ClientGone,
    NotFound,
    Unauthorized,
    problem_of,
)
from service.http.v2.models import modality_to_infer
from service.logs import ACCESS
from service.metrics import outcome_of
from service.settings import Limits, Settings

if TYPE_CHECKING:
    from service.spans import Tracing

log = logging.getLogger(__name__)
access = logging.getLogger(ACCESS)

CLASSIFY = {f"/v1/classify/{modality}": modality for modality in AXES}
PREPARE = {f"/v1/prepare/{modality}": modality for modality in AXES}
#: What needs a permit, and the modality it is counted under; also ``INFER``, by its model's.
WORK = CLASSIFY | PREPARE
READ = ("GET", "HEAD")
#: What needs no key: nothing is told but whether the server is well. The pages are the same on
#: every server, and a browser sends no key with the first request for one.
PUBLIC = frozenset(
    (method, path)
    for method in READ
    for path in (
        "/health/startup", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready",
        "/", "/docs",
    )
)  # fmt: skip
#: The addresses of their files.
FILES = re.compile(r"/page/[0-9a-f]{1,64}/[a-z][a-z-]{0,62}\.[a-z]{2,4}")
METRICS = frozenset({("GET", "/metrics"), ("HEAD", "/metrics")})
#: What comes every few seconds, for ever, and is nobody's work.
UNTRACED = PUBLIC | METRICS
#: How addresses begin that exist only where a key has the scope for them.
ADMIN = "/admin"
MAX_LOGGED_PATH = 200  # characters


def public_requests(settings: Settings) -> frozenset[tuple[str, str]]:
    """Method and path of what needs no key."""
    return PUBLIC | METRICS if settings.open_metrics else PUBLIC


class Guard:
    """ASGI middleware around every route.

    Args:
        tracing: where the spans of requests go, where that is wanted.
    """

    def __init__(
        self, app: ASGIApp, engine: Engine, keys: Keys, tracing: Tracing | None = None
    ) -> None:
        self.app = app
        self.engine = engine
        self.keys = keys
        self.tracing = tracing
        self._public = public_requests(engine.settings)
        self._limits = {modality: engine.settings.limits(modality) for modality in AXES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        modality = self._modality(scope)
        limits = self._limits[modality or "image"]  # of other requests nobody reads the body
        exchange = Exchange(
            scope, receive, send, limit=limits.body_bytes,
            admission=self.engine.admission, kind=modality or "image",
        )
        scope["exchange"] = exchange
        trace = None
        if self.tracing is not None and (scope["method"], scope["path"]) not in UNTRACED:
            trace = request_span.begin(self.tracing, scope, exchange)
        try:
            self._check_key(scope, exchange)
            if modality is None:
                await self.app(_as_get(scope), receive, exchange.send)
            else:
                await self._work(scope, exchange, limits)
        except ClientGone as failure:
            exchange.status = problem_of(failure).status
        except asyncio.CancelledError:
            await self._give_up(exchange)
        except Exception as error:
            await self._answer(exchange, error)
        finally:
            self._record(scope, modality, exchange)
            if trace is not None:
                request_span.end(trace, scope, exchange, modality)
            del scope["exchange"]  # the scope knows the channels and they know it: a cycle

    def _modality(self, scope: Scope) -> str | None:
        """Of the work that is asked for; None where nothing is, and of a model nobody knows."""
        if scope["method"] != "POST":
            return None
        path = scope["path"]
        return WORK.get(path) or modality_to_infer(self.engine.catalog, path)

    def _check_key(self, scope: Scope, exchange: Exchange) -> None:
        """Where keys are set everything needs one, also what is not there.

        Without keys there are no addresses for admins: a page in the operator's own browser could
        call them.
        """
        if not self.keys and scope["path"].startswith(ADMIN):
            raise NotFound(NOTHING_HERE)
        if not self.keys or self._is_public(scope["method"], scope["path"]):
            return
        exchange.stranger = True
        try:
            account = self.keys.find(exchange.authorization)
        except Unauthorized:
            self.engine.metrics.unauthorized.inc()
            raise
        exchange.key = account.key.name
        exchange.client = exchange.key if self.keys.clients > 1 else None
        if scope["path"].startswith(ADMIN) and not self.keys.has("admin"):
            raise NotFound(NOTHING_HERE)
        account.key.check(scope["path"])
        account.enter(exchange.started)
        exchange.account, exchange.stranger = account, False

    def _is_public(self, method: str, path: str) -> bool:
        return (method, path) in self._public or (
            method in READ and FILES.fullmatch(path) is not None
        )

    async def _work(self, scope: Scope, exchange: Exchange, limits: Limits) -> None:
        """Run a request that needs a permit, within the times for its body and its answer."""
        if self.engine.draining:
            raise Draining("the server is shutting down; connect again")
        if self.engine.died:
            raise NotReady(NO_ANSWER)
        exchange.check()
        now = asyncio.get_running_loop().time()
        exchange.deadline = now + limits.deadline_seconds
        # What comes at less than half the rate that it needs will not be whole in time.
        needed = (exchange.content_length or 0) / limits.upload_seconds
        least_rate = max(1024 * self.engine.settings.min_upload_kib, needed / 2)
        exchange.upload = UploadTime(now, now + limits.upload_seconds, least_rate)
        until = exchange.upload.end(0) if exchange.unread else exchange.deadline
        self.engine.catalog.check_modality(exchange.kind)
        self.engine.admission.enter(exchange.kind, exchange.client, exchange.monotonic_deadline)
        try:
            exchange.hold(exchange.content_length or 0)
            async with asyncio.timeout_at(until) as timeout:
                exchange.timeout = timeout
                await self.app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise self._too_slow(exchange, limits) from None
        finally:
            exchange.timeout = None
            self.engine.admission.leave(exchange.kind, exchange.held, exchange.client)

    def _too_slow(self, exchange: Exchange, limits: Limits) -> Failure:
        """Whose time it was that ran out."""
        assert exchange.upload is not None
        if not exchange.unread or exchange.deadline < exchange.upload.end(exchange.received):
            seconds = exchange.deadline - exchange.upload.began
            return DeadlinePassed(f"there was no answer within {seconds:g} seconds")
        if exchange.upload.end(exchange.received) < exchange.upload.until:
            rate = self.engine.settings.min_upload_kib
            return BodyTimeout(f"the body came more slowly than {rate:g} KiB a second")
        return BodyTimeout(f"the body was not complete within {limits.upload_seconds:g} seconds")

    async def _answer(self, exchange: Exchange, error: Exception) -> None:
        """An exception as an answer; what is not a Failure stays in the log."""
        traced = {"fields": {"trace_id": exchange.trace_id}}
        if not isinstance(error, Failure):
            log.error("request %s failed", exchange.id, exc_info=error, extra=traced)
            error = InternalError("the server made a mistake; it is in its log under this id")
        elif (status := problem_of(error).status) >= 500:
            log.warning("request %s: %s %s", exchange.id, status, error.detail, extra=traced)
        if isinstance(error, Overloaded):
            exchange.refusal = error.reason
        if exchange.status == 0:
            await exchange.refuse(error)

    async def _give_up(self, exchange: Exchange) -> None:
        """The server ends before the request did: say so, and wait for nothing."""
        exchange.unread = False
        await self._answer(exchange, Draining("the server had to end before this request did"))

    def _record(self, scope: Scope, modality: str | None, exchange: Exchange) -> None:
        """The request in what its key takes, in the metrics and in the log."""
        seconds = (exchange.answered or time.monotonic()) - exchange.started
        if exchange.account is not None:
            exchange.account.leave(seconds)
        if modality is not None:
            self._count(modality, exchange, seconds)
        if access.isEnabledFor(logging.INFO):
            access.info("request", extra={"fields": _fields(scope, modality, exchange, seconds)})


    def _count(self, modality: str, exchange: Exchange, seconds: float) -> None:
        """A request for work, in the metrics."""
        metrics, bundle = self.engine.metrics, exchange.bundle or ""
        metrics.request(modality, bundle, exchange.status, _outcome(exchange), seconds)
        if exchange.uploaded:
            spent = exchange.uploaded - exchange.started
            metrics.stages(modality, bundle)["upload"].observe(spent)
        elif exchange.status in (408, 499):
            reason = "left" if exchange.status == 499 else "expired"
            metrics.dropped.labels(modality, "upload", reason).inc()


def _outcome(exchange: Exchange) -> str:
    """What became of a request, in a word: also whose affair it was, which no status says."""
    if exchange.stranger and exchange.status < 500:
        return "denied"
    if exchange.hurried and (exchange.status == 504 or exchange.refusal == "deadline"):
        return "hurried"
    if exchange.explained and exchange.status == 200:
        return "explained"
    return outcome_of(exchange.status)


def _as_get(scope: Scope) -> Scope:
    """HEAD is GET for the routes; the protocol, which knows better, sends no body."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def _fields(
    scope: Scope, modality: str | None, exchange: Exchange, seconds: float
) -> dict[str, str | int | float | None]:
    """The access line. The path is the raw one: percent-encoded, so there is no control in it."""
    return {
        "id": exchange.id,
        "trace_id": exchange.trace_id,
        "method": scope["method"],
        "path": scope["raw_path"].decode("latin-1")[:MAX_LOGGED_PATH],
        "status": exchange.status,
        "modality": modality,
        "bundle": exchange.bundle,
        "grid": exchange.grid,
        "bytes": exchange.received,
        "ms": round(seconds * 1000, 3),
        "key": exchange.key,
    }
