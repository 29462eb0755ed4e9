"""``GET /v1/bundles/{name}/card``: what a bundle says of itself, for people."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from service.engine.engine import Engine
from service.engine.failures import BundleRefused, UnknownBundle
from service.http.openapi import add_problems
from service.http.problems import NotFound

MARKDOWN = "text/markdown"
EXAMPLE = "# cifar10-liere8\n\n**Use it for** trying the service.\n"


def add_cards(app: FastAPI, engine: Engine) -> None:
    """Put the route on the application."""
    sentences = {
        UnknownBundle: "unknown bundle 'nope'; known: cifar10-liere8",
        BundleRefused: "bundle cifar10-liere8 is not served: graphs/weights.bin is listed and "
        "missing",
        NotFound: "bundle cifar10-liere8 has no card",
    }
    card = {
        "description": "Markdown, of the version that answers.",
        "content": {MARKDOWN: {"schema": {"type": "string"}, "example": EXAMPLE}},
    }

    @app.get(
        "/v1/bundles/{name}/card",
        operation_id="readCard",
        summary="Read the card of a bundle: what it is for, its data, licence and limits",
        tags=["bundles"],
        response_model=None,
        responses={200: card, **add_problems({}, *sentences, sentences=sentences)},
    )
    async def read_card(name: str) -> PlainTextResponse:
        one = engine.catalog.bundles.get(name)
        if one is None:
            known = ", ".join(sorted(engine.catalog.bundles)) or "none"
            raise UnknownBundle(f"unknown bundle {name[:64]!a}; known: {known}")
        if one.state == "refused":
            raise BundleRefused(f"bundle {one.name} is not served: {one.reason}")
        if one.card is None:
            raise NotFound(f"bundle {one.name} has no card")
        return PlainTextResponse(one.card, media_type=MARKDOWN)
