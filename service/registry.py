"""The bundles of a server: each is verified, opened and proven by its goldens before it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from models.bundle import Bundle, BundleError, Golden, Manifest, Tolerance, read_bundle
from models.spec import Grid
from service.batching import Batcher
from service.decode import DecodePool
from service.errors import BundleRefused, NotReady, Problem, UnknownBundle, UnknownGrid
from service.frames import task_header
from service.session import Device, DeviceError, OpenSession, Session

log = logging.getLogger(__name__)

T = TypeVar("T")


class NoBundles(RuntimeError):
    """There is nothing to serve. The message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Target:
    """One grid of one bundle: how its pixels are asked for and which queue answers."""

    bundle: str
    version: str
    grid: str
    labels: tuple[str, ...]
    header: bytes  # for a decode worker
    shape: tuple[int, ...]  # [*pixels per axis, channels]

    @property
    def key(self) -> tuple[str, str]:
        return self.bundle, self.grid


@dataclass(slots=True)
class Served:
    """What became of one folder."""

    name: str
    state: Literal["ready", "refused"]
    reason: str | None = None
    manifest: Manifest | None = None
    device: str | None = None
    targets: dict[str, Target] = field(default_factory=dict)  # by grid; the first is the default


def bundle_folders(root: Path) -> list[Path]:
    """The folders to examine, by name; NoBundles if there are none."""
    if not root.is_dir():
        raise NoBundles(f"--bundles {root}: there is no such folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise NoBundles(f"--bundles {root}: there is no bundle in this folder")
    return folders


class Registry:
    """Examines bundles once, at start, and answers who serves a request.

    Args:
        executor: the device's thread; sessions are opened and replayed there.
        default: name of the bundle that answers when none is named.
    """

    def __init__(
        self,
        pool: DecodePool,
        batcher: Batcher,
        executor: Executor,
        open_session: OpenSession,
        *,
        device: Device,
        threads: int,
        default: str | None,
    ) -> None:
        self._pool = pool
        self._batcher = batcher
        self._executor = executor
        self._open_session = open_session
        self._device = device
        self._insists = device == "cuda"  # the operator does; later the device may be a finding
        self._threads = threads
        self._default = default
        self.bundles: dict[str, Served] = {}
        self.examined = False

    @property
    def ready(self) -> bool:
        """Every bundle was examined and at least one may answer."""
        return self.examined and any(b.state == "ready" for b in self.bundles.values())

    async def examine(self, folders: list[Path], on_examined: Callable[[Served], None]) -> None:
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
        """The bundle that answers a request which names none."""
        if self._default is not None:
            return self._default
        fitting = [
            name
            for name, served in sorted(self.bundles.items())
            if served.state == "ready" and served.manifest and served.manifest.modality == modality
        ]
        return fitting[0] if fitting else None

    def select(self, modality: str, bundle: str | None, grid: str | None) -> Target:
        """Who answers a request.

        Raises:
            Problem: 404 unknown bundle, 422 unknown grid, 503 refused or not ready.
        """
        if not self.examined:
            raise NotReady("the bundles are still being checked")
        name = bundle if bundle is not None else self.default(modality)
        if name is None:
            raise NotReady(f"no bundle is ready for modality {modality}")
        served = self.bundles.get(name)
        if served is None or (served.manifest and served.manifest.modality != modality):
            known = ", ".join(sorted(self.bundles))
            raise UnknownBundle(f"unknown {modality} bundle {name[:64]!a}; known: {known}")
        if served.state == "refused":
            raise BundleRefused(f"bundle {name} is not served: {served.reason}")
        if grid is None:
            return next(iter(served.targets.values()))
        if grid not in served.targets:
            known = ", ".join(served.targets)
            raise UnknownGrid(f"unknown grid {grid[:32]!a} for bundle {name}; known: {known}")
        return served.targets[grid]

    async def _examine(self, folder: Path) -> Served:
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
        name = folder.name
        return Served(name if name not in self.bundles else f"{name} (again)", "refused", reason)

    async def _open(self, bundle: Bundle) -> Served:
        manifest = bundle.manifest
        if manifest.name in self.bundles:
            raise BundleError(f"another folder already gave a bundle named {manifest.name}")
        targets, sessions = {}, {}
        for entry in manifest.grids:
            target = self._target(manifest, entry.grid)
            session = await self._open_graph(bundle, entry.graph)
            await self._replay(bundle, target, session)
            targets[entry.grid], sessions[target.key] = target, session
        for key, session in sessions.items():
            self._batcher.add_queue(key, session)
        log.info("bundle %s %s is ready on %s", manifest.name, manifest.version, session.device)
        return Served(
            manifest.name, "ready", manifest=manifest, device=session.device, targets=targets
        )

    def _target(self, manifest: Manifest, grid: str) -> Target:
        parsed = Grid.parse(grid)
        header = task_header(manifest.input, parsed, manifest.patch, 2 * self._pool.seconds)
        shape = (*parsed.pixels(manifest.patch), manifest.input.channels)
        return Target(manifest.name, manifest.version, grid, manifest.labels, header, shape)

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
        pixels = np.stack(
            await asyncio.gather(
                *(self._pool.prepare(target.header, one, target.shape) for one in media)
            )
        )  # [goldens, *pixels per axis, channels]
        for batch in (pixels, pixels[:1]):  # the batch axis must be free
            try:
                logits = await self._on_device(session.run, batch)
            except Exception as error:
                log.exception("bundle %s cannot be run", target.bundle)
                raise BundleError(f"the graph of grid {target.grid} cannot be run") from error
            _compare(logits, goldens[: len(batch)], target.grid, tolerance)

    async def _on_device(self, call: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(call, *arguments))


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
