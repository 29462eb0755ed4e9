"""The policy of the engine under every sequence of events: nothing lost, starved, late or left."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine import admission as module
from service.engine.admission import MOST_OF_ONE_KIND, Admission, Work
from service.engine.failures import Overloaded
from service.engine.schedule import CPU, DEVICE, FACTORS, Backlog, Charge, Earliest, Turns
from tests.helpers.effort import effort

KINDS = ("image", "video", "volume")
MAX_REQUESTS, MAX_BYTES, MAX_WAIT = 16, 1000, 100.0
SECONDS = st.sampled_from([0.001, 0.03, 0.1, 0.5, 4.0]) | st.sampled_from([0.0, 1e-9, 1e6])
#: Kind, bytes, seconds of decoding, of a run, of nine of ten such items; patience.
REQUEST = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 150), SECONDS, SECONDS, SECONDS,
    st.sampled_from([0.0, 5.0]) | st.just(math.inf),
)  # fmt: skip
DECODE, RUN = "decode", "run"


@dataclasses.dataclass(eq=False)
class Item:
    """One request with one file, and where it is: its stage waits or, taken, is worked on."""

    kind: str
    size: int
    seconds: dict[str, float]
    deadline: float
    number: int  # in the order of coming to its queue
    stage: str = DECODE
    taken: bool = False
    gone: bool = False
    held: int = 0  # bytes
    first: int = 0  # above 0: put back before all of its deadline, the newest one first
    charge: Charge | None = None
    scope: ExitStack = dataclasses.field(default_factory=ExitStack)

    def place(self) -> tuple[float, int, int]:
        return self.deadline, -self.first, self.number


class Station:
    """A queue for each kind, as the decode pool and the device have them."""

    def __init__(self) -> None:
        self.queues: dict[str, Earliest[Item]] = {kind: Earliest() for kind in KINDS}
        self.turns = Turns()
        self.largest = 0.0  # seconds of one turn
        #: Pair of kinds -> what each used since both have always been waiting.
        self.since: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(
            lambda: dict.fromkeys(KINDS, 0.0)
        )

    def waiting(self) -> list[str]:
        return [kind for kind, queue in self.queues.items() if queue.peek() is not None]

    def take(self, seconds: dict[str, float]) -> Item:
        """The next one by the policy; AssertionError where a kind that waits is starved."""
        waiting = self.waiting()
        kind = self.turns.next(waiting)
        self.turns.use(kind, seconds[kind], waiting)
        self.largest = max(self.largest, seconds[kind])
        for pair in itertools.combinations(KINDS, 2):
            if set(pair) <= set(waiting):
                self.since[pair][kind] += seconds[kind]
                used = [self.since[pair][one] for one in pair]
                assert abs(used[0] - used[1]) <= 2 * self.largest * (1 + 1e-9)
            else:
                self.since.pop(pair, None)
        return self.queues[kind].pop()


class Engine(RuleBasedStateMachine):
    """The policy as the engine drives it, beside a plain list of what is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.patch = mock.patch.object(module, "time", clock)
        self.patch.start()
        self.backlog = Backlog({CPU: 2, DEVICE: 1})
        self.refused: Counter[str] = Counter()
        self.admission = Admission(
            MAX_REQUESTS, MAX_BYTES, self.backlog, MAX_WAIT,
            on_refusal=lambda kind, reason: self.refused.update([reason]),
        )  # fmt: skip
        self.admission.kinds = len(KINDS)
        self.stations = {DECODE: Station(), RUN: Station()}
        self.items: list[Item] = []
        self.numbers = itertools.count(1)
        self.firsts = itertools.count(1)

    # --- what happens ------------------------------------------------------------------------

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(requests=st.lists(REQUEST, min_size=1, max_size=6))
    def come(self, requests: list[tuple[str, int, float, float, float, float]]) -> None:
        for one in requests:
            self.comes(*one)

    def comes(
        self, kind: str, size: int, decode: float, run: float, own: float, patience: float
    ) -> None:
        """One is let in, or told why not and when to come back; then nothing of it stays."""
        parts = {DECODE: {CPU: decode}, RUN: {DEVICE: run, CPU: run}, "answer": {CPU: 0.001}}
        item = Item(kind, size, {DECODE: decode, RUN: run}, self.now + patience, next(self.numbers))
        fits = size <= MOST_OF_ONE_KIND * MAX_BYTES and self.admission.bytes + size <= MAX_BYTES
        room = self.admission.requests < MAX_REQUESTS and fits
        must_enter = room and item.deadline > self.now and not self.backlog.inside[kind]
        before = self.refused.total()
        try:
            self.admission.enter(kind)
            item.scope.callback(lambda: self.admission.leave(kind, item.held))
            self.admission.hold(kind, size)
            item.held = size
            work = Work(kind, parts, own)
            self.admission.admit([work], item.deadline)
            item.charge = item.scope.enter_context(self.admission.work(work, item.deadline))
        except Overloaded as refusal:
            item.scope.close()
            assert refusal.retry_seconds is not None
            assert 1 <= refusal.retry_seconds <= 30
            assert self.refused.total() == before + 1
            assert not must_enter, "nothing of its kind is inside"
            return
        assert item.deadline > self.now
        self.items.append(item)
        self.stations[DECODE].queues[kind].push(item)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        """Wherever its item is."""
        item = data.draw(st.sampled_from(self.items))
        item.gone = True
        if not item.taken:
            self.stations[item.stage].queues[item.kind].drop_gone()
        self.out(item)

    @precondition(lambda self: any(not item.taken for item in self.items))
    @rule(stage=st.sampled_from([DECODE, RUN]), times=st.integers(1, 4))
    def taken(self, stage: str, times: int) -> None:
        """Workers or lanes become free: the earliest deadline of the kind whose turn it is."""
        for _ in range(times):
            self.take(stage)

    def take(self, stage: str) -> None:
        waiting = [item for item in self.items if item.stage == stage and not item.taken]
        heads = {
            kind: min((one for one in waiting if one.kind == kind), key=Item.place)
            for kind in {item.kind for item in waiting}
        }
        station = self.stations[stage]
        assert set(station.waiting()) == set(heads)
        if heads:
            item = station.take({kind: head.seconds[stage] for kind, head in heads.items()})
            assert item is heads[item.kind]
            item.taken, item.first = True, 0

    @precondition(lambda self: any(item.taken for item in self.items))
    @rule(data=st.data(), otherwise=st.none() | SECONDS)
    def stages_end(self, data: st.DataObject, otherwise: float | None) -> None:
        """Decoded items wait for the device; what ran is answered."""
        taken = [item for item in self.items if item.taken]
        for item in data.draw(st.lists(st.sampled_from(taken), min_size=1, unique=True)):
            self.stage_ends(item, otherwise)

    def stage_ends(self, item: Item, otherwise: float | None) -> None:
        assert item.charge is not None
        self.backlog.done(item.charge, item.stage)
        item.seconds[item.stage] = 0.0
        if item.stage == RUN:
            self.out(item)
            return
        if otherwise is not None:
            self.backlog.amend(item.charge, RUN, {DEVICE: otherwise, CPU: otherwise})
            item.seconds[RUN] = otherwise
        self.backlog.correct(item.charge, self.now)
        item.stage, item.taken, item.number = RUN, False, next(self.numbers)
        self.stations[RUN].queues[item.kind].push(item)

    @precondition(lambda self: any(item.taken for item in self.items))
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        """What it held goes to the front of its deadline."""
        item = data.draw(st.sampled_from([item for item in self.items if item.taken]))
        item.taken, item.first = False, next(self.firsts)
        self.stations[item.stage].queues[item.kind].push(item, first=True)

    def out(self, item: Item) -> None:
        self.items.remove(item)
        item.scope.close()

    # --- what must be true after each --------------------------------------------------------

    @invariant()
    def everything_inside_is_counted_once(self) -> None:
        inside = Counter(item.kind for item in self.items)
        assert +self.backlog.inside == inside
        assert self.admission.requests == len(self.items) <= MAX_REQUESTS
        assert self.admission.bytes == sum(item.size for item in self.items) <= MAX_BYTES
        for kind in KINDS:
            held = sum(item.size for item in self.items if item.kind == kind)
            assert inside[kind] <= MOST_OF_ONE_KIND * MAX_REQUESTS
            assert held <= MOST_OF_ONE_KIND * MAX_BYTES

    @invariant()
    def waits_are_what_is_left_to_do(self) -> None:
        """Of all, or of its own kind's share; ahead of a deadline is never more than of all."""
        for kind in KINDS:
            kinds = len({item.kind for item in self.items} | {kind})
            factor = self.backlog.factors.get(kind, 1.0)
            assert FACTORS[0] <= factor <= FACTORS[1]
            wait = 0.0
            for rate, stages, answer in ((2, (DECODE, RUN), 0.001), (1, (RUN,), 0.0)):
                left = [
                    (item.kind, sum(item.seconds[stage] for stage in stages) + answer)
                    for item in self.items
                ]
                total = sum(seconds for _, seconds in left)
                own = sum(seconds for other, seconds in left if other == kind)
                wait = max(wait, min(total, own * kinds) / rate)
            assert self.backlog.wait(kind) == pytest.approx(factor * wait, rel=1e-6, abs=1e-6)
            ahead = self.backlog.ahead(kind, self.now + 1)
            assert -1e-6 <= ahead <= factor * self.total() + 1e-6

    def total(self) -> float:
        return sum(sum(item.seconds.values()) + 0.001 for item in self.items)

    def teardown(self) -> None:
        """Everybody goes, and an idle engine owes nothing, exactly."""
        for item in list(self.items):
            self.out(item)
        self.patch.stop()
        assert [self.backlog.wait(kind) for kind in KINDS] == [0, 0, 0]
        assert not self.backlog.factors
        assert self.admission.requests == self.admission.bytes == 0


Engine.TestCase.settings = settings(
    max_examples=effort(25, 150), stateful_step_count=40, deadline=None
)
TestEngine = Engine.TestCase
