"""Batching: the policy as a table, and the batcher with a session of a few lines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.device.station import Batcher, QueueState, next_batch, run_isolated
from service.engine.failures import Draining, InferenceFailed

POISON, NOT_A_NUMBER = 255, 254


class FakeSession:
    """Logits [value, -value] of a one-pixel input; fails on POISON, gives NaN on NOT_A_NUMBER."""

    device = "cpu"

    def __init__(self, closed: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        if not closed:
            self.gate.set()

    def run(self, pixels: np.ndarray) -> np.ndarray:
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


def run(story: Callable[[Batcher], Coroutine[Any, Any, None]], max_batch: int = 8) -> None:
    """Play a story with a batcher."""

    async def play() -> None:
        with ThreadPoolExecutor(1) as executor:
            await asyncio.wait_for(story(Batcher(executor, max_batch)), 20)

    asyncio.run(play())


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.001)


# --- the policy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "queues", "expected"),
    [
        (False, [], None),
        (False, [("a", 0, 0.0)], None),
        (False, [("a", 1, 5.0)], ("a", 1)),
        (True, [("a", 9, 5.0)], None),
        (False, [("a", 9, 5.0)], ("a", 4)),
        (False, [("a", 9, 5.0), ("b", 1, 4.0)], ("b", 1)),
        (False, [("a", 3, 4.0), ("b", 4, 5.0)], ("a", 3)),
        (False, [("a", 0, 1.0), ("b", 2, 5.0)], ("b", 2)),
    ],
    ids=["nothing", "empty", "one", "busy", "full", "oldest", "older-not-fuller", "skip-empty"],
)
def test_policy_runs_the_oldest_head_when_idle(
    busy: bool, queues: list[tuple[str, int, float]], expected: tuple[str, int] | None
) -> None:
    """The idle device takes the queue whose head waited longest, up to max_batch (here 4)."""
    assert next_batch(busy, [QueueState(*queue) for queue in queues], 4) == expected


@given(
    queues=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e6)), max_size=6),
    max_batch=st.integers(1, 64),
)
def test_policy_never_idles_with_work_and_never_exceeds_a_limit(
    queues: list[tuple[int, float]], max_batch: int
) -> None:
    """For any queues: work is taken if there is any, from the oldest head, within both bounds."""
    states = [QueueState(key, depth, oldest) for key, (depth, oldest) in enumerate(queues)]
    choice = next_batch(False, states, max_batch)
    filled = [state for state in states if state.depth]
    assert (choice is None) == (not filled)
    if choice is not None:
        key, size = choice
        (chosen,) = (state for state in states if state.key == key)
        assert size == min(max_batch, chosen.depth) >= 1
        assert chosen.oldest == min(state.oldest for state in filled)


# --- the batcher -----------------------------------------------------------------------------


def test_batcher_runs_at_once_when_idle() -> None:
    """A single entry is run alone, without waiting for company."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession()
        batcher.add_queue("q", session, "image")
        row = await batcher.submit("q", entry(3))
        assert row.logits.tolist() == [3, -3]
        assert session.batches == [[3]]
        assert 0 <= row.queue_seconds < 1

    run(story)


def test_batcher_gathers_while_busy_up_to_max_batch() -> None:
    """What arrives during a run leaves in the next ones, in order, at most max_batch at a time."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession(closed=True)
        batcher.add_queue("q", session, "image")
        tasks = [asyncio.create_task(batcher.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        tasks += [asyncio.create_task(batcher.submit("q", entry(i))) for i in range(1, 12)]
        await until(lambda: batcher.depth == 11)
        session.gate.set()
        rows = await asyncio.gather(*tasks)
        assert [row.logits[0] for row in rows] == list(range(12))
        assert session.batches == [[0], list(range(1, 9)), [9, 10, 11]]

    run(story)


def test_batcher_runs_together_what_arrived_together() -> None:
    """Entries submitted in one turn of the loop share a batch even on an idle device."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession()
        batcher.add_queue("q", session, "image")
        await asyncio.gather(*(batcher.submit("q", entry(i)) for i in range(5)))
        assert session.batches == [[0, 1, 2, 3, 4]]

    run(story)


