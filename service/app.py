"""The application: routes behind the guard, and one lifespan around the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service import errors
from service.guard import Guard
from service.routes import add_routes
from service.service import Service
from service.session import OpenSession, open_session
from service.settings import Settings

DESCRIPTION = """\
Send an image, a clip or a scan, get ranked labels. Each has an address of its own, and the bytes
decide whether the address reads them. Every answer other than 200 is a problem document (RFC 9457)
whose `type` is stable. Send `X-Request-ID` to choose the id of a request.
"""


def create_app(settings: Settings, opener: OpenSession = open_session) -> FastAPI:
    """The service as an ASGI application; ``app.state.service`` is its ``Service``.

    Args:
        opener: how graphs are opened; tests pass sessions of their own.
    """
    service = Service(settings, opener)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        preparing = asyncio.create_task(service.prepare())
        try:
            yield
        finally:
            preparing.cancel()
            await asyncio.wait([preparing])
            await service.close()

    app = FastAPI(
        title="LieRE classification",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _raise_as_problem},
    )
    app.state.service = service
    add_routes(app, service)
    app.add_middleware(Guard, service=service)
    return app


async def _raise_as_problem(request: Request, error: HTTPException) -> Response:
    """The framework's own refusals, for the guard to answer like every other."""
    if error.status_code == 404:
        raise errors.NotFound("there is nothing at this address; see /docs") from None
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise errors.MethodNotAllowed(f"expected {allow}", {"Allow": allow}) from None
    raise errors.InternalError(f"status {error.status_code}") from error
