"""A candidate that sees copies: whose, what it is given, when it is left alone, what is counted."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import Grid, VideoSpec
from models.manifest import Accuracy, Golden, GridEntry, Parity
from service.agreement import MOST_PAIRS, Agreement
from service.engine.device.session import DeviceName, Session, Stop, open_session
from service.engine.engine import Engine
from service.engine.failures import (
    CandidateRefused,
    NoLabels,
    NoShadow,
    UnknownVersion,
    VersionInUse,
)
from service.engine.job import Job, softmax
from service.engine.model import AUTO, Choice
from service.engine.schedule import BATCH, DEVICE, Charge
from service.engine.shadow.copies import LOOKED_AT, fraction, held_bytes
from service.engine.shadow.distance import Distance
from service.engine.shadow.report import Interval, ShadowReport
from service.engine.shadow.shadow import CALM
from service.settings import Settings, make_settings
from tests.helpers.service_fixtures import (
    GRIDS,
    LABELS,
    MEDIA,
    TINY,
    clip,
    picture,
    poison,
    tiny_logits,
    weights,
    write_tiny_bundle,
)

#: What a candidate of images may be: the first one, cut otherwise, with other labels, of one grid.
STRETCHED = dataclasses.replace(TINY["image"].input, fit="stretch")
REVERSED = tuple(reversed(LABELS))


def stretched_logits(media: bytes, grid: str) -> np.ndarray:
    """What the version that sees whole pictures answers, float64 ``[5]``."""
    pixels = read(media, STRETCHED, Grid.parse(grid), TINY["image"].patch, None).pixels
    return (pixels.reshape(len(pixels), -1) / 255.0).mean(axis=0) @ weights().astype(np.float64)


async def believe(settings: Settings, name: str, version: str) -> str | None:
    """In the place of the process that proves."""
    return None


class Gated:
    """A session whose runs are noted; those of a candidate can be held, and fail by ``poison``."""

    def __init__(self, session: Session, version: str) -> None:
        self._session, self._version = session, version
        self.device = session.device

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        RUNS.append((self._version, len(pixels)))
        if self._version != "1":
            assert GATE.wait(20)
            if (pixels == (255, 0, 0)).all():
                raise RuntimeError("poisoned")
        return self._session.run(pixels, stop)


GATE, RUNS = threading.Event(), list[tuple[str, int]]()


def open_gated(graph: Path, device: DeviceName, threads: int) -> Session:
    return Gated(open_session(graph, device, threads), graph.parts[-3])


@dataclass
class Stage:
    """An engine of every modality with two lanes, and a loop to play stories in."""

    engine: Engine
    runner: asyncio.Runner
    root: Path

    def play(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A story, after which no shadow is left and nothing is inside."""
        GATE.set()
        try:
            self.runner.run(asyncio.wait_for(story(), 30))
        finally:
            GATE.set()
            self.engine.shadows.close()
            self.runner.run(asyncio.wait_for(self.settle(), 30))
        assert (self.engine.shadows.room.files, self.engine.shadows.room.bytes) == (0, 0)

    async def begin(self, name: str = "image", version: str = "2", share: float = 1.0) -> None:
        await self.engine.rollout.shadow(name, version, share)
        RUNS.clear()

    async def answer(self, *media: bytes, grid: str | None = None) -> None:
        """Pictures, one after the other, and all that follows."""
        for one in media:
            await self.engine.submit(Job(one, self.choose(grid=grid)))
        await self.settle()

    def choose(self, modality: str = "image", grid: str | None = None) -> Choice:
        return self.engine.catalog.select(modality, None, grid)

    def report(self, name: str = "image") -> ShadowReport:
        return self.engine.shadows.report(name)

    async def settle(self) -> None:
        """Until nothing is inside and no copy waits."""
        for _ in range(3):
            await asyncio.sleep(0)
            while self.engine.backlog.inside or self.engine.shadows.room.files:
                await asyncio.sleep(0.002)

    @contextmanager
    def busy(self, seconds: float) -> Iterator[None]:
        """So much interactive work is inside."""
        charge = Charge("image", 0.0, {"run": {DEVICE: 2 * seconds}})  # of two lanes
        self.engine.backlog.charge(charge)
        try:
            yield
        finally:
            self.engine.backlog.leave(charge)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all tests: each leaves it empty. Of every modality version 1 answers."""
    root: Path = tmp_path_factory.mktemp("bundles")
    for modality in TINY:
        for version in ("1", "2"):
            write(root, modality, version, modality=modality)
        (root / modality / "serving.json").write_text('{"schema": 1, "version": "1"}')
    write(root, "image", "reversed", labels=REVERSED)
    goldens = tuple(
        Golden(
            f"golden/{seed}.png",
            {grid: tuple(stretched_logits(picture(seed), grid).tolist()) for grid in GRIDS},
        )
        for seed in range(3)
    )
    write(root, "image", "stretched", input=STRETCHED, goldens=goldens)
    for version, grid in zip(("first", "second"), GRIDS, strict=True):
        logits = ((f"golden/{n}.png", tuple(tiny_logits(picture(n), grid))) for n in range(3))
        goldens = tuple(Golden(file, {grid: row}) for file, row in logits)
        entry = GridEntry(
            grid, f"graphs/{grid}.onnx", Parity(3, 0.0, 0.0, 3), Accuracy("test", 3, 0.5, "")
        )
        write(root, "image", version, grids=(entry,), goldens=goldens)
    entries = tuple(
        GridEntry(grid, f"graphs/{grid}.onnx", Parity(3, 0.0, 0.0, 3), Accuracy("test", 3, 0.5, ""))
        for grid in reversed(GRIDS)
    )
    write(root, "image", "turned", grids=entries)
    once = dataclasses.replace(TINY["video"].input, video=VideoSpec(views=1))
    goldens = tuple(
        Golden(
            f"golden/{n}.gif",
            {grid: tuple(tiny_logits(clip(n), grid, "video", 1)) for grid in TINY["video"].grids},
        )
        for n in range(3)
    )
    write(root, "video", "once", modality="video", input=once, goldens=goldens)
    write(root, "image", "features", headless=True)
    write(root, "image", "damaged")
    (root / "image" / "damaged" / "graphs" / "weights.bin").unlink()
    settings = make_settings(bundles=root, decode_workers=1, lanes=2, threads=1)
    GATE.set()
    with asyncio.Runner() as runner:
        engine = Engine(settings, open_gated)
        engine.rollout.succession.prove = believe
        runner.run(engine.start([root / modality for modality in TINY]))
        yield Stage(engine, runner, root)
        runner.run(engine.close())


def write(root: Path, name: str, version: str, **changes: Any) -> None:
    """One version of a bundle."""
    made = write_tiny_bundle(root / ".made", name, version=version, **changes)
    (root / name).mkdir(exist_ok=True)
    made.rename(root / name / version)
    (root / ".made").rmdir()


@pytest.fixture
def decoded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The kinds of what decode workers were asked for."""
    kinds: list[str | None] = []
    prepare = stage.engine.pool.prepare

    async def noted(*arguments: Any, **named: Any) -> Any:
        kinds.append(named.get("kind") or arguments[4])
        return await prepare(*arguments, **named)

    monkeypatch.setattr(stage.engine.pool, "prepare", noted)
    return kinds


