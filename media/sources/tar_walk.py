"""The files of a large tar one after the other: only headers are read, many checked at once.

No object of the standard library is made for a member; what that library knows of old and long
names is known here too: those of GNU tar, of pax, and ustar's prefix.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from media.sources.archive import clean
from media.sources.items import SourceError

BLOCK = 512
#: Headers that are checked together.
AHEAD = 2048
#: Of a name or of pax records; what is larger is none.
MAX_EXTENSION_BYTES = 2**20
FILES, FOLDER, SPARSE = b"0\x007", ord("5"), ord("S")
LONG_NAME, LONG_LINK, PAX, GLOBAL = ord("L"), ord("K"), b"xX", ord("g")


class Entry(NamedTuple):
    """One file in a tar: its name, where its bytes begin, how many they are, and the first of them.

    ``head`` is at least as long as the file or a block, and good until the next entry is asked for.
    """

    name: str
    start: int
    size: int
    head: memoryview


def walk_tar(path: Path, advance: Callable[[int], None] = lambda count: None) -> Iterator[Entry]:
    """Every file, in order.

    Args:
        advance: called with the number of bytes just passed, for a progress display.

    Raises:
        SourceError: damaged, cut short, or more in it than files and folders.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as stream:
        yield from _Walk(path.name, stream.fileno(), advance).entries()


