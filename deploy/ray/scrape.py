"""One scrape tells of all replicas: any of them may be asked for ``/metrics``.

Each hands its series to a board that all of them share, every few seconds, and is given those of
the others; what it renders has its own as they are now, and a label ``replica`` on every sample.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import ray
from ray import serve
from ray.exceptions import RayError

from service.metrics import Metrics

log = logging.getLogger(__name__)

HAND_SECONDS = 5.0
#: Of a replica that has handed in nothing for so long nothing is told: it is gone.
OLD_SECONDS = 3 * HAND_SECONDS


@ray.remote
class Board:
    """The newest series of every replica."""

    NAME = "board"

    def __init__(self) -> None:
        self._texts: dict[str, tuple[float, str]] = {}

    def hand_in(self, replica: str, text: str) -> dict[str, str]:
        """Take one's series; those of the others."""
        now = time.monotonic()
        self._texts[replica] = now, text
        self._texts = {
            name: (when, text)
            for name, (when, text) in self._texts.items()
            if now - when < OLD_SECONDS
        }
        return {name: text for name, (_, text) in self._texts.items() if name != replica}


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
    """

    def __init__(self, metrics: Metrics, replica: str) -> None:
        self._metrics = metrics
        self._replica = replica
        self._others: dict[str, str] = {}

    def expose(self) -> bytes:
        """In the place of the series of this one alone."""
        return together({self._replica: self._own()} | self._others).encode()

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
                self._others = await board.hand_in.remote(self._replica, self._own())
            except (RayError, ValueError) as error:
                self._others = {}
                log.warning("the metrics of the other replicas are not known: %s", error)
            await asyncio.sleep(HAND_SECONDS)


