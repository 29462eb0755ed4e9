"""gRPC as another way in: it opens and closes with the server of HTTP, on a port of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import grpc

from media.spec import AXES
from service.engine.engine import Engine
from service.grpc.guard import Guard
from service.grpc.health import MOST_WATCHES, Health
from service.grpc.methods import Methods
from service.grpc.uploads import Uploads
from service.http.keys import Keys
from service.http.server import CannotListen

if TYPE_CHECKING:
    from service.spans import Tracing

#: Of a message: neither gRPC nor protobuf knows larger ones.
MAX_MESSAGE_BYTES = 2**31 - 1
#: Of the metadata of a call.
MAX_METADATA_BYTES = 2**14
#: A connection that says nothing is asked whether it is still there; without an answer it ends.
KEEPALIVE_SECONDS, KEEPALIVE_ANSWER_SECONDS = 60, 20
#: One without a call for so long is closed; clients open another when they need it.
IDLE_SECONDS = 300
#: Algorithms of compression as bits: none but identity, since what is compressed may be any size.
IDENTITY = 1


class GrpcFront:
    """The server of gRPC.

    Args:
        address: IP and port, of which 0 takes a free one.
        tracing: where the spans of calls go, where that is wanted.
        modalities: for which there may be requests; the largest message is that of one of them.

    Attributes:
        port: the one that was taken, once it is open.
    """

    name = "gRPC"

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        address: tuple[str, int],
        modalities: Collection[str] = AXES,
        tracing: Tracing | None = None,
    ) -> None:
        host, port = address
        self._engine = engine
        self._host = f"[{host}]" if ":" in host else host
        self.port = port
        limits = [engine.settings.limits(one) for one in modalities]
        self._largest = min(MAX_MESSAGE_BYTES, max(one.body_bytes for one in limits))
        uploads = Uploads(
            self._largest,
            max(one.upload_seconds for one in limits),
            engine.settings.max_in_flight_bytes,
            lambda kind: engine.metrics.refused.labels(kind, "bytes").inc(),
        )
        guard = Guard(engine, keys, tracing)
        self._handlers = [
            Methods(engine, uploads).handlers(guard),
            Health(engine, self._largest).handlers(guard),
        ]
        self._server: grpc.aio.Server | None = None

    async def open(self) -> None:
        """Listen; CannotListen where that cannot be."""
        settings = self._engine.settings
        most = 2 * settings.max_in_flight + MOST_WATCHES  # our own bounds say more and come first
        server = grpc.aio.server(
            maximum_concurrent_rpcs=most,
            options=(
                ("grpc.so_reuseport", 0),  # else a second server would take half of the calls
                ("grpc.max_receive_message_length", self._largest),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", most),
                ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
                ("grpc.server_handshake_timeout_ms", round(1000 * settings.head_seconds)),
                ("grpc.max_connection_idle_ms", 1000 * IDLE_SECONDS),
                ("grpc.keepalive_time_ms", 1000 * KEEPALIVE_SECONDS),
                ("grpc.keepalive_timeout_ms", 1000 * KEEPALIVE_ANSWER_SECONDS),
            ),
        )
        server.add_generic_rpc_handlers(self._handlers)
        try:
            self.port = server.add_insecure_port(f"{self._host}:{self.port}")
        except RuntimeError as error:
            where = f"{self._host} port {self.port}"
            raise CannotListen(f"cannot listen on {where} for gRPC: is it taken?") from error
        await server.start()
        self._server = server

    async def close(self, grace_seconds: float) -> None:
        """Let no call in, and let what is inside finish, for so long at most."""
        if self._server is not None:
            await self._server.stop(grace_seconds)
