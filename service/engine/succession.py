"""A version that shall take the place of the one that answers: proven, and let answer.

A candidate is proven twice: in a process of its own, which it may bring down, and here on the
device that will answer, where it is warmed too. Then one assignment lets it answer; what was let in
before ends with the model that it began with, whose memory comes back when the last of it is out.
Whatever goes wrong leaves the old one serving.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from service.engine.apart import prove_apart
from service.engine.catalog import Catalog
from service.engine.device.devices import Devices
from service.engine.device.session import DeviceError
from service.engine.failures import CandidateRefused
from service.engine.model import ExaminedBundle
from service.settings import Settings

log = logging.getLogger(__name__)

#: (settings, bundle, version) -> why a candidate is refused; None where it is good.
Prove = Callable[[Settings, str, str], Awaitable[str | None]]
#: Called with the entry that was replaced, if any, and the new one, if any.
OnChange = Callable[[ExaminedBundle | None, ExaminedBundle | None], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a candidate was refused, and which, where that can be told."""

    reason: str
    version: str | None = None

    def __str__(self) -> str:
        return f"version {self.version}: {self.reason}" if self.version else self.reason


class Succession:
    """Who comes after whom in a catalog.

    Args:
        catalog: what answers now.
        devices: on which; a candidate is proven on one of those that work.
        prove: see ``Prove``.

    Attributes:
        refused: bundle -> its newest candidate, where that was.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        devices: Devices,
        on_change: OnChange,
        prove: Prove = prove_apart,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._devices = devices
        self._on_change = on_change
        self.prove = prove
        self.refused: dict[str, Refusal] = {}

    async def examine(self, name: str, home: Path, version: str) -> ExaminedBundle:
        """A version that is good, open and warm; CandidateRefused if it is not."""
        settings = self._settings.model_copy(update={"device": self._devices.names})
        reason = await self.prove(settings, name, version)
        if reason is None:
            try:
                one = await self._catalog.examine_version(name, home, version)
            except DeviceError as error:
                log.error("bundle %s %s: %s", name, version, error)
                reason = "the device is not there for it"
            else:
                reason = one.reason or self._unlike(one)
                if reason is None:
                    self.refused.pop(name, None)
                    return one
                del one
        gc.collect()  # what a broken graph left may hold much, and itself
        raise self.refuse(name, Refusal(reason, version))

    def refuse(self, name: str, refusal: Refusal) -> CandidateRefused:
        """Note, log and give back why a candidate does not answer."""
        self.refused[name] = refusal
        log.error("bundle %s is refused: %s; %s", name, refusal, self.told(name))
        version = f" version {refusal.version} is refused:" if refusal.version else ""
        return CandidateRefused(f"bundle {name}:{version} {refusal.reason}; {self.told(name)}")

    def _unlike(self, one: ExaminedBundle) -> str | None:
        """Why it cannot take the place of the one that answers by its name."""
        before = self._catalog.bundles.get(one.name)
        if before is None or before.state == "refused" or before.may_answer(one.modality or ""):
            return None
        return f"it is for {one.modality}, and who answers is for {before.modality}"

    def let_answer(self, one: ExaminedBundle) -> None:
        """By its name, from now on."""
        self.enter(one)
        version = one.manifest.version if one.manifest else ""
        log.info("bundle %s: version %s answers from now on", one.name, version)

    def enter(self, one: ExaminedBundle) -> None:
        """In the place of whoever has its name."""
        self._on_change(self._catalog.put(one), one)

    def remove(self, name: str) -> None:
        """Nobody answers by this name any more."""
        self.refused.pop(name, None)
        self._on_change(self._catalog.remove(name), None)

    def told(self, name: str) -> str:
        answers = self._catalog.manifest(name)
        return f"version {answers.version} answers" if answers else "no version answers"
