"""What lives as long as the server: every resource, owned, started and ended by one object."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

from service.cpus import usable_cpus
from service.engine.admission import Admission, Work
from service.engine.catalog import Catalog
from service.engine.decode.link import DecodeError
from service.engine.decode.pool import DecodePool
from service.engine.device.session import DeviceDied, DeviceError, OpenSession, open_session
from service.engine.device.station import DeviceStation
from service.engine.folders import NoBundles, bundle_folders, modality_of
from service.engine.model import Choice, ExaminedBundle, Target
from service.engine.proof import Prover
from service.engine.schedule import CPU, DEVICE, Backlog
from service.engine.vitals import Vitals
from service.metrics import Metrics
from service.settings import Settings, SettingsError

log = logging.getLogger(__name__)

#: Of the event loop for one answer: reading the request, ranking, writing.
ANSWER_SECONDS = 0.0005
#: What requests are told, and probes.
NO_ANSWER = "the device does not answer"
#: Their message is all that the operator needs to know; others are traced.
TOLD = (SettingsError, DeviceError, NoBundles, DecodeError)


class Engine:
    """Everything that lives as long as the server, or as one command that answers without it.

    Attributes:
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
        cpus = usable_cpus()
        self.backlog = Backlog({CPU: cpus, DEVICE: 1})
        self.admission = Admission(
            settings.max_in_flight,
            settings.max_in_flight_bytes,
            self.backlog,
            settings.max_wait or None,
            lambda kind, reason: self.metrics.refused.labels(kind, reason).inc(),
        )
        self.pool = DecodePool(
            settings.decode_workers or cpus + 1,
            on_restart=self.metrics.worker_restarts.inc,
        )
        # Everything that touches the device runs in these threads: one for each lane, one that
        # examines bundles beside them, one that replays goldens.
        self.executor = ThreadPoolExecutor(
            max(cpus, settings.lanes) + 2, thread_name_prefix="device"
        )
        self.station = DeviceStation(
            self.executor,
            settings.max_batch,
            batch_seconds=settings.batch_seconds,
            on_batch=self._on_batch,
            on_begin=self.pool.begin_next,
        )
        self.pool.ahead = self.station.ahead
        self.pool.bytes_ahead = self.station.bytes_ahead
        self.vitals = Vitals(
            self.station,
            self.pool,
            self.executor,
            settings.probe_seconds,
            on_lag=self.metrics.loop_lag.observe,
            on_death=self._on_death,
        )
        self.station.on_failed = self.vitals.doubt
        self.prover = Prover(self.pool, self.station, self.executor, opener, settings)
        self.catalog = Catalog(self.prover, settings.default_bundle)
        self.metrics.watch(
            decode=lambda: self.pool.depth,
            device=lambda: self.station.depth,
            in_flight=lambda: self.admission.requests,
            fell_back=lambda: self.prover.fell_back,
            lanes=lambda: self.station.lanes,
            wait=self.backlog.wait,
        )

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
        self.vitals.stop()
        self.station.close()
        await self.pool.close()
        self.executor.shutdown(wait=not self.died, cancel_futures=True)

    @property
    def died(self) -> bool:
        """Whether the device did, which only a new process may mend."""
        return isinstance(self.failure, DeviceDied)

    def predict(self, choice: Choice, size: int) -> Work:
        """What a file of ``size`` bytes costs, before anything of it was looked at."""
        modality, targets = choice.manifest.modality, choice.targets.values()
        decode = self.pool.costs[modality]
        parts = {
            "decode": {CPU: decode.mean(size)},
            "run": self.run_part(self.run_seconds(*targets)),
            "answer": {CPU: ANSWER_SECONDS},
        }
        run = fmean(self.station.costs(one.key).high * one.views for one in targets)
        return Work(modality, parts, decode.high(size) + run + ANSWER_SECONDS)

    def run_seconds(self, *targets: Target) -> float:
        """Of one item's rows on a lane.

        Of several grids that it may get the mean counts: nothing tells yet which it will be.
        """
        return fmean(one.views * self.station.costs(one.key).row for one in targets)

    def run_part(self, seconds: float) -> dict[str, float]:
        """What a lane's seconds take, by resource: on a CPU those that decode too."""
        if not self.prover.on_cpu:
            return {DEVICE: seconds}
        return {DEVICE: seconds, CPU: seconds * self.station.threads}

    def _on_batch(self, modality: str, size: int, seconds: float) -> None:
        self.metrics.batch_size[modality].observe(size)
        self.metrics.stages[modality]["inference"].observe(seconds)

    def _on_death(self, reason: str) -> None:
        log.error("%s: %s", NO_ANSWER, reason)
        self.failure = DeviceDied(reason)
        self.station.give_up(NO_ANSWER)
        self.on_failure()

    def _on_examined(self, served: ExaminedBundle) -> None:
        self.backlog.rates[DEVICE] = self.station.lanes  # which the first graph has decided
        version = served.manifest.version if served.manifest else ""
        self.metrics.bundle_info.labels(served.name, version, served.state).set(1)


def _calm_collector() -> None:
    """What lives now lives on, and requests leave few cycles: collect less and look at less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