def test_batcher_serves_queues_by_oldest_head() -> None:
    """A busy queue cannot keep an older entry of another queue waiting."""

    async def story(batcher: Batcher) -> None:
        order: list[str] = []
        first, second = FakeSession(closed=True), FakeSession()
        batcher.add_queue("first", first, "image")
        batcher.add_queue("second", second, "image")

        async def submit(key: str, value: int) -> None:
            await batcher.submit(key, entry(value))
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
def test_batcher_fails_only_the_guilty_row(bad: int, position: int) -> None:
    """An exception or a NaN costs its own entry, wherever it stands, and no other."""

    async def story(batcher: Batcher) -> None:
        batcher.add_queue("q", FakeSession(), "image")
        values = [1, 2, 3, 4]
        values.insert(position, bad)
        results = await asyncio.gather(
            *(batcher.submit("q", entry(value)) for value in values), return_exceptions=True
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
        def run(self, pixels: np.ndarray) -> np.ndarray:
            return np.zeros(shape, np.float32)

    answers = run_isolated(Wrong(), [*entry(0, 1, 2)])
    if shape == (1, 2):  # right for a batch of one
        assert not any(isinstance(answer, Exception) for answer in answers)
    else:
        assert all(isinstance(answer, Exception) for answer in answers)


def test_batcher_never_runs_a_cancelled_entry() -> None:
    """An entry whose client left while it was queued is dropped before a batch is formed."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession(closed=True)
        batcher.add_queue("q", session, "image")
        tasks = [asyncio.create_task(batcher.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        tasks += [asyncio.create_task(batcher.submit("q", entry(i))) for i in range(1, 5)]
        await until(lambda: batcher.depth == 4)
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

    async def story(batcher: Batcher) -> None:
        session = FakeSession(closed=True)
        batcher.add_queue("q", session, "image")
        tasks = [asyncio.create_task(batcher.submit("q", entry(0)))]
        await until(lambda: len(session.batches) == 1)
        for views in ((2, 4, 9), (5,), (1, 2, 3, 4, 5, 6)):
            tasks.append(asyncio.create_task(batcher.submit("q", entry(*views))))
        await until(lambda: batcher.depth == 10)
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
        def run(self, pixels: np.ndarray) -> np.ndarray:
            assert pixels.dtype == np.float32
            return np.concatenate([pixels, -pixels], axis=1)  # [batch, 2]

    async def story(batcher: Batcher) -> None:
        batcher.add_queue("q", Echo(), "image")
        row = await batcher.submit("q", np.array([[0.25], [0.5]], np.float32))
        assert row.logits.tolist() == [0.375, -0.375]

    run(story)


def test_view_that_breaks_the_graph_fails_its_item_alone() -> None:
    """One guilty view of an item costs that item, not its neighbours, and runs nothing twice."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession()
        batcher.add_queue("q", session, "image")
        items = ((1, 3), (2, POISON, 4), (NOT_A_NUMBER, POISON), (5,))
        results = await asyncio.gather(
            *(batcher.submit("q", entry(*views)) for views in items), return_exceptions=True
        )
        good, poisoned, both, single = results
        assert isinstance(poisoned, InferenceFailed)
        assert isinstance(both, InferenceFailed)
        assert not isinstance(good, BaseException)
        assert not isinstance(single, BaseException)
        assert (good.logits[0], single.logits[0]) == (2, 5)
        assert batcher.depth == 0

    run(story)


def test_views_of_a_client_that_left_are_never_run() -> None:
    """All the views that still wait leave the queue with their item, also after one has failed."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession(closed=True)
        batcher.add_queue("q", session, "image")
        running = asyncio.create_task(batcher.submit("q", entry(POISON, 1, 2)))
        await until(lambda: len(session.batches) == 1)  # its first two views
        gone = asyncio.create_task(batcher.submit("q", entry(3, 4, 5)))
        last = asyncio.create_task(batcher.submit("q", entry(6)))
        await until(lambda: batcher.depth == 5)
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


def test_batcher_finishes_the_running_batch_and_refuses_the_rest_when_closed() -> None:
    """Closing loses nothing that runs; what waits, and what comes later, ends as Draining."""

    async def story(batcher: Batcher) -> None:
        session = FakeSession(closed=True)
        batcher.add_queue("q", session, "image")
        running = asyncio.create_task(batcher.submit("q", entry(1)))
        await until(lambda: len(session.batches) == 1)
        waiting = asyncio.create_task(batcher.submit("q", entry(2)))
        await until(lambda: batcher.depth == 1)
        batcher.close()
        session.gate.set()
        assert (await running).logits[0] == 1
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            await batcher.submit("q", entry(3))

    run(story)


def test_batcher_tells_the_size_of_every_batch() -> None:
    """The metrics hear of each run with its modality, its size and its seconds."""

    async def play() -> None:
        seen: list[tuple[str, int, float]] = []
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(executor, 2, lambda *told: seen.append(told))
            batcher.add_queue("q", FakeSession(), "image")
            batcher.add_queue("other", FakeSession(), "volume")
            await asyncio.gather(*(batcher.submit("q", entry(i)) for i in range(3)))
            await batcher.submit("other", entry(3))
        assert [(modality, size) for modality, size, _ in seen] == [
            ("image", 2),
            ("image", 1),
            ("volume", 1),
        ]
        assert all(seconds >= 0 for _, _, seconds in seen)

    asyncio.run(play())