# --- what a candidate is given ---------------------------------------------------------------


@pytest.mark.parametrize("modality", TINY)
def test_files_and_tensors_are_seen_as_they_were_decoded(
    stage: Stage, modality: str, decoded: list[str | None]
) -> None:
    """The pixels of the request are the candidate's, as a file and prepared; both agree."""
    tiny, media = TINY[modality], MEDIA[modality](1)
    (target,) = stage.choose(modality).targets.values()
    prepared = read(media, tiny.input, Grid.parse(target.grid), tiny.patch).pixels

    async def story() -> None:
        await stage.begin(modality)
        decoded.clear()
        for one in (media, prepared):
            await stage.engine.submit(Job(one, stage.choose(modality)))
        await stage.settle()
        report = stage.report(modality)
        assert (report.compared, report.agreed, report.shed, report.failed) == (2, 2, {}, {})
        assert report.largest_difference == pytest.approx(0, abs=1e-6)
        assert decoded == [modality]
        rows = [sum(rows for version, rows in RUNS if version == which) for which in "12"]
        assert rows == [2 * target.views] * 2

    stage.play(story)


def test_other_input_is_decoded_again_as_batch_work(
    stage: Stage, decoded: list[str | None]
) -> None:
    """What it is compared by is what the candidate would answer to the file."""
    pictures = [picture(seed, (90, 23)) for seed in range(4)]

    async def story() -> None:
        await stage.begin(version="stretched")
        decoded.clear()
        await stage.answer(*pictures)

    stage.play(story)
    apart, same = [], 0
    for one in pictures:
        mine, theirs = (softmax(f(one, GRIDS[0])) for f in (tiny_logits, stretched_logits))
        apart.append(np.abs(mine - theirs).max())
        same += mine.argmax() == theirs.argmax()
    report = stage.report()
    assert (report.compared, report.agreed) == (4, same)
    assert report.difference is not None
    assert report.difference.value == pytest.approx(np.mean(apart), abs=1e-5)
    assert report.largest_difference == pytest.approx(max(apart), abs=1e-5)
    assert max(apart) > 0.01
    assert Counter(decoded) == {"image": 4, BATCH: 4}
    assert stage.engine.pool.staff._has_batch  # a worker for small files would be kept of several


