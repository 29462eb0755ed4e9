"""The station of a device with a session of a few lines: batches, lanes, turns, departures."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from service.engine.costs import RunCosts
from service.engine.device import runs
from service.engine.device.queues import Row
from service.engine.device.runs import run_isolated
from service.engine.device.session import Stop
from service.engine.device.station import DeviceStation
from service.engine.failures import DeadlinePassed, Draining, InferenceFailed
from service.engine.schedule import BATCH

POISON, NOT_A_NUMBER = 255, 254


class FakeSession:
    """Logits [value, -value] of a one-pixel input; fails on POISON, gives NaN on NOT_A_NUMBER."""

    device = "cpu"

    def __init__(self, closed: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        if not closed:
            self.gate.set()

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        self.batches.append(pixels[:, 0].tolist())
        assert self.gate.wait(10)
        if (pixels == POISON).any():
            raise RuntimeError("poison")
        values = pixels.astype(np.float32)  # [batch, 1]
        values[pixels == NOT_A_NUMBER] = np.nan
        return np.concatenate([values, -values], axis=1)  # [batch, 2]


def entry(*views: int) -> np.ndarray:
    """An item of one-pixel views."""
    return np.array(views, np.uint8)[:, np.newaxis]  # [views, 1]


def run(story: Callable[[DeviceStation], Coroutine[Any, Any, None]], max_batch: int = 8) -> None:
    """Play a story with a station."""

    async def play() -> None:
        with ThreadPoolExecutor(1) as executor:
            await asyncio.wait_for(story(DeviceStation(executor, max_batch)), 20)

    asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.001)


# --- batches -----------------------------------------------------------------------------


def test_station_runs_at_once_when_idle() -> None:
    """A single entry is run alone, without waiting for company."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession()
        station.add_queue("q", session, "image", RunCosts())
        row = await station.submit("q", entry(3))
        assert row.logits.tolist() == [3, -3]
        assert session.batches == [[3]]
        assert 0 <= row.queue_seconds < 1

    run(story)


