"""The way of a job, told in order: what it costs, whether it enters, decoder, batch, outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from service.engine.admission import Admission, Work
from service.engine.course import Course
from service.engine.decode.pool import DecodePool
from service.engine.decode.task import Decoded
from service.engine.device.devices import Devices
from service.engine.device.queues import Row
from service.engine.explain.attention import attention_of
from service.engine.explain.explanation import Explanation
from service.engine.explain.occlusion import Explainer, check_time
from service.engine.failures import DeadlinePassed, Failure, NoEmbedding, NoLabels
from service.engine.job import Job, Outcome, Timing, Want, softmax, wanted
from service.engine.model import Choice, Target
from service.engine.schedule import CPU, DEVICE, Charge
from service.metrics import Metrics

T = TypeVar("T")
Way = Coroutine[Any, Any, Outcome]

#: Of the event loop for one answer: reading the request, ranking, writing.
ANSWER_SECONDS = 0.0005
#: Of a thread beside it, for the picture of an explanation that came with the answer. One by
#: occlusion takes more, which is little beside its rows.
DRAW_SECONDS = 0.005
#: What can be wanted of a bundle without labels.
OF_FEATURES = ("embedding", "pixels")


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What a job was answered from, for whoever looks over its shoulder.

    Attributes:
        probabilities: calibrated, float64 ``[classes]``.
    """

    target: Target
    item: Decoded
    row: Row
    probabilities: np.ndarray


