"""The addresses under /admin: who answers, changed while requests go on. See ``engine.rollout``.

They exist only where a key has the scope admin; everyone else finds nothing there. Nothing is sent
but the address.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

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
from service.http.documents import AdminBundles
from service.http.examples import ADMIN, ADMIN_EXAMPLE
from service.http.openapi import about, example

BUNDLE = "/admin/bundles/{name}"
VERSION = BUNDLE + "/versions/{version}"


def add_admin(app: FastAPI, engine: Engine) -> None:
    """Put the routes on the application."""
    rollout = engine.rollout

    def changes(operation: str, summary: str, *kinds: type[Failure]) -> dict[str, Any]:
        now = example(ADMIN_EXAMPLE, "The bundle as it is now.")
        return about(operation, summary, "admin", now, UnknownBundle, *kinds, sentences=ADMIN)

    def shows(operation: str, summary: str) -> dict[str, Any]:
        every = example({"bundles": [ADMIN_EXAMPLE]}, "As they are now, in the order of the names.")
        return about(operation, summary, "admin", every)

    @app.get(
        "/admin/bundles",
        **shows(
            "listVersions",
            "Every bundle: the version that answers, those that are there, what was refused",
        ),
    )
    async def list_versions() -> AdminBundles:
        return AdminBundles(bundles=await rollout.statuses())

    @app.post(
        VERSION + "/load",
        **changes(
            "loadVersion", "Prove a version and let it answer until the server ends",
            UnknownVersion, CandidateRefused, Draining,
        ),
    )  # fmt: skip
    async def load(name: str, version: str) -> BundleStatus:
        return await rollout.load(name, version)

    @app.post(
        VERSION + "/promote",
        **changes(
            "promoteVersion", "Prove a version and let it answer, now and after a start",
            UnknownVersion, CandidateRefused, FolderFixed, Draining,
        ),
    )  # fmt: skip
    async def promote(name: str, version: str) -> BundleStatus:
        return await rollout.promote(name, version)

    @app.post(
        BUNDLE + "/rollback",
        **changes(
            "rollBack", "Promote the version that answered before",
            UnknownVersion, CandidateRefused, FolderFixed, Draining,
        ),
    )  # fmt: skip
    async def roll_back(name: str) -> BundleStatus:
        return await rollout.roll_back(name)

    @app.delete(
        VERSION,
        **changes(
            "retireVersion", "Remove a version that does not answer from the folder",
            UnknownVersion, VersionInUse, FolderFixed, Draining,
        ),
    )  # fmt: skip
    async def retire(name: str, version: str) -> BundleStatus:
        return await rollout.retire(name, version)

    @app.post(
        "/admin/reload",
        **shows(
            "reload", "Let answer what would after a new start; SIGHUP also reads the keys again"
        ),
    )
    async def reload() -> AdminBundles:
        await rollout.reload()
        return await list_versions()
