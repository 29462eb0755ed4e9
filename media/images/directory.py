"""The directories of numbers that TIFF files and EXIF data begin with, read entry by entry.

Nothing is unpacked that nobody asked for: an entry may announce millions of values, of types that
are none, in places that are not there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_ENTRIES = 1024  # of a directory
BIGTIFF = b"II+\0"  # of the other byte order there are none
#: Type of a value -> how it is stored: whole numbers, letters, fractions of two, floating point.
FORMATS = {
    1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f",
    12: "d", 13: "I", 16: "Q", 17: "q",
}  # fmt: skip


class Form(NamedTuple):
    """How numbers are written, as ``struct`` has it, and how long an entry is, in bytes."""

    order: str
    offset: str
    number: str
    entry: int

    @classmethod
    def of(cls, data: bytes) -> Form:
        if data.startswith(BIGTIFF):
            return cls("<", "<Q", "<Q", 20)
        order = "<" if data.startswith(b"II") else ">"
        return cls(order, order + "I", order + "H", 12)


class Entry(NamedTuple):
    """What a directory says about one tag.

    Attributes:
        values: their number.
        raw: all of the entry; its end holds the values, or the place where they are.
    """

    tag: int
    type: int
    values: int
    raw: bytes


def entries(data: bytes) -> Iterator[Entry]:
    """The first directory, one entry after another; their values are not touched.

    Raises:
        struct.error: the directory lies behind the end of the data, or leaves it.
    """
    form = Form.of(data)
    offset = struct.calcsize(form.offset)
    (start,) = struct.unpack_from(form.offset, data, offset)
    (count,) = struct.unpack_from(form.number, data, start)
    first = start + struct.calcsize(form.number)
    for place in range(first, first + count * form.entry, form.entry):
        tag, kind, values = struct.unpack_from(f"{form.order}HH{form.offset[1:]}", data, place)
        yield Entry(tag, kind, values, data[place : place + form.entry])


def first_value(data: bytes, entry: Entry) -> float:
    """The first value of an entry as a number, whatever its type; 0 where it is none.

    Raises:
        struct.error: it lies behind the end of the data.
    """
    if entry.type not in FORMATS or not entry.values:
        return 0
    stored = Form.of(data).order + FORMATS[entry.type]
    held, place = place_of(data, entry, struct.calcsize(stored))
    value, *divisor = struct.unpack_from(stored, held, place)
    if isinstance(value, bytes):
        return int(value) if value.isdigit() else 0
    return float(value / divisor[0] if divisor and divisor[0] else value)


def place_of(data: bytes, entry: Entry, value_bytes: int) -> tuple[bytes, int]:
    """Where the values of an entry are: in which bytes, and from which place on."""
    offset = Form.of(data).offset
    room = struct.calcsize(offset)
    begin = len(entry.raw) - room
    if entry.values * value_bytes <= room:
        return entry.raw, begin
    return data, struct.unpack_from(offset, entry.raw, begin)[0]
