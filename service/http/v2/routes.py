"""The addresses of the Open Inference Protocol, version 2, and nothing of its own behind them."""

from __future__ import annotations

from fastapi import FastAPI, Request

from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.http.direct_route import DirectRoute
from service.http.exchange import Exchange
from service.http.health import check_live, check_ready
from service.http.v2 import openapi
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
            **openapi.infer(operation, path),
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

    for path, suffix in ((MODEL, ""), (VERSION, "Version")):
        app.get(path, **openapi.model_metadata(f"describeModel{suffix}", path))(describe)
        app.get(path + "/ready", **openapi.model_ready(f"isModel{suffix}Ready", path))(is_ready)
    app.post(INDEX, **openapi.index())(list_models)


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _add_server(app: FastAPI, engine: Engine) -> None:
    @app.get("/v2", **openapi.server_metadata())
    async def describe_server() -> ServerMetadata:
        return ServerMetadata(name=app.title, version=app.version, extensions=list(EXTENSIONS))

    @app.get("/v2/health/live", **openapi.server_live())
    async def is_live() -> ServerLive:
        check_live(engine)
        return ServerLive(live=True)

    @app.get("/v2/health/ready", **openapi.server_ready())
    async def is_ready() -> ServerReady:
        check_ready(engine)
        return ServerReady(ready=True)
