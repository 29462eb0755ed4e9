"""A worker that chooses the grid: its pixels are right, and nothing it says is taken on trust."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from media import read_fitting
from media.spec import Grid
from service.engine.costs import RunCosts
from service.engine.decode.pool import DecodePool
from service.engine.decode.wire import Preparation
from service.engine.failures import BadParameter, BrokenMedia, UnknownGrid
from service.engine.job import Job
from service.engine.model import Choice
from service.engine.parameters import choose
from service.engine.pipeline import ANSWER_SECONDS
from service.engine.schedule import CPU, DEVICE
from tests.helpers.service_fixtures import (
    MEDIA,
    TINY,
    RunningServer,
    TinySession,
    clip,
    picture,
    scan,
    serving,
    wait_until,
    write_tiny_bundle,
)


def asked(modality: str, *grids: str) -> Preparation:
    """What is asked for of a file that may get any of some grids."""
    tiny, views = TINY[modality], TINY[modality].input.views
    return Preparation.make(tiny.input, [Grid.parse(one) for one in grids], tiny.patch, views, 5)


def run(
    story: Callable[[DecodePool], Coroutine[Any, Any, None]],
    modality: str = "image",
    script: str | None = None,
) -> None:
    """Play a story with one worker, a real one or a script."""
    command: dict[str, Any] = {} if script is None else {"command": (sys.executable, "-c", script)}

    async def play() -> None:
        pool = DecodePool(1, **command)
        await pool.start([modality])
        try:
            await asyncio.wait_for(story(pool), 30)
        finally:
            await pool.close()

    asyncio.run(play())


#: Files of two sizes, and the tiny grid that each of them gets.
FILES: dict[str, list[tuple[bytes, str]]] = {
    "image": [(picture(1, (31, 23)), "2x3"), (picture(1, (9, 23)), "3x2")],
    "video": [(clip(1, 10), "4x1x4"), (clip(1, 16, (8, 17)), "16x1x1")],
    "volume": [(scan(1, (9, 11, 14)), "3x4x3"), (scan(1, (5, 6, 12)), "2x3x6")],
}


@pytest.mark.parametrize("modality", TINY)
def test_worker_says_which_grid_a_file_got(modality: str) -> None:
    """That is the grid of ``media.read_fitting``, with its pixels."""
    tiny = TINY[modality]
    grids = [Grid.parse(one) for one in tiny.grids]

    async def story(pool: DecodePool) -> None:
        for file, grid in FILES[modality]:
            expected, fits = read_fitting(file, tiny.input, grids, tiny.patch)
            decoded = await pool.prepare(asked(modality, *tiny.grids), file)
            assert decoded.grid == str(fits) == grid
            np.testing.assert_allclose(decoded.pixels, expected.pixels, rtol=1e-6)
            assert decoded.evidence == expected.evidence

    run(story, modality)


#: It says of every item what the item says: a grid and a number of bytes, apart by a blank.
LIAR = """
import json, sys
from service.engine.decode.wire import LENGTHS, head
source, sink = open(0, "rb"), open(1, "wb")
def send(reply, body=b""):
    sink.write(head(json.dumps(reply).encode(), len(body)) + body); sink.flush()
send({"status": "hello"})
while lengths := source.read(LENGTHS.size):
    header, body = LENGTHS.unpack(lengths)
    source.read(header)
    grid, size = source.read(body).split()
    send({"status": "ok", "grid": json.loads(grid), "seen": {}}, bytes(int(size)))
"""
SMALL, LARGE = 288, 1152  # bytes of the pixels of 2x3 and of 4x6
#: What it says, and how many bytes come with it; of the last one it has to be killed.
LIES = [
    ('"9x9"', SMALL),
    ('"2x3"', LARGE),
    ('"4x6"', SMALL),
    ('"4x6"', 0),
    ('["2x3"]', SMALL),
    ("0", SMALL),
    ("null", SMALL),
    ('"auto"', LARGE),
    ('"2x3"', SMALL + 1),
]


def test_grid_that_was_not_asked_for_or_not_sent_breaks_one_file() -> None:
    """The name must be a candidate's and the bytes those of that one; the next file is answered."""

    async def story(pool: DecodePool) -> None:
        asking = asked("image", "2x3", "4x6")
        for grid, size in LIES:
            with pytest.raises(BrokenMedia):
                await pool.prepare(asking, f"{grid} {size}".encode())
            for good, pixels, length in (("2x3", (8, 12), SMALL), ("4x6", (16, 24), LARGE)):
                decoded = await pool.prepare(asking, f'"{good}" {length}'.encode())
                assert (decoded.grid, decoded.pixels.shape) == (good, (1, *pixels, 3))

    run(story, script=LIAR)