class Pipeline:
    """Takes jobs through the stations; nothing of a job is left in it, however the job ends.

    Attributes:
        on_answer: told of every job that was run, before its answer is given; must not take long.
    """

    def __init__(
        self, admission: Admission, pool: DecodePool, devices: Devices, metrics: Metrics
    ) -> None:
        self._admission = admission
        self._pool = pool
        self._devices = devices
        self._metrics = metrics
        self._explainer = Explainer(devices)
        self.on_answer: Callable[[Job, Answered], None] = lambda job, answered: None

    async def submit_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        """What ``Engine.submit_all`` says."""
        answers, courses = self._admit(jobs)
        if len(jobs) > 1:
            numbered = enumerate(answers, 1)
            answers = [_named(f"file {number} of {len(jobs)}", one) for number, one in numbered]
        return await _together(answers, courses)

    async def submit_each(self, jobs: Sequence[Job]) -> list[Outcome | Failure]:
        """What ``Engine.submit_each`` says."""
        answers, courses = self._admit(jobs)
        return await _together([_settled(one) for one in answers], courses)

    def _admit(self, jobs: Sequence[Job]) -> tuple[list[Way], list[Course]]:
        """The way of every job, which begins once it is awaited; Failure if they may not enter."""
        for job in jobs:
            self.check_want("embedding" if job.embeds else job.want, job.choice)
        works, deadline = [self.predict(job) for job in jobs], jobs[0].deadline
        courses = [Course(self._metrics, *one) for one in zip(jobs, works, strict=True)]
        if deadline <= time.monotonic():
            for course in courses:
                course.drop("expired")
            raise DeadlinePassed("the time for the answer was over before the work began")
        check_time(sum(map(self._explain_seconds, works)), deadline)
        self._admission.admit(works, deadline)
        return list(map(self._answer, jobs, works, courses)), courses

    def check_want(self, want: Want, choice: Choice) -> None:
        """What ``Engine.check_want`` says."""
        manifest = choice.manifest
        if not manifest.labels and want not in OF_FEATURES:
            raise NoLabels(
                f"want: bundle {manifest.name} has no labels and gives features alone: expected "
                f"want=embedding, got want={want}"
            )
        if want != "embedding":
            return
        lacking = [one for one in choice.targets.values() if not self._devices.embeds(one.key)]
        if lacking:
            raise NoEmbedding(
                f"want: bundle {lacking[0].bundle} has no embedding at grid {lacking[0].grid}; "
                "bundles have one since their graphs are exported with it"
            )

    async def _answer(self, job: Job, work: Work, course: Course) -> Outcome:
        """One job that was let in: decoder, batch and graph."""
        backlog = self._admission.backlog
        with ExitStack() as stack:
            stack.enter_context(course)
            await self._admission.wait_for_room(work.kind, job.deadline)
            charge = stack.enter_context(self._admission.work(work, job.deadline))
            if job.hides:
                size = self._explainer.holds(job.choice.preparation)
                await self._explainer.room.enter(size)
                stack.callback(self._explainer.room.leave, size)
            started, course.stage = time.monotonic(), "decode"
            item = await self._prepare(job)
            decoded, target = time.monotonic() - started, job.choice.targets[item.grid]
            backlog.done(charge, "decode")
            course.decoded(item, decoded)
            if job.want == "pixels":
                timing = Timing.of(decoded)
                return Outcome(target, item.evidence, timing, pixels=item.pixels)
            if len(job.choice.targets) > 1:
                backlog.amend(charge, "run", self.run_part(self.run_seconds(job, target)))
            row = await self._devices.submit(
                job.key(target), item.pixels, job.deadline, job.kind, job.embeds
            )
            backlog.done(charge, "run")
            backlog.correct(charge, started + decoded + row.queue_seconds)
            course.ran(row, charge)
            answer: dict[str, Any] = {"embedding": row.embedding}
            if target.labels:
                calibrated = softmax(row.logits, target.temperature)
                answer = wanted(job, target, row, calibrated)
                if target.is_as_measured and not isinstance(job.media, np.ndarray):
                    first = int(calibrated.argmax())
                    self._metrics.drift.count(target.key, first, float(calibrated[first]))
                self.on_answer(job, Answered(target, item, row, calibrated))
            if job.hides:
                answer["explanation"] = await self._explain(job, target, item, row, course, charge)
            elif job.explain is not None:
                assert row.attention is not None  # or the bundle had been refused
                looked = await asyncio.to_thread(attention_of, target, item, row.attention)
                answer["explanation"] = looked
        timing = Timing.of(decoded, row.queue_seconds, row.inference_seconds)
        return Outcome(target, item.evidence, timing, **answer)

    async def answer_beside(self, job: Job) -> tuple[Target, Row]:
        """What the graph says to a job of batch work that is nobody's request.

        It is charged like every other, and in no series of items.

        Raises:
            Failure: of the bytes, or of the graph.
        """
        work = self.predict(job)
        await self._admission.wait_for_room(work.kind, job.deadline)
        with self._admission.work(work, job.deadline) as charge:
            item = await self._prepare(job)
            self._admission.backlog.done(charge, "decode")
            target = job.choice.targets[item.grid]
            row = await self._devices.submit(target.key, item.pixels, job.deadline, job.kind)
        return target, row

    async def _explain(
        self, job: Job, target: Target, item: Decoded, row: Row, course: Course, charge: Charge
    ) -> Explanation:
        """Of an item that was answered; what is left of it counts as waiting work."""
        assert job.explain is not None
        seconds, started = self._explainer.seconds(target), time.monotonic()

        def on_row(left: float) -> None:
            self._admission.backlog.amend(charge, "explain", self.run_part(left * seconds))

        course.stage = "explain"
        explanation, cost = await self._explainer.explain(
            job.explain, target, item, row, job.deadline, on_row
        )
        course.explained(time.monotonic() - started, cost)
        return explanation

    def _explain_seconds(self, work: Work) -> float:
        """Until the masked rows of an item are run, if nothing else is."""
        part = {stage: one for stage, one in work.parts.items() if stage == "explain"}
        return self._admission.backlog.takes(part)

    async def _prepare(self, job: Job) -> Decoded:
        """The pixels of a job, by a worker unless they came as such."""
        if isinstance(job.media, np.ndarray):
            return Decoded(job.choice.grid, job.media, {})
        targets = job.choice.targets.values()
        follows = 0.0 if job.want == "pixels" else self.run_seconds(job, *targets)
        return await self._pool.prepare(
            job.choice.preparation, job.media, job.deadline, follows, job.kind
        )

    def predict(self, job: Job) -> Work:
        """What a job costs, before anything of its file was looked at."""
        targets = job.choice.targets.values()
        own = ANSWER_SECONDS + (DRAW_SECONDS if job.explain is not None else 0.0)
        parts: dict[str, Mapping[str, float]] = {"answer": {CPU: own}}
        if not isinstance(job.media, np.ndarray):
            decode, size = self._pool.costs[job.choice.manifest.modality], len(job.media)
            parts["decode"] = {CPU: decode.mean(size)}
            own += decode.high(size)
        if job.want != "pixels":
            parts["run"] = self.run_part(self.run_seconds(job, *targets))
            own += fmean(self._devices.high_seconds(job.key(one)) * one.views for one in targets)
        if job.hides:
            parts["explain"] = self.run_part(self._explainer.seconds(*targets))
            own += self._admission.backlog.takes({"explain": parts["explain"]})
        return Work(job.kind, parts, own)

    def run_seconds(self, job: Job, *targets: Target) -> float:
        """Of one item's rows on a lane, as the job wants them.

        Of several grids that it may get the mean counts: nothing tells yet which it will be.
        """
        return fmean(one.views * self._devices.row_seconds(job.key(one)) for one in targets)

    def run_part(self, seconds: float) -> dict[str, float]:
        """What a lane's seconds take, by resource: on a CPU those that decode too."""
        threads = self._devices.threads_of_cpu
        return {DEVICE: seconds} | ({CPU: seconds * threads} if threads else {})


async def _together(
    answers: Sequence[Coroutine[Any, Any, T]], courses: Sequence[Course]
) -> list[T]:
    """What all of them give; the first that raises, or who leaves, ends the others."""
    if len(answers) == 1:
        return [await answers[0]]
    tasks = [asyncio.create_task(one) for one in answers]
    try:
        return list(await asyncio.gather(*tasks))
    except Exception:
        for course in courses:
            course.is_given_up = True
        raise
    finally:
        for task in tasks:
            task.cancel()
        del tasks, task  # a failure knows this frame, and its task knows the failure


async def _settled(answer: Awaitable[Outcome]) -> Outcome | Failure:
    """An answer, or why there is none, which is no affair of others."""
    try:
        return await answer
    except Failure as failure:
        return failure.with_traceback(None)  # whose frames know the pixels


async def _named(which: str, answer: Awaitable[Outcome]) -> Outcome:
    """An answer whose failure says which file of several it is of."""
    try:
        return await answer
    except Failure as failure:
        raise type(failure)(f"{which}: {failure.detail}") from failure
