"""The addresses of the service. The hot one goes past FastAPI's machinery; the others do not."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST

from media.spec import AXES
from service.engine.engine import Engine
from service.engine.model import ExaminedBundle
from service.http.admin import add_admin
from service.http.direct_route import DirectRoute
from service.http.documents import BundleDocument, BundleList, GridDocument
from service.http.endpoint import Classify
from service.http.examples import BUNDLES_EXAMPLE
from service.http.guard import ADMIN, CLASSIFY, public_requests
from service.http.health import add_health
from service.http.job_documents import line_schemas
from service.http.keys import Keys
from service.http.openapi import about, classify, example, whole
from service.http.page.routes import add_page
from service.http.prepare import add_prepare
from service.http.shadow import add_shadow
from service.http.v2.openapi import request_schemas
from service.http.v2.routes import add_v2
from service.http.versions import add_versions


def add_routes(app: FastAPI, engine: Engine, keys: Keys) -> None:
    """Put every route on the application; the first to match is the hot one."""
    for path, modality in CLASSIFY.items():
        app.router.add_api_route(
            path,
            Classify(engine, modality),
            methods=["POST"],
            route_class_override=DirectRoute,
            **classify(modality),
        )
    add_prepare(app, engine)
    _add_bundles(app, engine)
    add_versions(app, engine)
    add_admin(app, engine)
    add_shadow(app, engine)
    add_health(app, engine)
    add_v2(app, engine)
    _add_metrics(app, engine)
    add_page(app)
    app.openapi = lambda: _openapi(app, engine, keys)  # type: ignore[method-assign]


def _add_bundles(app: FastAPI, engine: Engine) -> None:
    summary = "List the bundles, also the refused ones"
    good = example(BUNDLES_EXAMPLE, "Every bundle and its state.")
    told = about("listBundles", summary, "bundles", good, response_model_exclude_unset=False)

    @app.get("/v1/bundles", **told)
    async def list_bundles() -> BundleList:
        catalog = engine.catalog
        served = [_bundle_document(one) for _, one in sorted(catalog.bundles.items())]
        found = catalog.defaults
        default = {
            modality: found[modality].name if modality in found else None for modality in AXES
        }
        return BundleList(ready=catalog.ready, default=default, bundles=served)


def _bundle_document(served: ExaminedBundle) -> BundleDocument:
    manifest = served.manifest
    if manifest is None:
        return BundleDocument(
            name=served.name,
            state=served.state,
            reason=served.reason,
            versions=list(served.versions),
            modality=served.modality,
        )
    video, volume = manifest.input.video, manifest.input.volume
    return BundleDocument(
        name=served.name,
        state=served.state,
        reason=served.reason,
        version=manifest.version,
        versions=list(served.versions),
        modality=manifest.modality,
        views=video.views if video else None,
        stride_seconds=video.stride if video else None,
        spacing_mm=list(volume.spacing) or None if volume else None,
        device=served.device,
        encoding=manifest.encoding.name,
        precision=manifest.precision,
        grids=[GridDocument.of(manifest, entry) for entry in manifest.grids],
        labels=list(manifest.labels),
    )


def _add_metrics(app: FastAPI, engine: Engine) -> None:
    good = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", **about("readMetrics", "Prometheus text format", "metrics", good))
    async def read_metrics() -> Response:
        return Response(engine.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _openapi(app: FastAPI, engine: Engine, keys: Keys) -> dict[str, Any]:
    """The document; addresses for admins are shown where there are any."""
    if app.openapi_schema is None:
        public = public_requests(engine.settings) if keys else None
        lines = line_schemas() if engine.settings.jobs is not None else {}
        app.openapi_schema = whole(app, request_schemas() | lines, public)
    if keys.has("admin"):
        return app.openapi_schema
    paths = app.openapi_schema["paths"]
    shown = {path: paths[path] for path in paths if not path.startswith(ADMIN)}
    return app.openapi_schema | {"paths": shown}