def test_queue_may_have_smaller_batches_than_the_others() -> None:
    """Rows of many tokens: their number is bounded by what one run may hold."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession()
        station.add_queue("q", session, "image", RunCosts(), most_rows=3)
        await asyncio.gather(*(station.submit("q", entry(n)) for n in range(8)))
        assert [len(batch) for batch in session.batches] == [3, 3, 2]

    run(story)


def test_station_gathers_while_busy_up_to_max_batch() -> None:
    """What arrives during a run leaves in the next ones, in order, at most max_batch at a time."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", RunCosts())
        tasks = [asyncio.create_task(station.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        tasks += [asyncio.create_task(station.submit("q", entry(i))) for i in range(1, 12)]
        await until(lambda: station.depth == 11)
        session.gate.set()
        rows = await asyncio.gather(*tasks)
        assert [row.logits[0] for row in rows] == list(range(12))
        assert session.batches == [[0], list(range(1, 9)), [9, 10, 11]]

    run(story)


def test_station_runs_together_what_arrived_together() -> None:
    """Entries submitted in one turn of the loop share a batch even on an idle device."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession()
        station.add_queue("q", session, "image", RunCosts())
        await asyncio.gather(*(station.submit("q", entry(i)) for i in range(5)))
        assert session.batches == [[0, 1, 2, 3, 4]]

    run(story)


def test_station_serves_queues_by_oldest_head() -> None:
    """A busy queue cannot keep an older entry of another queue waiting."""

    async def story(station: DeviceStation) -> None:
        order: list[str] = []
        first, second = FakeSession(closed=True), FakeSession()
        station.add_queue("first", first, "image", RunCosts())
        station.add_queue("second", second, "image", RunCosts())

        async def submit(key: str, value: int) -> None:
            await station.submit(key, entry(value))
            order.append(f"{key}{value}")

        tasks = [asyncio.create_task(submit("first", 0))]
        await until(lambda: len(first.batches) == 1)
        for key, value in (("second", 1), ("first", 2), ("first", 3)):
            tasks.append(asyncio.create_task(submit(key, value)))
            await asyncio.sleep(0.002)
        first.gate.set()
        await asyncio.gather(*tasks)
        assert order == ["first0", "second1", "first2", "first3"]

    run(story)


@pytest.mark.parametrize("bad", [POISON, NOT_A_NUMBER])
@pytest.mark.parametrize("position", range(5))
def test_station_fails_only_the_guilty_row(bad: int, position: int) -> None:
    """An exception or a NaN costs its own entry, wherever it stands, and no other."""

    async def story(station: DeviceStation) -> None:
        station.add_queue("q", FakeSession(), "image", RunCosts())
        values = [1, 2, 3, 4]
        values.insert(position, bad)
        results = await asyncio.gather(
            *(station.submit("q", entry(value)) for value in values), return_exceptions=True
        )
        for value, result in zip(values, results, strict=True):
            if value == bad:
                assert isinstance(result, InferenceFailed)
            else:
                assert not isinstance(result, BaseException)
                assert result.logits[0] == value

    run(story)


def test_isolation_halves_instead_of_running_each_row() -> None:
    """One guilty row of 32 is found in at most 2 log2(32) + 1 runs."""
    session = FakeSession()
    rows = [*entry(*[1] * 31), *entry(POISON)]
    answers = run_isolated(session, rows)
    assert [isinstance(answer, Exception) for answer in answers] == [False] * 31 + [True]
    assert len(session.batches) <= 11


@pytest.mark.parametrize("shape", [(1, 2), (4,), (4, 2, 2)])
def test_isolation_refuses_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    """A graph that answers with too few rows or axes fails; rows are never mixed up."""

    class Wrong(FakeSession):
        def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
            return np.zeros(shape, np.float32)

    answers = run_isolated(Wrong(), [*entry(0, 1, 2)])
    if shape == (1, 2):  # right for a batch of one
        assert not any(isinstance(answer, Exception) for answer in answers)
    else:
        assert all(isinstance(answer, Exception) for answer in answers)


class Embedding(FakeSession):
    """Its features are the value of a row, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded: list[int] = []

    def embed(
        self, pixels: np.ndarray, stop: Stop | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.embedded.append(len(pixels))
        logits = self.run(pixels, stop)
        return logits, np.repeat(pixels.reshape(len(pixels), -1)[:, :1], 2, axis=1).astype("f4")


def test_features_are_asked_for_where_a_row_wants_them() -> None:
    """Rows that want them, and others, share a run; only the first get them, of views the mean."""
    session = Embedding()

    async def story(station: DeviceStation) -> None:
        station.add_queue("grid", session, "image", RunCosts())
        assert station.embeds("grid")
        assert (await station.submit("grid", entry(1))).embedding is None
        assert session.embedded == []
        plain, own, views = await asyncio.gather(
            station.submit("grid", entry(1)),
            station.submit("grid", entry(2), embed=True),
            station.submit("grid", entry(3, 6), embed=True),
        )
        assert session.embedded == [4]
        assert plain.embedding is None
        np.testing.assert_array_equal(own.embedding, [2, 2])
        np.testing.assert_array_equal(views.embedding, [4.5, 4.5])
        assert [own.logits[0], views.logits[0]] == [2, 4.5]

    run(story)


def test_row_that_fails_is_found_with_its_features() -> None:
    """Halving keeps asking for them; features that are no numbers are a failure too."""
    session = Embedding()
    answers = run_isolated(session, [*entry(1, POISON, 3)], embed=True)
    assert [isinstance(one, Exception) for one in answers] == [False, True, False]
    found = [one.embedding for one in answers if not isinstance(one, Exception)]
    np.testing.assert_array_equal(found, [[1, 1], [3, 3]])

    class Infinite(Embedding):
        def embed(
            self, pixels: np.ndarray, stop: Stop | None = None
        ) -> tuple[np.ndarray, np.ndarray]:
            logits, features = super().embed(pixels, stop)
            return logits, features * np.array([1, np.inf], np.float32)

    (failed,) = run_isolated(Infinite(), [*entry(1)], embed=True)
    assert isinstance(failed, Exception)


@pytest.mark.parametrize("views", [(1,), (1, 2)])
@pytest.mark.parametrize("end", ["answered", "failed", "left"])
def test_station_lets_go_of_pixels_at_once(
    views: tuple[int, ...], end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing keeps an item that was answered, failed or left until garbage is collected."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession()
        station.add_queue("q", session, "image", RunCosts())
        pixels = entry(*views[1:], POISON if end == "failed" else views[0]).copy()
        kept = weakref.ref(pixels)
        asking = asyncio.create_task(station.submit("q", pixels))
        del pixels
        if end == "left":
            session.gate.clear()
            blocking = asyncio.create_task(station.submit("q", entry(3)))
            await until(lambda: len(session.batches) == 1)
            late = entry(*views).copy()
            kept = weakref.ref(late)
            asking, first = asyncio.create_task(station.submit("q", late)), asking
            del late
            await asyncio.sleep(0)
            assert station.bytes_ahead() == len(views)
            asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled() or (asking.exception() is None) == (end == "answered")
        del asking
        await until(lambda: kept() is None)
        session.gate.set()
        if end == "left":
            await asyncio.gather(first, blocking)

    monkeypatch.setattr(runs.log, "disabled", True)  # pytest would keep tracebacks, and they rows
    gc.disable()
    try:
        run(story)
    finally:
        gc.enable()


def test_station_never_runs_a_cancelled_entry() -> None:
    """An entry whose client left while it was queued is dropped before a batch is formed."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", RunCosts())
        tasks = [asyncio.create_task(station.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        tasks += [asyncio.create_task(station.submit("q", entry(i))) for i in range(1, 5)]
        await until(lambda: station.depth == 4)
        tasks[2].cancel()
        await asyncio.sleep(0)
        session.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[2], asyncio.CancelledError)
        assert session.batches == [[0], [1, 3, 4]]

    run(story)


def test_views_are_rows_whose_logits_are_averaged() -> None:
    """An item's views fill batches up to max_batch, together with other items, and come back as
    the mean of their logits.
    """

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", RunCosts())
        tasks = [asyncio.create_task(station.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        for views in ((2, 4, 9), (5,), (1, 2, 3, 4, 5, 6)):
            tasks.append(asyncio.create_task(station.submit("q", entry(*views))))
        await until(lambda: station.depth == 10)
        session.gate.set()
        rows = await asyncio.gather(*tasks)
        assert [row.logits.tolist() for row in rows] == [[0, 0], [5, -5], [5, -5], [3.5, -3.5]]
        assert session.batches == [[0], [2, 4, 9, 5], [1, 2, 3, 4], [5, 6]]
        last = rows[-1]
        assert last.queue_seconds >= rows[1].queue_seconds > 0

    run(story, max_batch=4)


def test_batch_keeps_the_type_of_the_pixels() -> None:
    """float32 pixels reach the graph as float32, unrounded."""

    class Echo(FakeSession):
        def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
            assert pixels.dtype == np.float32
            return np.concatenate([pixels, -pixels], axis=1)  # [batch, 2]

    async def story(station: DeviceStation) -> None:
        station.add_queue("q", Echo(), "image", RunCosts())
        row = await station.submit("q", np.array([[0.25], [0.5]], np.float32))
        assert row.logits.tolist() == [0.375, -0.375]

    run(story)


def test_view_that_breaks_the_graph_fails_its_item_alone() -> None:
    """One guilty view of an item costs that item, not its neighbours, and runs nothing twice."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession()
        station.add_queue("q", session, "image", RunCosts())
        items = ((1, 3), (2, POISON, 4), (NOT_A_NUMBER, POISON), (5,))
        results = await asyncio.gather(
            *(station.submit("q", entry(*views)) for views in items), return_exceptions=True
        )
        good, poisoned, both, single = results
        assert isinstance(poisoned, InferenceFailed)
        assert isinstance(both, InferenceFailed)
        assert not isinstance(good, BaseException)
        assert not isinstance(single, BaseException)
        assert (good.logits[0], single.logits[0]) == (2, 5)
        assert station.depth == 0

    run(story)


def test_views_of_a_client_that_left_are_never_run() -> None:
    """All the views that still wait leave the queue with their item, also after one has failed."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", RunCosts())
        running = asyncio.create_task(station.submit("q", entry(POISON, 1, 2)))
        await until(lambda: len(session.batches) == 1)  # its first two views
        gone = asyncio.create_task(station.submit("q", entry(3, 4, 5)))
        last = asyncio.create_task(station.submit("q", entry(6)))
        await until(lambda: station.depth == 5)
        gone.cancel()
        await asyncio.sleep(0)
        session.gate.set()
        results = await asyncio.gather(running, gone, last, return_exceptions=True)
        assert isinstance(results[0], InferenceFailed)
        assert isinstance(results[1], asyncio.CancelledError)
        assert not isinstance(results[2], BaseException)
        rows = [value for batch in session.batches for value in batch]
        assert not {3, 4, 5} & set(rows)

    run(story, max_batch=2)


def test_station_finishes_the_running_batch_and_refuses_the_rest_when_closed() -> None:
    """Closing loses nothing that runs; what waits, and what comes later, ends as Draining."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", RunCosts())
        running = asyncio.create_task(station.submit("q", entry(1)))
        await until(lambda: len(session.batches) == 1)
        waiting = asyncio.create_task(station.submit("q", entry(2)))
        await until(lambda: station.depth == 1)
        station.close()
        session.gate.set()
        assert (await running).logits[0] == 1
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            await station.submit("q", entry(3))

    run(story)


def test_station_tells_the_size_of_every_batch() -> None:
    """The metrics hear of each run with its modality, its size and its seconds."""

    async def play() -> None:
        seen: list[tuple[str, int, float]] = []
        with ThreadPoolExecutor(1) as executor:
            station = DeviceStation(executor, 2, on_batch=lambda *told: seen.append(told))
            station.add_queue("q", FakeSession(), "image", RunCosts())
            station.add_queue("other", FakeSession(), "volume", RunCosts())
            await asyncio.gather(*(station.submit("q", entry(i)) for i in range(3)))
            await station.submit("other", entry(3))
        assert [(modality, size) for modality, size, _ in seen] == [
            ("image", 2),
            ("image", 1),
            ("volume", 1),
        ]
        assert all(seconds >= 0 for _, _, seconds in seen)

    asyncio.run(play())


# --- bounds in seconds, lanes, deadlines -----------------------------------------------------


def costing(seconds: float) -> RunCosts:
    """A row takes so long, in a batch of any size."""
    costs = RunCosts()
    for size in (1, 2, 4, 8) * 16:  # so that the runs of a test, which take no time, teach little
        costs.learn(size, size * seconds)
    return costs


def with_lanes(
    story: Callable[[DeviceStation], Coroutine[Any, Any, None]],
    lanes: int,
    batch_seconds: float = math.inf,
) -> None:
    """Play a story with a station of several lanes."""

    async def play() -> None:
        with ThreadPoolExecutor(lanes) as executor:
            station = DeviceStation(executor, 8, lanes=lanes, batch_seconds=batch_seconds)
            await asyncio.wait_for(story(station), 20)

    asyncio.run(play())


def test_batch_is_bounded_in_seconds() -> None:
    """Rows of 20 ms and a bound of 50: two at a time, and one that is longer goes alone."""

    async def story(station: DeviceStation) -> None:
        session, slow = FakeSession(closed=True), FakeSession()
        station.add_queue("q", session, "image", costing(0.02))
        station.add_queue("slow", slow, "video", costing(0.3))
        tasks = [asyncio.create_task(station.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        tasks += [asyncio.create_task(station.submit("q", entry(i))) for i in range(1, 6)]
        tasks += [asyncio.create_task(station.submit("slow", entry(i))) for i in range(2)]
        await until(lambda: station.depth == 7)
        assert station.ahead("image") == pytest.approx(5 * 0.02)
        assert station.ahead("video") == pytest.approx(2 * 0.3)
        session.gate.set()
        await asyncio.gather(*tasks)
        assert session.batches[0] == [0]
        assert all(len(batch) <= 2 for batch in session.batches[1:])
        assert slow.batches == [[0], [1]]

    with_lanes(story, 1, batch_seconds=0.05)


def test_lanes_run_at_the_same_time() -> None:
    """Two batches of one graph, neither waits for the other."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", RunCosts())
        tasks = [asyncio.create_task(station.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        tasks.append(asyncio.create_task(station.submit("q", entry(1))))
        await until(lambda: len(session.batches) == 2)
        assert station.depth == 0
        session.gate.set()
        await asyncio.gather(*tasks)

    with_lanes(story, 2)


def test_one_lane_is_left_for_short_rows() -> None:
    """Clips never hold all lanes: an image runs at once beside them, and the next clip waits."""

    async def story(station: DeviceStation) -> None:
        clips, images = FakeSession(closed=True), FakeSession()
        station.add_queue("clips", clips, "video", costing(0.06))
        station.add_queue("images", images, "image", costing(0.004))
        await station.submit("images", entry(1))
        tasks = [asyncio.create_task(station.submit("clips", entry(i))) for i in range(3)]
        await until(lambda: len(clips.batches) == 1)
        row = await station.submit("images", entry(7))
        assert row.logits[0] == 7
        assert clips.batches == [[0]]
        clips.gate.set()
        await asyncio.gather(*tasks)
        assert clips.batches == [[0], [1], [2]]

    with_lanes(story, 2, batch_seconds=0.05)


def test_no_lane_is_left_for_what_does_not_come() -> None:
    """Where no short row was seen, clips have all lanes."""

    async def story(station: DeviceStation) -> None:
        clips = FakeSession(closed=True)
        station.add_queue("clips", clips, "video", costing(0.06))
        station.add_queue("images", FakeSession(), "image", costing(0.004))
        tasks = [asyncio.create_task(station.submit("clips", entry(i))) for i in range(2)]
        await until(lambda: len(clips.batches) == 2)
        clips.gate.set()
        await asyncio.gather(*tasks)

    with_lanes(story, 2, batch_seconds=0.05)


def test_where_all_models_are_slow_they_have_all_lanes() -> None:
    """There is no short work to keep a lane for."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", costing(0.08))
        tasks = [asyncio.create_task(station.submit("q", entry(i))) for i in range(2)]
        await until(lambda: len(session.batches) == 2)
        session.gate.set()
        await asyncio.gather(*tasks)

    with_lanes(story, 2, batch_seconds=0.05)


async def batch_rows(
    station: DeviceStation, session: FakeSession, count: int
) -> list[asyncio.Task[Row]]:
    """So many rows of batch work for the queue ``q``, the first of them held on its lane."""
    tasks = [asyncio.create_task(station.submit("q", entry(i), kind=BATCH)) for i in range(count)]
    await until(lambda: len(session.batches) == 1 and station.depth == count - 1)
    return tasks


def test_batch_rows_let_others_go_first_and_are_not_forgotten() -> None:
    """They share no run with others and take a turn after ten of theirs, not after all."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", costing(0.05))
        tasks = await batch_rows(station, session, 3)
        tasks += [asyncio.create_task(station.submit("q", entry(i))) for i in range(100, 125)]
        await until(lambda: station.depth == 27)
        assert station.ahead(BATCH) == pytest.approx(2 * 0.05)
        assert station.ahead("image") == pytest.approx(25 * 0.05)
        session.gate.set()
        rows = await asyncio.gather(*tasks)
        assert [row.logits[0] for row in rows] == [0, 1, 2, *range(100, 125)]
        assert all(len({value < 3 for value in batch}) == 1 for batch in session.batches)
        order = [value for batch in session.batches for value in batch]
        assert order.index(1) > 10
        assert order[-1] == 124

    with_lanes(story, 1, batch_seconds=0.05)


def test_batch_rows_send_no_others_to_another_device() -> None:
    """When a row would be done is asked of each device: what is batch stands before batch alone."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", costing(0.01))
        tasks = await batch_rows(station, session, 9)
        behind_all, behind_none = station.until_done("q", 1, BATCH), station.until_done("q", 1)
        assert behind_all - behind_none == pytest.approx(8 * 0.01, abs=0.005)
        session.gate.set()
        await asyncio.gather(*tasks)
        station.close_queue("q")
        assert list(station._all_queues) == []

    with_lanes(story, 1, batch_seconds=0.01)


def test_no_lane_is_left_for_batch_rows() -> None:
    """Of two lanes one stays free for short rows while such come, however short batch rows are."""

    async def story(station: DeviceStation) -> None:
        batch, images = FakeSession(closed=True), FakeSession()
        station.add_queue("q", batch, "image", costing(0.004))
        station.add_queue("images", images, "image", costing(0.004))
        await station.submit("images", entry(1))
        tasks = await batch_rows(station, batch, 1)
        tasks.append(asyncio.create_task(station.submit("q", entry(1), kind=BATCH)))
        await asyncio.sleep(0.02)
        assert batch.batches == [[0]]
        row = await station.submit("images", entry(7))
        assert row.logits[0] == 7
        batch.gate.set()
        await asyncio.gather(*tasks)

    with_lanes(story, 2, batch_seconds=0.05)


def test_earliest_deadline_runs_first_and_what_is_late_is_not_run() -> None:
    """A row that cannot be in time is refused unrun, and takes nobody's place."""

    async def story(station: DeviceStation) -> None:
        session = FakeSession(closed=True)
        station.add_queue("q", session, "image", costing(0.03))
        tasks = [asyncio.create_task(station.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        now = time.monotonic()
        for value, seconds in ((1, 90), (2, 60), (3, 0.02), (4, 30)):
            tasks.append(asyncio.create_task(station.submit("q", entry(value), now + seconds)))
        await until(lambda: station.depth == 4)
        session.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[3], DeadlinePassed)
        assert session.batches == [[0], [4], [2], [1]]

    with_lanes(story, 1, batch_seconds=0.05)


class Endless(FakeSession):
    """Runs until it is told to stop, as a graph does between two operators."""

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        self.batches.append(pixels[:, 0].tolist())
        end = time.monotonic() + 10
        while stop is None or not stop.terminate:
            assert time.monotonic() < end, "nobody told it to stop"
            time.sleep(0.001)
        raise RuntimeError("terminated")


def test_run_that_nobody_waits_for_is_ended() -> None:
    """One living client keeps it going; when the last one leaves the lane is free at once, its
    rows are not tried one by one, and what it took is not learnt.
    """

    async def story(station: DeviceStation) -> None:
        session, costs = Endless(), costing(5.0)
        station.add_queue("q", session, "image", costs)
        station.add_queue("other", FakeSession(), "image", costing(0.01))
        tasks = [asyncio.create_task(station.submit("q", entry(i))) for i in range(2)]
        await until(lambda: len(session.batches) == 1)
        tasks[0].cancel()
        waiting = asyncio.create_task(station.submit("other", entry(3)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        tasks[1].cancel()
        assert (await waiting).logits[0] == 3
        assert session.batches == [[0, 1]]
        assert costs.seconds(2) == pytest.approx(10.0)

    with_lanes(story, 1)
