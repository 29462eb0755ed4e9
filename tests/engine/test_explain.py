"""Where the model looked: what hiding each part of a file takes from its answer, and what it costs.

The networks are linear and read a few values alone, so what an explanation must say is known.
"""

from __future__ import annotations

import asyncio
import io
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from media import read
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from service.engine.device.session import DeviceName, Session, Stop, open_session
from service.engine.engine import Engine
from service.engine.explain import occlusion
from service.engine.explain.explanation import Explain, Occlusion
from service.engine.explain.masks import MOST_MASKS, MOST_ROWS, Masks
from service.engine.explain.png import resize, sampled
from service.engine.failures import (
    BadParameter,
    ExplanationTooLong,
    Failure,
    InferenceFailed,
    Overloaded,
    UnsupportedMedia,
)
from service.engine.job import Job, Outcome, softmax
from service.engine.model import Choice, Target
from service.engine.pipeline import DRAW_SECONDS
from service.engine.schedule import BATCH, CPU, DEVICE, Charge
from service.settings import make_settings
from tests.helpers import service_fixtures as fixtures
from tests.helpers.scan_files import nifti
from tests.helpers.service_fixtures import LABELS, Tiny

#: No two sides are alike; every grid has 288 values.
INPUTS = {
    "image": Tiny(InputSpec(), (1, 2), ("8x6", "12x4")),
    "video": Tiny(InputSpec("video", video=VideoSpec(views=2)), (1, 2, 3), ("4x1x4", "16x1x1")),
    "volume": Tiny(
        InputSpec(
            "volume", 1, "float32", "stretch", mean=(0.5,), std=(0.5,),
            volume=VolumeSpec(window=(0.0, 510.0)),
        ),
        (2, 2, 2),
        ("2x3x6", "3x4x3"),
    ),
}  # fmt: skip
#: Of the first grids, the edges of the cells in pixels of the input, said once more by hand. Axes
#: of few patches are cut between pixels; three axes have few masks.
EDGES = {
    "image": (tuple(range(9)), (0, 2, 4, 6, 8, 10, 12)),
    "video": ((0, 1, 2, 3, 4), (0, 1, 2), (0, 3, 6, 9, 12)),
    "volume": ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 6), (0, 2, 6, 8, 12)),
}
#: The cell that a network of the first grid reads alone.
PLACES = {"image": (7, 4), "video": (3, 1, 2), "volume": (2, 0, 1)}
#: Grey that a mask leaves as it is.
NEUTRAL = {"image": 128, "video": 128, "volume": 255}
ALL, ONE = "all", "one"


def weights_of(kind: str, modality: str) -> np.ndarray:
    """float32 [288, 5]: of all values, or of those in one cell, the second label has so much."""
    (grid, _), patch = INPUTS[modality].grids, INPUTS[modality].patch
    read_alone = np.zeros((*Grid.parse(grid).pixels(patch), INPUTS[modality].input.channels))
    cells = zip(EDGES[modality], PLACES[modality], strict=True)
    where = tuple(slice(edges[cell], edges[cell + 1]) for edges, cell in cells)
    read_alone[... if kind == ALL else where] = 0.02 if kind == ALL else 0.2
    made = np.random.default_rng(3).normal(0, 0.01 if kind == ALL else 0, (288, len(LABELS)))
    made[:, 1] += read_alone.ravel()
    return made.astype("<f4")


class Held(list[np.ndarray]):
    """Every batch that was run, and permits to run one."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)
        self.is_open = True


HELD, FAILS = Held(), threading.Event()


class Stepped:
    """A session that runs a batch once it may."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.device = session.device

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        HELD.append(pixels.copy())
        while not (HELD.is_open or HELD.permits.acquire(timeout=0.01)):
            pass
        if FAILS.is_set() and (pixels[:, 0, 0] == 128).all(axis=1).any():
            raise RuntimeError("poisoned")
        return self._session.run(pixels, stop)


def open_stepped(graph: Path, device: DeviceName, threads: int) -> Session:
    return Stepped(open_session(graph, device, threads))


