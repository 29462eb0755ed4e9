"""The watch over device, decoders and loop: a golden tells rows that fail from a dead device."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.manifest import Golden, Tolerance
from service.engine import vitals as watch
from service.engine.costs import RunCosts
from service.engine.device import station as device
from service.engine.device.queues import Row
from service.engine.device.replay import Replay
from service.engine.device.session import Stop
from service.engine.device.station import DeviceStation
from service.engine.failures import InferenceFailed, NotReady
from service.engine.vitals import Vitals

GOLDEN, POISON, NOT_A_NUMBER = 7, 255, 254
SILENCE = 30.0  # seconds; nothing in a story is waited for so long


class Mortal:
    """Logits [value, -value] of a one-pixel input, until it dies or hangs."""

    device = "cpu"

    def __init__(self) -> None:
        self.dead = False
        self.wrong = False
        self.most = 100  # rows in a run
        self.goldens = 0  # that were run
        self.gate = threading.Event()
        self.gate.set()

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        self.goldens += int((pixels == GOLDEN).all())
        assert self.gate.wait(10)
        if self.dead or len(pixels) > self.most or (pixels == POISON).any():
            raise RuntimeError("CUDA error 700")
        values = pixels.astype(np.float32) + self.wrong  # [batch, 1]
        values[pixels == NOT_A_NUMBER] = np.nan
        return np.concatenate([values, -values], axis=1)  # [batch, 2]


@dataclass
class Scene:
    """A watched station with one queue, ``q``."""

    station: DeviceStation
    vitals: Vitals
    session: Mortal
    pool: SimpleNamespace
    golden: Replay
    deaths: list[str] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def submit(self, value: int) -> asyncio.Task[Row]:
        pixels = np.array([[value]], np.uint8)  # [views, 1]
        return asyncio.create_task(self.station.submit("q", pixels))


def play(
    story: Callable[[Scene], Coroutine[Any, Any, None]], probe_seconds: float = SILENCE
) -> None:
    """Play a story; what hangs is let go in the end."""

    async def run() -> None:
        with ThreadPoolExecutor(2) as executor:
            station, session = DeviceStation(executor, 8), Mortal()
            pool: Any = SimpleNamespace(ready=True)
            known = (Golden("golden/0.png", {"1": (GOLDEN, -GOLDEN)}),)
            pixels = np.full((1, 1, 1), GOLDEN, np.uint8)  # [goldens, views, 1]
            golden = Replay(session, pixels, known, "1", Tolerance("cpu", "fp32", 1e-4, 0), 8)
            golden.run()  # as when its bundle was examined
            session.goldens = 0
            deaths: list[str] = []
            lags: list[float] = []
            vitals = Vitals([station], pool, probe_seconds, lags.append, deaths.append)
            station.add_queue("q", session, "image", RunCosts(), golden)
            vitals.start()
            try:
                scene = Scene(station, vitals, session, pool, golden, deaths, lags)
                await asyncio.wait_for(story(scene), 20)
            finally:
                vitals.stop()
                session.gate.set()

    asyncio.run(run())


def test_replay_keeps_to_the_rows_of_a_run() -> None:
    """Goldens may be more than fit into memory at once, views of one of them too."""
    session = Mortal()
    session.most = 2
    known = tuple(Golden(f"{one}.png", {"1": (one, -one)}) for one in (3, 5, 9))
    pixels = np.repeat(np.array([3, 5, 9], np.uint8), 3).reshape(3, 3, 1)  # [goldens, views, 1]
    exact = Tolerance("cpu", "fp32", 0, 0)
    whole = Replay(session, pixels, known, "1", exact, 2)
    for replay in (whole, whole.first):
        replay.run()
    with pytest.raises(RuntimeError):
        Replay(session, pixels, known, "1", exact, 3).run()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # ``play`` ends a story that lasts too long
        await asyncio.sleep(0.002)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that takes a tenth of a second is taken to hang."""
    monkeypatch.setattr(device, "HUNG_SECONDS", 0.1)
    monkeypatch.setattr(device, "HUNG_TIMES", 1.0)


# --- what fails by itself --------------------------------------------------------------------