@pytest.mark.parametrize("version", ["2", "stretched"])
def test_grid_by_the_size_of_the_file_is_the_candidates_own_choice(
    stage: Stage, version: str
) -> None:
    """With grid=auto, decoded again or not."""

    async def story() -> None:
        await stage.begin(version=version)
        await stage.answer(picture(1, (30, 20)), picture(2, (200, 300)), grid=AUTO)
        report = stage.report()
        assert (report.compared, report.failed) == (2, {})

    stage.play(story)


def test_clip_in_other_views_is_seen_in_as_many(stage: Stage) -> None:
    """As the request said, not as the bundle takes it by itself."""

    async def story() -> None:
        await stage.begin("video")
        choice = stage.choose("video").with_views(3)
        await stage.engine.submit(Job(MEDIA["video"](1), choice))
        await stage.settle()
        assert sum(rows for version, rows in RUNS if version == "2") == 3
        assert stage.report("video").agreed == 1

    stage.play(story)


def test_who_names_no_grid_gets_the_candidates_default(
    stage: Stage, decoded: list[str | None]
) -> None:
    """As after a promotion: the file is decoded for that; who names the grid names its own."""

    async def story() -> None:
        await stage.begin(version="second")
        decoded.clear()
        await stage.answer(picture(1))
        await stage.answer(picture(1), grid=GRIDS[1])
        report = stage.report()
        assert (report.compared, report.failed) == (2, {})
        assert decoded == ["image", BATCH, "image"]

    stage.play(story)


def test_grid_that_is_named_is_compared_where_it_is_the_default(
    stage: Stage, decoded: list[str | None]
) -> None:
    """The candidate has another default, which only who names none would get after a promotion."""

    async def story() -> None:
        await stage.begin(version="turned")
        decoded.clear()
        await stage.answer(picture(1), grid=GRIDS[0])
        report = stage.report()
        assert report.compared == 1
        assert report.largest_difference == pytest.approx(0, abs=1e-6)
        assert decoded == ["image"]  # the same pixels
        await stage.answer(picture(1))
        mine, theirs = (softmax(tiny_logits(picture(1), grid)) for grid in GRIDS)
        expected = np.abs(mine - theirs).max()
        assert expected > 1e-3
        assert stage.report().largest_difference == pytest.approx(expected, abs=1e-5)

    stage.play(story)


