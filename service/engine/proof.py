"""A bundle proves itself before it answers: every graph is opened, every golden is replayed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from media.spec import Grid
from models.bundle import Bundle, BundleError
from service.engine.costs import RunCosts, ladder
from service.engine.decode.pool import DecodePool
from service.engine.device.devices import Device, Devices
from service.engine.device.lanes import choose_lanes
from service.engine.device.queues import Key
from service.engine.device.replay import Replay
from service.engine.device.runs import run_timed
from service.engine.device.session import DeviceError, Looker, OpenSession, Session, is_fallback
from service.engine.model import ExaminedBundle, Model, Target
from service.engine.schedule import BATCH
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Weights of attention of one layer and one head, in all rows of a run. A graph that tells where
#: attention looked keeps those of all layers until its end.
MOST_WEIGHTS = 2**22

#: Runs of one row that are measured at start: a larger batch is never believed to cost more.
WARM_ROUNDS = 3


class Prover:
    """Opens and replays bundles on the devices that will answer requests.

    Args:
        executor: for files; sessions are opened and replayed in the threads of their device.

    Attributes:
        models: proven, as long as anybody holds them.
    """

    def __init__(
        self,
        pool: DecodePool,
        devices: Devices,
        executor: Executor,
        open_session: OpenSession,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._devices = devices
        self._executor = executor
        self._open_session = open_session
        self._settings = settings
        self._numbers = itertools.count(1)  # of models
        self.models: weakref.WeakSet[Model] = weakref.WeakSet()
        self._on_the_wrong_device: weakref.WeakSet[Session] = weakref.WeakSet()

    @property
    def fell_back(self) -> bool:
        """Whether a graph that is open runs on the CPU, although there is a GPU."""
        return bool(self._on_the_wrong_device)

    async def prove(self, bundle: Bundle) -> ExaminedBundle:
        """A bundle whose graphs gave the stored logits, with its queues open.

        Raises:
            BundleError, Failure: it is refused, and why; nothing of it is kept.
            DeviceError: the operator's device is not there, which is no bundle's fault.
        """
        manifest = bundle.manifest
        model, targets = Model(manifest, next(self._numbers)), dict[str, Target]()
        opened: list[tuple[Device, Key, Target, Replay, RunCosts]] = []
        failed: dict[Device, BundleError | DeviceError] = {}
        seconds = self._settings.limits(manifest.modality).decode_seconds
        for entry in manifest.grids:
            target = Target.make(model, entry.grid, manifest.input.views, seconds)
            targets[entry.grid] = target
            pixels = await self._decode_goldens(bundle, target)
            graphs = zip(target.keys, entry.graphs, strict=True)
            for (key, graph), device in itertools.product(graphs, self._devices):
                if device not in failed:
                    try:
                        proven = await self._open(bundle, key, graph, target, device, pixels)
                        opened.append((device, key, target, *proven))
                    except (BundleError, DeviceError) as error:
                        failed[device] = error
                        self._check_others(device, failed)
        for device, reason in failed.items():
            log.error("device %s is left out: %s", device.name, reason)
            self._devices.leave_out(device)
        for device, key, target, golden, costs in opened:
            if device in failed:
                continue
            device.is_proven = True
            device.station.add_queue(
                key, golden.session, manifest.modality, costs, golden,
                self._most_rows(target.grid, golden.session),
            )  # fmt: skip
        keys = [key for target in targets.values() for key in target.keys]
        # Whoever lets go of it last may be any thread, or a loop over the queues.
        loop = asyncio.get_running_loop()
        weakref.finalize(model, self._close_soon, loop, keys)
        self.models.add(model)
        return ExaminedBundle(
            manifest.name,
            "ready",
            manifest.modality,
            manifest=manifest,
            device=", ".join(dict.fromkeys(one.kind or one.name for one in self._devices)),
            targets=targets,
        )

    def _check_others(
        self, failed: Device, errors: Mapping[Device, BundleError | DeviceError]
    ) -> None:
        """Raise what is wrong with a bundle, or with every device; else one can be done without.

        Where another device gives the stored logits, one that has never given any is at fault; of
        one that has, the bundle is.
        """
        error, count = errors[failed], len(self._devices)
        if failed.is_proven and count > 1 and isinstance(error, BundleError):
            raise BundleError(f"on {failed.name}: {error}") from error
        if failed.is_proven:
            raise error
        if len(errors) == count:  # one that is not there says nothing of the bundle
            refused = (one for one in errors.values() if isinstance(one, BundleError))
            raise next(refused, error)

    def _close_soon(self, loop: asyncio.AbstractEventLoop, keys: Sequence[Key]) -> None:
        """Of a model that nobody holds any more."""
        if loop.is_closed():
            return
        for key in keys:
            loop.call_soon_threadsafe(self._devices.close_queue, key)

    async def _open(
        self,
        bundle: Bundle,
        key: Key,
        graph: str,
        target: Target,
        device: Device,
        goldens: np.ndarray,
    ) -> tuple[Replay, RunCosts]:
        """A graph on a device, which has given the stored logits there, and what its runs cost."""
        session = await self._open_graph(bundle, graph, target, device)
        replay = await self._replay(key, target, session, device, goldens)
        costs = await self.on_device(device, self._measure, device, session, replay)
        return replay.first, costs

    def _most_rows(self, grid: str, session: Session) -> int:
        """Of one run."""
        tokens = Grid.parse(grid).tokens
        rows = self._settings.most_rows(tokens)
        return min(rows, max(1, MOST_WEIGHTS // tokens**2)) if isinstance(session, Looker) else rows

    async def _open_graph(
        self, bundle: Bundle, graph: str, target: Target, device: Device
    ) -> Session:
        """A session; after the first one of a device, all must be on what that was."""
        try:
            session = await self.on_device(
                device, self._open_on_lanes, bundle.path(graph), target, device
            )
        except DeviceError as error:
            if device.is_insisted_on:
                raise
            log.exception("%s of bundle %s cannot be opened", graph, bundle.manifest.name)
            reason = f"{graph} cannot be opened on the GPU that the others use"
            raise BundleError(reason) from error
        except Exception as error:
            log.exception("%s of bundle %s cannot be loaded", graph, bundle.manifest.name)
            raise BundleError(f"{graph} cannot be loaded") from error
        if is_fallback(device.name, session):
            self._on_the_wrong_device.add(session)
        device.kind = "cuda" if session.device == "cuda" else "cpu"
        return session

    def _open_on_lanes(self, graph: Path, target: Target, device: Device) -> Session:
        """A session for the lanes of a device, which its first one decides."""
        asked = device.name if device.is_insisted_on else device.kind or device.name
        if device.kind is None:
            row = np.zeros((1, *target.shape[1:]), target.preparation.dtype)
            device.station.lanes, device.station.threads = choose_lanes(
                self._settings, self._open_session, graph, asked, row
            )
        return self._open_session(graph, asked, device.station.threads)

    def _measure(self, device: Device, session: Session, replay: Replay) -> RunCosts:
        """What runs cost at 1, 2, 4, 8 ... rows, up to the bound of a batch in seconds.

        Args:
            replay: was run before.

        Raises:
            BundleError: a run fails that is only larger than others.
        """
        costs, threads = RunCosts(), device.station.threads
        for size in ladder(self._most_rows(replay.grid, session)):
            batch = list(itertools.islice(itertools.cycle(replay.rows), size))
            try:
                session.run(np.stack(batch))  # the first of a shape makes room for the others
            except Exception as error:
                log.exception("a graph fails with %d rows in one run", size)
                raise BundleError(
                    f"the graph of grid {replay.grid} fails with {size} rows in one run; a smaller "
                    "--max-batch may help"
                ) from error
            for _ in range(WARM_ROUNDS if size == 1 else 1):
                costs.learn(size, run_timed(session, batch, threads).cost)
            if costs.seconds(2 * size) > self._settings.batch_seconds:
                break
        return costs

    async def _decode_goldens(self, bundle: Bundle, target: Target) -> np.ndarray:
        """All of them, by the real decoder: ``[goldens, views, *pixels per axis, channels]``."""
        files = [bundle.path(golden.file) for golden in bundle.manifest.goldens]
        media = await self.in_thread(lambda: [file.read_bytes() for file in files])
        # Batch work has its turn for certain, however many requests with deadlines come.
        items = await asyncio.gather(
            *(self._pool.prepare(target.preparation, one, kind=BATCH) for one in media)
        )
        # [goldens, views, *pixels, channels]; of scans that is too much for the event loop
        return await self.in_thread(np.stack, [item.pixels for item in items])

    async def _replay(
        self, key: Key, target: Target, session: Session, device: Device, pixels: np.ndarray
    ) -> Replay:
        """Send the decoded goldens through the real device; BundleError unless all agree."""
        manifest = target.manifest
        try:
            tolerance = manifest.tolerance(session.device)
        except KeyError:
            raise BundleError(f"no tolerance is stated for {session.device}") from None
        most_rows = self._most_rows(target.grid, session)
        replay = Replay(session, pixels, manifest.goldens, target.grid, tolerance, most_rows)
        checks: list[Callable[[], None]] = [replay.run, replay.first.run]  # any number of rows
        if key == target.attention_key:
            checks.append(partial(_check_attention, session, replay.first))
        for check in checks:
            try:
                await self.on_device(device, check)
            except BundleError:
                raise
            except Exception as error:
                log.exception("bundle %s cannot be run", target.bundle)
                raise BundleError(f"the graph of grid {target.grid} cannot be run") from error
        return replay

    async def in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call gives, beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(call, *arguments))

    async def on_device(self, device: Device, call: Callable[..., T], *arguments: Any) -> T:
        """What a call gives, on a thread of a device."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(device.station.executor, partial(call, *arguments))


def _check_attention(session: Session, golden: Replay) -> None:
    """BundleError unless a graph that shall explain tells attention, of every patch of a row."""
    expected = [1, Grid.parse(golden.grid).tokens]
    found: list[int] | None = None
    if isinstance(session, Looker):
        found = list(session.look(golden.rows[:1])[-1].shape)
    if found != expected:
        raise BundleError(f"grid {golden.grid}: expected attention {expected}, got {found}")
