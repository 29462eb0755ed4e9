"""What lives as long as the server: every resource, owned, started and ended by one object."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.engine.admission import Admission
from service.engine.catalog import Catalog
from service.engine.decode.link import DecodeError
from service.engine.decode.pool import DecodePool
from service.engine.device.devices import Device, Devices
from service.engine.device.nodes import cpus_near, stay_on
from service.engine.device.session import DeviceDied, DeviceError, OpenSession, open_session
from service.engine.device.station import DeviceStation
from service.engine.failures import Failure
from service.engine.folders import NoBundles, bundle_folders, modality_of
from service.engine.job import Job, Outcome, Want
from service.engine.model import Choice, ExaminedBundle
from service.engine.pipeline import Pipeline
from service.engine.proof import Prover
from service.engine.rollout import Rollout
from service.engine.room import Room
from service.engine.schedule import CPU, DEVICE, Backlog
from service.engine.shadow.shadows import Shadows
from service.engine.succession import Succession
from service.engine.vitals import Vitals
from service.metrics import Metrics
from service.settings import Settings, SettingsError

log = logging.getLogger(__name__)

#: What requests are told, and probes.
NO_ANSWER = "the device does not answer"
#: Their message is all that the operator needs to know; others are traced.
TOLD = (SettingsError, DeviceError, NoBundles, DecodeError)


#: Settings that say how much may be inside, for whoever draws what is beside them.
LIMITS = (
    "max_in_flight", "max_in_flight_mib", "max_wait", "max_batch", "batch_seconds",
    "batch_tokens",
)  # fmt: skip


class Engine:
    """Everything that lives as long as the server, or as one command that answers without it.

    Attributes:
        room: for files of batch work that are in memory, beside those of requests.
        leaving: set when the server shall end soon: work is let in, but none should be sent.
        draining: set when the server ends; no new work is let in.
        on_ready: called once, when every bundle was examined.
        failure: why the server can never become ready, or DeviceDied.
        on_failure: called when that is known.
    """

    def __init__(self, settings: Settings, opener: OpenSession = open_session) -> None:
        self.settings = settings
        self.leaving = False
        self.draining = False
        self.on_ready: Callable[[], None] = lambda: None
        self.failure: Exception | None = None
        self.on_failure: Callable[[], object] = lambda: None
        self.metrics = Metrics()
        cpus = settings.cpu_count
        self.backlog = Backlog({CPU: cpus, DEVICE: 1})
        self.admission = Admission(
            settings.max_in_flight,
            settings.max_in_flight_bytes,
            self.backlog,
            settings.max_wait or None,
            lambda kind, reason: self.metrics.refused.labels(kind, reason).inc(),
        )
        self.room = Room(settings.max_in_flight, settings.max_in_flight_bytes)
        self.pool = DecodePool(
            settings.decode_workers or cpus + 1,
            on_restart=self.metrics.worker_restarts.inc,
            has_batch=settings.jobs is not None,
        )
        # Everything that touches a device runs in these threads: one for each lane, one that
        # replays goldens of each device, and one that examines bundles beside them. Those of a
        # node of the machine are its own.
        names = settings.device.split(",")
        self.executor = ThreadPoolExecutor(
            (max(cpus, settings.lanes) + 1) * len(names) + 1, thread_name_prefix="device"
        )
        self.devices = Devices([Device(name, self._make_station(name)) for name in names])
        self._executors = {one.executor for one in self.devices.stations} | {self.executor}
        self.pool.ahead = self.devices.ahead
        self.pipeline = Pipeline(self.admission, self.pool, self.devices, self.metrics)
        self.pool.bytes_ahead = self.devices.bytes_ahead
        self.vitals = Vitals(
            self.devices.stations,
            self.pool,
            settings.probe_seconds,
            on_lag=self.metrics.loop_lag.observe,
            on_death=self._on_death,
        )
        self.prover = Prover(self.pool, self.devices, self.executor, opener, settings)
        self.catalog = Catalog(self.prover, settings.default_bundle)
        succession = Succession(settings, self.catalog, self.devices, self._on_change)
        self.shadows = Shadows(
            self.pipeline, self.admission, self.devices, self.pool, self.metrics.agreements,
            max_bytes=settings.shadow_bytes,
        )  # fmt: skip
        self.rollout = Rollout(settings, self.catalog, succession, self.shadows)
        self.metrics.watch(
            {
                "decode_depth": lambda: self.pool.depth,
                "device_depth": lambda: self.devices.depth,
                "decode_workers": lambda: self.pool.ready,
                "in_flight": lambda: self.admission.requests,
                "in_flight_bytes": lambda: self.admission.bytes,
                "device_fallback": lambda: self.prover.fell_back,
                "lanes": lambda: self.devices.lanes,
                "devices_left_out": lambda: len(self.devices.left_out),
                "shadow_bytes": lambda: self.shadows.room.bytes,
            },
            self.backlog.wait,
            self.backlog.seconds,
        )
        for name in LIMITS:
            if value := getattr(settings, name):  # without one there is no number to draw
                self.metrics.limits.labels(name).set(value)

    async def prepare(self) -> None:
        """Start the workers and examine the bundles; the server already answers meanwhile."""
        try:
            await self.start(bundle_folders(self.settings.bundles))
        except Exception as error:
            told = isinstance(error, TOLD)
            log.error("the server cannot become ready: %s", error, exc_info=not told)
            self.failure = error
            self.on_failure()
            return
        _calm_collector()
        self.on_ready()
        await self._begin_shadows()

    async def _begin_shadows(self) -> None:
        """Those of the settings; one that cannot be is in the log, and nothing else suffers."""
        for name, version, share in self.settings.shadows:
            told = f"--shadow {name}@{version}={share:g}"
            try:
                await self.rollout.shadow(name, version, share)
            except Failure as failure:
                log.error("%s: %s", told, failure.detail)
                self.metrics.shadow_refusals.inc()
            except Exception:
                log.exception("%s: it cannot begin", told)
                self.metrics.shadow_refusals.inc()

    async def start(self, folders: list[Path]) -> None:
        """Start the workers and examine these folders.

        Raises:
            SettingsError, DeviceError, NoBundles, DecodeError: nothing can be answered.
        """
        modalities = {modality for folder in folders if (modality := modality_of(folder))}
        self.admission.kinds = max(1, len(modalities))
        self.vitals.start()
        await self.pool.start(modalities)
        await self.catalog.examine(folders, self._on_examined)

    async def close(self) -> None:
        self.draining = True
        await self.rollout.close()
        self.shadows.close()
        self.vitals.stop()
        self.devices.close()
        await self.pool.close()
        for executor in self._executors:
            executor.shutdown(wait=not self.died, cancel_futures=True)

    @property
    def died(self) -> bool:
        """Whether the device did, which only a new process may mend."""
        return isinstance(self.failure, DeviceDied)

    def check_want(self, want: Want, choice: Choice) -> None:
        """NoEmbedding or NoLabels where the graphs cannot give it: no file need be looked at."""
        self.pipeline.check_want(want, choice)

    async def submit(self, job: Job) -> Outcome:
        """What is wanted of one file; cancel the call, at any time, to end its work.

        Raises:
            Overloaded: too much stands before it. Batch work without a deadline waits instead.
            DeadlinePassed: there is no time left.
            Failure: of the bytes, or of the graph.
        """
        (outcome,) = await self.pipeline.submit_all([job])
        return outcome

    async def submit_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        """As ``submit``, for the files of one request: they enter together or not at all.

        The first failure ends the others and names its file.

        Args:
            jobs: at least one, of one modality, class and deadline.
        """
        return await self.pipeline.submit_all(jobs)

    async def submit_each(self, jobs: Sequence[Job]) -> list[Outcome | Failure]:
        """As ``submit_all``, but each file has an outcome or a failure of its own.

        Raises:
            Overloaded, DeadlinePassed: together they may not enter.
            NoEmbedding: it is wanted of a graph that has none.
            NoLabels: something else is wanted of a bundle without a head.
        """
        return await self.pipeline.submit_each(jobs)

    def _make_station(self, device: str) -> DeviceStation:
        near, executor = cpus_near(device), self.executor
        if near is not None:
            executor = ThreadPoolExecutor(
                max(len(near), self.settings.lanes) + 1, device, stay_on, (near,)
            )
        return DeviceStation(
            executor,
            self.settings.max_batch,
            batch_seconds=self.settings.batch_seconds,
            on_batch=self._on_batch,
            on_begin=self.pool.begin_next,
        )

    def _on_batch(self, modality: str, size: int, seconds: float) -> None:
        self.metrics.batch_size[modality].observe(size)

    def _on_death(self, reason: str) -> None:
        log.error("%s: %s", NO_ANSWER, reason)
        self.failure = DeviceDied(reason)
        self.devices.give_up(NO_ANSWER)
        self.on_failure()

    def _on_examined(self, one: ExaminedBundle) -> None:
        self.backlog.rates[DEVICE] = self.devices.lanes  # which the first graph has decided
        self.metrics.bundle_info.labels(*_info(one)).set(1)
        if one.modality is not None:
            self.metrics.serve(one.modality)
        for grid, target in one.targets.items():
            version = target.manifest.version
            self.metrics.grid_info.labels(one.name, version, grid).set(1)
            self.metrics.drift.begin(
                target.key, one.name, version, grid, target.labels, target.entry.figures
            )

    def _on_change(self, before: ExaminedBundle | None, after: ExaminedBundle | None) -> None:
        """Another version answers, or a bundle more, or one less."""
        if before is not None:
            version = after.manifest.version if after and after.manifest else None
            who = f"version {version}" if version else "no version"
            self.shadows.end(before.name, f"{who} answers since then")
            self.metrics.bundle_info.remove(*_info(before))
            for grid, target in before.targets.items():
                self.metrics.grid_info.remove(before.name, target.manifest.version, grid)
                self.metrics.drift.end(target.key)
        if after is not None:
            self._on_examined(after)
        bundles = self.catalog.bundles.values()
        served = {one.modality for one in bundles if one.modality is not None}
        self.admission.kinds = max(1, len(served))
        self.pool.serve(served)


def _info(one: ExaminedBundle) -> tuple[str, str, str]:
    """The labels of its metric."""
    return one.name, one.manifest.version if one.manifest else "", one.state


def _calm_collector() -> None:
    """What lives now lives on, and requests leave few cycles: collect less and look at less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
