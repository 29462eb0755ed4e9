"""``Engine.submit``: what is wanted of a file or of pixels, and what a job that ended leaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from media import read
from media.spec import Grid
from service.engine.device.session import DeviceName, Session, Stop, open_session
from service.engine.engine import Engine
from service.engine.failures import (
    BadParameter,
    BrokenMedia,
    DeadlinePassed,
    Failure,
    NoEmbedding,
    Overloaded,
    UnknownBundle,
    UnknownGrid,
    UnsupportedMedia,
)
from service.engine.job import Job, JobClass, Outcome, Want, rank, softmax
from service.engine.model import AUTO, Choice
from service.engine.schedule import BATCH, CPU, Charge
from service.settings import make_settings
from tests.helpers.service_fixtures import (
    LABELS,
    MEDIA,
    TINY,
    picture,
    tiny_embedding,
    tiny_logits,
)
from tests.helpers.service_fixtures import write_tiny_bundle as write

KINDS = (*TINY, BATCH)


class Gated:
    """A session with a gate to hold it and a list of what it ran."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.device = session.device

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        RUNS.append(len(pixels))
        assert GATE.wait(20)
        return self._session.run(pixels, stop)


GATE, RUNS = threading.Event(), list[int]()


def open_gated(graph: Path, device: DeviceName, threads: int) -> Session:
    return Gated(open_session(graph, device, threads))


@dataclass
class Stage:
    """An engine of every modality with one worker and one lane, and a loop to play stories in."""

    engine: Engine
    runner: asyncio.Runner

    def play(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A story, after which nothing is inside and nothing was left."""
        RUNS.clear()
        GATE.set()
        self.runner.run(asyncio.wait_for(story(), 30))
        assert self.is_empty()

    def submit(self, job: Job) -> Outcome:
        return self.runner.run(self.engine.submit(job))

    def choose(self, modality: str = "image", grid: str | None = None) -> Choice:
        return self.engine.catalog.select(modality, None, grid)

    def is_empty(self) -> bool:
        """Whether the backlog is zero, exactly."""
        inside = self.engine.backlog
        waits = [inside.wait(kind) for kind in KINDS]
        return waits == [0.0] * len(KINDS) and not inside.inside.total()

    @contextlib.contextmanager
    def busy(self, kind: str, seconds: float = 500.0) -> Iterator[None]:
        """So much work of a kind is inside."""
        charge = Charge(kind, -math.inf, {"run": {CPU: seconds}})
        self.engine.backlog.charge(charge)
        try:
            yield
        finally:
            self.engine.backlog.leave(charge)
            self.engine.admission._line.move()

    @contextlib.contextmanager
    def worker_stopped(self) -> Iterator[None]:
        """The decode worker takes items and does nothing."""
        (pid,) = self.engine.pool.process_ids
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all tests: each leaves it empty."""
    root: Path = tmp_path_factory.mktemp("bundles")
    folders = [write(root, modality, modality) for modality in TINY]
    GATE.set()
    with asyncio.Runner() as runner:
        settings = make_settings(bundles=root, decode_workers=1, lanes=1, threads=1)
        engine = Engine(settings, open_gated)
        runner.run(engine.start(folders))
        try:
            yield Stage(engine, runner)
        finally:
            runner.run(engine.close())


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.001)


def prepared(modality: str, grid: str) -> np.ndarray:
    """What a reader makes of a file of this modality, ``[views, *pixels per axis, channels]``."""
    tiny = TINY[modality]
    return read(MEDIA[modality](1), tiny.input, Grid.parse(grid), tiny.patch).pixels


def array(of_outcome: np.ndarray | None) -> np.ndarray:
    """What was wanted, and is there."""
    assert of_outcome is not None
    return of_outcome


# --- what is wanted --------------------------------------------------------------------------


#: Of an outcome, that are arrays.
FIELDS = tuple(want for want in get_args(Want) if want != "labels")


