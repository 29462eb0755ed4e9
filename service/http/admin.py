"""The addresses under /admin: who answers, changed while requests go on. See ``engine.rollout``.

They exist only where a key has the scope admin; everyone else finds nothing there. Nothing is sent
but the address.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from service.engine.engine import Engine
from service.engine.failures import (
    CandidateRefused,
    Draining,
    Failure,
    FolderFixed,
    UnknownBundle,
    UnknownVersion,
    VersionInUse,
)
from service.engine.status import BundleStatus
from service.http.documents import AdminBundle, AdminBundles
from service.http.examples import ADMIN, ADMIN_EXAMPLE
from service.http.openapi import add_problems, answer

BUNDLE = "/admin/bundles/{name}"
VERSION = BUNDLE + "/versions/{version}"


def add_admin(app: FastAPI, engine: Engine) -> None:
    """Put the routes on the application."""
    rollout = engine.rollout

    async def told(change: Awaitable[BundleStatus]) -> JSONResponse:
        return JSONResponse(asdict(await change))

    def about(operation: str, summary: str, *failures: type[Failure]) -> dict[str, Any]:
        documented = answer(AdminBundle, ADMIN_EXAMPLE, "The bundle as it is now.")
        return {
            "operation_id": operation,
            "summary": summary,
            "tags": ["admin"],
            "response_model": None,
            "responses": {
                200: documented,
                **add_problems({}, UnknownBundle, *failures, sentences=ADMIN),
            },
        }

    @app.get(
        "/admin/bundles",
        operation_id="listVersions",
        summary="Every bundle: the version that answers, those that are there, what was refused",
        tags=["admin"],
        response_model=None,
        responses={
            200: answer(AdminBundles, {"bundles": [ADMIN_EXAMPLE]}, "In the order of the names.")
        },
    )
    async def list_versions() -> JSONResponse:
        return JSONResponse({"bundles": [asdict(one) for one in await rollout.statuses()]})

    @app.post(
        VERSION + "/load",
        **about(
            "loadVersion", "Prove a version and let it answer until the server ends",
            UnknownVersion, CandidateRefused, Draining,
        ),
    )  # fmt: skip
    async def load(name: str, version: str) -> JSONResponse:
        return await told(rollout.load(name, version))

    @app.post(
        VERSION + "/promote",
        **about(
            "promoteVersion", "Prove a version and let it answer, now and after a start",
            UnknownVersion, CandidateRefused, FolderFixed, Draining,
        ),
    )  # fmt: skip
    async def promote(name: str, version: str) -> JSONResponse:
        return await told(rollout.promote(name, version))

    @app.post(
        BUNDLE + "/rollback",
        **about(
            "rollBack", "Promote the version that answered before",
            UnknownVersion, CandidateRefused, FolderFixed, Draining,
        ),
    )  # fmt: skip
    async def roll_back(name: str) -> JSONResponse:
        return await told(rollout.roll_back(name))

    @app.delete(
        VERSION,
        **about(
            "retireVersion", "Remove a version that does not answer from the folder",
            UnknownVersion, VersionInUse, FolderFixed, Draining,
        ),
    )  # fmt: skip
    async def retire(name: str, version: str) -> JSONResponse:
        return await told(rollout.retire(name, version))

    @app.post(
        "/admin/reload",
        operation_id="reload",
        summary="Let answer what would after a new start; SIGHUP also reads the keys again",
        tags=["admin"],
        response_model=None,
        responses={200: answer(AdminBundles, {"bundles": [ADMIN_EXAMPLE]}, "As they are now.")},
    )
    async def reload() -> JSONResponse:
        await rollout.reload()
        return await list_versions()
