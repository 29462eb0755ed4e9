"""The policy of the engine, without a clock: who may enter, and whose turn it is."""

from __future__ import annotations

import functools
import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.engine.schedule import (
    BATCH,
    CPU,
    DEVICE,
    EARLY_SECONDS,
    Backlog,
    Charge,
    Earliest,
    Refusals,
    Turns,
    default_max_wait,
    enters,
)

IMAGE, SCAN, CLIP = "image", "volume", "video"


def charge(kind: str, deadline: float = math.inf, **seconds: float) -> Charge:
    """Work on the CPUs: decode, run and answer."""
    return Charge(kind, deadline, {stage: {CPU: cost} for stage, cost in seconds.items()})


def backlog(*charges: Charge, cpus: float = 2) -> Backlog:
    made = Backlog({CPU: cpus, DEVICE: 1})
    for one in charges:
        made.charge(one)
    return made


# --- what stands before a newcomer ---------------------------------------------------------------


def test_all_that_follows_is_charged_at_once() -> None:
    """Decode, run and answer of what is inside stand before a newcomer, not the queue in front."""
    inside = backlog(*(charge(IMAGE, decode=0.004, run=0.1, answer=0.001) for _ in range(10)))
    assert inside.wait(IMAGE) == pytest.approx(10 * 0.105 / 2)


def test_an_image_does_not_wait_for_two_scans() -> None:
    """Its kind has a share of its own; a third scan waits for those before it."""
    inside = backlog(charge(SCAN, decode=3.5), charge(SCAN, decode=3.5))
    assert inside.wait(IMAGE) == 0
    assert inside.wait(SCAN) == pytest.approx(3.5)
    inside.charge(charge(IMAGE, run=0.1))
    assert inside.wait(IMAGE) == pytest.approx(0.1)  # of half the CPUs


def test_what_an_item_takes_may_turn_out_otherwise() -> None:
    """Amended, a stage counts as what it is now known to take, until it is done."""
    item = charge(IMAGE, decode=0.2, run=1.0)
    inside = backlog(item, charge(IMAGE, run=0.4))
    inside.amend(item, "run", {CPU: 3.0})
    assert inside.wait(IMAGE) == pytest.approx((0.2 + 3.0 + 0.4) / 2)
    inside.done(item, "run")
    inside.amend(item, "run", {CPU: 5.0})
    assert inside.wait(IMAGE) == pytest.approx((0.2 + 0.4) / 2)


def test_the_slowest_resource_decides() -> None:
    """A device of its own is waited for while the CPUs idle."""
    inside = backlog(Charge(IMAGE, math.inf, {"decode": {CPU: 0.2}, "run": {DEVICE: 0.9}}))
    assert inside.wait(IMAGE) == pytest.approx(0.9)


def test_one_lane_of_a_large_machine_is_one_lane() -> None:
    """Its runs wait for one another: 64 cores do not make them 64 times as fast."""
    inside = backlog(Charge(IMAGE, math.inf, {"run": {CPU: 2.0, DEVICE: 2.0}}), cpus=64)
    assert inside.wait(IMAGE) == pytest.approx(2.0)


ITEMS = st.lists(
    st.tuples(st.sampled_from([IMAGE, SCAN, CLIP, BATCH]), st.floats(0, 5), st.floats(0, 5)),
    max_size=20,
)


@settings(deadline=None)
@given(items=ITEMS, data=st.data())
def test_whatever_order_things_end_in_nothing_is_left(items: Any, data: st.DataObject) -> None:
    """Stages end or turn out dearer, items leave, some twice: an idle backlog is zero, exactly."""
    inside = backlog()
    charges = [charge(kind, decode=decode, run=run) for kind, decode, run in items]
    for one in charges:
        inside.charge(one)
        assert inside.wait(one.kind) >= 0
    for one in data.draw(st.permutations(charges * 2)):
        for stage in data.draw(st.lists(st.sampled_from(["decode", "run", "nothing"]))):
            inside.amend(one, "run", {CPU: data.draw(st.floats(0, 5))})
            inside.done(one, stage)
        inside.leave(one)
        assert all(inside.wait(kind) >= -1e-9 for kind in (IMAGE, SCAN, CLIP, BATCH))
    assert [inside.wait(kind) for kind in (IMAGE, SCAN, CLIP, BATCH)] == [0, 0, 0, 0]
    assert inside.inside.total() == 0
    assert inside.factors == {}


