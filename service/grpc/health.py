"""The standard health service of gRPC: the server's own probes under names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.engine.engine import Engine
from service.engine.failures import Failure, Overloaded
from service.grpc.call import Call
from service.grpc.guard import Guard
from service.grpc.methods import SERVICE, SMALL_BYTES
from service.grpc.statuses import code_of
from service.grpc.uploads import Uploads
from service.http.health import check_live, check_ready, check_start
from service.http.problems import BodyTooLarge, BrokenTensors, NotFound

HEALTH = "grpc.health.v1.Health"
#: What may be asked after: the server as a whole and the protocol, which are ready when
#: /health/ready is 200; and by names of ours what an orchestrator also wants to know.
CHECKS: dict[str, Callable[[Engine], None]] = {
    "": check_ready,
    SERVICE: check_ready,
    "live": check_live,
    "startup": check_start,
}
#: Between two looks for whoever watches.
WATCH_SECONDS = 0.25
#: Clients that may watch at the same time: they need no key, and each takes a call for as long as
#: it likes.
MOST_WATCHES = 64
#: Of the message of a stranger, which says a name.
READ_SECONDS = 2.0


class Health:
    """Answers whether the server should be sent requests; nobody needs a key for that."""

    def __init__(self, engine: Engine, largest: int) -> None:
        self.engine = engine
        # Strangers that send slowly are in the way of one another, and of nobody with a key.
        self._uploads = Uploads(largest, READ_SECONDS, largest)
        self._watches = 0

    def handlers(self, guard: Guard) -> grpc.GenericRpcHandler:
        """Both methods, for a server."""
        check = guard.method(f"/{HEALTH}/Check", self.check, is_public=True)
        watch = grpc.stream_stream_rpc_method_handler(self.watch)
        return grpc.method_handlers_generic_handler(HEALTH, {"Check": check, "Watch": watch})

    async def check(self, call: Call) -> bytes:
        """What is asked after, now; NotFound of a name that is none of them."""
        name = await self._read(call)
        if name not in CHECKS:
            known = ", ".join(one for one in CHECKS if one)
            raise NotFound(f"unknown service {name[:80]!a}; known: {known}")
        return self._status(name)

    async def watch(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        """The same and every change of it, until the client leaves or the server ends."""
        if self._watches >= MOST_WATCHES:
            failure = Overloaded(f"{MOST_WATCHES} clients watch already; ask by Check")
            await context.abort(code_of(failure), failure.detail)
        self._watches += 1  # before its message is there: others come meanwhile
        try:
            name = await self._read(Call(f"/{HEALTH}/Watch", context))
            async for status in self._changes(name):
                yield status
        except Failure as refused:
            await context.abort(code_of(refused), refused.detail)
        finally:
            self._watches -= 1

    async def _changes(self, name: str) -> AsyncIterator[bytes]:
        """What a name stands for, each time that it is something else, until the server ends."""
        told = b""
        while True:
            if (now := self._status(name)) != told:
                yield (told := now)
            if self.engine.draining:
                return
            await asyncio.sleep(WATCH_SECONDS)

    async def _read(self, call: Call) -> str:
        message = await self._uploads.read(call)
        if len(message) > SMALL_BYTES:
            raise BodyTooLarge(f"a HealthCheckRequest may have at most {SMALL_BYTES} bytes")
        try:
            return str(HealthCheckRequest.FromString(message).service)
        except DecodeError:
            raise BrokenTensors("expected a HealthCheckRequest") from None

    def _status(self, name: str) -> bytes:
        if name not in CHECKS:
            status = HealthCheckResponse.SERVICE_UNKNOWN
        else:
            try:
                CHECKS[name](self.engine)
                status = HealthCheckResponse.SERVING
            except Failure:
                status = HealthCheckResponse.NOT_SERVING
        return bytes(HealthCheckResponse(status=status).SerializeToString())
