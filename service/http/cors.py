"""Pages of other origins in a browser: none may read an answer but those that are listed."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.v2.request import JSON_LENGTH


class Cors(CORSMiddleware):
    """Around the guard: browsers ask (``OPTIONS``) without a key, and refusals can be read too.

    starlette's own answers questions of origins that are not listed, and names headers to them;
    here they are requests like every other, which the guard refuses, and learn nothing.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=(
                "Authorization", "Idempotency-Key", JSON_LENGTH, "X-Request-ID", "traceparent",
            ),
            expose_headers=(
                "Allow", JSON_LENGTH, "Location", "Retry-After", "Server-Timing", "X-Request-ID",
                "traceparent",
            ),  # fmt: skip
            # A page of the internet asks for a server of a private network: if it is listed.
            allow_private_network="*" not in origins,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_varied(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).add_vary_header("Origin")
            await send(message)

        if scope["type"] != "http" or self.is_allowed_origin(_origin(scope)):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send_varied)


def _origin(scope: Scope) -> str:
    return Headers(scope=scope).get("origin", "")