@given(items=ITEMS, kind=st.sampled_from([IMAGE, SCAN, CLIP]))
def test_a_wait_is_never_more_than_all_work(items: Any, kind: str) -> None:
    """Nor is what is ahead by deadlines more than what is inside."""
    charges = [charge(one, 10 * run, decode=decode, run=run) for one, decode, run in items]
    inside = backlog(*charges)
    total = sum(decode + run for _, decode, run in items)
    assert 0 <= inside.wait(kind) <= total / 2 + 1e-9
    assert inside.ahead(kind, math.inf) <= total / 2 + 1e-9
    assert inside.ahead(kind, -1) == 0


def test_what_waits_turned_out_to_be_corrects_the_prediction_slowly() -> None:
    """Real waits of twice what was said: 2 % of the way each time, at most four times, and 1 when
    none is left.
    """
    inside = backlog(charge(IMAGE, run=0.4))
    late = charge(IMAGE, run=0.1)
    late.wait, late.entered = 0.2, 100.0
    inside.correct(late, 100.4)
    assert inside.factors[IMAGE] == pytest.approx(2**0.02)
    for _ in range(1000):
        inside.correct(late, 100.4)
    assert inside.factors[IMAGE] == 4
    assert inside.wait(IMAGE) == pytest.approx(0.8)
    assert SCAN not in inside.factors  # what clips and scans waited is their own affair


def test_many_inside_correct_no_more_than_one_of_them() -> None:
    """They all entered by the same factor, and would each correct it by the same mistake."""
    inside = backlog(*(charge(IMAGE, run=0.1) for _ in range(400)))
    late = charge(IMAGE)
    late.wait, late.entered = 0.2, 100.0
    for _ in range(400):
        inside.correct(late, 100.4)
    assert inside.factors[IMAGE] == pytest.approx(2)