@pytest.mark.parametrize("modality", TINY)
def test_embedding_is_told_beside_what_is_wanted(modality: str, tmp_path: Path) -> None:
    """One job gives both the labels and the features before them; a client sees both."""
    write(tmp_path, "tiny", modality, embeds=True)
    settings = make_settings(bundles=tmp_path, decode_workers=1, lanes=1, threads=1)

    async def story() -> Outcome:
        engine = Engine(settings)
        try:
            await engine.start([tmp_path / "tiny"])
            choice = engine.catalog.select(modality, None, None)
            return await engine.submit(Job(MEDIA[modality](1), choice, top_k=2, embed=True))
        finally:
            await engine.close()

    outcome = asyncio.run(story())
    grid = TINY[modality].grids[0]
    expected = tiny_embedding(MEDIA[modality](1), grid, modality)
    np.testing.assert_allclose(array(outcome.embedding), expected, atol=1e-5)
    logits = tiny_logits(MEDIA[modality](1), grid, modality)
    assert outcome.predictions == rank(softmax(logits), LABELS, 2)
    assert {"embedding", "predictions"} <= outcome.document().keys()


@pytest.mark.parametrize("given", ["file", "pixels"])
@pytest.mark.parametrize(
    ("modality", "grid"), [(one, grid) for one in TINY for grid in TINY[one].grids]
)
def test_every_want_of_a_file_is_that_of_its_pixels(
    stage: Stage, modality: str, grid: str, given: str
) -> None:
    """Labels, logits, rows and pixels agree with the network and the reader, on any axes."""
    media, pixels = MEDIA[modality](1), prepared(modality, grid)
    job = Job(media if given == "file" else pixels, stage.choose(modality, grid), top_k=3)
    logits = tiny_logits(media, grid, modality)
    with pytest.raises(NoEmbedding, match=f"no embedding at grid {grid}"):
        stage.submit(replace(job, want="embedding"))
    with pytest.raises(NoEmbedding, match=f"no embedding at grid {grid}"):
        stage.submit(replace(job, embed=True))
    got: dict[str, Outcome] = {
        want: stage.submit(replace(job, want=want))
        for want in get_args(Want)
        if want != "embedding"
    }
    assert got["labels"].predictions == rank(softmax(logits), LABELS, 3)
    np.testing.assert_allclose(
        array(got["probabilities"].probabilities), softmax(logits), atol=1e-4
    )
    rows = array(got["rows"].rows)
    assert rows.shape == (len(pixels), len(LABELS))
    assert len(rows) == TINY[modality].input.views
    np.testing.assert_allclose(array(got["logits"].logits), logits, atol=1e-4)
    np.testing.assert_allclose(rows.mean(axis=0), logits, atol=1e-4)
    np.testing.assert_allclose(array(got["pixels"].pixels), pixels, rtol=1e-6)
    for want, outcome in got.items():
        assert outcome.target.grid == grid
        assert bool(outcome.evidence) == (given == "file")
        held = [name for name in FIELDS if getattr(outcome, name) is not None]
        assert held == [want] * (want != "labels")
        assert bool(outcome.predictions) == (want == "labels")
        assert (outcome.sureness is None) == (want not in ("labels", "probabilities"))


def test_pixels_alone_do_not_touch_the_device(stage: Stage) -> None:
    """Nor are they charged a run, nor is what comes prepared charged a worker."""
    media, choice = picture(1), stage.choose(grid=AUTO)
    RUNS.clear()
    outcome = stage.submit(Job(media, choice, "pixels"))
    assert (RUNS, outcome.timing.queue, outcome.timing.inference) == ([], 0.0, 0.0)
    assert outcome.timing.decode > 0
    predict = stage.engine.pipeline.predict
    assert set(predict(Job(media, choice, "pixels")).parts) == {"decode", "answer"}
    pixels = prepared("image", "3x2")
    assert set(predict(Job(pixels, stage.choose(grid="3x2"))).parts) == {"run", "answer"}


@pytest.mark.parametrize("modality", TINY)
def test_pixels_may_lie_in_memory_as_they_like(stage: Stage, modality: str) -> None:
    """Views of larger arrays and other orders are taken as they are, and mean the same."""
    grid = TINY[modality].grids[0]
    pixels = prepared(modality, grid)
    wide = np.repeat(pixels, 2, axis=-2)[..., ::2, :]
    turned = np.ascontiguousarray(pixels[:, ::-1])[:, ::-1]
    expected = stage.submit(Job(pixels, stage.choose(modality), "rows")).rows
    assert expected is not None
    for other in (np.asfortranarray(pixels), wide, turned):
        assert not other.flags.c_contiguous
        np.testing.assert_array_equal(other, pixels)
        outcome = stage.submit(Job(other, stage.choose(modality), "rows"))
        np.testing.assert_array_equal(array(outcome.rows), expected)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("modality", TINY)
