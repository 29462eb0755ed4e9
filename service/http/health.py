"""Whether a server lives, has started and is ready: for whoever keeps it running or sends work."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.engine.engine import NO_ANSWER, Engine
from service.engine.failures import Draining, Failure, NotReady
from service.http.documents import Readiness, Status
from service.http.openapi import about, example


def check_live(engine: Engine) -> None:
    """NotReady once only a new process would help."""
    if lost := NO_ANSWER if engine.died else engine.vitals.lost:
        raise NotReady(lost)


def check_start(engine: Engine) -> None:
    """NotReady until every bundle was examined, and where nothing comes of that any more."""
    if engine.failure is not None:
        raise NotReady(NO_ANSWER if engine.died else "the server cannot start; its log says why")
    if not engine.catalog.examined:
        raise NotReady("the bundles are still being checked")


def check_ready(engine: Engine) -> None:
    """Draining or NotReady, with the reason, where no requests should be sent here."""
    if engine.leaving or engine.draining:
        raise Draining("the server is shutting down")
    check_start(engine)
    if not engine.catalog.ready:
        raise NotReady("every bundle was refused; GET /v1/bundles says why")
    if engine.settings.ready == "all" and (others := _not_ready(engine)):
        names = ", ".join(others)
        raise NotReady(f"these bundles are not ready: {names}; GET /v1/bundles says why")
    if not engine.pool.ready:
        raise NotReady("no decode worker is running")
    if engine.vitals.unproven:
        raise NotReady("the device has not answered for a while; a golden is replayed")


def takes_requests(engine: Engine) -> bool:
    """Whether requests should be sent here."""
    try:
        check_ready(engine)
    except Failure:
        return False
    return True


def _not_ready(engine: Engine) -> list[str]:
    """The bundles that do not answer; a folder with nothing of a bundle in it is none."""
    bundles = engine.catalog.bundles.values()
    missing = (one for one in bundles if one.state != "ready" and not one.empty)
    return [one.name for one in missing if not one.newcomer]


def add_health(app: FastAPI, engine: Engine) -> None:
    """The addresses, and the series that says the same."""
    engine.metrics.ready.set_function(lambda: takes_requests(engine))

    def probe(operation: str, summary: str, status: str, told: str) -> dict[str, Any]:
        return about(operation, summary, "health", example({"status": status}, told), NotReady)

    summary = "200 while the server can answer at all; else start it again"
    told = probe("isLive", summary, "live", "Event loop, device and decoders go on.")

    @app.get("/health/live", **told)
    async def is_live() -> Status:
        check_live(engine)
        return Status(status="live")

    summary = "200 once every bundle was examined"
    told = probe("hasStarted", summary, "started", "Whether they were refused is not asked.")

    @app.get("/health/startup", **told)
    async def has_started() -> Status:
        check_start(engine)
        return Status(status="started")

    summary = "200 while requests should be sent here"
    good = example(
        {"status": "ready", "refused": ["video"]},
        "A bundle has proven itself; with --ready all every one has.",
    )

    @app.get("/health/ready", **about("isReady", summary, "health", good, NotReady, Draining))
    async def is_ready() -> Readiness:
        check_ready(engine)
        refused = engine.catalog.modalities("refused")
        return Readiness(status="ready", **({"refused": refused} if refused else {}))
