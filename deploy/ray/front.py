"""The server's application as Ray calls it: below a prefix, and with one id for each request."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

REQUEST_ID = b"x-request-id"


class Front:
    """ASGI. Of the lifespan nothing is left: the replica has begun what lives as long as it does.

    Args:
        app: takes paths without a prefix.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _agree(receive, send)
        known = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")

        async def send_one_id(message: Message) -> None:
            """Ray has given the request this id and says so itself."""
            if message["type"] == "http.response.start":
                message["headers"] = [
                    one for one in message["headers"] if one != (REQUEST_ID, known)
                ]
            await send(message)

        if prefix := scope.get("root_path", ""):
            path = scope["path"].removeprefix(prefix)
            if not path and scope["method"] in ("GET", "HEAD"):
                return await _redirect(prefix + "/", send)  # the page's links count from there
            raw = scope["raw_path"].removeprefix(prefix.encode())
            scope = {**scope, "root_path": "", "path": path or "/", "raw_path": raw or b"/"}
        return await self.app(scope, receive, send_one_id)


async def _agree(receive: Receive, send: Send) -> None:
    """To start and to end, when asked."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def _redirect(location: str, send: Send) -> None:
    headers = [(b"location", location.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
