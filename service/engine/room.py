"""Waiting for room, in order: of what is not refused because nobody sits and waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Line:
    """Those who wait for room, in order: the first alone asks again whenever some was given back.

    Who comes back from ``wait`` takes its room at once, before anything is awaited.
    """

    def __init__(self) -> None:
        self._first = asyncio.Lock()
        self._moved = asyncio.Event()

    async def wait(self, fits: Callable[[], bool]) -> None:
        """Until it is this one's turn and there is room; cancel the call to leave the line."""
        async with self._first:
            while not fits():
                self._moved.clear()
                await self._moved.wait()

    def move(self) -> None:
        """Some room was given back."""
        self._moved.set()


class Room:
    """Files in memory, bounded in number and in bytes; who finds it full waits.

    A file that is larger than all the room there is gets through alone.
    """

    def __init__(self, max_files: int, max_bytes: int) -> None:
        self.max_files = max_files
        self.max_bytes = max_bytes
        self.files = self.bytes = 0  # inside
        self._line = Line()

    async def enter(self, size: int) -> None:
        """Wait until there is room for a file of ``size`` bytes, and take it."""
        await self._line.wait(lambda: self._fits(size))
        self.files += 1
        self.bytes += size

    def enter_at_once(self, size: int) -> bool:
        """Take room for a file of ``size`` bytes if there is some; what is larger gets none."""
        if self.files >= self.max_files or self.bytes + size > self.max_bytes:
            return False
        self.files += 1
        self.bytes += size
        return True

    def leave(self, size: int) -> None:
        """Give back what ``enter`` took."""
        self.files -= 1
        self.bytes -= size
        self._line.move()

    def _fits(self, size: int) -> bool:
        if not self.files:
            return True
        return self.files < self.max_files and self.bytes + size <= self.max_bytes
