"""The policy of the engine: who may enter, and whose turn it is. Without a clock and a loop.

Everything is counted in predicted processor seconds (``service.engine.costs``). An item is charged
whole when it enters, decoding, run and answer, and each part is given back when it is done: what a
station has in front of it says nothing of what follows behind it. Two tests let an item in: what
stands before all of its kind is at most ``max_wait``, and what must be done before it by deadlines
leaves time for its own work. Inside, the earliest deadline goes first within a kind, and kinds take
turns by what they used, so that no kind waits for all of another.

A kind is a modality, or ``BATCH``: all work for which nobody sits and waits. What is interactive
counts as if that were not there; it counts everything, waits for room instead of being refused, and
has a small share of the turns, so that it is never forgotten.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

CPU, DEVICE = "cpu", "device"  # a device that is no CPU works beside them
#: The kind of what may take its time, whatever its modality.
BATCH = "batch"
#: Its seconds count so many times where kinds take turns by what they used.
BATCH_WEIGHT = 10
#: As ``max_wait``, of what is batch: all that is inside stands before it.
BATCH_MAX_WAIT = 30.0
#: An item must end so long before its deadline: the answer has to be written.
EARLY_SECONDS = 0.005
#: ``max_wait`` where the operator says nothing: what eight items take, between these.
MAX_WAIT_ITEMS = 8
LEAST_MAX_WAIT, MOST_MAX_WAIT = 0.5, 2.0
#: The prediction is corrected by what happened, slowly, and only where the wait is worth it.
GAIN, FACTORS, WORTH_SECONDS = 0.02, (0.5, 4.0), 0.05
MAX_RETRY_SECONDS = 30


#: Stage -> resource -> seconds of it.
Parts = Mapping[str, Mapping[str, float]]


class Charge:
    """One item inside: its kind, its deadline, and what is left of its predicted seconds."""

    __slots__ = ("deadline", "entered", "kind", "parts", "wait")

    def __init__(self, kind: str, deadline: float, parts: Parts) -> None:
        self.kind = kind
        self.deadline = deadline
        self.parts = dict(parts)
        self.wait = 0.0  # predicted when it entered
        self.entered = 0.0


class Backlog:
    """The predicted seconds of everything inside, by resource and kind.

    Args:
        rates: resource -> seconds of work that it does in one second, such as its cores.
    """

    def __init__(self, rates: Mapping[str, float]) -> None:
        self.rates = dict(rates)
        self.inside: Counter[str] = Counter()  # items by kind
        #: By kind, what waits turned out to be over what was predicted.
        self.factors: dict[str, float] = {}
        self._seconds = {resource: defaultdict[str, float](float) for resource in rates}
        self._charges: set[Charge] = set()

    def charge(self, charge: Charge) -> None:
        self._charges.add(charge)
        self.inside[charge.kind] += 1
        for part in charge.parts.values():
            for resource, seconds in part.items():
                self._seconds[resource][charge.kind] += seconds

    def done(self, charge: Charge, stage: str) -> None:
        """A stage of an item is over; nothing happens if that was said before."""
        if charge in self._charges:
            for resource, seconds in charge.parts.pop(stage, {}).items():
                self._seconds[resource][charge.kind] -= seconds

    def amend(self, charge: Charge, stage: str, part: Mapping[str, float]) -> None:
        """What a stage of an item takes is known better than when it entered."""
        if charge in self._charges and stage in charge.parts:
            self.done(charge, stage)
            charge.parts[stage] = part
            for resource, seconds in part.items():
                self._seconds[resource][charge.kind] += seconds

    def leave(self, charge: Charge) -> None:
        """An item is out, however far it came; once is enough."""
        if charge not in self._charges:
            return
        for stage in list(charge.parts):
            self.done(charge, stage)
        self._charges.discard(charge)
        self.inside[charge.kind] -= 1
        if not self.inside[charge.kind]:  # nothing is left of rounding, nor of a correction
            del self.inside[charge.kind]
            self.factors.pop(charge.kind, None)
            for of_kind in self._seconds.values():
                of_kind.pop(charge.kind, None)

    def seconds(self, resource: str) -> float:
        """Of all that is inside, whatever its kind."""
        return sum(self._seconds[resource].values())

    def takes(self, parts: Parts) -> float:
        """Seconds until an item is worked off by all of each resource together, stage by stage."""
        return sum(
            max(seconds / self.rates[resource] for resource, seconds in part.items())
            for part in parts.values()
        )

    def wait(self, kind: str) -> float:
        """Seconds until a newcomer of a kind is served; the resource that takes longest decides.

        All that is inside stands before it, but its own kind has a share that the others cannot
        take: an image does not wait for two scans. Batch work stands before batch work alone, which
        has no such share.
        """
        kinds = len(self.inside.keys() | {kind, BATCH}) - 1
        return self._until_served(self._seconds, kind, kinds)

    def ahead(self, kind: str, deadline: float) -> float:
        """As ``wait``, of what has an earlier deadline alone; to batch work all else is earlier."""
        before = {resource: defaultdict[str, float](float) for resource in self.rates}
        kinds = {kind, BATCH}
        for charge in self._charges:
            if charge.deadline <= deadline or kind == BATCH != charge.kind:
                kinds.add(charge.kind)
                for part in charge.parts.values():
                    for resource, seconds in part.items():
                        before[resource][charge.kind] += seconds
        return self._until_served(before, kind, len(kinds) - 1)

    def _until_served(
        self, before: Mapping[str, Mapping[str, float]], kind: str, kinds: int
    ) -> float:
        """Of the seconds that stand before an item, by resource and kind, when so many share."""
        waits = []
        for resource, seconds in before.items():
            stands = sum(cost for one, cost in seconds.items() if one != BATCH or kind == BATCH)
            if kind != BATCH:
                stands = min(stands, seconds.get(kind, 0.0) * kinds)
            waits.append(stands / self.rates[resource])
        return self.factors.get(kind, 1.0) * max(waits)

    def correct(self, charge: Charge, now: float) -> None:
        """An item is about to be run: let what it waited correct what is predicted.

        All that are inside entered by an older factor. Together they move it no further than one
        of them alone was off; if each did by as much again, predictions and waits would swing.
        """
        if charge.wait > WORTH_SECONDS:
            before = self.factors.get(charge.kind, 1.0)
            gain = min(GAIN, 1 / max(1, self.inside[charge.kind]))
            factor = before * ((now - charge.entered) / charge.wait) ** gain
            self.factors[charge.kind] = min(max(factor, FACTORS[0]), FACTORS[1])


def default_max_wait(own_seconds: float) -> float:
    """Seconds that may stand before an item of those that take ``own_seconds`` each."""
    return min(max(MAX_WAIT_ITEMS * own_seconds, LEAST_MAX_WAIT), MOST_MAX_WAIT)


def enters(
    backlog: Backlog,
    kind: str,
    *,
    max_wait: float,
    slack: float = 1.0,
    now: float = 0.0,
    deadline: float = math.inf,
    own: float = 0.0,
) -> str | None:
    """Why an item may not enter, ``"wait"`` or ``"deadline"``; None where it may.

    Args:
        slack: 1 before its body is read, more after it: the reading was paid for.
        own: seconds that nine of ten such items stay below.
    """
    if not backlog.inside[kind]:  # an idle engine never refuses by a guess
        return None if deadline > now else "deadline"
    if (wait := backlog.wait(kind)) > slack * max_wait:
        return "wait"
    if now + wait + own + EARLY_SECONDS <= deadline:  # what is ahead is no more than that
        return None
    late = now + backlog.ahead(kind, deadline) + own + EARLY_SECONDS > deadline
    return "deadline" if late else None


class Refusals:
    """When to come back: the wait, and as much as all who were refused need to be served."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._refused: deque[float] = deque(maxlen=4096)  # times of the last second
        self._served: deque[float] = deque(maxlen=4096)

    def served(self, now: float) -> None:
        self._served.append(now)

    def retry_seconds(self, now: float, wait: float) -> int:
        """Whole seconds for one that is refused now; not the same for all, or all come at once."""
        self._refused.append(now)
        for times in (self._refused, self._served):
            while times and times[0] < now - 1:
                times.popleft()
        spread = max(1.0, len(self._refused) / max(1, len(self._served)))
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(wait + self._chance() * spread)))


