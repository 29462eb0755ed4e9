"""Packets on one clock, where a clip's own starts again or jumps.

Broadcasts and what is joined from them (``cat one.ts other.ts``) carry times that go back to their
beginning, or leap. What follows such a seam is shown right after what came before it. A seam at a
key frame begins a new part, which refers to nothing before it; at any other frame only the clock
has changed, and the frames go on.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

from av.packet import Packet
from av.video.stream import VideoStream

from media.clips.clip_types import STREAMED
from media.clips.transport import all_restart, tables_restart

#: A longer gap between two packets of a broadcast is a clock that jumps and no picture that is
#: held: there the standard (ISO 13818-1) asks for a time at least every 0.7 s.
JUMP_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Coded:
    """A packet, and what is known of it.

    Attributes:
        start: the tick at which its frame begins to be shown.
        part: of the clip; each begins with a key frame and refers to nothing before it.
        damaged: bytes are missing: cut off, or lost on the way.
    """

    packet: Packet[VideoStream]
    start: int
    part: int
    damaged: bool


class Timeline:
    """Takes packets in the order of decoding, and gives their frames times that only go on."""

    def __init__(self, tick: Fraction, demuxer: str, data: bytes) -> None:
        self.packets: list[Coded] = []
        self._tick = tick
        self._demuxer = demuxer
        self._data = data
        self._broadcast = demuxer in STREAMED
        self._jump = JUMP_SECONDS / tick if self._broadcast else math.inf
        self._guessed = demuxer == "mpeg"  # most of its frames have times that FFmpeg works out
        self._part = 0
        self._begin = 0  # of this part
        self._end = 0  # of all that is shown so far
        self._shift = 0  # from the clip's clock to this one
        self._delay = 0  # from decoding to showing, at the beginning of this part
        self._step = 1  # from one packet to the next
        self._last: int | None = None  # when the last packet was decoded, on the clip's clock

    @property
    def seconds(self) -> Fraction:
        """From the first frame to the last packet's."""
        return (self.packets[-1].start - self.packets[0].start) * self._tick

    def add(self, packet: Packet[VideoStream], start: int) -> None:
        """Append a packet, unless it is built on what a seam has cut off.

        Args:
            start: when its frame is shown, on the clip's own clock.
        """
        order = start if packet.dts is None else packet.dts
        if self._broadcast:  # of a frame that is shown before it is decoded, the latter is guessed
            order = min(order, start)
        if self._last is None:
            self._begin, self._delay = start, start - order
            self._step = packet.duration or 1
        elif packet.dts is not None and self._breaks(order - self._last, packet):
            self._pass_seam(order, start, packet)
        else:
            self._go_on(order, start, packet)
        self._last = order
        if self._guessed and start - order > self._jump:  # guessed from what is behind a seam
            start = order + self._delay
        shown = start + self._shift
        if self._part and shown < self._begin:
            return
        self._end = max(self._end, shown + (packet.duration or self._step))
        packet.pts = shown  # from here the decoder takes the times of its frames
        self.packets.append(Coded(packet, shown, self._part, packet.is_corrupt))

    def _breaks(self, gap: int, packet: Packet[VideoStream]) -> bool:
        """Whether the clock has changed between two packets that are ``gap`` ticks apart."""
        if gap > self._jump or (self._broadcast and gap == 0 and packet.is_keyframe):
            return True
        return gap < 0 if packet.is_keyframe else gap < -self._step

    def _go_on(self, order: int, start: int, packet: Packet[VideoStream]) -> None:
        assert self._last is not None
        gap = order - self._last
        joined = self._joins(gap, packet)
        if joined and gap >= 2 * self._step:  # after a pause, or a clock of its own
            self._pass_seam(order, start, packet)
            return
        if joined:  # pieces of one broadcast (HLS)
            self._forgive()
        self._step = gap if gap > 0 else self._step

    def _pass_seam(self, order: int, start: int, packet: Packet[VideoStream]) -> None:
        assert self._last is not None
        ended = self._last + self._shift
        if self._guessed:
            self._show_last_reference(ended + self._delay)
        if not packet.is_keyframe:
            self._shift = ended + self._step - order
            return
        self._forgive()
        self._part += 1
        self._begin, self._delay, self._shift = self._end, start - order, self._end - start

    def _show_last_reference(self, latest: int) -> None:
        """Give the frame that is shown last before a seam its time; FFmpeg took that from behind.

        In MPEG-1 and MPEG-2 it is the last that does not show as soon as it is decoded.
        """
        for place in range(len(self.packets) - 1, -1, -1):
            one = self.packets[place]
            if one.packet.dts is None or one.part != self._part:
                break
            if one.start != one.packet.dts + self._shift:
                one.packet.pts = latest
                self.packets[place] = dataclasses.replace(one, start=latest)
                break
        self._end = latest + self._step

    def _joins(self, gap: int, packet: Packet[VideoStream]) -> bool:
        """Whether another MPEG-TS begins with a key frame, however far on its clock is."""
        first, last = self.packets[0].packet.pos, self.packets[-1].packet.pos
        if self._demuxer != "mpegts" or not packet.is_keyframe:
            return False
        if first is None or last is None or packet.pos is None:
            return False
        tables = tables_restart(self._data, last, packet.pos)
        if tables is None or gap < 2 * self._step:
            return tables is not None
        return all_restart(self._data, tables, packet.pos, first)

    def _forgive(self) -> None:
        """Where streams are joined their packets count anew: that looks like a loss and is none.

        The frame whose end is not known until then is the last; FFmpeg marks the one before it. If
        there is damage after all, it is left to the decoder to notice.
        """
        self.packets[-2:-1] = [
            dataclasses.replace(one, damaged=False) for one in self.packets[-2:-1]
        ]
