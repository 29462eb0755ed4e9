"""One clock for a clip whose own starts again or jumps.

Broadcasts and what is joined from them (``cat one.ts other.ts``) carry times that go back to their
beginning, or leap. What follows such a seam is shown right after what came before it. A seam at a
key frame begins a new part, which refers to nothing before it; at any other frame only the clock
has changed, and the frames go on.
"""

from __future__ import annotations

from fractions import Fraction

from av.packet import Packet
from av.video.stream import VideoStream

#: A longer gap between two packets of a broadcast is a clock that jumps and no picture that is
#: held: there the standard (ISO 13818-1) asks for a time at least every 0.7 s.
JUMP_SECONDS = 10


class Clock:
    """Ticks that only go on.

    Attributes:
        part: which part of the clip the last packet belongs to; 0 is the first.
        seam: whether the last packet was the first after a change of the clock.
    """

    def __init__(self, tick: Fraction, broadcast: bool) -> None:
        self.part = 0
        self.seam = False
        self._jump = JUMP_SECONDS / tick if broadcast else None
        self._shift = 0
        self._last: int | None = None  # when the last packet was to be decoded, as it says
        self._step = 1  # from one packet to the next
        self._begin: int | None = None  # of a later part
        self._end = 0  # of all that is shown so far

    def start(self, packet: Packet[VideoStream], start: int) -> int | None:
        """When a frame is shown, on this clock; None if it is built on what a seam cut off.

        Args:
            start: the same on the clip's own clock, in ticks.
        """
        order = start if packet.dts is None else packet.dts
        self.seam = self._last is not None and self._breaks(order - self._last, packet)
        if self.seam and packet.is_keyframe:
            self.part += 1
            self._begin = self._end
            self._shift = self._end - start
        elif self.seam and self._last is not None:
            self._shift += self._last + self._step - order
        elif self._last is not None and order > self._last:
            self._step = order - self._last
        self._last = order
        shown = start + self._shift
        if self._begin is not None and shown < self._begin:
            return None
        self._end = max(self._end, shown + (packet.duration or self._step))
        return shown

    def _breaks(self, gap: int, packet: Packet[VideoStream]) -> bool:
        """Whether the clock has changed between two packets that are ``gap`` ticks apart."""
        if self._jump is not None and (gap > self._jump or (gap == 0 and packet.is_keyframe)):
            return True
        return gap < 0 if packet.is_keyframe else gap < -self._step
