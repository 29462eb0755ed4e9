"""Routes that cost nothing but their endpoint."""

from __future__ import annotations

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.http.problems import NOTHING_HERE, MethodNotAllowed, NotFound


class DirectRoute(APIRoute):
    """A documented route that hands its endpoint the request and nothing else.

    FastAPI would read the body, solve dependencies and validate around the endpoint, which costs
    more than decoding a small image.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The route's pattern also fits a path with a line break at its end; the guard's table
        # does not, and nothing may come here around the guard.
        if self.path_regex.fullmatch(scope["path"]) is None:
            raise NotFound(NOTHING_HERE)
        if scope["method"] not in (self.methods or ()):
            raise MethodNotAllowed("expected POST", "POST")
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