# --- whose turn it is ------------------------------------------------------------------------


class Waiting(Protocol):
    """What stands in a queue."""

    @property
    def deadline(self) -> float: ...

    @property
    def gone(self) -> bool:
        """Nobody waits for it any more."""
        ...


W = TypeVar("W", bound=Waiting)


class Earliest(Generic[W]):
    """A queue that the earliest deadline leaves first; who came first among equals."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, W]] = []
        self._numbers = itertools.count()
        self._first = itertools.count(-1, -1)
        self._gone = 0  # of them, as far as it was told

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, item: W, first: bool = False) -> None:
        """Add an item; ``first`` before all of its deadline, because it had its turn before."""
        number = next(self._first) if first else next(self._numbers)
        heapq.heappush(self._heap, (item.deadline, number, item))

    def peek(self) -> W | None:
        """The next one that somebody waits for; the others are let go of."""
        while self._heap and self._heap[0][2].gone:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> W:
        """What ``peek`` has shown."""
        return heapq.heappop(self._heap)[2]

    def drop_gone(self) -> None:
        """Somebody who waited has gone. Once they are half of all they are let go of."""
        self._gone += 1
        if 2 * self._gone >= len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].gone]
            heapq.heapify(self._heap)
            self._gone = 0


class Turns:
    """Kinds by the seconds that they used; the one that used least is next.

    Start-time fair queueing: who was idle, or is new, begins where the last turn began, so it
    saved nothing up and owes nothing. Batch work pays ten times, and so has its turn now and then.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._began = 0.0  # of the newest turn, on the scale of what was used

    def next(self, kinds: Iterable[str]) -> str:
        """Of those that wait."""
        return min(kinds, key=lambda kind: self._used.get(kind, self._began))

    def use(self, kind: str, seconds: float, waiting: Iterable[str]) -> None:
        """``kind`` has its turn; ``waiting`` are all that wanted it, itself among them."""
        self._began = self._used.get(kind, self._began)
        self._used[kind] = self._began + seconds * (BATCH_WEIGHT if kind == BATCH else 1)
        for other in self._used.keys() - set(waiting):
            self._used[other] = max(self._used[other], self._began)
