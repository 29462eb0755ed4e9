"""What a bundle says of itself beside ``GET /v1/bundles``: its versions' figures, its card."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from models.bundle import BundleError
from models.manifest import Manifest
from models.versions import has_versions
from service.engine.engine import Engine
from service.engine.failures import BundleRefused, Failure, NotReady, UnknownBundle
from service.engine.folders import manifest_in
from service.engine.model import ExaminedBundle
from service.engine.status import versions_in
from service.http.documents import Document, GridDocument
from service.http.examples import BUNDLES_EXAMPLE
from service.http.openapi import add_problems, answer
from service.http.problems import NotFound

log = logging.getLogger(__name__)

CARD, MAX_CARD_BYTES = "README.md", 2**20

(_SHOWN,) = BUNDLES_EXAMPLE["bundles"]
VERSIONS_EXAMPLE = {
    "name": _SHOWN["name"],
    "versions": [
        {
            "version": _SHOWN["version"],
            "answers": True,
            "reason": None,
            "grids": _SHOWN["grids"],
        }
    ],
}
#: One sentence that each problem really gives.
SENTENCES: dict[type[Failure], str] = {
    UnknownBundle: f"unknown bundle 'nope'; known: {_SHOWN['name']}",
    BundleRefused: f"bundle {_SHOWN['name']} is not served: graphs/weights.bin is listed and "
    "missing",
    NotFound: f"bundle {_SHOWN['name']} has no card, or not the one that it was exported with",
    NotReady: "the bundles are still being checked",
}


class VersionDocument(Document):
    """One version."""

    version: str
    answers: bool = Field(description="whether it is the one that answers")
    reason: str | None = Field(description="why nothing can be told of it")
    grids: list[GridDocument] = Field(description="the first one is the default")


class VersionList(Document):
    """All of one bundle."""

    name: str
    versions: list[VersionDocument] = Field(description="in the bundle's folder, oldest first")


def add_versions(app: FastAPI, engine: Engine) -> None:
    """Put the routes on the application."""

    @app.get(
        "/v1/bundles/{name}/versions",
        operation_id="listBundleVersions",
        summary="List the versions of a bundle with their measured figures",
        tags=["bundles"],
        response_model=None,
        responses={
            200: answer(VersionList, VERSIONS_EXAMPLE, "Also those that do not answer."),
            **add_problems({}, UnknownBundle, NotReady, sentences=SENTENCES),
        },
    )
    async def list_versions(name: str) -> JSONResponse:
        one = _known(engine, name)
        versions = await asyncio.to_thread(_versions, one.home, one.manifest)
        return JSONResponse(VersionList(name=one.name, versions=versions).model_dump())

    @app.get(
        "/v1/bundles/{name}/card",
        operation_id="readCard",
        summary="The model card of the version that answers",
        tags=["bundles"],
        response_model=None,
        responses={
            200: {"content": {"text/markdown": {"schema": {"type": "string"}}}},
            **add_problems({}, *SENTENCES, sentences=SENTENCES),
        },
    )
    async def read_card(name: str) -> Response:
        one = _known(engine, name)
        if one.manifest is None:
            raise BundleRefused(f"bundle {one.name} is not served: {one.reason}")
        card = await asyncio.to_thread(_card, one.home, one.manifest)
        return Response(card, media_type="text/markdown")


def _known(engine: Engine, name: str) -> ExaminedBundle:
    """The bundle of this name; NotReady while it may still come, UnknownBundle once it cannot."""
    catalog = engine.catalog
    if (one := catalog.bundles.get(name)) is not None:
        return one
    if not catalog.examined:
        raise NotReady("the bundles are still being checked")
    known = ", ".join(sorted(catalog.bundles)) or "none"
    raise UnknownBundle(f"unknown bundle {name[:64]!a}; known: {known}")


# --- in a thread, with nothing that holds a model ----------------------------------------------


def _versions(home: Path | None, answers: Manifest | None) -> list[VersionDocument]:
    """What the folder has by now; of the version that answers, what answers."""
    try:
        names = versions_in(home) if home else ()
    except (BundleError, OSError) as error:
        log.warning("the versions in %s cannot be listed: %s", home, error)
        names = (answers.version,) if answers else ()
    return [_version(home, name, answers) for name in names]


def _version(home: Path | None, name: str, answers: Manifest | None) -> VersionDocument:
    is_answering = answers is not None and answers.version == name
    manifest, reason = answers if is_answering else None, None
    try:
        if manifest is None and home is not None:
            manifest = manifest_in(home, name)
    except BundleError as error:
        reason = str(error)
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    grids = [GridDocument.of(manifest, one) for one in manifest.grids] if manifest else []
    return VersionDocument(version=name, answers=is_answering, reason=reason, grids=grids)


def _card(home: Path | None, manifest: Manifest) -> bytes:
    """The card that the bundle was exported with; NotFound where there is none, or another."""
    if home is not None and (expected := manifest.files.get(CARD)) is not None:
        why: OSError | str = "it is not the one that the bundle was exported with"
        try:
            folder = home / manifest.version if has_versions(home) else home
            with (folder / CARD).open("rb") as stream:
                card = stream.read(MAX_CARD_BYTES)
            if hashlib.sha256(card).hexdigest() == expected:
                return card
        except OSError as error:
            why = error
        which = manifest.name, manifest.version
        log.warning("the card of bundle %s %s is not told: %s", *which, why)
    raise NotFound(f"bundle {manifest.name} has no card, or not the one that it was exported with")
