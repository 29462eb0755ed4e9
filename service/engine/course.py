"""One item on its way through the engine, as the metrics tell it: stages, predictions, losses."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from service.engine.admission import Work
from service.engine.decode.task import Decoded
from service.engine.device.queues import Row
from service.engine.failures import DeadlinePassed
from service.engine.job import Job
from service.engine.schedule import CPU, DEVICE, EARLY_SECONDS, Charge
from service.metrics import Metrics


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

    def drop(self, reason: str) -> None:
        """It ends here without an answer of its own."""
        self._metrics.dropped.labels(self._modality, self.stage, reason).inc()

    def decoded(self, item: Decoded, seconds: float) -> None:
        """``seconds``: from asking for it to its pixels, the wait for a worker included."""
        self.stage = "device"
        self._decode_wait = item.wait_seconds
        if "decode" in self._work.parts:
            self._stages["decode_wait"].observe(item.wait_seconds)
            self._stages["decode"].observe(seconds - item.wait_seconds)
            self._compare("decode", self._work.parts["decode"][CPU], item.cpu_seconds)

    def ran(self, row: Row, charge: Charge) -> None:
        """Its rows are here."""
        self._stages["device_wait"].observe(row.queue_seconds)
        self._stages["run"].observe(row.inference_seconds)
        self._compare("run", self._work.parts["run"][DEVICE], row.cost_seconds)
        self._compare("wait", charge.wait, self._decode_wait + row.queue_seconds)

    def explained(self, seconds: float, cost: float) -> None:
        """So long after its answer all of its masked rows are here; they cost so much."""
        self._stages["explain"].observe(seconds)
        self._compare("explain", self._work.parts["explain"][DEVICE], cost)

    def _compare(self, part: str, predicted: float, actual: float) -> None:
        self._metrics.predicted_seconds.labels(self._modality, part).inc(predicted)
        self._metrics.actual_seconds.labels(self._modality, part).inc(max(actual, 0.0))
