"""The addresses of the service. The hot one goes past FastAPI's machinery; the others do not."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from media.spec import AXES
from service.engine.engine import Engine
from service.engine.model import ExaminedBundle
from service.http import problems
from service.http.admin import add_admin
from service.http.cards import add_cards
from service.http.direct_route import DirectRoute
from service.http.documents import BundleDocument, BundleList, GridDocument, ProblemDocument
from service.http.endpoint import Classify
from service.http.examples import BUNDLES_EXAMPLE
from service.http.guard import ADMIN, CLASSIFY, public_requests
from service.http.health import add_health
from service.http.keys import Keys
from service.http.openapi import (
    KEY_PROBLEMS,
    KINDS,
    add_problems,
    answer,
    classify_extra,
    classify_responses,
)
from service.http.page.routes import add_page
from service.http.prepare import add_prepare
from service.http.v2.openapi import add_error
from service.http.v2.openapi import schemas as v2_schemas
from service.http.v2.routes import add_v2


def add_routes(app: FastAPI, engine: Engine, keys: Keys) -> None:
    """Put every route on the application; the first to match is the hot one."""
    for path, modality in CLASSIFY.items():
        app.router.add_api_route(
            path,
            Classify(engine, modality),
            methods=["POST"],
            operation_id=KINDS[modality].operation,
            summary=KINDS[modality].summary,
            description="Every file of a request has a result or a problem of its own. 200 if any "
            "was answered; else the first one's problem. With strict=true the first that fails "
            "ends the request.",
            tags=["classify"],
            route_class_override=DirectRoute,
            responses=classify_responses(modality),
            openapi_extra=classify_extra(modality),
        )
    add_prepare(app, engine)
    _add_bundles(app, engine)
    add_cards(app, engine)
    add_admin(app, engine)
    add_health(app, engine)
    add_v2(app, engine)
    _add_metrics(app, engine)
    add_page(app)
    app.openapi = lambda: _openapi(app, engine, keys)  # type: ignore[method-assign]


def _add_bundles(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/v1/bundles",
        operation_id="listBundles",
        summary="List the bundles, also the refused ones",
        tags=["bundles"],
        response_model=None,
        responses={200: answer(BundleList, BUNDLES_EXAMPLE, "Every bundle and its state.")},
    )
    async def list_bundles() -> JSONResponse:
        catalog = engine.catalog
        served = [_bundle_document(one) for _, one in sorted(catalog.bundles.items())]
        found = catalog.defaults
        default = {
            modality: found[modality].name if modality in found else None for modality in AXES
        }
        document = BundleList(ready=catalog.ready, default=default, bundles=served)
        return JSONResponse(document.model_dump())


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
        grids=[
            GridDocument(
                grid=entry.grid,
                pixels=list(served.targets[entry.grid].pixels),
                top1=entry.accuracy.top1,
            )
            for entry in manifest.grids
        ],
        labels=list(manifest.labels),
    )


def _add_metrics(app: FastAPI, engine: Engine) -> None:
    @app.get(
        "/metrics",
        operation_id="readMetrics",
        summary="Prometheus text format",
        tags=["metrics"],
        response_model=None,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def read_metrics() -> Response:
        return Response(engine.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _openapi(app: FastAPI, engine: Engine, keys: Keys) -> dict[str, Any]:
    """FastAPI's document, with the schemas that only our own entries refer to, and the keys."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**schema.pop("$defs"), "ProblemDocument": schema} | v2_schemas()
        if keys:
            _add_keys(document, public_requests(engine.settings))
        app.openapi_schema = document
    if keys.has("admin"):
        return app.openapi_schema
    paths = app.openapi_schema["paths"]
    shown = {path: paths[path] for path in paths if not path.startswith(ADMIN)}
    return app.openapi_schema | {"paths": shown}


def _add_keys(document: dict[str, Any], public: frozenset[tuple[str, str]]) -> None:
    """Every operation wants a bearer key and may be refused for it, but for the public ones."""
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (method.upper(), path) in public:
                operation["security"] = []
            else:
                add_problems(operation["responses"], *KEY_PROBLEMS)
                if problems.speaks_v2(path):
                    add_error(operation["responses"])
