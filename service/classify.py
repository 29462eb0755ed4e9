"""One classification, told in order: upload, target, pixels, logits, ranked labels."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.body import Limits, read_upload
from service.errors import BadParameter, ClientGone, Problem
from service.guard import Exchange
from service.registry import Target
from service.service import Service

DEFAULT_TOP_K = 5
encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one item went, in milliseconds."""

    decode: float  # from the upload to its pixels, the wait for a worker included
    queue: float  # from the pixels to the start of the batch
    inference: float  # of the whole batch


class ClassifyImage:
    """The endpoint of ``POST /v1/classify/image``."""

    modality = "image"

    def __init__(self, service: Service) -> None:
        self.service = service
        settings = service.settings
        self.limits = Limits(files=settings.max_files, file_bytes=settings.max_file_bytes)

    async def __call__(self, request: Request) -> Response:
        exchange: Exchange = request.scope["exchange"]
        upload = await read_upload(request.scope, request.receive, self.limits)
        parameters = upload.parameters
        target = self.service.registry.select(
            self.modality, parameters.get("bundle"), parameters.get("grid")
        )
        top_k = parse_top_k(parameters.get("top_k"), len(target.labels))
        async with ClientWatch(request.receive):
            items = await self._classify_all(upload.files, target)
        results = [
            _result(target, rank(logits, target.labels, top_k), timing) for logits, timing in items
        ]
        body = encode_json({"id": exchange.id, "results": results}).encode()
        headers = {"Server-Timing": _server_timing([timing for _, timing in items])}
        return Response(body, media_type="application/json", headers=headers)

    async def _classify_all(
        self, files: list[bytes], target: Target
    ) -> list[tuple[np.ndarray, Timing]]:
        """Every file at once; the first failure ends the request and names its file."""
        if len(files) == 1:
            return [await self._classify(files[0], target)]
        tasks = [
            asyncio.create_task(self._numbered(number, len(files), file, target))
            for number, file in enumerate(files, 1)
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _numbered(
        self, number: int, files: int, file: bytes, target: Target
    ) -> tuple[np.ndarray, Timing]:
        try:
            return await self._classify(file, target)
        except Problem as problem:
            raise type(problem)(f"file {number} of {files}: {problem.detail}") from problem

    async def _classify(self, file: bytes, target: Target) -> tuple[np.ndarray, Timing]:
        """One file -> float32 logits ``[classes]``."""
        service, started = self.service, time.monotonic()
        pixels = await service.pool.prepare(target.header, file, target.shape)
        decoded = time.monotonic() - started
        row = await service.batcher.submit(target.key, pixels)
        service.metrics.stages["decode"].observe(decoded)
        service.metrics.stages["queue"].observe(row.queue_seconds)
        timing = Timing(*(_ms(s) for s in (decoded, row.queue_seconds, row.inference_seconds)))
        return row.logits, timing


class ClientWatch:
    """While it is open, a client that leaves cancels the work; it ends as ClientGone.

    Waiting entries are cancelled with it, so what nobody waits for is never run.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        task = self._task
        del self._watcher, self._task  # their frames know this object: no cycle per request
        if self._gone and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone("the client left before its answer") from None


def parse_top_k(text: str | None, labels: int) -> int:
    """The number of predictions wanted; 422 outside 1 to the number of labels."""
    if text is None:
        return min(DEFAULT_TOP_K, labels)
    if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= labels:
        return int(text)
    raise BadParameter(f"top_k: expected a whole number from 1 to {labels}, got {text[:20]!a}")


def softmax(logits: np.ndarray) -> np.ndarray:
    """float ``[classes]`` -> float64 probabilities ``[classes]``; no overflow at any magnitude."""
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max())
    return exponentials / exponentials.sum()


def rank(logits: np.ndarray, labels: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    """The ``top_k`` most probable labels, descending; the lower index wins a tie."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        {"label": labels[index], "index": index, "probability": round(probability, 6)}
        for index, probability in zip(order.tolist(), probabilities[order].tolist(), strict=True)
    ]


def _result(target: Target, predictions: list[dict[str, Any]], timing: Timing) -> dict[str, Any]:
    return {
        "bundle": target.bundle,
        "version": target.version,
        "grid": target.grid,
        "predictions": predictions,
        "timing_ms": {
            "decode": timing.decode,
            "queue": timing.queue,
            "inference": timing.inference,
        },
    }


def _server_timing(timings: list[Timing]) -> str:
    """The slowest file of each stage."""
    decode = max(timing.decode for timing in timings)
    queue = max(timing.queue for timing in timings)
    inference = max(timing.inference for timing in timings)
    return f"decode;dur={decode}, queue;dur={queue}, inference;dur={inference}"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
