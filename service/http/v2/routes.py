"""The addresses of the Open Inference Protocol, version 2, and nothing of its own behind them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.http.direct_route import DirectRoute
from service.http.exchange import Exchange
from service.http.health import check_live, check_ready
from service.http.v2 import openapi
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

    async def describe(request: Request) -> JSONResponse:
        name, version = _named(request)
        return JSONResponse(known_model(catalog, name).metadata(catalog, version))

    async def is_ready(request: Request) -> JSONResponse:
        name, version = _named(request)
        known_model(catalog, name).choose(catalog, version)
        return JSONResponse({"name": name, "ready": True})

    async def list_models(request: Request) -> JSONResponse:
        exchange: Exchange = request.scope["exchange"]
        if exchange.unread:
            raise BadParameter("expected no body: every model is listed, ready or not")
        return JSONResponse([one.entry() for one in all_models(catalog)])

    def add(path: str, endpoint: Any, **about: Any) -> None:
        app.add_api_route(path, endpoint, response_model=None, **about)

    for path, suffix in ((MODEL, ""), (VERSION, "Version")):
        add(path, describe, **openapi.model_metadata(f"describeModel{suffix}", path))
        add(path + "/ready", is_ready, **openapi.model_ready(f"isModel{suffix}Ready", path))
    add(INDEX, list_models, methods=["POST"], **openapi.index())


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _add_server(app: FastAPI, engine: Engine) -> None:
    @app.get("/v2", response_model=None, **openapi.server_metadata())
    async def describe_server() -> JSONResponse:
        return JSONResponse(
            {"name": app.title, "version": app.version, "extensions": list(EXTENSIONS)}
        )

    @app.get("/v2/health/live", response_model=None, **openapi.server_live())
    async def is_live() -> JSONResponse:
        check_live(engine)
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready", response_model=None, **openapi.server_ready())
    async def is_ready() -> JSONResponse:
        check_ready(engine)
        return JSONResponse({"ready": True})