def test_pixels_of_another_shape_or_type_are_no_job(stage: Stage, modality: str) -> None:
    """No axis may be turned, missing or doubled, nothing is converted, and one grid is named."""
    choice, (grid, other) = stage.choose(modality), TINY[modality].grids
    pixels = prepared(modality, grid)
    foreign = (">f4", "f8", "i1") if pixels.dtype == np.float32 else ("f4", "u2", "i1")
    wrongs = [pixels.swapaxes(-2, -3), pixels[0], pixels[:0], np.concatenate([pixels] * 2)]
    wrongs += [prepared(modality, other), *(pixels.astype(dtype) for dtype in foreign)]
    for wrong in wrongs:
        with pytest.raises(BadParameter) as raised:
            Job(wrong, choice)
        expected = f"{pixels.dtype} {list(pixels.shape)} for grid {grid}"
        assert f"expected {expected}, got {wrong.dtype} {list(wrong.shape)}" in str(raised.value)
    with pytest.raises(BadParameter, match=f"one for prepared pixels, got {grid}, {other}"):
        Job(pixels, stage.choose(modality, AUTO))


def test_each_mistake_in_a_job_has_a_failure_of_its_own(stage: Stage) -> None:
    """No model, a time that is over or none, an unknown among the grids, an unknown want."""
    choice, media = stage.choose(grid=AUTO), picture()
    with pytest.raises(UnknownBundle, match="unknown image bundle 'nobody'; known: image"):
        stage.engine.catalog.select("image", "nobody", None)
    with pytest.raises(UnknownBundle, match="names no bundle"):
        Job(media, Choice({}, choice.preparation))
    with pytest.raises(UnknownGrid, match="unknown grid '9x9' for bundle image; known: 2x3, 3x2"):
        choice.among(["2x3", "9x9"])
    with pytest.raises(UnknownGrid, match="no grid is named"):
        choice.among([])
    assert list(choice.among(["3x2"]).targets) == ["3x2"]
    for deadline in (-math.inf, 0.0, time.monotonic()):
        for job_class in get_args(JobClass):
            late = Job(media, choice, deadline=deadline, job_class=job_class)
            with pytest.raises(DeadlinePassed, match="over before the work began"):
                stage.submit(late)
    mistakes: dict[str, Any] = {"deadline": math.nan, "top_k": 0, "want": "", "job_class": "soon"}
    mistakes |= {"abstain": math.nan}
    for name, value in mistakes.items():
        with pytest.raises(BadParameter, match=f"^{name}: expected "):
            Job(media, choice, **{name: value})
    assert stage.is_empty()


def test_files_of_one_request_enter_together_and_fail_together(stage: Stage) -> None:
    """The first failure ends the others and names its file; what may not enter begins nowhere."""
    choice = stage.choose()
    files = [picture(seed) for seed in range(4)]
    jobs = [Job(file, choice, "logits") for file in files]

    async def story() -> None:
        outcomes = await stage.engine.submit_all(jobs)
        for file, outcome in zip(files, outcomes, strict=True):
            np.testing.assert_allclose(
                array(outcome.logits), tiny_logits(file, "2x3"), atol=1e-4
            )
        jobs[2] = Job(b"no picture", choice)
        GATE.clear()  # the others would not end by themselves
        with pytest.raises(UnsupportedMedia, match="^file 3 of 4: "):
            await stage.engine.submit_all(jobs)
        await until(stage.is_empty)
        GATE.set()
        RUNS.clear()
        with stage.busy("image"), pytest.raises(Overloaded):
            await stage.engine.submit_all(jobs)
        assert RUNS == []

    stage.play(story)


