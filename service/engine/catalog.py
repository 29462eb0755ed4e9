"""What a server has to offer: the bundles of its folder by name, and who answers a request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from media.spec import AXES
from models.bundle import BundleError, read_bundle, read_manifest
from service.engine.device.session import DeviceError
from service.engine.failures import BundleRefused, NotReady, Problem, UnknownBundle, UnknownGrid
from service.engine.model import ExaminedBundle, Target
from service.engine.proof import Prover

log = logging.getLogger(__name__)

OnExamined = Callable[[ExaminedBundle], None]


class NoBundles(RuntimeError):
    """There is nothing to serve. The message says where it was looked for."""


def bundle_folders(root: Path) -> list[Path]:
    """The folders to examine, by name; NoBundles if there are none."""
    if not root.is_dir():
        raise NoBundles(f"--bundles {root}: there is no such folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise NoBundles(f"--bundles {root}: there is no bundle in this folder")
    return folders


def modality_of(folder: Path) -> str | None:
    """What a bundle says it is for; None if its manifest cannot be read."""
    try:
        return read_manifest(folder).modality
    except (BundleError, OSError):
        return None


class Catalog:
    """The bundles of a folder, examined once, at start, and who of them answers a request."""

    def __init__(self, prover: Prover, default: str | None) -> None:
        self._prover = prover
        self._default = default
        self.bundles: dict[str, ExaminedBundle] = {}
        self.examined = False

    @property
    def ready(self) -> bool:
        """Every bundle was examined and at least one may answer."""
        return self.examined and any(b.state == "ready" for b in self.bundles.values())

    @property
    def ready_modalities(self) -> list[str]:
        """Those that some bundle answers."""
        ready = {one.modality for one in self.bundles.values() if one.state == "ready"}
        return [modality for modality in AXES if modality in ready]

    async def examine(self, folders: list[Path], on_examined: OnExamined) -> None:
        """Examine every folder; one bad bundle does not stop the others.

        Raises:
            DeviceError: the operator's device is not there, so nothing can be served.
            NoBundles: the default bundle is not among them.
        """
        for folder in folders:
            served = await self._examine(folder)
            self.bundles[served.name] = served
            on_examined(served)
        if self._default is not None and self._default not in self.bundles:
            known = ", ".join(sorted(self.bundles))
            raise NoBundles(f"--default-bundle {self._default}: no such bundle; known: {known}")
        self.examined = True

    def default(self, modality: str) -> str | None:
        """The bundle that answers a request of this modality which names none."""
        named = self.bundles.get(self._default or "")
        if named and named.may_answer(modality):
            return named.name
        ready = (one for one in self.bundles.values() if one.state == "ready")
        return min((one.name for one in ready if one.modality == modality), default=None)

    def select(self, modality: str, bundle: str | None, grid: str | None) -> Target:
        """Who answers a request.

        Raises:
            Problem: 404 unknown bundle, 422 unknown grid, 503 refused or not ready.
        """
        if not self.examined:
            raise NotReady("the bundles are still being checked")
        served = self._served(modality, bundle)
        if served.state == "refused":
            raise BundleRefused(f"bundle {served.name} is not served: {served.reason}")
        if grid is None:
            return next(iter(served.targets.values()))
        if grid not in served.targets:
            known = ", ".join(served.targets)
            unknown = f"unknown grid {grid[:32]!a} for bundle {served.name}"
            raise UnknownGrid(f"{unknown}; known: {known}")
        return served.targets[grid]

    def _served(self, modality: str, bundle: str | None) -> ExaminedBundle:
        """The bundle that is named, or that answers where none is."""
        fitting = [name for name, one in sorted(self.bundles.items()) if one.may_answer(modality)]
        name = bundle if bundle is not None else self.default(modality)
        if name in fitting:
            return self.bundles[name]
        if bundle is not None:
            known = ", ".join(fitting) or "none"
            raise UnknownBundle(f"unknown {modality} bundle {bundle[:64]!a}; known: {known}")
        if fitting:
            raise NotReady(f"no bundle is ready for modality {modality}")
        raise UnknownBundle(f"no bundle of this server is for modality {modality}")

    async def _examine(self, folder: Path) -> ExaminedBundle:
        """One folder: read, open, replay; any failure is a reason that may be told."""
        try:
            bundle = await self._prover.on_device(read_bundle, folder)
            if bundle.manifest.name in self.bundles:
                raise BundleError(
                    f"another folder already gave a bundle named {bundle.manifest.name}"
                )
            proven = await self._prover.prove(bundle)
        except DeviceError:
            raise
        except (BundleError, Problem) as error:
            reason = str(error).removeprefix(f"{folder.name}: ")
        except Exception:
            log.exception("bundle %s cannot be examined", folder.name)
            reason = "it cannot be read; the log says why"
        else:
            version = bundle.manifest.version
            log.info("bundle %s %s is ready on %s", proven.name, version, proven.device)
            return proven
        log.error("bundle %s is refused: %s", folder.name, reason)
        name = folder.name if folder.name not in self.bundles else f"{folder.name} (again)"
        return ExaminedBundle(name, "refused", modality_of(folder), reason)
