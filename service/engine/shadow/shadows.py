"""The shadows of a server: at most one for each bundle, and what the last one found.

A candidate has its queues and sessions as long as its shadow; so they go once it ends and what is
inside is out.
"""

from __future__ import annotations

import asyncio
import logging

from service.agreement import Agreements
from service.engine.admission import Admission
from service.engine.decode.pool import DecodePool
from service.engine.device.devices import Devices
from service.engine.failures import NoShadow
from service.engine.job import Job
from service.engine.model import ExaminedBundle
from service.engine.pipeline import Answered, Pipeline
from service.engine.room import Room
from service.engine.schedule import BATCH
from service.engine.shadow.report import ShadowReport
from service.engine.shadow.shadow import Shadow

log = logging.getLogger(__name__)

#: Copies that wait, whatever their size.
MOST_COPIES = 64


class Shadows:
    """Who sees copies of what is asked of whom.

    Args:
        agreements: tells as series what they find.
        max_bytes: of all copies that wait.

    Attributes:
        room: for the copies.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        admission: Admission,
        devices: Devices,
        pool: DecodePool,
        agreements: Agreements,
        *,
        max_bytes: int,
    ) -> None:
        self._pipeline = pipeline
        self._admission = admission
        self._devices = devices
        self._pool = pool
        self._agreements = agreements
        self.room = Room(MOST_COPIES, max_bytes)
        self._running: dict[str, Shadow] = {}
        self._ended: dict[str, ShadowReport] = {}
        pipeline.on_answer = self._on_answer

    def version(self, name: str) -> str | None:
        """The candidate of a bundle that sees copies; None where none does."""
        shadow = self._running.get(name)
        return shadow.version if shadow else None

    def report(self, name: str) -> ShadowReport:
        """Of the shadow that a bundle has, or had last; NoShadow if there was none."""
        if name in self._running:
            return self._running[name].report()
        if name not in self._ended:
            raise NoShadow(f"bundle {name[:64]!a} has no shadow, and had none since the start")
        return self._ended[name]

    def begin(self, answering: ExaminedBundle, candidate: ExaminedBundle, share: float) -> None:
        """Let a candidate see copies, in the place of another one of its name."""
        name = candidate.name
        self.end(name, "another candidate took its place")
        if _specs(candidate) != _specs(answering):
            self._pool.expect_batch()
        self._devices.keep_beside(
            [key for target in candidate.targets.values() for key in target.keys]
        )
        shadow = Shadow(self._pipeline, self._admission, self.room, answering, candidate, share)
        self._running[name] = shadow
        self._tell()
        log.info("bundle %s: version %s sees copies, a share of %g", name, shadow.version, share)

    def change_share(self, name: str, share: float) -> None:
        """Of the shadow that a bundle has; what was found stays."""
        self._running[name].tally.share = share

    def end(self, name: str, reason: str) -> None:
        """Let nobody see copies for a bundle; nothing happens if nobody does."""
        if (shadow := self._running.pop(name, None)) is None:
            return
        shadow.close(reason)
        self._ended[name] = shadow.report()
        self._tell()
        log.info("bundle %s: version %s sees no copies any more: %s", name, shadow.version, reason)

    def close(self) -> None:
        """End all of them."""
        for name in list(self._running):
            self.end(name, "the server ended")

    def _on_answer(self, job: Job, answered: Answered) -> None:
        """Copies are made once the answer is on its way, whatever becomes of them."""
        shadow = self._running.get(answered.target.bundle)
        if shadow is not None and job.kind != BATCH:
            asyncio.get_running_loop().call_soon(shadow.offer, job, answered)

    def _tell(self) -> None:
        self._agreements.tallies = [one.tally for one in self._running.values()]


def _specs(one: ExaminedBundle) -> list[bytes]:
    """What decode workers are asked for: with other ones files are decoded again."""
    return [target.preparation.header for target in one.targets.values()]
