"""The addresses of shadows: a candidate sees copies of requests, and what it found is told.

They are addresses for admins like the others of ``admin``; see ``service.engine.shadow``.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from service.engine.engine import Engine
from service.engine.failures import (
    BadParameter,
    CandidateRefused,
    Draining,
    Failure,
    NoShadow,
    UnknownBundle,
    UnknownVersion,
    VersionInUse,
)
from service.engine.shadow.report import ShadowReport
from service.engine.vocabulary import Parameter
from service.http.body import read_query
from service.http.examples import ADMIN, SHADOW_EXAMPLE
from service.http.openapi import about, example, in_query
from service.http.problems import RepeatedParameter, UnknownParameter

SHARE = Parameter(
    "share",
    {"type": "number", "minimum": 0, "maximum": 1, "default": 0.1},
    "Of the requests that are copied. The same request always is, or never.",
)


def add_shadow(app: FastAPI, engine: Engine) -> None:
    """Put the routes on the application."""
    rollout = engine.rollout

    def tells(operation: str, summary: str, *kinds: type[Failure], **more: Any) -> dict[str, Any]:
        found = example(SHADOW_EXAMPLE, "What was found so far.")
        return about(operation, summary, "admin", found, *kinds, sentences=ADMIN, **more)

    @app.post(
        "/admin/bundles/{name}/versions/{version}/shadow",
        **tells(
            "beginShadow",
            "Prove a version and let it see copies of requests; or change the share of one that "
            "does",
            UnknownBundle, UnknownVersion, VersionInUse, CandidateRefused, BadParameter,
            UnknownParameter, RepeatedParameter, Draining,
            openapi_extra={"parameters": [in_query(SHARE)]},
        ),
    )  # fmt: skip
    async def begin_shadow(name: str, version: str, request: Request) -> ShadowReport:
        said = read_query(request.scope["query_string"], {SHARE.name})
        share = SHARE.parse_share(said.get(SHARE.name, str(SHARE.schema["default"])))
        return await rollout.shadow(name, version, share)

    @app.get(
        "/admin/bundles/{name}/shadow",
        **tells("readShadow", "What the shadow of a bundle has found, or the last one did",
                NoShadow),
    )  # fmt: skip
    async def read_shadow(name: str) -> ShadowReport:
        return engine.shadows.report(name)

    @app.delete(
        "/admin/bundles/{name}/shadow",
        **tells("endShadow", "Let no version see copies for a bundle any more", NoShadow, Draining),
    )
    async def end_shadow(name: str) -> ShadowReport:
        return await rollout.end_shadow(name)
