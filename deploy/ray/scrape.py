"""One scrape tells of all replicas: any of them may be asked for ``/metrics``.

Each hands its series to a board that all of them share, every few seconds, and is given those of
the others; what it renders has its own as they are now, and a label ``replica`` on every sample.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping

import ray
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
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


def together(texts: Mapping[str, str]) -> Iterator[Metric]:
    """The series of several replicas as one family each, with a label that says whose they are.

    Args:
        texts: by replica, what it exposes.
    """
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for one in text_string_to_metric_families(text):
            family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            for sample in one.samples:
                labels = {**sample.labels, "replica": replica}
                family.samples.append(sample._replace(labels=labels))
    yield from families.values()


class Scrape:
    """While the block lasts, ``metrics`` render the series of all replicas.

    Args:
        replica: the name of this one.
    """

    def __init__(self, metrics: Metrics, replica: str) -> None:
        self._metrics = metrics
        self._replica = replica
        self._others: dict[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        """For the renderer."""
        return together({self._replica: self._own()} | self._others)

    def _own(self) -> str:
        return generate_latest(self._metrics.registry).decode()

    async def __aenter__(self) -> Scrape:
        self._metrics.exposed = self
        self._task = asyncio.create_task(self._hand_in())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._metrics.exposed = self._metrics.registry
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _hand_in(self) -> None:
        """A board that is gone is made anew by Ray; until then this replica tells of itself."""
        while True:
            try:
                board = serve.get_deployment_actor(Board.NAME)
                self._others = await board.hand_in.remote(self._replica, self._own())
            except (RayError, ValueError) as error:
                self._others = {}
                log.warning("the metrics of the other replicas are not known: %s", error)
            await asyncio.sleep(HAND_SECONDS)