# --- who may answer, and what it costs -------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of every modality."""
    root: Path = tmp_path_factory.mktemp("bundles")
    for modality in TINY:
        write_tiny_bundle(root, modality, modality)
    with serving(root) as running:
        yield running


@pytest.mark.parametrize("modality", TINY)
def test_auto_is_every_grid_and_a_name_is_one(server: RunningServer, modality: str) -> None:
    """Without a word it is the first, as ever."""
    grids = TINY[modality].grids

    def chosen(**parameters: str) -> Choice:
        return choose(server.engine, modality, parameters)[0]

    assert (chosen(grid="auto").grid, tuple(chosen(grid="auto").targets)) == ("auto", grids)
    for grid in grids:
        assert (chosen(grid=grid).grid, list(chosen(grid=grid).targets)) == (grid, [grid])
    assert list(chosen().targets) == [grids[0]]
    with pytest.raises(UnknownGrid, match=f"known: {', '.join(grids)}, auto$"):
        chosen(grid="AUTO")


def test_views_must_be_few_enough_for_every_grid(server: RunningServer) -> None:
    """16 frames of the second grid: 4 views at most, wherever the clip may go."""
    choice, _ = choose(server.engine, "video", {"grid": "auto", "views": "4"})
    assert [one.views for one in choice.targets.values()] == [4, 4]
    assert {shape[0] for shape in choice.preparation.shapes.values()} == {4}
    with pytest.raises(BadParameter, match="from 1 to 4 of 16 frames"):
        choose(server.engine, "video", {"grid": "auto", "views": "5"})


@pytest.mark.parametrize("modality", TINY)
def test_file_that_may_get_any_grid_is_charged_their_mean(
    server: RunningServer, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run alone: the file is the same whatever it gets."""
    engine, media = server.engine, MEDIA[modality]()
    costs = {grid: RunCosts() for grid in TINY[modality].grids}
    for place, one in enumerate(costs.values(), 1):
        one.learn(1, 0.01 * place)
    (station,) = engine.devices.stations
    monkeypatch.setattr(station, "costs", lambda key: costs[key[1]])

    def predicted(grid: str) -> Any:
        return engine.pipeline.predict(Job(media, choose(engine, modality, {"grid": grid})[0]))

    auto, single = predicted("auto"), [predicted(grid) for grid in TINY[modality].grids]
    runs = [one.parts["run"][CPU] for one in single]
    assert runs[0] != runs[1]  # else nothing was averaged
    assert auto.parts["run"][CPU] == pytest.approx(fmean(runs))
    assert auto.own == pytest.approx(fmean(one.own for one in single))
    for stage in ("decode", "answer"):
        assert auto.parts[stage] == single[0].parts[stage]


def test_charge_follows_the_grid_that_was_taken(tmp_path: Path) -> None:
    """Once decoded, an item stands before the others with the seconds of its own grid."""
    write_tiny_bundle(tmp_path)
    session = TinySession()
    with serving(tmp_path, lambda graph, device, threads: session) as held:
        engine = held.engine
        engine.backlog.rates[CPU] = engine.backlog.rates[DEVICE] = 1
        seconds = {"2x3": 10.0, "3x2": 30.0}
        engine.pipeline.run_seconds = lambda job, *targets: fmean(
            seconds[one.grid] for one in targets
        )
        session.gate.clear()
        runs = len(session.batches)
        file, grid = FILES["image"][1]
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(held.classify, content=file, params={"grid": "auto"})
            try:
                wait_until(lambda: engine.devices.depth or len(session.batches) > runs, "its run")
                inside = engine.backlog.wait("image")
            finally:
                session.gate.set()
            (result,) = asking.result().json()["results"]
    assert (result["grid"], grid) == ("3x2", "3x2")
    assert inside == pytest.approx(30.0 + ANSWER_SECONDS)