def test_views_that_are_named_are_compared_where_they_are_the_default(stage: Stage) -> None:
    """The candidate takes one by itself, the version that answers two."""

    async def story() -> None:
        await stage.begin("video", "once")
        for views, rows in ((2, 2), (None, 1)):
            RUNS.clear()
            choice = stage.choose("video")
            asked = choice if views is None else choice.with_views(views)
            await stage.engine.submit(Job(MEDIA["video"](1), asked))
            await stage.settle()
            assert sum(size for version, size in RUNS if version == "once") == rows

    stage.play(story)


def test_grid_by_the_size_of_the_file_is_that_where_one_grid_answers(stage: Stage) -> None:
    """A candidate with more of them chooses, as it would after a promotion."""
    tall = picture(1, (60, 200))

    async def story() -> None:
        await stage.engine.rollout.load("image", "second")  # 3x2 alone
        try:
            await stage.begin(version="1")
            await stage.answer(tall, grid=AUTO)
            report = stage.report()
        finally:
            await stage.engine.rollout.load("image", "1")
        assert report.compared == 1
        assert report.largest_difference == pytest.approx(0, abs=1e-6)  # not of 2x3, its default

    stage.play(story)


def test_grid_and_shape_that_the_candidate_lacks_are_failures(stage: Stage) -> None:
    """Whoever asks for them would not be answered after a promotion."""
    pixels = np.zeros(next(iter(stage.choose(grid=GRIDS[1]).targets.values())).shape, np.uint8)

    async def story() -> None:
        await stage.begin(version="first")
        await stage.answer(picture(1), grid=GRIDS[1])
        await stage.engine.submit(Job(pixels, stage.choose(grid=GRIDS[1])))
        await stage.settle()
        report = stage.report()
        assert (report.compared, report.failed) == (0, {"UnknownGrid": 2})

    stage.play(story)


def test_failing_candidate_is_nobodys_failure(stage: Stage) -> None:
    """The request has its answer; the copy is counted by how it failed."""

    async def story() -> None:
        await stage.begin()
        await stage.answer(poison(), picture(1))
        report = stage.report()
        assert (report.compared, report.failed) == (1, {"InferenceFailed": 1})

    stage.play(story)


# --- whose copies, and when ------------------------------------------------------------------


def test_share_is_of_the_bytes_alone() -> None:
    """The same file is always in or out, a larger share has all of a smaller one, near its size."""
    files = [picture(seed, (3, 2)) for seed in range(400)]
    places = [fraction(one) for one in files]
    assert places == [fraction(bytearray(one)) for one in files]
    assert all(0 <= one < 1 for one in places)
    assert sum(one < 0.1 for one in places) == pytest.approx(40, abs=15)
    assert sum(one < 0.5 for one in places) == pytest.approx(200, abs=40)


def test_scans_that_differ_in_the_middle_are_others() -> None:
    """Borders of one scanner are alike; of what is large not every byte is looked at."""
    scan = np.zeros((40, 30, 50), np.float32)
    other = scan.copy()
    other[15:25] = 7
    assert scan.nbytes > 10 * LOOKED_AT
    assert fraction(scan) == fraction(scan.copy(order="F")) != fraction(other)
    assert fraction(scan) == fraction(scan.tobytes())
    assert fraction(scan[:-1]) != fraction(scan)  # zeros too, but fewer


def test_row_of_a_tensor_holds_all_of_it() -> None:
    """Its bytes are those of the request's body."""
    body = bytearray(4 * 8 * 12 * 3)
    rows = np.frombuffer(body, np.uint8).reshape(4, 8, 12, 3)
    assert held_bytes(rows[1:2]) == len(body)
    assert held_bytes(bytes(100)) == 100
    lent = mmap.mmap(-1, 300_000)
    assert held_bytes(np.frombuffer(lent, np.uint8, 240).reshape(4, 60)) == 300_000
    assert held_bytes(np.zeros((2, 3), np.float32)) == 24


