"""The gate around every method, as ``service.http.guard`` is around every route.

It asks for a key before the message is read, is the one place where an exception becomes a status,
and writes metrics and the access log. Every method is registered as one that takes a stream: on the
wire that is the same, and gRPC then reads no message that was not asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from service.engine.engine import Engine
from service.engine.failures import Failure, InternalError, Overloaded
from service.grpc import call_span
from service.grpc.call import Call
from service.grpc.statuses import code_of, metadata_of
from service.http.keys import Keys
from service.http.problems import Unauthorized, problem_of
from service.logs import ACCESS
from service.metrics import Metrics

if TYPE_CHECKING:
    from service.spans import Tracing

log = logging.getLogger(__name__)
access = logging.getLogger(ACCESS)

#: What keys may do here stands under the address of the same protocol.
ADDRESS = "/v2"

Answer = Callable[[Call], Awaitable[bytes]]


class Guard:
    """Makes handlers of methods.

    Args:
        tracing: where the spans of calls go, where that is wanted.
    """

    def __init__(self, engine: Engine, keys: Keys, tracing: Tracing | None = None) -> None:
        self.engine = engine
        self.keys = keys
        self.tracing = tracing

    def method(
        self, name: str, answer: Answer, is_public: bool = False, is_work: bool = False
    ) -> grpc.RpcMethodHandler:
        """A handler that lets calls through to ``answer``.

        Args:
            name: as the log has it.
            is_public: it needs no key, and is no span: it comes every few seconds, for ever.
            is_work: it is counted with the requests for work, whatever becomes of it.
        """

        async def handle(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
        ) -> bytes:
            call, failure, message, trace = Call(name, context), None, b"", None
            if is_work:
                call.kind = self._only_kind()
            if self.tracing is not None and not is_public:
                trace = call_span.begin(self.tracing, call)
            try:
                if not is_public:
                    self._check_key(call)
                message = await answer(call)
                call.status = 200
            except asyncio.CancelledError:
                call.give_up(self.engine.draining)
                raise
            except Exception as error:
                failure = self._tell(call, error)
            finally:
                self._record(call)
                if trace is not None:
                    call_span.end(trace, call)
            if failure is not None:
                told = (*call.metadata, *metadata_of(failure))
                await context.abort(code_of(failure), failure.detail, told)
            context.set_trailing_metadata(tuple(call.metadata))
            return message

        return grpc.stream_unary_rpc_method_handler(handle)

    def _only_kind(self) -> str:
        """The modality that every call is for; empty where it stands in the message alone."""
        ready = self.engine.catalog.modalities("ready")
        return ready[0] if len(ready) == 1 else ""

    def _check_key(self, call: Call) -> None:
        """Where keys are set whatever tells more than whether the server is well needs one."""
        if not self.keys:
            return
        call.stranger = True
        try:
            account = self.keys.find(call.authorization)
        except Unauthorized:
            self.engine.metrics.unauthorized.inc()
            raise
        call.key = account.key.name
        call.client = call.key if self.keys.clients > 1 else None
        account.key.check(ADDRESS)
        account.enter(call.started)
        call.account, call.stranger = account, False

    def _tell(self, call: Call, error: Exception) -> Failure:
        """What the client is told of an exception; what is not a Failure stays in the log."""
        traced = {"fields": {"trace_id": call.trace_id}}
        if not isinstance(error, Failure):
            log.error("call %s failed", call.id, exc_info=error, extra=traced)
            error = InternalError("the server made a mistake; it is in its log under this id")
        call.status = problem_of(error).status
        if call.status >= 500 and not isinstance(error, InternalError):
            log.warning("call %s: %s %s", call.id, call.status, error.detail, extra=traced)
        if isinstance(error, Overloaded):
            call.refusal = error.reason
        return error

    def _record(self, call: Call) -> None:
        """The call in what its key takes, in the metrics and in the log."""
        fields = call.fields
        seconds = float(fields["ms"] or 0) / 1000
        if call.account is not None:
            call.account.leave(seconds)
        if call.kind is not None:
            _count(self.engine.metrics, call, call.kind, seconds)
        if access.isEnabledFor(logging.INFO):
            access.info("request", extra={"fields": fields})


def _count(metrics: Metrics, call: Call, kind: str, seconds: float) -> None:
    """A call for work, in the metrics."""
    bundle = call.bundle or ""
    metrics.request(kind, bundle, call.status, call.outcome, seconds)
    if call.uploaded:
        metrics.stages(kind, bundle)["upload"].observe(call.uploaded - call.started)
    elif call.status in (408, 499):
        reason = "left" if call.status == 499 else "expired"
        metrics.dropped.labels(kind, "upload", reason).inc()
