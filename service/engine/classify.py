"""One classification, told in order: target, pixels, logits, ranked labels.

The server and ``python -m service classify`` both come through ``choose`` and ``classify``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from media.clips.clip_times import MAX_FRAMES
from media.spec import MAX_VIEWS
from service.engine.decode.evidence import Evidence
from service.engine.decode.link import Encoded
from service.engine.engine import Engine
from service.engine.failures import BadParameter
from service.engine.model import Choice, Target

DEFAULT_TOP_K = 5
encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one item went, in milliseconds."""

    decode: float  # from the upload to its pixels, the wait for a worker included
    queue: float  # from the pixels to the start of the batch; of views the last one's
    inference: float  # of that whole batch


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one file."""

    target: Target
    evidence: Evidence  # of clips and scans: which part of the file the network saw
    predictions: list[dict[str, Any]]  # label, index, probability; descending
    timing: Timing

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "bundle": self.target.bundle,
            "version": self.target.manifest.version,
            "grid": self.target.grid,
            **({"seen": self.evidence} if self.evidence else {}),
            "predictions": self.predictions,
            "timing_ms": {
                "decode": self.timing.decode,
                "queue": self.timing.queue,
                "inference": self.timing.inference,
            },
        }


def choose(engine: Engine, modality: str, parameters: Mapping[str, str]) -> tuple[Choice, int]:
    """Who answers, and with how many predictions.

    Args:
        parameters: ``bundle``, ``grid``, ``top_k`` and, of clips, ``views``, as text.

    Raises:
        Failure: nobody answers this, or a parameter is out of range.
    """
    choice = engine.catalog.select(modality, parameters.get("bundle"), parameters.get("grid"))
    manifest = choice.manifest
    if (views := parameters.get("views")) is not None:
        if modality != "video":
            raise BadParameter(f"views: of clips only; bundle {manifest.name} is for {modality}")
        choice = choice.with_views(parse_views(views, choice.frames))
    return choice, parse_top_k(parameters.get("top_k"), len(manifest.labels))


async def classify(
    engine: Engine, media: Encoded, choice: Choice, top_k: int, deadline: float = math.inf
) -> Result:
    """One file through decoder, batch and graph; cancel the call to leave the queues.

    Nobody is asked whether it may enter: see ``service.engine.admission``.

    Args:
        deadline: of the answer, seconds, monotonic.

    Raises:
        Failure: of the bytes, or of the graph, or there is no time left.
    """
    started, work = time.monotonic(), engine.predict(choice, len(media))
    with engine.admission.work(work, deadline) as charge:
        run_seconds = engine.run_seconds(*choice.targets.values())
        item = await engine.pool.prepare(choice.preparation, media, deadline, run_seconds)
        decoded, target = time.monotonic() - started, choice.targets[item.grid]
        engine.backlog.done(charge, "decode")
        if len(choice.targets) > 1:
            taken = engine.run_part(engine.run_seconds(target))
            engine.backlog.amend(charge, "run", taken)
        row = await engine.devices.submit(target.key, item.pixels, deadline)
        engine.backlog.done(charge, "run")
        engine.backlog.correct(charge, started + decoded + row.queue_seconds)
        predictions = rank(row.logits, target.labels, top_k)
    stages = engine.metrics.stages[target.manifest.modality]
    stages["decode"].observe(decoded)
    stages["queue"].observe(row.queue_seconds)
    timing = Timing(*(_ms(s) for s in (decoded, row.queue_seconds, row.inference_seconds)))
    return Result(target, item.evidence, predictions, timing)


def parse_timeout(text: str, most_seconds: float) -> float:
    """The seconds that ``timeout_ms`` means; BadParameter below a millisecond or above the most."""
    return _parse_count("timeout_ms", text, round(1000 * most_seconds)) / 1000


def parse_top_k(text: str | None, labels: int) -> int:
    """The number of predictions wanted; BadParameter outside 1 to the number of labels."""
    return min(DEFAULT_TOP_K, labels) if text is None else _parse_count("top_k", text, labels)


def parse_views(text: str, frames: int) -> int:
    """The number of views wanted; BadParameter where their frames would be too many."""
    return _parse_count("views", text, min(MAX_VIEWS, MAX_FRAMES // frames), f" of {frames} frames")


def _parse_count(name: str, text: str, most: int, unit: str = "") -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most:
        return int(text)
    raise BadParameter(f"{name}: expected a whole number from 1 to {most}{unit}, got {text[:20]!a}")


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


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
