"""MPEG-TS below what FFmpeg tells of it: where its packets count anew, as in a file of their own.

Packets have 188 bytes (ISO 13818-1), those of one number (PID) a counter of four bits. Tables stand
between them, one of which tells which programs there are (PAT).
"""

from __future__ import annotations

from media.clips.clip_types import TRANSPORT_PACKETS

PACKET = 188  # bytes
PAT = b"G@\0"  # how a packet begins that has one; its counter is in the next byte
LOOK_BACK = 2**20  # bytes, within which there are two of them
FILLING = 0x1FFF  # the number of packets with nothing in them
HAS_PAYLOAD = 0x10  # flag beside the counter; without it that does not go on


def tables_restart(data: bytes, since: int, until: int) -> int | None:
    """Where in ``since`` to ``until`` tables first count anew, as at a file's beginning.

    A loss on the way rarely meets these few packets, which have a counter of their own.
    """
    before = data.rfind(PAT, max(since - LOOK_BACK, 0), since)
    place = data.find(PAT, since, until)
    while place >= 0:
        if before >= 0 and (data[before + 3] + 1 - data[place + 3]) & 15:
            return place
        before, place = place, data.find(PAT, place + PACKET, until)
    return None


def all_restart(data: bytes, tables: int, until: int, first: int) -> bool:
    """Whether every number from tables that count anew up to a packet begins as in a new file.

    That is at 0, or as up to the packet ``first`` at the beginning of this one. What a loss takes
    away leaves the counters where they happen to be.
    """
    begun = _counters(data, max(data.find(PAT), 0), first)
    return all(
        counter in (0, begun.get(number))
        for number, counter in _counters(data, tables, until).items()
    )


def _counters(data: bytes, place: int, until: int) -> dict[int, int]:
    """The first counter of each number in the packets from ``place`` to ``until`` inclusive."""
    sizes = (size for size, _ in TRANSPORT_PACKETS if data[place + size : place + size + 1] == b"G")
    found: dict[int, int] = {}
    for packet in range(place, until + 1, next(sizes, PACKET)):
        number = int.from_bytes(data[packet + 1 : packet + 3], "big") & 0x1FFF
        if number != FILLING and data[packet + 3] & HAS_PAYLOAD:
            found.setdefault(number, data[packet + 3] & 15)
    return found