def test_same_files_are_seen_again(stage: Stage) -> None:
    """A share is of files: each comes to the candidate every time or never."""
    files = [picture(seed) for seed in range(12)]
    expected = sum(fraction(one) < 0.4 for one in files)
    assert 0 < expected < len(files)

    async def story() -> None:
        await stage.begin(share=0.4)
        for times in (1, 2):
            await stage.answer(*files)
            assert stage.report().compared == times * expected
        await stage.begin(share=0.0)  # the same one: what was found stays
        await stage.answer(*files)
        assert (stage.report().compared, stage.report().share) == (2 * expected, 0.0)

    stage.play(story)


def test_what_nobody_waits_for_is_not_copied(stage: Stage) -> None:
    """Batch work, and pixels without an answer."""

    async def story() -> None:
        await stage.begin()
        choice = stage.choose()
        await stage.engine.submit(Job(picture(1), choice, job_class="batch"))
        await stage.engine.submit(Job(picture(1), choice, "pixels"))
        await stage.settle()
        assert stage.report().compared == 0
        await stage.engine.submit(Job(picture(1), choice, "rows"))
        await stage.settle()
        assert stage.report().compared == 1

    stage.play(story)


def test_request_does_not_wait_for_its_copy(stage: Stage) -> None:
    """The candidate hangs; requests are answered, and one copy at a time is on the device."""

    async def story() -> None:
        await stage.begin()
        GATE.clear()
        for seed in range(5):
            outcome = await stage.engine.submit(Job(picture(seed), stage.choose()))
            expected = softmax(tiny_logits(picture(seed), GRIDS[0])).max()
            assert outcome.predictions[0]["probability"] == pytest.approx(expected, abs=1e-4)
        await asyncio.sleep(0)
        while ("2", 1) not in RUNS:
            await asyncio.sleep(0.002)
        assert (RUNS.count(("1", 1)), RUNS.count(("2", 1))) == (5, 1)
        assert (stage.report().waiting, stage.report().compared) == (4, 0)
        assert stage.engine.shadows.room.bytes > 0
        GATE.set()
        await stage.settle()
        assert stage.report().compared == 5

    stage.play(story)


def test_copies_are_shed_long_before_requests(stage: Stage) -> None:
    """As soon as requests wait: new copies, and those that wait already."""
    calm = 0.9 * CALM * stage.engine.admission.max_wait("image")

    async def story() -> None:
        await stage.begin()
        with stage.busy(calm):
            await stage.engine.submit(Job(picture(0), stage.choose()))
            while not stage.report().compared:
                await asyncio.sleep(0.002)
        GATE.clear()
        for seed in (1, 2, 3):
            await stage.engine.submit(Job(picture(seed), stage.choose()))
        await asyncio.sleep(0)
        assert stage.report().waiting == 2
        with stage.busy(2 * calm):
            await stage.engine.submit(Job(picture(4), stage.choose()))  # is let in
            await asyncio.sleep(0)
            assert stage.report().shed == {"busy": 1}
            GATE.set()
            while stage.report().waiting:
                await asyncio.sleep(0.002)
        await stage.settle()
        report = stage.report()
        assert (report.compared, report.shed) == (2, {"busy": 3})

    stage.play(story)


