"""MPEG-TS below what FFmpeg tells of it: where its packets count anew, which codecs it declares.

Packets have 188 bytes (ISO 13818-1), those of one number (PID) a counter of four bits. Tables stand
between them: one tells which programs there are (PAT), one for each of these its streams (PMT).
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Iterator

from media.clips.clip_types import TRANSPORT_PACKETS

PACKET = 188  # bytes
PAT = b"G@\0"  # how a packet begins that has one; its counter is in the next byte
LOOK_BACK = 2**20  # bytes, within which there are two of them
FILLING = 0x1FFF  # the number of packets with nothing in them
HAS_PAYLOAD = 0x10  # flag beside the counter; without it that does not go on
PAT_TABLE, PMT_TABLE = 0, 2
MAX_PROGRAMS = 16  # looked into
MAX_TABLES = 1000  # of a program, which differ from the last
#: Stream types of video; FFmpeg reads MPEG-1 with the decoder of MPEG-2.
CODECS = {1: "mpeg2video", 2: "mpeg2video", 0x10: "mpeg4", 0x1B: "h264", 0x24: "hevc"}
#: Tables end in a CRC whose bits run the other way than zlib's; so do these bytes.
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
WHOLE = 0xFFFFFFFF  # what zlib has then for a table with its CRC


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


def codec_change(data: bytes) -> tuple[str, str, int] | None:
    """Two codecs of video that tables declare for one number, and at which byte the second is."""
    programs = {
        int.from_bytes(entry[2:], "big") & 0x1FFF
        for _, table in _tables(data, PAT, PAT_TABLE)
        for entry in (table[place : place + 4] for place in range(8, len(table) - 4, 4))
    }
    first: dict[int, str] = {}
    for place, number, codec in heapq.merge(
        *(_videos(data, program) for program in sorted(programs)[:MAX_PROGRAMS])
    ):
        if first.setdefault(number, codec) != codec:
            return first[number], codec, place
    return None


def _videos(data: bytes, program: int) -> Iterator[tuple[int, int, str]]:
    """Where a program's tables are, and the number and the codec of each video in them."""
    for at, table in _tables(data, b"G" + (0x4000 | program).to_bytes(2, "big"), PMT_TABLE):
        place = 12 + (int.from_bytes(table[10:12], "big") & 0xFFF)
        while place + 5 <= len(table) - 4:
            kind, number, beside = struct.unpack_from(">BHH", table, place)
            if kind in CODECS:
                yield at, number & 0x1FFF, CODECS[kind]
            place += 5 + (beside & 0xFFF)


def _tables(data: bytes, begin: bytes, kind: int) -> Iterator[tuple[int, bytes]]:
    """Where they are, and tables that lie whole in a packet; what repeats the last is left out."""
    place, last, found = data.find(begin), b"", 0
    while place >= 0 and found < MAX_TABLES:
        packet = data[place : place + PACKET]
        beside = 1 + packet[4] if packet[3:4] > b"\x1f" and packet[4:] else 0
        table = packet[5 + beside :]
        table = table[: 3 + (int.from_bytes(table[1:3], "big") & 0xFFF)]
        if table != last and table[:1] == bytes([kind]):
            last, found = table, found + 1
            if zlib.crc32(table.translate(REVERSED)) == WHOLE:
                yield place, table
        place = data.find(begin, place + PACKET)