def test_predictions_do_not_swing() -> None:
    """Of a queue that is kept full by what is predicted, the longest wait stays near the bound.

    Items of 4 ms come as fast as they are let in, and cost a tenth more than is believed.
    """
    inside, queue, waits, now = Backlog({CPU: 1, DEVICE: 1}), deque[Charge](), [], 0.0
    while now < 60:
        while enters(inside, IMAGE, max_wait=0.5) is None:
            item = charge(IMAGE, run=0.0036)
            item.entered, item.wait = now, inside.wait(IMAGE)
            inside.charge(item)
            queue.append(item)
        item = queue.popleft()
        waits.append(now - item.entered)
        inside.correct(item, now)
        now += 0.004
        inside.leave(item)
    assert max(waits[len(waits) // 2 :]) < 0.55


def test_short_waits_correct_nothing() -> None:
    """Below 50 ms the scheduling of the kernel would be learnt."""
    inside = backlog()
    soon = charge(IMAGE)
    soon.wait, soon.entered = 0.01, 5.0
    inside.correct(soon, 9.0)
    assert inside.factors.get(IMAGE, 1) == 1


# --- work that may take its time -------------------------------------------------------------


@settings(deadline=None)
@given(items=ITEMS, more=st.lists(st.floats(0, 1e6), min_size=1), data=st.data())
def test_interactive_work_waits_for_no_batch_work(
    items: Any, more: list[float], data: st.DataObject
) -> None:
    """However much there is and whenever it is due: not a second, not one refusal."""
    interactive = [item for item in items if item[0] != BATCH]
    charges = [charge(kind, 9 * run, decode=decode, run=run) for kind, decode, run in interactive]
    alone, crowded = backlog(*charges), backlog(*charges)
    for seconds in more:
        crowded.charge(charge(BATCH, data.draw(st.sampled_from([-1.0, math.inf])), run=seconds))
    for kind in (IMAGE, SCAN, CLIP):
        deadline, own = data.draw(st.floats(0, 50)), data.draw(st.floats(0, 5))
        assert crowded.wait(kind) == alone.wait(kind)
        ahead = alone.ahead(kind, deadline)  # summed up in any order
        assert crowded.ahead(kind, deadline) == pytest.approx(ahead)
        assume(abs(ahead + own + EARLY_SECONDS - deadline) > 1e-6)
        asked: Any = {"max_wait": 1.0, "deadline": deadline, "own": own}
        assert enters(crowded, kind, **asked) == enters(alone, kind, **asked)


def test_batch_work_waits_for_all_that_is_inside() -> None:
    """It has no share of its own, and what is interactive goes first however late it is due."""
    inside = backlog(charge(IMAGE, 90.0, run=1.0), charge(SCAN, 90.0, run=2.0))
    inside.charge(charge(BATCH, 50.0, run=4.0))
    assert inside.wait(BATCH) == pytest.approx(7.0 / 2)
    assert inside.ahead(BATCH, 20.0) == pytest.approx(3.0 / 2)
    assert inside.ahead(BATCH, 60.0) == pytest.approx(7.0 / 2)


def test_first_batch_work_always_enters() -> None:
    """Beside any interactive work: it waits for turns, not at the door."""
    inside = backlog(charge(IMAGE, run=500.0))
    assert enters(inside, BATCH, max_wait=30) is None
    inside.charge(charge(BATCH, run=1.0))
    assert enters(inside, BATCH, max_wait=30) == "wait"


COSTS = st.floats(0.001, 1)


@settings(deadline=None)
@given(
    costs=st.dictionaries(st.sampled_from([IMAGE, SCAN, CLIP]), COSTS, min_size=1), batch=COSTS
)
def test_batch_work_has_a_small_share_and_always_has_it(
    costs: dict[str, float], batch: float
) -> None:
    """While all kinds always wait: a tenth of what each other one uses, to within one turn."""
    turns, costs = Turns(), costs | {BATCH: batch}
    used = dict.fromkeys(costs, 0.0)
    while used[BATCH] < 5 * batch:
        kind = turns.next(costs)
        turns.use(kind, costs[kind], costs)
        used[kind] += costs[kind]
        for other in costs.keys() - {BATCH}:
            assert abs(used[other] - 10 * used[BATCH]) <= costs[other] + 10 * batch + 1e-9


def test_batch_work_alone_owes_nothing_for_long() -> None:
    """An hour of it without others is not paid back once they come, and they do not wait for it."""
    turns, taken = Turns(), Counter[str]()
    turns.use(IMAGE, 1, [IMAGE])
    for _ in range(1000):
        turns.use(BATCH, 1, [BATCH])
    first = turns.next([IMAGE, BATCH])
    for _ in range(44):
        kind = turns.next([IMAGE, BATCH])
        turns.use(kind, 1, [IMAGE, BATCH])
        taken[kind] += 1
    assert (first, taken[BATCH]) == (IMAGE, 3)


# --- who enters ------------------------------------------------------------------------------


def test_an_idle_engine_refuses_nobody_by_a_guess() -> None:
    """However long the item is said to take; only what is over is over."""
    inside = backlog()
    assert enters(inside, IMAGE, max_wait=0.1, now=5, deadline=5.1, own=1e6) is None
    assert enters(inside, IMAGE, max_wait=0.1, now=5, deadline=5) == "deadline"


def test_more_work_than_max_wait_is_refused_and_after_the_body_half_as_much_again() -> None:
    """0.6 s stand before it."""
    inside = backlog(*(charge(IMAGE, run=0.1) for _ in range(12)))
    assert enters(inside, IMAGE, max_wait=0.5) == "wait"
    assert enters(inside, IMAGE, max_wait=0.5, slack=1.5) is None
    assert enters(inside, IMAGE, max_wait=0.7) is None


def test_only_what_is_due_earlier_counts_against_a_deadline() -> None:
    """1 s of work that is due later does not keep an urgent item out."""
    later = backlog(*(charge(IMAGE, 90.0, run=0.1) for _ in range(20)))
    assert enters(later, IMAGE, max_wait=9, deadline=0.3, own=0.1) is None
    sooner = backlog(*(charge(IMAGE, 0.2, run=0.1) for _ in range(20)))
    assert enters(sooner, IMAGE, max_wait=9, deadline=0.3, own=0.1) == "deadline"


@pytest.mark.parametrize(
    ("own", "expected"), [(0.0, 0.5), (0.007, 0.5), (0.1, 0.8), (0.25, 2.0), (60.0, 2.0)]
)
def test_default_wait_is_eight_items(own: float, expected: float) -> None:
    """Between half a second and two."""
    assert default_max_wait(own) == pytest.approx(expected)


def test_item_takes_what_it_adds_to_the_wait_of_others() -> None:
    """Of two lanes that run at once each item's run is half; its slowest resource decides."""
    two_lanes = Backlog({CPU: 4, DEVICE: 2})
    parts = {"decode": {CPU: 0.04}, "run": {CPU: 0.1, DEVICE: 0.1}}
    assert two_lanes.takes(parts) == pytest.approx(0.01 + 0.05)


def test_refused_clients_are_told_when_and_not_all_at_once() -> None:
    """The wait, and as long as all who were refused in the last second need to be served."""
    for chance, expected in ((0.0, 1), (0.999, 9)):
        refusals = Refusals(functools.partial(float, chance))
        for _ in range(100):
            refusals.served(9.5)
        seconds = [refusals.retry_seconds(9.6, 0.4) for _ in range(800)]
        assert seconds[-1] == expected
    assert Refusals(lambda: 1.0).retry_seconds(0, 1e9) == 30


# --- whose turn ------------------------------------------------------------------------------


@dataclass
class Item:
    deadline: float
    number: int = 0
    gone: bool = False


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_earliest_deadline_leaves_first_and_nobody_who_is_gone(items: Any) -> None:
    """In order of arrival among equals."""
    queue: Earliest[Item] = Earliest()
    made = [Item(deadline, number) for number, (deadline, _) in enumerate(items)]
    for item in made:
        queue.push(item)
    for item, (_, gone) in zip(made, items, strict=True):
        item.gone = gone
    left = []
    while queue.peek() is not None:
        left.append(queue.pop())
    there = [item for item in made if not item.gone]
    assert left == sorted(there, key=lambda item: (item.deadline, item.number))
    assert len(queue) == 0


def test_who_had_its_turn_before_goes_first() -> None:
    """An item whose worker died, before all of its deadline, and the first such one last in."""
    queue: Earliest[Item] = Earliest()
    for number in (1, 2):
        queue.push(Item(5.0, number))
    queue.push(Item(5.0, 3), first=True)
    queue.push(Item(4.0, 4))
    assert [queue.pop().number for _ in range(4)] == [4, 3, 1, 2]


def test_the_gone_are_let_go_of() -> None:
    """They hold files and pixels."""
    queue: Earliest[Item] = Earliest()
    items = [Item(float(number)) for number in range(9)]
    for item in items:
        queue.push(item)
    for item in items[::2]:
        item.gone = True
        queue.drop_gone()
    assert len(queue) == 4
    assert [queue.pop().deadline for _ in range(4)] == [1, 3, 5, 7]


def test_kinds_share_by_what_they_used() -> None:
    """Work of 10 ms and of 100 ms, both always waiting: each has half of the time."""
    turns, used, cost = Turns(), Counter[str](), {IMAGE: 10, SCAN: 100}
    for _ in range(1100):
        kind = turns.next([IMAGE, SCAN])
        turns.use(kind, cost[kind], [IMAGE, SCAN])
        used[kind] += cost[kind]
    assert abs(used[IMAGE] - used[SCAN]) <= 100


def test_who_was_idle_saved_nothing_up() -> None:
    """A kind that comes back after an hour does not have the device for another one."""
    turns = Turns()
    turns.use(SCAN, 1, [SCAN])
    for _ in range(1000):
        turns.use(IMAGE, 1, [IMAGE])
    counted = Counter[str]()
    for _ in range(10):
        kind = turns.next([SCAN, IMAGE])
        turns.use(kind, 1, [SCAN, IMAGE])
        counted[kind] += 1
    assert max(counted.values()) <= 6


def test_a_new_kind_shares_from_its_first_item_on() -> None:
    """The first scan after an hour of images does not have the device for an hour."""
    turns, counted = Turns(), Counter[str]()
    for _ in range(1000):
        turns.use(IMAGE, 1, [IMAGE])
    for _ in range(10):
        kind = turns.next([SCAN, IMAGE])
        turns.use(kind, 1, [SCAN, IMAGE])
        counted[kind] += 1
    assert max(counted.values()) <= 6
