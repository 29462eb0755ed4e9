"""What replicas know of one another: their series, and the versions that they need.

Each hands its own to a board that all of them share, every few seconds, and is given those of the
others. So any of them may be asked for ``/metrics``: what it renders has its own series as they are
now, and a label ``replica`` on every sample.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray
from ray import serve
from ray.exceptions import RayError

from service.metrics import Metrics

log = logging.getLogger(__name__)

HAND_SECONDS = 5.0
#: Of a replica that has handed in nothing for so long nothing is told: it is gone.
OLD_SECONDS = 3 * HAND_SECONDS


@dataclass(frozen=True)
class Told:
    """What one replica says: its series, and (bundle, version) of what answers or sees copies."""

    series: str
    versions: frozenset[tuple[str, str]]


@ray.remote
class Board:
    """The newest word of every replica."""

    NAME = "board"

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, Told]] = {}

    def hand_in(self, replica: str, told: Told) -> dict[str, Told]:
        """Take one's word; those of the others."""
        now = time.monotonic()
        self._told[replica] = now, told
        self._told = {
            name: (when, what)
            for name, (when, what) in self._told.items()
            if now - when < OLD_SECONDS
        }
        return {name: what for name, (_, what) in self._told.items() if name != replica}


def together(texts: Mapping[str, str]) -> str:
    """The series of several replicas: each family once, each sample with a label ``replica``.

    Lines stay as they are but for the label: to parse and to write them anew takes longer than to
    render them did, once for each replica, on the event loop that answers requests too.

    Args:
        texts: by replica, what ``generate_latest`` made of its series.
    """
    families: dict[str, tuple[dict[str, None], list[str]]] = {}  # name -> its head, its samples
    for replica, text in texts.items():
        head, samples = dict[str, None](), list[str]()
        for line in text.removesuffix("\n").split("\n"):
            if line.startswith("# "):  # HELP or TYPE, then the name
                head, samples = families.setdefault(line.split(" ", 3)[2], ({}, []))
                head[line] = None
                continue
            name, _, rest = line.partition(" ")
            if "{" in name:  # before the first blank of a value of a label
                name, _, rest = line.partition("{")
                samples.append(f'{name}{{replica="{replica}",{rest}')
            else:
                samples.append(f'{name}{{replica="{replica}"}} {rest}')
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return "".join(f"{line}\n" for line in lines)


class Scrape:
    """While the block lasts, ``metrics`` render the series of all replicas.

    Args:
        replica: the name of this one.
        versions: (bundle, version) of what it needs.
    """

    def __init__(
        self, metrics: Metrics, replica: str, versions: Callable[[], frozenset[tuple[str, str]]]
    ) -> None:
        self._metrics = metrics
        self._replica = replica
        self._versions = versions
        self._others: dict[str, Told] = {}

    def expose(self) -> bytes:
        """In the place of the series of this one alone."""
        others = {name: told.series for name, told in self._others.items()}
        return together({self._replica: self._own()} | others).encode()

    def needed_by(self, name: str, version: str) -> str | None:
        """Who else needs a version, as far as it was told."""
        needs = any((name, version) in told.versions for told in self._others.values())
        return "another replica" if needs else None

    def _own(self) -> str:
        return self._metrics.own().decode()

    async def __aenter__(self) -> Scrape:
        self._metrics.expose = self.expose
        self._task = asyncio.create_task(self._hand_in())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._metrics.expose = self._metrics.own
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _hand_in(self) -> None:
        """A board that is gone is made anew by Ray; until then this replica tells of itself."""
        while True:
            try:
                # Ray asks its head, and waits: in a thread, as requests are answered meanwhile.
                board = await asyncio.to_thread(serve.get_deployment_actor, Board.NAME)
                told = Told(self._own(), self._versions())
                self._others = await board.hand_in.remote(self._replica, told)
            except (RayError, ValueError) as error:
                self._others = {}
                log.warning("nothing is known of the other replicas: %s", error)
            await asyncio.sleep(HAND_SECONDS)