@dataclass
class Stage:
    """An engine with one lane, and a loop to play stories in."""

    engine: Engine
    runner: asyncio.Runner

    def play(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A story, after which nothing is inside."""
        HELD.clear()
        self.runner.run(asyncio.wait_for(story(), 30))
        assert self.is_empty()

    def is_empty(self) -> bool:
        held = self.engine.pipeline._explainer.room
        waits = [self.engine.backlog.wait(kind) for kind in (*INPUTS, BATCH)]
        return (waits, held.files, held.bytes, self.engine.devices.depth) == ([0.0] * 4, 0, 0, 0)

    def choose(self, name: str, grid: str | None = None) -> Choice:
        """``ONE image``: what reads one cell of images."""
        return self.engine.catalog.select(name.split()[1], name.replace(" ", "-"), grid)

    def outcome(self, media: Any, name: str, grid: str | None = None, **asked: Any) -> Outcome:
        job = Job(media, self.choose(name, grid), explain=Explain(**asked))
        outcome = self.runner.run(self.engine.submit(job))
        assert self.is_empty()
        return outcome

    def explain(self, media: Any, name: str, grid: str | None = None, **asked: Any) -> Occlusion:
        explanation = self.outcome(media, name, grid, **asked).explanation
        assert isinstance(explanation, Occlusion)
        return explanation


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for all tests: each leaves it empty."""
    root = tmp_path_factory.mktemp("bundles")
    folders = []
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        for modality, tiny in INPUTS.items():
            patch.setitem(fixtures.TINY, modality, tiny)
            for kind in (ONE, ALL):
                made = weights_of(kind, modality)
                patch.setattr(fixtures, "weights", lambda made=made: made)
                name = f"{kind}-{modality}"
                folders.append(fixtures.write_tiny_bundle(root, name, modality))
        settings = make_settings(bundles=root, decode_workers=1, lanes=1, threads=1)
        engine = Engine(settings, open_stepped)
        runner.run(engine.start(folders))
        try:
            yield Stage(engine, runner)
        finally:
            runner.run(engine.close())


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Runs end one by one, as permits are released, and of an explanation two rows are inside."""
    monkeypatch.setattr(occlusion, "ROW_BYTES", 1)
    HELD.permits = threading.Semaphore(0)
    HELD.is_open = False
    yield HELD
    HELD.is_open = True


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.001)


# --- media -----------------------------------------------------------------------------------


def png(upright: np.ndarray, turn: int = 1) -> bytes:
    """uint8 [h, w], stored so that an EXIF orientation turns it upright."""
    stored = {1: upright, 6: upright.T[::-1], 3: upright[::-1, ::-1], 5: upright.T}[turn]
    exif, encoded = Image.Exif(), io.BytesIO()
    exif[274] = turn
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(encoded, "PNG", exif=exif)
    return encoded.getvalue()


def gif(frames: np.ndarray) -> bytes:
    """uint8 [time, h, w], half a second each."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    encoded = io.BytesIO()
    first.save(encoded, "GIF", save_all=True, append_images=others, duration=500)
    return encoded.getvalue()


def plain(modality: str, value: int = 250) -> bytes:
    """A file that is the same everywhere, but for what keeps frames of a GIF apart."""
    if modality == "image":
        return png(np.full((64, 120), value, np.uint8))
    if modality == "video":
        frames = np.full((8, 30, 50), value, np.uint8)
        frames[:, 0, 0] = range(8)  # outside of what is seen
        return gif(frames)
    return nifti(np.full((24, 12, 8), value, np.int16), np.diag([-0.75, -1.0, 4.0, 1.0]))


# --- what it says ----------------------------------------------------------------------------


def reference(media: bytes, modality: str, grid: str, index: int, kind: str) -> np.ndarray:
    """The map, slowly: [views, *cells]. Of every cell, the mean over the two blocks of two cells
    along each axis that hide it: one begins at even cells, the other at odd ones, which may lie
    before the first.
    """
    tiny, weights = INPUTS[modality], weights_of(kind, modality).astype(np.float64)
    pixels = read(media, tiny.input, Grid.parse(grid), tiny.patch).pixels.astype(np.float64)
    grey = 127.5 if tiny.input.dtype == "float32" else 128.0

    def odds(views: np.ndarray) -> float:
        all_of_them = softmax((views.reshape(len(views), -1) / 255 @ weights).mean(axis=0))
        return math.log(all_of_them[index] / np.delete(all_of_them, index).sum())

    edges = EDGES[modality]
    counts = [len(one) - 1 for one in edges]
    values = np.zeros((len(pixels), *counts))
    for view in range(len(pixels)):
        for cell in product(*map(range, counts)):
            drops = []
            for odd in (0, 1):
                first = [one - (one + odd) % 2 for one in cell]
                hidden = pixels.copy()
                where = tuple(
                    slice(one[max(start, 0)], one[min(start + 2, len(one) - 1)])
                    for one, start in zip(edges, first, strict=True)
                )
                hidden[view][where] = grey
                drops.append(odds(pixels) - odds(hidden))
            values[(view, *cell)] = np.mean(drops)
    return values if modality == "video" else values[0]


@pytest.mark.parametrize("kind", [ONE, ALL])
@pytest.mark.parametrize("modality", INPUTS)
def test_map_is_that_of_a_slow_reference(stage: Stage, modality: str, kind: str) -> None:
    """Masks overlap, and of a clip each view is hidden for itself; the answer is what it is
    without.
    """
    (grid, _), media = INPUTS[modality].grids, fixtures.MEDIA[modality](5)
    choice = stage.choose(f"{kind} {modality}")
    outcome = stage.outcome(media, f"{kind} {modality}")
    found = outcome.explanation
    assert isinstance(found, Occlusion)
    alone = stage.runner.run(stage.engine.submit(Job(media, choice)))
    assert outcome.predictions == alone.predictions
    assert (found.label, found.index) == (LABELS[found.index], alone.predictions[0]["index"])
    expected = reference(media, modality, grid, found.index, kind)
    np.testing.assert_allclose(found.map.values, expected, atol=2e-4)
    logits = read(
        media, INPUTS[modality].input, Grid.parse(grid), INPUTS[modality].patch
    ).pixels.reshape(-1, 288) / 255 @ weights_of(kind, modality)  # fmt: skip
    probability = softmax(logits.mean(axis=0))[found.index]
    assert found.log_odds == pytest.approx(math.log(probability / (1 - probability)), abs=1e-3)


@pytest.mark.parametrize("modality", INPUTS)
def test_only_what_the_network_reads_is_the_maximum(stage: Stage, modality: str) -> None:
    """Hiding anything else changes less than hiding that, wherever it lies."""
    media = plain(modality, 400 if modality == "volume" else 250)
    found = stage.explain(media, f"{ONE} {modality}")
    values = found.map.values.max(axis=0) if modality == "video" else found.map.values
    best = np.argwhere(np.isclose(values, values.max(), rtol=1e-3))
    assert best.tolist() == [list(PLACES[modality])]
    assert values.max() > 0


@pytest.mark.parametrize("turn", [1, 3, 5, 6])
@pytest.mark.parametrize("size", [(64, 120), (600, 500)])
def test_map_of_an_image_is_told_in_the_upright_original(
    stage: Stage, turn: int, size: tuple[int, int]
) -> None:
    """A mark in a turned, cropped picture is found where it lies when one looks at it."""
    height, width = size
    across, down = (96, 64) if size == (64, 120) else (500, 1000 / 3)  # of the crop: 3 to 2
    left, top = (width - across) / 2, (height - down) / 2
    cells = np.array([[top, down / 8], [left, across / 6]])  # begin, and size of one
    where = [[begin + step * cell, begin + step * (cell + 1)]
             for (begin, step), cell in zip(cells, (6, 1), strict=True)]  # fmt: skip
    picture = np.full(size, NEUTRAL["image"], np.uint8)
    (above, below), (before, behind) = [[round(edge) for edge in side] for side in where]
    picture[above:below, before:behind] = 255
    document = stage.explain(png(picture, turn), f"{ALL} image", label=1).document()
    peak = document["peak"]
    assert peak["index"] == [6, 1]
    assert peak["where"]["height"] == pytest.approx(where[0], abs=1e-3)
    assert peak["where"]["width"] == pytest.approx(where[1], abs=1e-3)
    assert [(axis["name"], axis["unit"]) for axis in document["axes"]] == [
        ("height", "px"), ("width", "px"),
    ]  # fmt: skip


def test_map_of_a_clip_is_told_in_its_seconds(stage: Stage) -> None:
    """A flash is found when it is shown, in the view that sees it, and where on its frames."""
    frames = np.full((8, 30, 60), NEUTRAL["video"], np.uint8)
    frames[:, 0, 0] = range(8)  # outside of what is seen, rows 10 to 20
    frames[5, 10:15, 30:45] = 255
    document = stage.explain(gif(frames), f"{ALL} video", label=1).document()
    time_axis, *_ = document["axes"]
    # Of 4 seconds: two views, each of which sees four frames, the first every other one.
    assert time_axis["cells"] == [
        [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]],
        [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5], [3.5, 3.5]],
    ]
    assert document["peak"]["index"] == [1, 2, 0, 2]
    assert document["peak"]["where"] == {"time": [2.5, 2.5], "height": [10, 15], "width": [30, 45]}
    assert np.array(document["values"]).shape == (2, 4, 2, 4)
    assert np.abs(document["values"][0]).max() < 0.1 * document["peak"]["value"]


