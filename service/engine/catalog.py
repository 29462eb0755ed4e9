"""The bundles of a server: each is verified, opened and proven by its goldens before it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from media.spec import AXES
from models.bundle import Bundle, BundleError, read_bundle, read_manifest
from models.manifest import Golden, Tolerance
from service.engine.decode.pool import DecodePool
from service.engine.device.batching import Batcher
from service.engine.device.session import Device, DeviceError, OpenSession, Session
from service.engine.failures import BundleRefused, NotReady, Problem, UnknownBundle, UnknownGrid
from service.engine.model import ExaminedBundle, Target
from service.settings import Settings, usable_cpus

log = logging.getLogger(__name__)

T = TypeVar("T")
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


class Registry:
    """Examines bundles once, at start, and answers who serves a request.

    Args:
        executor: the device's thread; sessions are opened and replayed there.
    """

    def __init__(
        self,
        pool: DecodePool,
        batcher: Batcher,
        executor: Executor,
        open_session: OpenSession,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._batcher = batcher
        self._executor = executor
        self._open_session = open_session
        self._settings = settings
        self._device: Device = settings.device
        self._insists = settings.device == "cuda"  # later the device may be a finding
        self._threads = settings.threads or usable_cpus()
        self._default = settings.default_bundle
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
            bundle = await self._on_device(read_bundle, folder)
            return await self._open(bundle)
        except DeviceError:
            raise
        except (BundleError, Problem) as error:
            reason = str(error).removeprefix(f"{folder.name}: ")
        except Exception:
            log.exception("bundle %s cannot be examined", folder.name)
            reason = "it cannot be read; the log says why"
        log.error("bundle %s is refused: %s", folder.name, reason)
        name = folder.name if folder.name not in self.bundles else f"{folder.name} (again)"
        return ExaminedBundle(name, "refused", modality_of(folder), reason)

    async def _open(self, bundle: Bundle) -> ExaminedBundle:
        manifest = bundle.manifest
        if manifest.name in self.bundles:
            raise BundleError(f"another folder already gave a bundle named {manifest.name}")
        targets, sessions = {}, {}
        seconds = self._settings.limits(manifest.modality).decode_seconds
        for entry in manifest.grids:
            target = Target.make(manifest, entry.grid, manifest.input.views, seconds)
            session = await self._open_graph(bundle, entry.graph)
            await self._replay(bundle, target, session)
            targets[entry.grid], sessions[target.key] = target, session
        for key, session in sessions.items():
            self._batcher.add_queue(key, session, manifest.modality)
        log.info("bundle %s %s is ready on %s", manifest.name, manifest.version, session.device)
        return ExaminedBundle(
            manifest.name,
            "ready",
            manifest.modality,
            manifest=manifest,
            device=session.device,
            targets=targets,
        )

    async def _open_graph(self, bundle: Bundle, graph: str) -> Session:
        """A session; after the first one, all must be on its device."""
        try:
            session = await self._on_device(
                self._open_session, bundle.path(graph), self._device, self._threads
            )
        except DeviceError as error:
            if self._insists:
                raise
            log.exception("%s of bundle %s cannot be opened", graph, bundle.manifest.name)
            reason = f"{graph} cannot be opened on the GPU that the others use"
            raise BundleError(reason) from error
        except Exception as error:
            log.exception("%s of bundle %s cannot be loaded", graph, bundle.manifest.name)
            raise BundleError(f"{graph} cannot be loaded") from error
        self._device = "cuda" if session.device == "cuda" else "cpu"
        return session

    async def _replay(self, bundle: Bundle, target: Target, session: Session) -> None:
        """Send the goldens through the real decoder and device; BundleError unless all agree."""
        try:
            tolerance = bundle.manifest.tolerance(session.device)
        except KeyError:
            raise BundleError(f"no tolerance is stated for {session.device}") from None
        goldens = bundle.manifest.goldens
        media = [bundle.path(golden.file).read_bytes() for golden in goldens]
        items = await asyncio.gather(
            *(self._pool.prepare(target.preparation, one) for one in media)
        )
        pixels = np.stack([item.pixels for item in items])  # [goldens, views, *pixels, channels]
        for batch in (pixels, pixels[:1]):  # the batch axis must be free
            try:
                rows = batch.reshape(-1, *batch.shape[2:])  # [goldens * views, *pixels, channels]
                logits = await self._on_device(session.run, rows)
            except Exception as error:
                log.exception("bundle %s cannot be run", target.bundle)
                raise BundleError(f"the graph of grid {target.grid} cannot be run") from error
            means = _of_items(logits, batch)  # [goldens, classes]
            _compare(means, goldens[: len(batch)], target.grid, tolerance)

    async def _on_device(self, call: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(call, *arguments))


def _of_items(logits: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Logits of every view of ``[items, views, ...]`` -> means over the views, [items, classes]."""
    if logits.ndim != 2 or len(logits) != len(items) * items.shape[1]:
        return logits  # of another shape than they should be: nothing will fit them
    return logits.reshape(*items.shape[:2], -1).mean(axis=1, dtype=np.float64)


def _compare(
    logits: np.ndarray, goldens: tuple[Golden, ...], grid: str, tolerance: Tolerance
) -> None:
    """BundleError unless every logit is within tolerance of the stored one."""
    expected = np.array([golden.logits[grid] for golden in goldens])  # [goldens, classes]
    if logits.shape != expected.shape:
        raise BundleError(
            f"grid {grid}: expected logits {list(expected.shape)}, got {list(logits.shape)}"
        )
    allowed = tolerance.atol + tolerance.rtol * np.abs(expected)  # [goldens, classes]
    difference = np.abs(logits - expected)  # [goldens, classes]
    for golden, row, limits in zip(goldens, difference, allowed, strict=True):
        if not (row <= limits).all():  # NaN must not pass
            worst = np.argmax(row - limits)  # NaN is the worst
            raise BundleError(
                f"{golden.file} at grid {grid} differs from its stored logits by "
                f"{row[worst]:.3g}; {limits[worst]:.3g} is allowed"
            )