@pytest.mark.parametrize("bad", [POISON, NOT_A_NUMBER])
def test_poisoned_rows_never_kill(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Any number of inputs that fail alone: one golden until the rest is over, and no death."""
    monkeypatch.setattr(watch, "REST_SECONDS", SILENCE)

    async def story(scene: Scene) -> None:
        for _ in range(20):
            with pytest.raises(InferenceFailed):
                await scene.submit(bad)
            await until(lambda: scene.session.goldens)
        assert (await scene.submit(3)).logits.tolist() == [3, -3]
        await asyncio.sleep(3 * watch.TICK_SECONDS)
        assert (scene.session.goldens, scene.deaths) == (1, [])

    play(story)


def test_rows_that_run_beside_a_poisoned_one_speak_for_the_device() -> None:
    """Where any row of a batch is answered no golden is needed."""

    async def story(scene: Scene) -> None:
        answers = await asyncio.gather(
            *(scene.submit(value) for value in (1, POISON, 2, NOT_A_NUMBER)), return_exceptions=True
        )
        assert [isinstance(one, InferenceFailed) for one in answers] == [False, True, False, True]
        await scene.vitals.settle()
        assert (scene.session.goldens, scene.deaths) == (0, [])

    play(story)


def test_goldens_are_replayed_again_after_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that dies among poisoned inputs is found, though a golden has just passed."""
    monkeypatch.setattr(watch, "REST_SECONDS", 0.01)

    async def story(scene: Scene) -> None:
        with pytest.raises(InferenceFailed):
            await scene.submit(POISON)
        await scene.vitals.settle()
        assert (scene.session.goldens, scene.deaths) == (1, [])
        scene.session.dead = True
        with pytest.raises(InferenceFailed):
            await scene.submit(3)
        await scene.vitals.settle()
        assert len(scene.deaths) == 1

    play(story)


def test_model_that_fails_on_large_batches_is_not_doubted() -> None:
    """Its batches are halved until they run; every row is answered, and no golden is needed."""

    async def story(scene: Scene) -> None:
        scene.session.most = 2
        rows = await asyncio.gather(*(scene.submit(value) for value in range(6)))
        assert [row.logits[0] for row in rows] == list(range(6))
        await scene.vitals.settle()
        assert (scene.session.goldens, scene.deaths) == (0, [])

    play(story)


# --- death -----------------------------------------------------------------------------------


def test_session_that_fails_for_everything_is_dead() -> None:
    """Death is told once, with what the golden said."""

    async def story(scene: Scene) -> None:
        scene.session.dead = True
        tasks = [scene.submit(value) for value in range(20)]
        with contextlib.suppress(InferenceFailed):
            await asyncio.gather(*tasks)
        await until(lambda: scene.deaths)
        await asyncio.gather(*tasks, return_exceptions=True)
        await scene.vitals.settle()
        assert scene.deaths == ["a golden that it has answered before fails too: CUDA error 700"]

    play(story)


def test_session_that_gives_other_logits_than_before_is_dead() -> None:
    """A golden that runs and does not give its logits fails as well."""

    async def story(scene: Scene) -> None:
        scene.session.wrong = True
        with pytest.raises(InferenceFailed):
            await scene.submit(POISON)
        await until(lambda: scene.deaths)
        assert "golden/0.png at grid 1 differs from its stored logits by 1" in scene.deaths[0]

    play(story)


@pytest.mark.parametrize("dead", [True, False])
def test_thread_that_fails_itself_is_a_doubt(monkeypatch: pytest.MonkeyPatch, dead: bool) -> None:
    """What breaks around the graph may be the device; the golden says whether it is."""

    def broken(*_: object) -> None:
        raise RuntimeError("no memory left for the batch")

    monkeypatch.setattr(device, "run_timed", broken)

    async def story(scene: Scene) -> None:
        scene.session.dead = dead
        with pytest.raises(InferenceFailed, match="could not be run"):
            await scene.submit(3)
        await scene.vitals.settle()
        assert (scene.session.goldens, len(scene.deaths)) == (1, int(dead))

    play(story)


def test_run_that_never_returns_is_death(impatient: None) -> None:
    """Who waits for it, or behind it, is told that the device does not answer."""

    async def story(scene: Scene) -> None:
        scene.session.gate.clear()
        running = scene.submit(1)
        await asyncio.sleep(0.01)
        waiting = scene.submit(2)
        await until(lambda: scene.deaths)
        assert scene.deaths == ["a run does not return"]
        scene.station.give_up("it is dead")
        for task in (running, waiting, scene.submit(3)):
            with pytest.raises(NotReady, match="it is dead"):
                await task

    play(story)


def test_golden_that_never_returns_is_death(impatient: None) -> None:
    """The device may hang in the replay itself."""

    async def story(scene: Scene) -> None:
        scene.session.gate.clear()
        await until(lambda: scene.deaths)
        assert (scene.session.goldens, scene.deaths) == (1, ["a run does not return"])

    play(story, probe_seconds=0.01)


def test_time_in_which_the_process_stood_still_does_not_count(
    monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    """After SIGSTOP a run is under way for longer than it may be, and has had no time to return."""
    monkeypatch.setattr(device, "HUNG_SECONDS", 0.4)
    monkeypatch.setattr(watch, "STANDSTILL_SECONDS", 0.2)

    async def story(scene: Scene) -> None:
        scene.session.gate.clear()
        task = scene.submit(1)
        await asyncio.sleep(0.01)
        time.sleep(0.6)  # noqa: ASYNC251 - the loop stands still
        await asyncio.sleep(1.5 * watch.TICK_SECONDS)
        scene.session.gate.set()
        assert (await task).logits[0] == 1
        assert scene.deaths == []

    play(story)


# --- an idle device --------------------------------------------------------------------------


def test_idle_device_replays_a_golden() -> None:
    """Again and again, though nobody asks; one that is asked does not."""

    async def story(scene: Scene) -> None:
        await until(lambda: scene.session.goldens >= 2)
        assert scene.deaths == []

    play(story, probe_seconds=0.01)


@pytest.mark.parametrize("probe_seconds", [0.0, SILENCE])
def test_no_golden_is_replayed_before_its_time(probe_seconds: float) -> None:
    """Zero is never; and a device that has just answered needs none."""

    async def story(scene: Scene) -> None:
        await scene.submit(1)
        await asyncio.sleep(4 * watch.TICK_SECONDS)
        assert scene.session.goldens == 0
        assert not scene.vitals.unproven

    play(story, probe_seconds)


def test_idle_device_is_dead_when_its_golden_fails_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first failure is a doubt, as of any run."""
    monkeypatch.setattr(watch, "REST_SECONDS", 0.01)

    async def story(scene: Scene) -> None:
        scene.session.dead = True
        await until(lambda: scene.deaths)
        assert scene.session.goldens == 2

    play(story, probe_seconds=0.01)


def test_device_is_unproven_while_its_replay_is_late() -> None:
    """And proven again by the next answer."""

    async def story(scene: Scene) -> None:
        scene.session.gate.clear()
        await until(lambda: scene.vitals.unproven)
        scene.session.gate.set()
        await until(lambda: not scene.vitals.unproven)
        assert scene.deaths == []

    play(story, probe_seconds=0.2)


# --- loop and decoders -----------------------------------------------------------------------


def test_lag_of_the_loop_is_measured() -> None:
    """A call that blocks the loop shows as its lateness."""

    async def story(scene: Scene) -> None:
        await until(lambda: scene.lags)
        time.sleep(0.2)  # noqa: ASYNC251 - blocks the loop
        await until(lambda: max(scene.lags) >= 0.2 - watch.TICK_SECONDS)

    play(story)


def test_pool_that_stays_without_workers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is missing for a moment is not missed; with none for long all is lost."""

    async def story(scene: Scene) -> None:
        scene.pool.ready = False
        await asyncio.sleep(2 * watch.TICK_SECONDS)
        assert scene.vitals.lost is None
        monkeypatch.setattr(watch, "DECODERS_SECONDS", 0.0)
        assert scene.vitals.lost == "no decode worker comes up"

    play(story)


def test_watch_that_fails_is_no_life(caplog: pytest.LogCaptureFixture) -> None:
    """Its own mistakes are logged, and nothing passes for alive that nobody looks at."""

    async def story(scene: Scene) -> None:
        del scene.pool.ready
        await until(lambda: "the watch over the device failed" in caplog.text)
        assert scene.vitals.lost == "nobody watches over the device"

    play(story)