@pytest.mark.parametrize("spaced", [True, False])
def test_map_of_a_scan_is_told_in_millimetres(stage: Stage, spaced: bool) -> None:
    """However it is stored, a mark is found in the one orientation, from its first voxel on; where
    the file tells no spacing, in voxels.
    """
    spl = np.full((8, 12, 24), NEUTRAL["volume"], np.int16)  # to the head, the back, the left
    spl[4:6, 8:12, 4:12] = 510
    document = stage.explain(
        nifti(spl.transpose(2, 1, 0)[::-1], np.diag([0.75, -1.0, 4.0, 1.0])) if spaced
        else npy(spl), f"{ALL} volume", label=1,
    ).document()  # fmt: skip
    peak = document["peak"]
    assert peak["index"] == [2, 4, 1]
    expected = {"depth": [16, 24], "height": [8, 12], "width": [3, 9]} if spaced else {
        "depth": [4, 6], "height": [8, 12], "width": [4, 12],
    }  # fmt: skip
    assert peak["where"] == expected
    assert {axis["unit"] for axis in document["axes"]} == {"mm" if spaced else "voxel"}


def npy(voxels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    np.save(encoded, voxels)
    return encoded.getvalue()


@pytest.mark.parametrize("shape", [(40, 33), (14, 9), (21, 11)])
def test_quick_pictures_are_those_of_the_others_where_they_grow(shape: tuple[int, int]) -> None:
    """Linear between pixels, without a product of matrices."""
    picture = np.random.default_rng(1).random((14, 9))
    np.testing.assert_allclose(sampled(picture, *shape), resize(picture, *shape), atol=1e-6)


@pytest.mark.parametrize("modality", INPUTS)
def test_pixels_that_came_prepared_are_explained_in_their_own(stage: Stage, modality: str) -> None:
    """They have no place in a file; the map is that of the file they are of."""
    (grid, _), media = INPUTS[modality].grids, fixtures.MEDIA[modality](5)
    pixels = read(media, INPUTS[modality].input, Grid.parse(grid), INPUTS[modality].patch).pixels
    found = stage.explain(pixels, f"{ALL} {modality}", grid)
    of_file = stage.explain(media, f"{ALL} {modality}", grid)
    np.testing.assert_allclose(found.map.values, of_file.map.values, atol=1e-4)
    assert {axis.unit for axis in found.map.axes} == {"input px"}
    last = found.map.axes[-1].cells
    assert (last[0][0], last[-1][1]) == (0, pixels.shape[-2])


def test_label_may_be_another_than_the_first(stage: Stage) -> None:
    """What speaks for one of two labels speaks against the other."""
    media = plain("image")
    first, other = (stage.explain(media, f"{ONE} image", label=label) for label in (1, 4))
    assert (first.label, other.label) == (LABELS[1], LABELS[4])
    assert first.map.values.max() > 0 > other.map.values.min()
    assert np.argmax(first.map.values) == np.argmin(other.map.values)
    with pytest.raises(BadParameter, match="explain: expected a label below 5, got 5"):
        stage.explain(media, f"{ONE} image", label=5)
    with pytest.raises(BadParameter, match="explain: expected occlusion, attention; got 'guess'"):
        stage.explain(media, f"{ONE} image", method="guess")
    with pytest.raises(BadParameter, match="explain: a label is explained by occlusion alone"):
        stage.explain(media, f"{ONE} image", label=1, method="attention")
    with pytest.raises(BadParameter, match="explain: of an answer, .*got want=embedding"):
        Job(media, stage.choose(f"{ONE} image"), "embedding", explain=Explain())


def test_grid_of_a_file_is_explained(stage: Stage) -> None:
    """Where its own size takes one of several."""
    tall = png(np.full((100, 60), 200, np.uint8))
    outcome = stage.outcome(tall, f"{ALL} image", "auto")
    assert outcome.explanation is not None
    assert (outcome.target.grid, outcome.explanation.map.values.shape) == ("12x4", (6, 8))


# --- how many --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "grid", "patch", "views", "cells"),
    [
        ("image", "14x14", 16, 1, (7, 7)),
        ("image", "8x8", 4, 1, (8, 8)),
        ("image", "2x5", 16, 1, (8, 8)),
        ("image", "24x37", 16, 1, (8, 8)),
        ("image", "6x6", 16, 1, (6, 6)),
        ("image", "9x10", 16, 1, (6, 6)),
        ("image", "1x1", 3, 1, (3, 3)),
        ("video", "8x14x14", 2, 1, (5, 4, 4)),
        ("video", "4x4x4", 2, 4, (4, 4, 4)),
        ("video", "8x7x9", 2, 8, (4, 3, 3)),
        ("volume", "4x4x4", 8, 1, (4, 4, 4)),
        ("volume", "32x32x32", 8, 1, (5, 4, 4)),
        ("volume", "20x1x2", 1, 1, (7, 1, 2)),
    ],
)
def test_masks_follow_the_patches_and_are_bounded(
    stage: Stage, modality: str, grid: str, patch: int, views: int, cells: tuple[int, ...]
) -> None:
    """An image of usual grids has 25 at least; nothing has more than are documented."""
    sides = (patch,) * len(cells)
    pixels = Grid.parse(grid).pixels(sides)
    asked = SimpleNamespace(views=views, pixels=pixels, manifest=SimpleNamespace(patch=sides))
    masks = Masks.of(cast(Target, asked))
    assert masks.cells == cells
    expected = math.prod(-(-count // 2) for count in cells)
    expected += math.prod(count // 2 + 1 for count in cells)
    assert len(masks) == len(list(masks)) == expected <= MOST_MASKS
    hidden = np.zeros(cells, int)
    for mask in masks:
        hidden[tuple(slice(*span) for span in mask)] += 1
    assert (hidden == 2).all()
    assert views * len(masks) <= MOST_ROWS
    if modality == "image" and grid != "1x1":
        assert len(masks) >= 25
    for edges, side in zip(masks.edges, pixels, strict=True):
        assert (edges[0], edges[-1]) == (0, side)
        assert (np.diff(edges) > 0).all()
        if side // patch >= 6:
            assert all(edge % patch == 0 for edge in edges)


@pytest.mark.parametrize("patch", [1, 2, 16])
def test_image_has_25_masks_at_least(patch: int) -> None:
    """However many patches it has along each side; of one under 6 pixels every pixel is a cell."""
    for height, width in product(range(2, 65), repeat=2):
        pixels = (height * patch, width * patch)
        asked = SimpleNamespace(
            views=1, pixels=pixels, manifest=SimpleNamespace(patch=(patch, patch))
        )
        masks = Masks.of(cast(Target, asked))
        if min(pixels) >= 6:
            assert 25 <= len(masks) <= MOST_MASKS, (height, width)
        for side, cells in zip(pixels, masks.cells, strict=True):
            assert cells == side if side < 6 else cells >= 6, (height, width)


# --- what it costs ---------------------------------------------------------------------------


def test_price_is_that_of_all_rows(stage: Stage) -> None:
    """Of the item and its masked rows, as batch work; without an explanation there is none."""
    choice, masks = stage.choose(f"{ALL} video"), 2 * 1 * 2 + 3 * 2 * 3  # of each of two views
    (target,) = choice.targets.values()
    work = stage.engine.pipeline.predict(Job(plain("video"), choice, explain=Explain()))
    row = stage.engine.devices.row_seconds(target.key)
    assert work.kind == BATCH
    assert work.parts["run"][DEVICE] == pytest.approx(2 * row)
    assert work.parts["explain"][DEVICE] == pytest.approx(2 * masks * row)
    plainly = stage.engine.pipeline.predict(Job(plain("video"), choice))
    assert (plainly.kind, "explain" in plainly.parts) == ("video", False)
    assert work.own >= plainly.own + 2 * masks * row
    assert work.parts["answer"][CPU] - plainly.parts["answer"][CPU] == pytest.approx(
        DRAW_SECONDS
    )


def test_explanation_that_cannot_be_in_time_says_how_long_it_takes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is decoded; of all files of a request together."""
    choice = stage.choose(f"{ALL} image")
    (target,) = choice.targets.values()
    costs = stage.engine.devices.stations[0].costs(target.key)
    monkeypatch.setattr(costs, "row", 1.0)

    def job(seconds: float) -> Job:
        due = time.monotonic() + seconds
        return Job(plain("image"), choice, deadline=due, explain=Explain())

    async def story() -> None:
        with pytest.raises(ExplanationTooLong, match=r"take about 32\.0 seconds here, .* in 20\."):
            await stage.engine.submit(job(20))
        with pytest.raises(ExplanationTooLong, match=r"take about 64\.0 seconds here"):
            await stage.engine.submit_each([job(50), job(50)])
        assert list(HELD) == []

    stage.play(story)


def test_explanation_waits_behind_others_and_passes_jobs(stage: Stage) -> None:
    """What has a deadline goes before what has none; interactive work before both counts."""
    job = Job(
        plain("image"), stage.choose(f"{ALL} image"), deadline=time.monotonic() + 20,
        explain=Explain(),
    )  # fmt: skip
    backlog = stage.engine.backlog

    async def story() -> None:
        for kind, deadline, enters in (
            (BATCH, math.inf, True), (BATCH, -math.inf, False), ("video", math.inf, False),
        ):  # fmt: skip
            inside = Charge(kind, deadline, {"run": {DEVICE: 500.0 if enters else 25.0}})
            beside = Charge(BATCH, math.inf, {})  # an idle engine refuses nothing by a guess
            backlog.charge(inside)
            backlog.charge(beside)
            try:
                if enters:
                    assert (await stage.engine.submit(job)).explanation
                else:
                    with pytest.raises(Overloaded, match="could not be answered within its time"):
                        await stage.engine.submit(job)
            finally:
                backlog.leave(inside)
                backlog.leave(beside)

    stage.play(story)


def test_interactive_work_goes_first(stage: Stage, held: Held) -> None:
    """An image that comes in the middle of an explanation is the next to run."""
    choice = stage.choose(f"{ALL} image")
    (target,) = choice.targets.values()
    pixels = np.full((1, *target.shape[1:]), 77, np.uint8)

    async def story() -> None:
        explaining = asyncio.create_task(
            stage.engine.submit(Job(plain("image"), choice, explain=Explain()))
        )
        held.permits.release(3)
        await until(lambda: len(held) == 4)
        await asyncio.sleep(0.02)  # all masked rows that may wait do so
        before = stage.engine.devices.depth
        asking = asyncio.create_task(stage.engine.submit(Job(pixels, choice)))
        await until(lambda: stage.engine.devices.depth == before + 1)
        held.permits.release(1)
        await until(lambda: len(held) == 5)
        np.testing.assert_array_equal(held[4], pixels)
        held.permits.release(1)
        assert (await asking).predictions
        assert not explaining.done()
        held.is_open = True
        assert (await explaining).explanation

    stage.play(story)


def test_who_leaves_ends_the_rest(stage: Stage, held: Held) -> None:
    """Not one masked row is run after that, and nothing of it is kept."""
    job = Job(plain("video"), stage.choose(f"{ALL} video"), explain=Explain())

    async def story() -> None:
        explaining = asyncio.create_task(stage.engine.submit(job))
        held.permits.release(4)
        await until(lambda: len(held) == 5)
        explaining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await explaining
        assert stage.is_empty()
        held.is_open = True
        await asyncio.sleep(0.05)
        assert len(held) == 5

    stage.play(story)


def test_rows_are_made_as_they_are_needed(
    stage: Stage, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many masks there are, as many rows wait as fit into memory; and so of items."""
    monkeypatch.setattr(stage.engine.pipeline._explainer.room, "max_files", 1)
    job = Job(plain("volume"), stage.choose(f"{ALL} volume"), explain=Explain())

    async def story() -> None:
        explaining = [asyncio.create_task(stage.engine.submit(job)) for _ in range(2)]
        held.permits.release(5)
        await until(lambda: len(held) == 6)
        await asyncio.sleep(0.05)
        assert stage.engine.devices.depth <= 1  # beside the row that runs
        assert stage.engine.backlog.inside[BATCH] == 2
        held.is_open = True
        outcomes = await asyncio.gather(*explaining)
        one, other = (outcome.explanation for outcome in outcomes)
        assert one is not None and other is not None
        np.testing.assert_array_equal(one.map.values, other.map.values)

    stage.play(story)


def test_files_are_explained_or_fail_each_for_itself(stage: Stage) -> None:
    """One that is no picture, one that is, and one whose masked rows the graph fails on."""
    choice = stage.choose(f"{ALL} image")
    jobs = [Job(media, choice, explain=Explain()) for media in (b"text", plain("image"))]

    async def story() -> None:
        broken, answered = await stage.engine.submit_each(jobs)
        assert isinstance(broken, UnsupportedMedia)
        assert isinstance(answered, Outcome)
        assert answered.explanation
        FAILS.set()
        try:
            (failed,) = await stage.engine.submit_each(jobs[1:])
        finally:
            FAILS.clear()
        assert isinstance(failed, Failure)
        assert isinstance(failed, InferenceFailed)

    stage.play(story)
