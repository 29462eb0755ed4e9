"""``POST /v1/prepare/MODALITY``: a file as the network would get it, and nothing of an answer.

Decoding is all the work that it costs; guard, limits and admission are those of classifying.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from media.spec import AXES
from service.engine.engine import Engine
from service.engine.failures import BadParameter, Failure
from service.engine.job import Job, Outcome
from service.engine.parameters import choose
from service.http.body import is_form, read_files, read_query
from service.http.direct_route import DirectRoute
from service.http.endpoint import ClientWatch
from service.http.exchange import Exchange
from service.http.guard import PREPARE
from service.http.prepare_documents import KNOWN, MAX_BYTES, prepare

#: Of an array, encoded together; a multiple of three, so that the pieces of base64 are one text.
PIECE_BYTES = 3 * 2**16


def add_prepare(app: FastAPI, engine: Engine) -> None:
    """Put the routes on the application."""
    for path, modality in PREPARE.items():
        app.router.add_api_route(
            path,
            Prepare(engine, modality),
            methods=["POST"],
            route_class_override=DirectRoute,
            **prepare(modality),
        )


class Prepare:
    """The endpoint of one modality."""

    def __init__(self, engine: Engine, modality: str) -> None:
        self.engine = engine
        self.modality = modality
        self.limits = dataclasses.replace(engine.settings.limits(modality), files=1)

    async def __call__(self, request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        parameters = read_query(request.scope["query_string"], KNOWN[self.modality])
        if not is_form(request.scope):  # which may still say who is meant
            choose(self.engine, self.modality, parameters)
        (file,) = await read_files(request.scope, request.receive, parameters, self.limits)
        if isinstance(file.media, Failure):
            raise file.media
        choice, _ = choose(self.engine, self.modality, parameters)
        exchange.bundle, exchange.grid = choice.manifest.name, choice.grid
        if (size := max(choice.preparation.lengths)) > MAX_BYTES:
            raise BadParameter(f"expected an input of at most {MAX_BYTES} bytes; it has {size}")
        job = Job(file.media, choice, "pixels", deadline=exchange.monotonic_deadline)
        async with ClientWatch(request.receive):
            outcome = await self.engine.submit(job)
        exchange.grid = outcome.target.grid
        return self._respond(exchange.id, outcome)

    def _respond(self, request_id: str, outcome: Outcome) -> StreamingResponse:
        """JSON whose last string, the pixels in base64, is written piece by piece."""
        pixels = outcome.pixels
        assert pixels is not None
        document = {
            "id": request_id,
            "bundle": outcome.target.bundle,
            "version": outcome.target.manifest.version,
            "grid": outcome.target.grid,
            **({"seen": outcome.evidence} if outcome.evidence else {}),
            "timing_ms": {"decode": outcome.timing.decode},
            "pixels": {
                "axes": ["view", *AXES[self.modality], "channel"],
                "shape": list(pixels.shape),
                "dtype": str(pixels.dtype),
                "data": "",
            },
        }
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        before, end = text[:-3].encode(), b'"}}'
        size = len(before) + 4 * -(-pixels.nbytes // 3) + len(end)
        return StreamingResponse(
            _pieces(before, pixels.data.cast("B"), end),
            media_type="application/json",
            headers={
                "Content-Length": str(size),
                "Server-Timing": f"decode;dur={outcome.timing.decode}",
            },
        )


async def _pieces(before: bytes, pixels: memoryview, end: bytes) -> AsyncIterator[bytes]:
    """The document; the event loop is held for one piece of the array at a time."""
    yield before
    for start in range(0, len(pixels), PIECE_BYTES):
        yield base64.b64encode(pixels[start : start + PIECE_BYTES])
    yield end
