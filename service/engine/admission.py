"""Who may enter, in two steps: a permit to upload, bounded in bytes, then one to work, in seconds.

A body that is being read costs memory and no work, so it holds bytes; the work of its files enters
once they are whole, for as long as ``service.engine.schedule`` says. Both are asked for before the
body is read, when refusing is cheapest. Batch work without a deadline is not refused: it waits.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.engine.failures import Overloaded
from service.engine.room import Line
from service.engine.schedule import (
    BATCH,
    BATCH_MAX_WAIT,
    Backlog,
    Charge,
    Parts,
    Refusals,
    default_max_wait,
    enters,
)

#: Of the bytes and of the requests inside, one modality may hold so much where several are served:
#: slow uploads of scans leave room for images.
MOST_OF_ONE_KIND = 0.75
#: The same of one client among several.
MOST_OF_ONE_CLIENT = 0.75
#: After its body was read an item is let in at half as much wait again: refusing it then has cost
#: the reading.
SLACK_AFTER_BODY = 1.5
#: Of the newest item in what an item of its kind is said to take.
NEWEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """What one file will cost, in predicted seconds.

    Attributes:
        kind: its modality, or ``BATCH``.
        parts: stage -> resource -> seconds.
        own: seconds that nine of ten such files need from entering to leaving an idle engine.
    """

    kind: str
    parts: Parts
    own: float


@dataclass(slots=True)
class _Held:
    """What one client has inside."""

    requests: int = 0
    bytes: int = 0


class Admission:
    """Permits: how many requests, bytes of their bodies, and seconds of work may be inside.

    Args:
        max_wait: seconds that may stand before a newcomer; None for ``default_max_wait``.
        on_refusal: called with a modality and the reason of a refusal.
    """

    def __init__(
        self,
        max_requests: int,
        max_bytes: int,
        backlog: Backlog,
        max_wait: float | None = None,
        on_refusal: Callable[[str, str], None] = lambda kind, reason: None,
    ) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.backlog = backlog
        self.kinds = 1  # modalities that are served
        #: Predicted seconds of all that has asked to enter so far, let in or not. Of what was
        #: refused nothing may be known: a request counts as one of the newest of its kind.
        self.asked_seconds = 0.0
        self._max_wait = max_wait
        self._on_refusal = on_refusal
        #: By kind, the seconds that one item adds to what others wait: mostly of the newest.
        self._own: dict[str, float] = {}
        self._refusals = Refusals()
        self._line = Line()  # of batch work
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._of_client: defaultdict[str, _Held] = defaultdict(_Held)

    @property
    def requests(self) -> int:
        return self._requests.total()

    @property
    def bytes(self) -> int:
        return self._bytes.total()

    # --- uploads -----------------------------------------------------------------------------

    def enter(self, kind: str, client: str | None = None, deadline: float = math.inf) -> None:
        """Take a permit to upload, or raise what ``refusal`` says.

        Args:
            client: whose it is, where several may come: none may hold everything.
        """
        if (refusal := self.refusal(kind, deadline)) is not None:
            raise refusal
        if client is not None:
            inside = self._of_client[client].requests
            if inside >= MOST_OF_ONE_CLIENT * self.max_requests:
                raise self._refused(kind, "requests", f"{inside} requests with this key are inside")
            self._of_client[client].requests += 1
        self._requests[kind] += 1

    def refusal(self, kind: str, deadline: float = math.inf) -> Overloaded | None:
        """Why a request may not even upload: its work would have to wait too long by now.

        Args:
            deadline: of its answer, seconds, monotonic.
        """
        if self.requests >= self.max_requests:
            return self._refused(kind, "requests", f"all {self.max_requests} permits are taken")
        if self._requests[kind] >= self._share(self.max_requests):
            inside = self._requests[kind]
            return self._refused(kind, "requests", f"{inside} requests for this are inside")
        reason = self._reason(kind, self.max_wait(kind), deadline)
        return self._too_late(kind, reason) if reason else None

    def hold(self, kind: str, size: int, client: str | None = None) -> None:
        """Count bytes of a body that are, or will be, kept in memory; Overloaded if too many.

        Shares are for those with several requests inside: a single body may have the whole room,
        as one that is larger than a share would else be refused for ever.
        """
        if self.bytes + size > self.max_bytes:
            raise self._refused(kind, "bytes", f"the requests inside hold {self.bytes} bytes")
        held = self._bytes[kind]
        if self._requests[kind] > 1 and held + size > self._share(self.max_bytes):
            raise self._refused(kind, "bytes", f"requests for this hold {held} bytes")
        if client is not None:
            its = self._of_client[client]
            if its.requests > 1 and its.bytes + size > MOST_OF_ONE_CLIENT * self.max_bytes:
                raise self._refused(kind, "bytes", f"requests with this key hold {its.bytes} bytes")
            its.bytes += size
        self._bytes[kind] += size

    def leave(self, kind: str, size: int, client: str | None = None) -> None:
        """Give back the permit and the bytes it held."""
        self._requests[kind] -= 1
        self._bytes[kind] -= size
        if client is not None:
            held = self._of_client[client]
            held.requests, held.bytes = held.requests - 1, held.bytes - size
            if not held.requests:
                del self._of_client[client]

    def _share(self, most: int) -> float:
        return most if self.kinds == 1 else MOST_OF_ONE_KIND * most

    # --- work --------------------------------------------------------------------------------

    def max_wait(self, kind: str) -> float:
        """Seconds that may stand before an item of this kind."""
        if kind == BATCH:
            return BATCH_MAX_WAIT
        if self._max_wait is not None:
            return self._max_wait
        return default_max_wait(self._own.get(kind, 0.0))

    def check(self, kind: str, deadline: float) -> None:
        """Overloaded where what stands before a newcomer leaves no time until its deadline."""
        if reason := self._reason(kind, math.inf, deadline):
            raise self._too_late(kind, reason)

    def _reason(self, kind: str, max_wait: float, deadline: float) -> str | None:
        """Why one more item of a kind may not enter, of which nothing is known yet."""
        return enters(
            self.backlog, kind, max_wait=max_wait,
            now=time.monotonic(), deadline=deadline, own=self._own.get(kind, 0.0),
        )  # fmt: skip

    def admit(self, works: Sequence[Work], deadline: float) -> None:
        """Whether all files of a request may enter; Overloaded where it is too much.

        They are asked for together: what they will wait for one another is their own affair. Batch
        work without a deadline always may, once there is room: see ``wait_for_room``.

        Args:
            deadline: of the answer, seconds, monotonic.
        """
        kind, own = works[0].kind, max(work.own for work in works)
        if _is_patient(kind, deadline):
            return
        most, slack = self.max_wait(kind), 1.0 if kind == BATCH else SLACK_AFTER_BODY
        if kind == BATCH and self.backlog.ahead(kind, deadline) <= most:
            most = math.inf  # the rest of what is inside has more time, so this passes it
        reason = enters(
            self.backlog, kind, max_wait=most, slack=slack,
            now=time.monotonic(), deadline=deadline, own=own,
        )  # fmt: skip
        if reason is not None:
            raise self._too_late(kind, reason)

    async def wait_for_room(self, kind: str, deadline: float) -> None:
        """Until batch work without a deadline may enter, which it must do at once; else nothing.

        Its first item always finds room, whatever it costs.
        """
        if _is_patient(kind, deadline):
            await self._line.wait(
                lambda: enters(self.backlog, kind, max_wait=self.max_wait(kind)) is None
            )

    @contextmanager
    def work(self, work: Work, deadline: float) -> Iterator[Charge]:
        """One file that was let in, until the block ends."""
        seconds = self.backlog.takes(work.parts)
        before = self._own.setdefault(work.kind, seconds)
        self._own[work.kind] = before + NEWEST_SHARE * (seconds - before)
        self.asked_seconds += seconds
        charge = Charge(work.kind, deadline, work.parts)
        charge.entered, charge.wait = time.monotonic(), self.backlog.wait(work.kind)
        self.backlog.charge(charge)
        try:
            yield charge
            self._refusals.served(time.monotonic())
        finally:
            self.backlog.leave(charge)
            self._line.move()

    def _too_late(self, kind: str, reason: str = "wait") -> Overloaded:
        if reason == "deadline":
            return self._refused(kind, reason, "it could not be answered within its time")
        return self._refused(kind, reason, "the work inside takes {wait:.1f} seconds")

    def _refused(self, kind: str, reason: str, what: str) -> Overloaded:
        """Refusals come when there is most to do: what stands before them is summed up once."""
        self._on_refusal(kind, reason)
        self.asked_seconds += self._own.get(kind, 0.0)
        wait = self.backlog.wait(kind)
        seconds = self._refusals.retry_seconds(time.monotonic(), wait)
        return Overloaded(f"{what.format(wait=wait)}; try again later", seconds, reason)


def _is_patient(kind: str, deadline: float) -> bool:
    """Whether work waits instead of being refused: nobody sits there, and no time is too late."""
    return kind == BATCH and deadline == math.inf