class Upload(bytearray):
    """One whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_files_of_a_request_that_failed_are_let_go_at_once(stage: Stage) -> None:
    """Without the collector of garbage, which seldom comes; their bytes were given back."""
    files = [Upload(picture(1)), Upload(b"no picture")]
    kept = [weakref.ref(file) for file in files]

    async def story() -> None:
        with pytest.raises(UnsupportedMedia):
            await stage.engine.submit_all([Job(file, stage.choose()) for file in files])
        files.clear()
        await until(stage.is_empty)
        await until(lambda: not any(one() for one in kept))

    gc.disable()
    try:
        stage.play(story)
    finally:
        gc.enable()


def test_files_may_enter_together_and_fail_apart(stage: Stage) -> None:
    """Each has its outcome or its failure, in order; one that fails leaves the others running."""
    choice = stage.choose()
    files = [b"no picture", picture(1), picture(2)[:90], picture(3)]
    jobs = [Job(file, choice, "logits") for file in files]

    async def story() -> None:
        GATE.clear()
        asking = asyncio.create_task(stage.engine.submit_each(jobs))
        await until(lambda: RUNS and stage.engine.backlog.inside.total() == 2)
        assert not asking.done()
        GATE.set()
        first, second, third, fourth = await asking
        assert isinstance(first, UnsupportedMedia)
        assert "file 1" not in first.detail
        assert isinstance(third, BrokenMedia)
        for file, answer in ((files[1], second), (files[3], fourth)):
            assert isinstance(answer, Outcome)
            np.testing.assert_allclose(array(answer.logits), tiny_logits(file, "2x3"), atol=1e-4)
        RUNS.clear()
        with stage.busy("image"), pytest.raises(Overloaded):
            await stage.engine.submit_each(jobs)
        late = replace(jobs[1], deadline=time.monotonic())
        with pytest.raises(DeadlinePassed):
            await stage.engine.submit_each([late, late])
        assert RUNS == []
        (alone,) = await stage.engine.submit_each(jobs[:1])
        assert isinstance(alone, UnsupportedMedia)

    stage.play(story)


def test_mistake_of_ours_ends_all_files_of_a_request(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is nobody's answer: what is no Failure comes out, and nothing stays inside."""
    jobs = [Job(prepared("image", "2x3"), stage.choose()) for _ in range(3)]
    monkeypatch.setattr("service.engine.pipeline.wanted", lambda *_: 1 / 0)

    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            await stage.engine.submit_each(jobs)
        await until(stage.is_empty)

    stage.play(story)


# --- work that may take its time -------------------------------------------------------------


def test_batch_work_waits_in_order_where_others_are_refused(stage: Stage) -> None:
    """It enters once there is room; with a deadline it is told that there is none."""
    job = Job(prepared("image", "2x3"), stage.choose())
    patient = replace(job, job_class="batch")
    ended: list[int] = []

    async def one(number: int) -> None:
        await stage.engine.submit(patient)
        ended.append(number)

    async def story() -> None:
        with stage.busy("image"), stage.busy(BATCH):
            for refused in (job, replace(patient, deadline=time.monotonic() + 60)):
                with pytest.raises(Overloaded):
                    await stage.engine.submit(refused)
            tasks = [asyncio.create_task(one(number)) for number in range(4)]
            await asyncio.sleep(0.02)
            assert (ended, RUNS, stage.engine.backlog.inside[BATCH]) == ([], [], 1)
            tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert ended == [0, 2, 3]

    stage.play(story)


def test_interactive_work_does_not_see_batch_work(stage: Stage) -> None:
    """However much is inside, an image enters, and one whose time is short does too."""
    job = Job(picture(1), stage.choose(), deadline=time.monotonic() + 20)

    async def story() -> None:
        with stage.busy(BATCH, 1e6):
            assert (await stage.engine.submit(job)).predictions

    stage.play(story)


# --- jobs that end before their answer -------------------------------------------------------


