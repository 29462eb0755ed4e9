"""The application: routes behind the guard, and one lifespan around the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from service.engine.device.session import OpenSession, open_session
from service.engine.engine import Engine
from service.engine.failures import InternalError
from service.http.cors import Cors
from service.http.guard import Guard
from service.http.job_lines import encode_line
from service.http.jobs import add_jobs
from service.http.keys import read_keys
from service.http.problems import NOTHING_HERE, MethodNotAllowed, NotFound
from service.http.routes import add_routes
from service.jobs.runner import JobRunner
from service.settings import Settings
from service.tracing import open_tracing

DESCRIPTION = """\
Send an image, a clip or a scan, get ranked labels. Each has an address of its own, and the bytes
decide whether the address reads them. Every answer other than 200 is a problem document (RFC 9457)
whose `type` is stable. Send `X-Request-ID` to choose the id of a request. `HEAD` is answered
wherever `GET` is.
"""


def create_app(settings: Settings, opener: OpenSession = open_session) -> FastAPI:
    """The service as an ASGI application; ``app.state`` has ``engine``, ``keys``, ``tracing``.

    Args:
        opener: how graphs are opened; tests pass sessions of their own.

    Raises:
        SettingsError: the keys cannot be read, the folder of jobs cannot be used, or what tells
            spans is not installed.
    """
    tracing = open_tracing(settings)
    engine, keys = Engine(settings, opener), read_keys(settings)
    jobs = JobRunner(engine, encode_line) if settings.jobs is not None else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if tracing is not None:
            tracing.start()
        preparing = asyncio.create_task(engine.prepare())
        if jobs is not None:
            jobs.start()
        try:
            yield
        finally:
            if jobs is not None:
                await jobs.close()
            preparing.cancel()
            await asyncio.wait([preparing])
            await engine.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="LieRE classification",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # page/routes.py has it, without scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _raise_as_problem},
    )
    app.state.engine, app.state.keys, app.state.tracing = engine, keys, tracing
    add_routes(app, engine, keys)
    if jobs is not None:
        add_jobs(app, jobs)
    app.add_middleware(Guard, engine=engine, keys=keys, tracing=tracing)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    return app


async def _raise_as_problem(request: Request, error: HTTPException) -> Response:
    """The framework's own refusals, for the guard to answer like every other."""
    if error.status_code == 404:
        raise NotFound(NOTHING_HERE) from None
    if error.status_code == 405:
        methods = _methods(request)
        allow = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
        raise MethodNotAllowed(f"expected {allow}", allow) from None
    raise InternalError(f"status {error.status_code}") from error


def _methods(request: Request) -> set[str]:
    """Of every route with this path; the framework names those of the first."""
    routes = [one for one in request.app.routes if isinstance(one, Route)]
    found = (one.methods or () for one in routes if one.matches(request.scope)[0] != Match.NONE)
    return set().union(*found)
