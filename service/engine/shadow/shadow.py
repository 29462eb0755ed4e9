"""One candidate version beside the one that answers: it is sent copies, nobody waits for it.

A copy is made once a request has its answer, and takes what the request had: its pixels where both
versions would be given the same ones, else its file. It is batch work, and of that the least: one
copy at a time is inside, the others wait here, in so much memory and no more; and as soon as
requests wait for one another copies are let go of, long before a request is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

import numpy as np

from service.agreement import Agreement
from service.engine.admission import Admission
from service.engine.failures import Failure, InternalError, UnknownGrid
from service.engine.job import Job, softmax
from service.engine.model import AUTO, Choice, ExaminedBundle
from service.engine.pipeline import Answered, Pipeline
from service.engine.room import Room
from service.engine.schedule import BATCH
from service.engine.shadow.copies import Copy, fraction, held_bytes
from service.engine.shadow.distance import Distance
from service.engine.shadow.report import ShadowReport

log = logging.getLogger(__name__)

#: Of the seconds that may stand before a request: with more there copies are shed.
CALM = 0.25


class Shadow:
    """Compares a candidate with the version that answers, from now on until it is closed.

    Args:
        room: for copies, of all shadows.
        answering, candidate: ready, of one name and modality.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        admission: Admission,
        room: Room,
        answering: ExaminedBundle,
        candidate: ExaminedBundle,
        share: float,
    ) -> None:
        assert answering.manifest is not None
        assert candidate.manifest is not None
        self._pipeline = pipeline
        self._admission = admission
        self._room = room
        # Only its number: whoever holds a model keeps it open.
        self._answering = next(iter(answering.targets.values())).model.number
        self._answering_version = answering.manifest.version
        self._targets = candidate.targets
        self._every_grid = Choice.of(candidate.targets.values())
        self._waiting: deque[Copy] = deque()
        self._working: asyncio.Task[None] | None = None
        self._began = time.time()
        self._closed: str | None = None  # why
        self._labels = answering.manifest.labels
        self._distance = Distance(self._labels, candidate.manifest.labels)
        self.tally = Agreement(answering.name, candidate.manifest.version, share)

    @property
    def version(self) -> str:
        """Of the candidate."""
        return self.tally.version

    def offer(self, job: Job, answered: Answered) -> None:
        """Copy a request that was answered, where it is its turn and there is room."""
        target = answered.target
        if self._closed is not None or target.model.number != self._answering:
            return  # it was let in to another version than the one that answers now
        if fraction(job.media) >= self.tally.share:
            return
        if self._is_busy():
            self.tally.shed["busy"] += 1
            return
        copied = self._copy(job, answered)
        if copied is None:
            self.tally.failed[UnknownGrid.__name__] += 1
            return
        size = held_bytes(copied.media)
        if not self._room.enter_at_once(size):
            self.tally.shed["room"] += 1
            return
        self._waiting.append(Copy(copied, size, answered.probabilities, answered.row.cost_seconds))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    def report(self) -> ShadowReport:
        """What was found so far."""
        return ShadowReport.of(
            self.tally,
            answering=self._answering_version,
            ended=self._closed,
            began=self._began,
            waiting=len(self._waiting),
        )

    def close(self, reason: str) -> None:
        """Copy nothing more, and let go of what waits and of what is being compared."""
        self._closed = reason
        while self._waiting:
            self._room.leave(self._waiting.popleft().size)
        if self._working is not None:
            self._working.cancel()

    # --- one copy ----------------------------------------------------------------------------

    def _is_busy(self) -> bool:
        """Whether requests wait so long that what nobody waits for is in their way."""
        backlog, most = self._admission.backlog, self._admission.max_wait
        kinds = backlog.inside.keys() - {BATCH}
        return any(backlog.wait(kind) > CALM * most(kind) for kind in kinds)

    def _copy(self, job: Job, answered: Answered) -> Job | None:
        """The job that the candidate would get of this request; None if it has no grid for it."""
        choice = self._choose(job)
        if choice is None:
            return None
        if isinstance(job.media, np.ndarray):
            return Job(job.media, choice, "logits", job_class="batch")
        if choice.preparation.header == job.choice.preparation.header:
            alone = Choice.of([choice.targets[answered.item.grid]])
            return Job(answered.item.pixels, alone, "logits", job_class="batch")
        return Job(job.media, choice, "logits", job_class="batch")

    def _choose(self, job: Job) -> Choice | None:
        """Where the candidate would answer what was said: its own default where that is nothing."""
        if isinstance(job.media, np.ndarray):
            return self._choose_by_shape(job.media)
        said, views = job.choice.said_grid, job.choice.said_views
        if said == AUTO:
            choice = self._every_grid
        elif said is None:
            choice = Choice.of([next(iter(self._targets.values()))])
        elif said in self._targets:
            choice = Choice.of([self._targets[said]])
        else:
            return None
        return choice if views is None else choice.with_views(views)

    def _choose_by_shape(self, pixels: np.ndarray) -> Choice | None:
        """Who takes prepared pixels as they are."""
        for one in self._targets.values():
            if one.shape[1:] == pixels.shape[1:] and one.preparation.dtype == pixels.dtype:
                views = len(pixels)
                return Choice.of([one if one.views == views else one.with_views(views)])
        return None

    async def _work(self) -> None:
        """Compare what waits, one after the other."""
        while self._waiting:
            copy = self._waiting.popleft()
            try:
                if self._is_busy():
                    self.tally.shed["busy"] += 1
                else:
                    await self._compare(copy)
            finally:
                self._room.leave(copy.size)

    async def _compare(self, copy: Copy) -> None:
        try:
            target, row = await self._pipeline.answer_beside(copy.job)
        except Failure as failure:
            self.tally.failed[type(failure).__name__] += 1
            return
        except Exception:
            log.exception("a copy for bundle %s %s failed", self.tally.bundle, self.version)
            self.tally.failed[InternalError.__name__] += 1
            return
        mine, theirs = copy.answered, softmax(row.logits, target.temperature)
        self.tally.compare(
            (self._labels[mine.argmax()], target.labels[theirs.argmax()]),
            self._distance.between(mine, theirs),
            (float(mine.max()), float(theirs.max())),
            (copy.seconds, row.cost_seconds),
        )
