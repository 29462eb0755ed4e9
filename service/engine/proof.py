"""A bundle proves itself before it answers: every graph is opened, every golden is replayed."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models.bundle import Bundle, BundleError
from service.engine.costs import RunCosts, ladder
from service.engine.decode.pool import DecodePool
from service.engine.device.lanes import Lanes, choose_lanes
from service.engine.device.replay import Replay
from service.engine.device.runs import run_timed
from service.engine.device.session import Device, DeviceError, OpenSession, Session, is_fallback
from service.engine.device.station import DeviceStation
from service.engine.model import ExaminedBundle, Target
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Runs of one row that are measured at start: a larger batch is never believed to cost more.
WARM_ROUNDS = 3


class Prover:
    """Opens and replays bundles on the device that will answer requests.

    Args:
        executor: the device's thread; sessions are opened and replayed there.
    """

    def __init__(
        self,
        pool: DecodePool,
        station: DeviceStation,
        executor: Executor,
        open_session: OpenSession,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._station = station
        self._executor = executor
        self._open_session = open_session
        self._settings = settings
        self._device: Device = settings.device
        self._insists = settings.device == "cuda"  # later the device may be a finding
        self.fell_back = False  # to the CPU, although there is a GPU
        self._lanes: Lanes | None = None  # chosen by the first graph

    async def prove(self, bundle: Bundle) -> ExaminedBundle:
        """A bundle whose graphs gave the stored logits, with its queues open.

        Raises:
            BundleError, Failure: it is refused, and why.
            DeviceError: the operator's device is not there, which is no bundle's fault.
        """
        manifest = bundle.manifest
        targets, sessions = {}, {}
        seconds = self._settings.limits(manifest.modality).decode_seconds
        for entry in manifest.grids:
            target = Target.make(manifest, entry.grid, manifest.input.views, seconds)
            session = await self._open_graph(bundle, entry.graph, target)
            replay = await self._replay(bundle, target, session)
            costs = await self.on_device(self._measure, session, replay.rows)
            targets[entry.grid] = target
            sessions[target.key] = session, costs, replay.first
        for key, (session, costs, golden) in sessions.items():
            self._station.add_queue(key, session, manifest.modality, costs, golden)
        return ExaminedBundle(
            manifest.name,
            "ready",
            manifest.modality,
            manifest=manifest,
            device=session.device,
            targets=targets,
        )

    async def _open_graph(self, bundle: Bundle, graph: str, target: Target) -> Session:
        """A session; after the first one, all must be on its device."""
        try:
            session = await self.on_device(self._open_on_lanes, bundle.path(graph), target)
        except DeviceError as error:
            if self._insists:
                raise
            log.exception("%s of bundle %s cannot be opened", graph, bundle.manifest.name)
            reason = f"{graph} cannot be opened on the GPU that the others use"
            raise BundleError(reason) from error
        except Exception as error:
            log.exception("%s of bundle %s cannot be loaded", graph, bundle.manifest.name)
            raise BundleError(f"{graph} cannot be loaded") from error
        self.fell_back = self.fell_back or is_fallback(self._device, session)
        self._device = "cuda" if session.device == "cuda" else "cpu"
        return session

    def _open_on_lanes(self, graph: Path, target: Target) -> Session:
        """A session for the lanes of the device, which the first one decides."""
        if self._lanes is None:
            row = np.zeros((1, *target.shape[1:]), target.preparation.dtype)
            self._lanes = choose_lanes(
                self._settings, self._open_session, graph, self._device, row
            )
            self._station.lanes, self._station.threads = self._lanes
        return self._open_session(graph, self._device, self._lanes.threads)

    def _measure(self, session: Session, rows: np.ndarray) -> RunCosts:
        """What runs cost at 1, 2, 4, 8 ... rows, up to the bound of a batch in seconds.

        Args:
            rows: ``[goldens * views, *pixels per axis, channels]``, which were run before.
        """
        costs = RunCosts()
        for size in ladder(self._settings.max_batch):
            batch = list(itertools.islice(itertools.cycle(rows), size))
            run_timed(session, batch, self._station.threads)  # the first of a shape makes room
            for _ in range(WARM_ROUNDS if size == 1 else 1):
                costs.learn(size, run_timed(session, batch, self._station.threads).cost)
            if costs.seconds(2 * size) > self._settings.batch_seconds:
                break
        return costs

    async def _replay(self, bundle: Bundle, target: Target, session: Session) -> Replay:
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
        replay = Replay(session, pixels, goldens, target.grid, tolerance)
        for batch in (replay, replay.first):  # the batch axis must be free
            try:
                await self.on_device(batch.run)
            except BundleError:
                raise
            except Exception as error:
                log.exception("bundle %s cannot be run", target.bundle)
                raise BundleError(f"the graph of grid {target.grid} cannot be run") from error
        return replay

    @property
    def on_cpu(self) -> bool:
        """Whether runs take the CPUs that decode too."""
        return self._device == "cpu"

    async def on_device(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call gives, on the device's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(call, *arguments))
