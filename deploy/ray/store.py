"""What every replica follows: which versions answer by the store, and which keys there are.

A change that one replica is asked for (``/admin``), or that is made in the folder (``python -m
service bundles``), is written into ``serving.json``; the others see it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from models.versions import SERVING

log = logging.getLogger(__name__)

#: Between two looks; so long, and a proof, may two replicas answer with different versions.
LOOK_SECONDS = 2.0
#: After a reading that failed the next one comes after twice as long as the one before, at most so
#: long: a version that is refused is proven anew, which takes processors from requests.
MOST_RETRY_SECONDS = 300.0

#: Path -> what changes when the file is written anew.
Marks = dict[str, tuple[int, int, int]]


def marks(bundles: Path, keys_file: Path | None) -> Marks:
    """Of every ``serving.json`` of the store, and of the file of keys.

    Raises:
        OSError: the store cannot be read.
    """
    files = [folder / SERVING for folder in bundles.iterdir()]
    found: Marks = {}
    for path in [*files, *([keys_file] if keys_file else [])]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            stat = path.stat()
            found[str(path)] = stat.st_ino, stat.st_mtime_ns, stat.st_size
    return found


class Following:
    """Looks at the store while the block lasts, and calls ``on_change`` after a change.

    While the store is away what serves goes on, and nothing is read. A reading that failed is
    repeated without a change too: a file may still have been on its way.

    Args:
        on_change: whether all could be read, and answers.
        seconds: between two looks.
    """

    def __init__(
        self,
        bundles: Path,
        keys_file: Path | None,
        on_change: Callable[[], Awaitable[bool]],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._paths = bundles, keys_file
        self._on_change = on_change
        self._seconds = seconds

    async def __aenter__(self) -> Following:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        known: Marks = {}
        away = False
        # Until what failed is read again, and when that is: at once, as something may have changed
        # since the bundles were examined, or have been bad then.
        wait, due = self._seconds, 0.0
        while True:
            try:
                found = await asyncio.to_thread(marks, *self._paths)
            except OSError as error:
                if not away:
                    log.error("the store of bundles cannot be read: %s", error.strerror)
                away = True
            else:
                if away:
                    log.info("the store of bundles can be read again")
                away = False
                if found != known:
                    known, wait, due = found, self._seconds, 0.0
                if time.monotonic() >= due:
                    wait = min(2 * wait, MOST_RETRY_SECONDS)
                    due = math.inf if await self._read_again() else time.monotonic() + wait
            await asyncio.sleep(self._seconds)

    async def _read_again(self) -> bool:
        try:
            return await self._on_change()
        except Exception:
            log.exception("what changed in the store could not be read")
            return False
