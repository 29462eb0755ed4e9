"""Waiting for room: in order, bounded, and with nothing left whoever gives up when."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.admission import Admission, Work
from service.engine.failures import Overloaded
from service.engine.room import Room
from service.engine.schedule import BATCH, BATCH_MAX_WAIT, CPU, DEVICE, Backlog

MAX_FILES, MAX_BYTES = 3, 100
#: Of every file its size, the turns of the loop that it stays, and those after which it gives up.
FILES = st.lists(
    st.tuples(st.integers(0, 250), st.integers(0, 4), st.none() | st.integers(0, 9)), max_size=12
)


async def play(files: Any, coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Begin all, cancel those that give up, and see the others end."""
    tasks = [asyncio.create_task(one) for one in coroutines]
    for turn in range(10):
        for task, (_, _, patience) in zip(tasks, files, strict=True):
            if patience == turn:
                task.cancel()
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        assert task.cancelled() or task.exception() is None


@settings(max_examples=40, deadline=None)
@given(FILES)
def test_room_is_bounded_in_order_and_given_back(files: Any) -> None:
    """One that is larger than all the room there is gets through alone."""
    room, entered = Room(MAX_FILES, MAX_BYTES), list[int]()

    async def one(number: int, size: int, turns: int) -> None:
        await room.enter(size)
        entered.append(number)
        assert room.files == 1 or (room.files <= MAX_FILES and room.bytes <= MAX_BYTES)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            room.leave(size)

    asyncio.run(play(files, [one(n, size, turns) for n, (size, turns, _) in enumerate(files)]))
    assert (room.files, room.bytes) == (0, 0)
    assert entered == sorted(entered)
    gave_up = [number for number, (_, _, patience) in enumerate(files) if patience is not None]
    assert set(range(len(files))) - set(entered) <= set(gave_up)


@settings(max_examples=40, deadline=None)
@given(FILES)
def test_batch_work_is_bounded_in_seconds_and_given_back(files: Any) -> None:
    """In order, the first whatever it costs, and the backlog is zero once all are out or gone."""
    backlog = Backlog({CPU: 2, DEVICE: 1})
    admission, entered = Admission(9, 9, backlog), list[int]()

    async def one(number: int, seconds: int, turns: int) -> None:
        work = Work(BATCH, {"run": {CPU: float(seconds)}}, 0.0)
        admission.admit([work], math.inf)  # refuses none of it
        await admission.wait_for_room(BATCH, math.inf)
        assert backlog.wait(BATCH) <= BATCH_MAX_WAIT or not backlog.inside[BATCH]
        entered.append(number)
        with admission.work(work, math.inf) as charge:
            for _ in range(turns):
                await asyncio.sleep(0)
            backlog.done(charge, "run")
            await asyncio.sleep(0)

    asyncio.run(play(files, [one(n, size, turns) for n, (size, turns, _) in enumerate(files)]))
    assert backlog.wait(BATCH) == 0
    assert backlog.inside.total() == 0
    assert entered == sorted(entered)


@pytest.mark.parametrize(("inside", "refused"), [(29.0, False), (31.0, True)])
def test_batch_work_with_a_deadline_enters_before_30_seconds_or_is_refused(
    inside: float, refused: bool
) -> None:
    """Whatever an operator allows what is interactive, and whatever is inside that can wait."""
    admission = Admission(9, 9, Backlog({CPU: 1, DEVICE: 1}), max_wait=0.5)
    costs = inside, 1.0, 1000.0
    before, asking, patient = (Work(BATCH, {"run": {CPU: cost}}, cost) for cost in costs)
    refusal = pytest.raises(Overloaded) if refused else contextlib.nullcontext()
    due = time.monotonic() + 3600
    with admission.work(before, due - 1), admission.work(patient, math.inf), refusal:
        admission.admit([asking], due)


def test_nothing_else_waits_for_room() -> None:
    """Interactive work, and batch work that has a deadline, are let in or refused at once."""

    async def story() -> None:
        admission = Admission(9, 9, Backlog({CPU: 1, DEVICE: 1}))
        work = Work(BATCH, {"run": {CPU: 1e6}}, 0.0)
        with contextlib.ExitStack() as inside:
            inside.enter_context(admission.work(work, math.inf))
            async with asyncio.timeout(5):
                await admission.wait_for_room("image", math.inf)
                await admission.wait_for_room(BATCH, 1e9)

    asyncio.run(story())