class _Walk:
    """Where a walk is, and what the extensions that it met say of the next member."""

    def __init__(self, tar: str, descriptor: int, advance: Callable[[int], None]) -> None:
        self.tar, self.descriptor, self.advance = tar, descriptor, advance
        self.length = os.fstat(descriptor).st_size
        self.position = 0
        self.ended = False
        self.name: str | None = None
        self.size: int | None = None
        #: A header and the block after it, which holds all of a short file.
        self.blocks = np.empty((AHEAD, 2 * BLOCK), np.uint8)
        self.rows = [row.data for row in self.blocks]

    def entries(self) -> Iterator[Entry]:
        while not self.ended:
            before = self.position
            found = self._gather()  # (row, name or None, start, size) of every member
            self._check_sums(self.count)
            names = self._names(self.count)
            for row, name, start, size in found:
                told = name if name is not None else names[row]
                kind = self.rows[row][156]
                if kind == FOLDER or (told.endswith("/") and not kind):  # so before ustar
                    continue
                shown = f"{self.tar}: {told!a}"
                if kind == SPARSE:
                    raise SourceError(f"{shown} is a sparse file; expected whole ones")
                if kind not in FILES:
                    raise SourceError(f"{shown} is a link or a device; expected files and folders")
                if start + size > self.length:
                    raise self._cut(f"{told!a} has {size} bytes", start)
                yield Entry(self._checked(told), start, size, self.rows[row][BLOCK:])
            self.advance(self.position - before)

    def _gather(self) -> list[tuple[int, str | None, int, int]]:
        """Read headers until there is no room or no more; extensions are taken on the way."""
        found = []
        self.count = 0
        for number, row in enumerate(self.rows):
            got = os.preadv(self.descriptor, [row], self.position)
            if got < BLOCK:
                raise self._cut("it has no end", self.position)
            if not row[0] and not any(row[:BLOCK]):
                self.ended = True
                break
            self.count = number + 1
            size, kind, start = self._number(row[124:136]), row[156], self.position + BLOCK
            if kind in PAX or kind in (LONG_NAME, LONG_LINK, GLOBAL):
                self._extend(kind, start, size)
            else:
                size = size if self.size is None else self.size
                found.append((number, self.name, start, 0 if kind == FOLDER else size))
                self.name = self.size = None
                size = found[-1][3]
            self.position = start + -(-size // BLOCK) * BLOCK
            if self.position > self.length:  # told by the member's name, or by the next look
                break
        return found

    def _extend(self, kind: int, start: int, size: int) -> None:
        """Take over what is said of the next member."""
        if size > MAX_EXTENSION_BYTES:
            raise self._damaged(f"a name of {size} bytes at byte {start}")
        data = os.pread(self.descriptor, size, start)
        if len(data) < size:
            raise self._cut("a long name", start)
        if kind == LONG_NAME:
            self.name = self._text(data.split(b"\0", 1)[0])
        elif kind != LONG_LINK:  # of a link, which is refused by its own header
            records = self._records(data, start)
            if kind == GLOBAL and {"path", "size"} & set(records):
                raise self._damaged(f"one name or size for all members at byte {start}")
            if any(key.startswith("GNU.sparse.") for key in records):
                raise SourceError(f"{self.tar}: a sparse file at byte {start}; expected whole ones")
            self.name = records.get("path", self.name)
            if "size" in records:
                self.size = self._whole(records["size"].encode(), 10)

    def _records(self, data: bytes, start: int) -> dict[str, str]:
        """pax: ``LENGTH KEY=VALUE`` and a line feed, LENGTH of all that."""
        records, place = {}, 0
        while place < len(data):
            length = self._whole(data[place : place + 20].split(b" ", 1)[0], 10)
            record = data[place : place + length]
            key, equals, value = record.partition(b" ")[2].partition(b"=")
            if not equals or len(record) < length or not value.endswith(b"\n"):
                raise self._damaged(f"a pax header at byte {start}")
            if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
                records[self._text(key)] = self._text(value[:-1])
            place += length
        return records

    def _number(self, field: memoryview) -> int:
        """Octal; or binary, as GNU tar writes what is too large for that."""
        if field[0] & 0x80:
            number = int.from_bytes(field, "big") & ~(1 << 95)
            if number >= 1 << 62:
                raise self._damaged(f"a size of {number} bytes at byte {self.position}")
            return number
        return self._whole(bytes(field).rstrip(b"\0 ").lstrip(b" ") or b"0", 8)

    def _whole(self, text: bytes, base: int) -> int:
        if not text.isdigit():
            raise self._damaged(f"{text[:20]!r} at byte {self.position} is no number")
        try:
            return int(text, base)
        except ValueError:
            raise self._damaged(f"{text[:20]!r} at byte {self.position} is no number") from None

    def _check_sums(self, count: int) -> None:
        """The sum that every header holds of itself; some old programs added bytes with a sign."""
        headers = self.blocks[:count, :BLOCK]
        field = headers[:, 148:156].astype(np.int64)
        digits = (field >= ord("0")) & (field <= ord("7"))  # [count, 8]
        told = np.zeros(count, np.int64)
        for column in range(8):
            next_ = told * 8 + field[:, column] - ord("0")
            told = np.where(digits[:, column], next_, told)
        blank = 8 * ord(" ") - field.sum(1)  # the field itself counts as blanks
        sums = headers.sum(1, dtype=np.int64) + blank
        signed = sums - 256 * (headers > 127).sum(1)
        if len(wrong := np.flatnonzero((told != sums) & (told != signed))):
            name = bytes(headers[wrong[0], :100]).split(b"\0", 1)[0]
            raise self._damaged(f"the header of {name!r} has another checksum than it says")

    def _names(self, count: int) -> list[str]:
        """As the headers have them, before extensions."""
        headers = self.blocks[:count]
        names = np.ascontiguousarray(headers[:, :100]).view("S100")[:, 0].tolist()
        ustar = (headers[:, 257:263] == np.frombuffer(b"ustar\0", np.uint8)).all(1)
        for number in np.flatnonzero(ustar & (headers[:, 345] > 0)):
            prefix = bytes(headers[number, 345:500]).split(b"\0", 1)[0]
            names[number] = prefix + b"/" + names[number]
        return [self._text(name.split(b"\0", 1)[0]) for name in names]

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise SourceError(f"{self.tar}: expected names in UTF-8, got {data!r}") from None

    def _checked(self, name: str) -> str:
        """Most names need no second look."""
        plain = name and name[0] not in "/." and "/." not in name and "//" not in name
        return name if plain and "\\" not in name and ":" not in name else clean(self.tar, name)

    def _damaged(self, what: str) -> SourceError:
        return SourceError(f"{self.tar} is damaged: {what}; expected a whole tar")

    def _cut(self, what: str, position: int) -> SourceError:
        place = f", in what begins at byte {position}" * (position < self.length)
        return SourceError(
            f"{self.tar} is cut short: {what} and the file ends at byte {self.length}{place}; "
            "copy it anew"
        )
