"""The application: one object owns every resource, and one lifespan starts and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.admission import Admission
from service.batching import Batcher
from service.decode import DecodePool
from service.guard import Guard
from service.metrics import Metrics
from service.registry import Registry, Served, bundle_folders
from service.routes import add_routes
from service.session import OpenSession, open_session
from service.settings import Settings, usable_cpus

log = logging.getLogger(__name__)

DESCRIPTION = """\
Send an image, get ranked labels. Every answer other than 200 is a problem document (RFC 9457)
whose `type` is stable. Send `X-Request-ID` to choose the id of a request.
"""


class Service:
    """Everything that lives as long as the server.

    Attributes:
        draining: set when the server shall end; no new work is let in.
        on_ready: called once, when every bundle was examined.
        failure: why the server can never become ready.
        on_failure: called when that is known.
    """

    def __init__(self, settings: Settings, opener: OpenSession = open_session) -> None:
        self.settings = settings
        self.draining = False
        self.on_ready: Callable[[], None] = lambda: None
        self.failure: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.metrics = Metrics()
        self.admission = Admission(settings.max_in_flight, settings.max_in_flight_bytes)
        # One thread: everything that touches the device runs here, in order.
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="device")
        self.pool = DecodePool(
            settings.decode_workers or usable_cpus(),
            settings.decode_seconds,
            on_restart=self.metrics.worker_restarts.inc,
        )
        self.batcher = Batcher(self.executor, settings.max_batch, self._on_batch)
        self.registry = Registry(
            self.pool,
            self.batcher,
            self.executor,
            opener,
            device=settings.device,
            threads=settings.threads or usable_cpus(),
            default=settings.default_bundle,
        )
        self.metrics.watch(
            decode=lambda: self.pool.depth,
            device=lambda: self.batcher.depth,
            in_flight=lambda: self.admission.requests,
        )

    async def prepare(self) -> None:
        """Start the workers and examine the bundles; the server already answers meanwhile."""
        try:
            folders = bundle_folders(self.settings.bundles)
            await self.pool.start()
            await self.registry.examine(folders, self._on_examined)
        except Exception as error:
            log.error("the server cannot become ready: %s", error)
            self.failure = error
            self.on_failure()
            return
        _calm_collector()
        self.on_ready()

    async def close(self) -> None:
        self.draining = True
        self.batcher.close()
        await self.pool.close()
        self.executor.shutdown(wait=True, cancel_futures=True)

    def _on_batch(self, size: int, seconds: float) -> None:
        self.metrics.batch_size.observe(size)
        self.metrics.stages["inference"].observe(seconds)

    def _on_examined(self, served: Served) -> None:
        version = served.manifest.version if served.manifest else ""
        self.metrics.bundle_info.labels(served.name, version, served.state).set(1)


def _calm_collector() -> None:
    """What lives now lives on, and requests leave few cycles: collect less and look at less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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
        exception_handlers={
            HTTPException: _raise_as_problem,
            RequestValidationError: _raise_as_problem,
        },
    )
    app.state.service = service
    add_routes(app, service)
    app.add_middleware(Guard, service=service)
    return app


async def _raise_as_problem(request: Request, error: Exception) -> Response:
    """The framework's own refusals, for the guard to answer like every other."""
    if not isinstance(error, HTTPException):
        raise errors.BadParameter("the request does not fit its description") from None
    if error.status_code == 404:
        raise errors.NotFound("there is nothing at this address; see /docs") from None
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise errors.MethodNotAllowed(f"expected {allow}", {"Allow": allow}) from None
    raise errors.InternalError(f"status {error.status_code}") from error
