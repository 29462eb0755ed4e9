"""One file on its way through a decode worker, and what comes of it."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

import numpy as np

from service.engine.decode.evidence import Evidence
from service.engine.decode.wire import Preparation

#: Of an image that is sure to be decoded soon.
SMALL_BYTES = 2**14

#: A file as it came: held once, from the socket to the worker's pipe.
Encoded = bytes | bytearray


@dataclass(frozen=True, slots=True)
class Decoded:
    """One item as the graph wants it."""

    grid: str  # one of those that were asked for
    pixels: np.ndarray  # [views, *pixels per axis, channels], read-only
    evidence: Evidence  # which part of the file that is; see ``service.engine.decode.evidence``
    wait_seconds: float = 0.0  # for a worker
    cpu_seconds: float = 0.0  # of the worker


class Task:
    """One item on its way through a worker.

    Attributes:
        size: bytes of the file, also when it was let go of.
        deadline: seconds, monotonic.
        kind: under which it takes turns: its modality, or ``BATCH``.
        predicted: processor seconds of decoding it.
        own: those of all that it needs, the run after decoding included.
        asked, given, began: when it came, when it went to a worker, and when that began with it,
            seconds, monotonic; the last two 0 before.
    """

    __slots__ = (
        "asked", "attempts", "began", "deadline", "future", "given", "kind", "media", "own",
        "predicted", "preparation", "size",
    )  # fmt: skip

    def __init__(
        self,
        preparation: Preparation,
        media: Encoded,
        future: asyncio.Future[Decoded],
        deadline: float = math.inf,
        predicted: float = 0.0,
        own: float = 0.0,
        *,
        kind: str | None = None,
    ) -> None:
        self.preparation = preparation
        self.media = media
        self.size = len(media)
        self.future = future
        self.deadline = deadline
        self.predicted = predicted
        self.own = own
        self.kind = kind or preparation.modality
        self.asked = time.monotonic()
        self.given = self.began = 0.0
        self.attempts = 0

    @property
    def gone(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done()

    @property
    def is_small(self) -> bool:
        """Sure to be done soon."""
        return self.preparation.modality == "image" and self.size <= SMALL_BYTES
