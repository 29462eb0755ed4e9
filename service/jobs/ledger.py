"""The store as the event loop uses it: every call in one thread of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from service.jobs.store import Store

T = TypeVar("T")


class Ledger:
    """Calls of a store, one after another in the order in which they were made.

    Attributes:
        store: for ``call`` alone.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a method of ``store`` gives. It is carried out even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(function, *arguments))

    async def close(self) -> None:
        await self.call(self.store.close)
        self._thread.shutdown()