def test_copies_hold_so_much_memory_and_no_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What finds no room is shed, and room is there again once others were compared."""
    (target,) = stage.choose().targets.values()
    size = int(np.prod(target.shape))
    room = stage.engine.shadows.room
    monkeypatch.setattr(room, "max_bytes", 3 * size + size // 2)

    async def story() -> None:
        await stage.begin()
        GATE.clear()
        for seed in range(5):
            await stage.engine.submit(Job(picture(seed), stage.choose()))
        await asyncio.sleep(0)
        assert (room.files, stage.report().shed) == (3, {"room": 2})
        GATE.set()
        await stage.settle()
        await stage.answer(picture(7))
        assert (stage.report().compared, stage.report().shed) == (4, {"room": 2})

    stage.play(story)


def test_copies_are_in_no_series_of_items(stage: Stage) -> None:
    """What is told of stages and predictions is told of requests."""

    def told() -> dict[str, float]:
        families = stage.engine.metrics.registry.collect()
        names = ("liere_stage_seconds", "liere_predicted", "liere_dropped", "liere_first_label")
        return {
            f"{one.name}{one.labels}": one.value
            for family in families
            if family.name.startswith(names)
            for one in family.samples
            if one.name.endswith(("_count", "_total"))
        }

    async def story() -> None:
        await stage.answer(picture(1))
        alone = told()
        await stage.answer(picture(1))
        once = {name: value - alone[name] for name, value in told().items()}
        await stage.begin(version="stretched")
        before = told()
        await stage.answer(picture(1))
        assert stage.report().compared == 1
        counts = {
            name: value - before[name] for name, value in told().items() if "predicted" not in name
        }
        assert counts == {name: one for name, one in once.items() if "predicted" not in name}

    stage.play(story)


# --- who is a candidate ----------------------------------------------------------------------


def test_other_candidate_begins_anew_and_the_first_ones_memory_goes(stage: Stage) -> None:
    """One for each bundle; that of the other bundles stays."""
    models = stage.engine.prover.models

    def versions() -> list[str]:
        gc.collect()
        return sorted(one.manifest.version for one in models if one.manifest.name == "image")

    async def story() -> None:
        await stage.begin("volume")
        await stage.begin()
        await stage.answer(picture(1))
        assert versions() == ["1", "2"]
        await stage.begin(version="reversed")
        assert stage.report().compared == 0
        await stage.answer(picture(1))
        await asyncio.sleep(0)
        assert versions() == ["1", "reversed"]
        report = stage.report()
        assert (report.candidate, report.compared) == ("reversed", 1)
        ended = await stage.engine.rollout.end_shadow("image")
        assert (ended.state, ended.reason) == ("ended", "an operator ended it")
        await stage.answer(picture(1))
        assert stage.report() == ended
        assert versions() == ["1"]
        assert stage.report("volume").state == "running"
        status, *_ = await stage.engine.rollout.statuses()
        assert (status.name, status.shadow, status.draining) == ("image", None, ())

    stage.play(story)


def test_status_names_the_shadow_apart_from_what_drains(stage: Stage) -> None:
    """Nobody has to wait for it to end; its version stays in the folder."""

    async def story() -> None:
        await stage.begin()
        status, *_ = await stage.engine.rollout.statuses()
        assert (status.loaded, status.shadow, status.draining) == ("1", "2", ())
        with pytest.raises(VersionInUse, match="version 2 sees copies"):
            await stage.engine.rollout.retire("image", "2")

    stage.play(story)


def test_promotion_ends_the_shadow(stage: Stage) -> None:
    """What was found is told on; the version that answers then has no candidate."""

    async def story() -> None:
        await stage.begin()
        await stage.answer(picture(1))
        await stage.engine.rollout.load("image", "2")
        try:
            report = stage.report()
            assert (report.state, report.compared) == ("ended", 1)
            assert report.reason == "version 2 answers since then"
            await stage.answer(picture(1))
            assert stage.report() == report
        finally:
            await stage.engine.rollout.load("image", "1")

    stage.play(story)


def test_who_cannot_be_a_candidate_is_told_why(stage: Stage) -> None:
    """And whoever is one goes on."""

    async def story() -> None:
        await stage.begin("volume")
        with pytest.raises(NoShadow):
            stage.engine.shadows.report("nobody")
        await stage.begin()
        for version, kind, told in (
            ("1", VersionInUse, "version 1 answers"),
            ("9", UnknownVersion, "there is no version '9'"),
            ("damaged", CandidateRefused, "weights.bin"),
            ("features", NoLabels, "labels of both versions are compared"),
        ):
            with pytest.raises(kind, match=told):
                await stage.begin(version=version)
        await stage.answer(picture(1))
        assert (stage.report().candidate, stage.report().compared) == ("2", 1)

    stage.play(story)


def test_faster_candidate_does_not_make_the_others_long_work(stage: Stage) -> None:
    """Rows that are short beside all that is asked for have a lane of their own, as before."""
    (station,) = stage.engine.devices.stations
    (target,) = stage.choose().targets.values()

    async def story() -> None:
        await stage.begin()
        candidate = next(iter(station.beside))
        queue = station._queues[target.key]
        slow = dataclasses.replace(queue)
        slow.costs = SimpleNamespace(row=1e3)  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            for key in station._queues.keys() - station.beside:
                patch.setitem(station._queues, key, slow)
            assert station._queues[candidate].costs.row < 1
            assert station._is_short(slow)

    stage.play(story)
    assert not station.beside


# --- what is told ----------------------------------------------------------------------------


def test_intervals_are_wilsons_and_those_of_a_mean() -> None:
    """A share of all, or of nothing, has an end where it is; known values of the others."""
    assert Interval.of_share(0, 0) is None
    for count, of, low, high in ((8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)):
        found = Interval.of_share(count, of)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
        assert found.low <= found.value == count / of <= found.high
    values = np.array([0.1, 0.2, 0.4, 0.5])
    mean = Interval.of_mean(values.sum(), (values**2).sum(), len(values))
    half = 1.96 * values.std(ddof=1) / 2
    assert mean is not None
    assert (mean.low, mean.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-4)
    assert Interval.of_mean(0.5, 0.25, 1) is None


def test_labels_are_compared_by_their_text() -> None:
    """Other places are no difference, a label that one version lacks is one."""
    apart = Distance(("cat", "dog"), ("bird", "dog", "cat"))
    assert apart.between(np.array([0.7, 0.3]), np.array([0.2, 0.3, 0.5])) == pytest.approx(0.2)
    assert apart.between(np.array([0.4, 0.6]), np.array([0.8, 0.2, 0.0])) == pytest.approx(0.8)
    same = Distance(LABELS, LABELS)
    assert same.between(np.full(5, 0.2), np.array([0.2, 0.1, 0.3, 0.2, 0.2])) == pytest.approx(0.1)


def test_report_tells_means_and_labels_by_how_often_they_come() -> None:
    """Of both versions, and the pairs where they differ."""
    tally = Agreement("a", "2", 1.0)
    for first, apart, sureness in (
        (("cat", "cat"), 0.2, (0.7, 0.5)),
        (("dog", "bird"), 0.8, (0.6, 0.8)),
        (("cat", "bird"), 0.2, (0.5, 0.5)),
        (("cat", "bird"), 0.2, (0.6, 0.6)),
    ):
        tally.compare(first, apart, sureness, (0.01, 0.02))
    report = ShadowReport.of(tally, answering="1", ended=None, began=0.0, waiting=0)
    assert (report.compared, report.agreed, report.largest_difference) == (4, 1, 0.8)
    assert report.difference is not None
    assert report.difference.value == pytest.approx(0.35)
    for told, mine, theirs in ((report.confidence, 0.6, 0.6), (report.lane_ms, 10, 20)):
        assert told is not None
        assert (told.answering, told.candidate) == pytest.approx((mine, theirs))
    labels = [(one.label, one.answering, one.candidate) for one in report.labels]
    assert labels == [("cat", 3, 1), ("bird", 0, 3), ("dog", 1, 0)]
    agreements = [one.agreement and one.agreement.value for one in report.labels]
    assert agreements == [pytest.approx(1 / 3), None, 0.0]
    pairs = [(one.answering, one.candidate, one.items) for one in report.differed]
    assert pairs == [("cat", "bird", 2), ("dog", "bird", 1)]


def test_pairs_of_labels_are_bounded() -> None:
    """Of many labels the pairs that came first are told; all are counted."""
    tally, pairs = Agreement("a", "2", 1.0), MOST_PAIRS + 50
    for _ in range(2):
        for place in range(pairs):
            tally.compare(("a", f"b{place}"), 0.5, (0.5, 0.5), (0.0, 0.0))
    assert (len(tally.pairs), tally.pairs.total()) == (MOST_PAIRS, 2 * MOST_PAIRS)
    assert tally.outcomes == {"agreed": 0, "differed": 2 * pairs, "shed": 0, "failed": 0}