async def leave(task: asyncio.Task[Outcome]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("job_class", ["interactive", "batch"])
@pytest.mark.parametrize("state", ["room", "decode queue", "decoding", "device queue", "running"])
def test_cancelled_job_leaves_nothing_and_begins_nothing_more(
    stage: Stage, state: str, job_class: Any
) -> None:
    """In every state: its seconds are given back at once, and what had not begun is never run."""
    engine, job = stage.engine, Job(picture(1), stage.choose(), job_class=job_class)
    submit = lambda: asyncio.create_task(engine.submit(job))  # noqa: E731

    async def story() -> None:
        others, workers = [], engine.pool.staff.alive
        with contextlib.ExitStack() as held:
            if state == "room":
                held.enter_context(stage.busy(BATCH))
            if state.startswith("decod"):
                held.enter_context(stage.worker_stopped())
            else:
                GATE.clear()
            if state.endswith("queue"):
                others = [submit() for _ in range(2 if state == "decode queue" else 1)]
                await until(lambda: RUNS or state == "decode queue")
            gone = submit()
            await {
                "room": lambda: until(lambda: RUNS or job_class == "batch"),
                "decode queue": lambda: until(lambda: engine.pool.depth),
                "decoding": lambda: until(lambda: any(one.tasks for one in workers)),
                "device queue": lambda: until(lambda: engine.devices.depth == 1),
                "running": lambda: until(lambda: RUNS),
            }[state]()
            if state == "decoding":
                assert [task.kind for one in workers for task in one.tasks] == [job.kind]
            if state == "device queue":
                assert engine.devices.ahead(job.kind) > 0
            await leave(gone)
            assert engine.backlog.inside.total() == len(others) + (state == "room")
            GATE.set()
        await asyncio.gather(*others)
        assert stage.is_empty()
        assert sum(RUNS) == len(others) + (state == "running" or (state, job_class) == INTERACTIVE)
        await engine.submit(job)  # what it left behind is fit for the next one

    stage.play(story)


#: It does not wait for room, so it runs.
INTERACTIVE = ("room", "interactive")


def test_failure_in_any_state_leaves_nothing(stage: Stage) -> None:
    """Of the bytes, and of time that ends while the job waits for a device."""

    async def story() -> None:
        for media in (b"", b"nothing that is read here", picture()[:90]):
            with pytest.raises(Failure):
                await stage.engine.submit(Job(media, stage.choose()))
        GATE.clear()
        running = asyncio.create_task(stage.engine.submit(Job(picture(), stage.choose())))
        await until(lambda: RUNS)
        late = Job(prepared("image", "2x3"), stage.choose(), deadline=time.monotonic() + 0.2)
        waiting = asyncio.create_task(stage.engine.submit(late))
        await asyncio.sleep(0.25)
        GATE.set()
        await running
        with pytest.raises(DeadlinePassed):
            await waiting

    stage.play(story)


def dropped(stage: Stage) -> dict[tuple[str, str], float]:
    """(stage, reason) -> images that ended without an answer so far."""
    return {
        (one.labels["stage"], one.labels["reason"]): one.value
        for metric in stage.engine.metrics.dropped.collect()
        for one in metric.samples
        if one.name.endswith("_total")
    }


def test_files_that_end_with_another_are_not_counted_as_left(stage: Stage) -> None:
    """Their client is there and is told what is wrong with that one."""
    before = dropped(stage)

    async def story() -> None:
        GATE.clear()  # the others would not end by themselves
        good = [Job(prepared("image", "2x3"), stage.choose()) for _ in range(2)]
        with pytest.raises(UnsupportedMedia):
            await stage.engine.submit_all([*good, Job(b"no picture", stage.choose())])
        await until(stage.is_empty)
        leaving = asyncio.create_task(stage.engine.submit_all(good))
        await until(stage.engine.backlog.inside.total)
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await until(stage.is_empty)
        GATE.set()

    stage.play(story)
    after = dropped(stage)
    counted = {key: value - before.get(key, 0) for key, value in after.items()}
    assert {key: value for key, value in counted.items() if value} == {
        ("device", "sibling"): 2,
        ("device", "left"): 2,
    }


def test_time_that_is_over_before_the_work_begins_is_counted(stage: Stage) -> None:
    """Once for every file of the request."""
    before = dropped(stage).get(("room", "expired"), 0)

    async def story() -> None:
        late = Job(picture(), stage.choose(), deadline=time.monotonic())
        with pytest.raises(DeadlinePassed):
            await stage.engine.submit_all([late, late])

    stage.play(story)
    assert dropped(stage)["room", "expired"] == before + 2
