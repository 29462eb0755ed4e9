"""The addresses of the Open Inference Protocol, version 2, and nothing of its own behind them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from service.engine.engine import Engine
from service.engine.failures import BadParameter, Draining, NotReady
from service.http.direct_route import DirectRoute
from service.http.exchange import Exchange
from service.http.health import check_live, check_ready
from service.http.v2.documents import (
    IndexEntry,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.http.v2.infer import Infer
from service.http.v2.models import all_models, known_model
from service.http.v2.openapi import INDEX_ENTRY, OF_MODELS, TENSOR_METADATA, infer, says

MODEL = "/v2/models/{name}"
VERSION = MODEL + "/versions/{version}"
#: Of which the guard asks for a permit.
INFER_PATHS = (MODEL + "/infer", VERSION + "/infer")
INDEX = "/v2/repository/index"
EXTENSIONS = ("binary_tensor_data", "classification")


def add_v2(app: FastAPI, engine: Engine) -> None:
    """Put the routes on the application; those to infer go past the framework's machinery."""
    for path, operation in zip(INFER_PATHS, ("infer", "inferVersion"), strict=True):
        app.router.add_api_route(
            path,
            Infer(engine),
            methods=["POST"],
            route_class_override=DirectRoute,
            **infer(operation, path),
        )
    _add_models(app, engine)
    _add_server(app, engine)


def _add_models(app: FastAPI, engine: Engine) -> None:
    catalog = engine.catalog

    async def describe(request: Request) -> ModelMetadata:
        name, version = _named(request)
        return known_model(catalog, name).metadata(catalog, version)

    async def is_ready(request: Request) -> ModelReady:
        name, version = _named(request)
        known_model(catalog, name).choose(catalog, version)
        return ModelReady(name=name, ready=True)

    async def list_models(request: Request) -> list[IndexEntry]:
        exchange: Exchange = request.scope["exchange"]
        if exchange.unread:
            raise BadParameter("expected no body: every model is listed, ready or not")
        return [one.entry() for one in all_models(catalog)]

    def add(path: str, endpoint: Any, name: str, summary: str, value: Any) -> None:
        told = says(name, summary, value, "As the protocol says.", *OF_MODELS, path=path)
        app.get(path, **told)(endpoint)

    ready = {"name": "cifar10-liere8", "ready": True}
    for path, suffix in ((MODEL, ""), (VERSION, "Version")):
        what = "What a model takes and gives"
        add(path, describe, f"describeModel{suffix}", what, TENSOR_METADATA)
        add(path + "/ready", is_ready, f"isModel{suffix}Ready", "200 while a model answers", ready)
    told = "Of every bundle a model that takes files and one that takes arrays."
    summary = "List the models, also those that are not ready"
    app.post(INDEX, **says("listModels", summary, [INDEX_ENTRY], told, BadParameter))(list_models)


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _add_server(app: FastAPI, engine: Engine) -> None:
    about = {"name": app.title, "version": app.version, "extensions": [*EXTENSIONS]}

    @app.get("/v2", **says("describeServer", "What the server is", about, "What it is."))
    async def describe_server() -> ServerMetadata:
        return ServerMetadata.model_validate(about)

    live = says("isServerLive", "As /health/live", {"live": True}, "It is.", NotReady)

    @app.get("/v2/health/live", **live)
    async def is_live() -> ServerLive:
        check_live(engine)
        return ServerLive(live=True)

    ready = says("isServerReady", "As /health/ready", {"ready": True}, "It is.", NotReady, Draining)

    @app.get("/v2/health/ready", **ready)
    async def is_ready() -> ServerReady:
        check_ready(engine)
        return ServerReady(ready=True)
