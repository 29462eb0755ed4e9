"""One item on its way through the engine, as metrics and spans tell it: stages, costs, losses.

The spans of an item lie end to end, from when it came: each begins where the one before it ended.
"""

from __future__ import annotations

import asyncio
import time
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

import numpy as np

from service.engine.admission import Work
from service.engine.decode.task import Decoded
from service.engine.device.queues import Row
from service.engine.failures import DeadlinePassed
from service.engine.job import Job
from service.engine.schedule import CPU, DEVICE, EARLY_SECONDS, Charge
from service.metrics import Metrics
from service.tracing import current

if TYPE_CHECKING:
    from service.spans import Attributes

NOTHING: Attributes = MappingProxyType({})


class Course:
    """Open while an item is inside.

    Attributes:
        stage: where it is: room, decode, device or explain.
        is_given_up: another file of its request failed, so nobody asks for this one either.
    """

    def __init__(self, metrics: Metrics, job: Job, work: Work) -> None:
        manifest = job.choice.manifest
        self._metrics = metrics
        self._modality = manifest.modality
        self._stages = metrics.stages(manifest.modality, manifest.name)
        self._deadline = job.deadline
        self._work = work
        self._decode_wait = 0.0
        self._trace = current()
        self._told = time.monotonic()  # until when spans have told its way
        self._bytes = 0 if isinstance(job.media, np.ndarray) else len(job.media)
        self.stage = "room"
        self.is_given_up = False

    def __enter__(self) -> Course:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count what leaves without an answer that is its sender's affair."""
        # Whoever ends it in time goes by another clock, which moves in steps of a millisecond.
        over = time.monotonic() >= self._deadline - EARLY_SECONDS
        ended = isinstance(error, asyncio.CancelledError)
        if isinstance(error, DeadlinePassed) or (ended and over):
            self.drop("expired")
        elif ended:
            self.drop("sibling" if self.is_given_up else "left")
        if self._trace is not None and error is not None:
            kind_of = "cancelled" if ended else type(error).__name__
            self._tell(self.stage, time.monotonic() - self._told, failure=kind_of)

    def drop(self, reason: str) -> None:
        """It ends here without an answer of its own."""
        self._metrics.dropped.labels(self._modality, self.stage, reason).inc()

    def decoded(self, item: Decoded, seconds: float) -> None:
        """``seconds``: from asking for it to its pixels, the wait for a worker included."""
        self.stage = "device"
        self._decode_wait = item.wait_seconds
        self._tell("room", time.monotonic() - seconds - self._told)
        if "decode" in self._work.parts:
            self._stages["decode_wait"].observe(item.wait_seconds)
            self._stages["decode"].observe(seconds - item.wait_seconds)
            self._compare("decode", self._work.parts["decode"][CPU], item.cpu_seconds)
            self._tell("decode_wait", item.wait_seconds)
            self._tell(
                "decode", seconds - item.wait_seconds,
                {"liere.file.bytes": self._bytes, "liere.decode.cpu_seconds": item.cpu_seconds},
            )  # fmt: skip

    def ran(self, row: Row, charge: Charge) -> None:
        """Its rows are here."""
        self._stages["device_wait"].observe(row.queue_seconds)
        self._stages["run"].observe(row.inference_seconds)
        self._compare("run", self._work.parts["run"][DEVICE], row.cost_seconds)
        self._compare("wait", charge.wait, self._decode_wait + row.queue_seconds)
        self._tell("device_wait", row.queue_seconds, {"liere.predicted_wait_seconds": charge.wait})
        self._tell(
            "run", row.inference_seconds,
            {"liere.batch.rows": row.batch_rows, "liere.rows": len(row.rows),
             "liere.device": row.device},
        )  # fmt: skip

    def explained(self, seconds: float, cost: float) -> None:
        """So long after its answer all of its masked rows are here; they cost so much."""
        self._stages["explain"].observe(seconds)
        self._compare("explain", self._work.parts["explain"][DEVICE], cost)
        self._tell("explain", seconds)

    def _tell(
        self, stage: str, seconds: float, attributes: Attributes = NOTHING, failure: str = ""
    ) -> None:
        """A span of the next so many seconds of its way."""
        if self._trace is not None:
            began, self._told = self._told, self._told + seconds
            self._trace.add(stage, began, self._told, attributes, failure)

    def _compare(self, part: str, predicted: float, actual: float) -> None:
        self._metrics.predicted_seconds.labels(self._modality, part).inc(predicted)
        self._metrics.actual_seconds.labels(self._modality, part).inc(max(actual, 0.0))
