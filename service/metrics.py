"""Every series that the service exports, declared once; call sites use fields, never names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from media.spec import AXES
from service.agreement import Agreements
from service.drift import Drift
from service.memory import read_memory

#: Of one item, in their order; a clip's or scan's run is that of its last view. Explain is all that
#: follows it where an explanation was asked for.
STAGES = ("upload", "decode_wait", "decode", "device_wait", "run", "explain")
#: What predicted seconds are counted of; see ``service.engine.schedule``.
RESOURCES = ("cpu", "device")
STAGE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0,
)  # fmt: skip
LAG_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: Statuses that every modality may have to count.
FORESEEN = (200, 500, 503, 504)


class Metrics:
    """The series of one server, in a registry of their own.

    Attributes:
        expose: renders what is scraped; where several processes serve together, the series of all.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.expose: Callable[[], bytes] = self.own
        self.requests = Counter(
            "liere_requests",
            "Requests for work by answer; 499 is a client that left. Of a call of gRPC that ended "
            "before its message was read there is no modality where several are served.",
            ("modality", "code", "outcome"),
            registry=registry,
        )
        self.unauthorized = Counter(
            "liere_unauthorized",
            "Requests of every kind that came without a key and need one.",
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "liere_stage_seconds",
            "Time in a stage: upload per request, the others per item; run is that of its batch, "
            "explain that of all rows of an explanation.",
            ("modality", "bundle", "stage"),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        # Finding a series by its labels takes as long as all of a refusal else may.
        self._stages: dict[tuple[str, str], dict[str, Histogram]] = {}
        self._answers: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}
        self._request_seconds = Histogram(
            "liere_request_seconds",
            "From the head of a request for work to its answer; no bundle where it was not known.",
            ("modality", "bundle", "outcome"),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.dropped = Counter(
            "liere_dropped",
            "Items that ended without an answer, by the stage they were in: their client left "
            "(left), their time was over (expired), or another file of their strict "
            "request failed (sibling).",
            ("modality", "stage", "reason"),
            registry=registry,
        )
        self.file_problems = Counter(
            "liere_file_problems",
            "Files of requests, not strict ones, that got a problem of their own, by its name; the "
            "request is 200 where another of its files was answered.",
            ("modality", "problem"),
            registry=registry,
        )
        self.predicted_seconds = Counter(
            "liere_predicted_seconds",
            "Of items that were answered: what decoding, running and waiting were predicted to "
            "take; divide it by liere_actual_seconds_total.",
            ("modality", "part"),
            registry=registry,
        )
        self.actual_seconds = Counter(
            "liere_actual_seconds",
            "Of the same items, what they took: processor seconds of decoding, lane seconds of a "
            "row's share of its run, seconds of waiting.",
            ("modality", "part"),
            registry=registry,
        )
        batch_size = Histogram(
            "liere_batch_size",
            "Rows in one run.",
            ("modality",),
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.batch_size = {modality: batch_size.labels(modality) for modality in AXES}
        queue_depth = Gauge("liere_queue_depth", "Items that wait.", ("queue",), registry=registry)
        self.decode_depth, self.device_depth = map(queue_depth.labels, ("decode", "device"))
        self.backlog_seconds = Gauge(
            "liere_backlog_seconds",
            "Predicted seconds of all that is inside, of every CPU or lane together.",
            ("resource",),
            registry=registry,
        )
        self.in_flight = Gauge("liere_in_flight", "Requests for work inside.", registry=registry)
        self.in_flight_bytes = Gauge(
            "liere_in_flight_bytes", "Of their bodies, here or still to come.", registry=registry
        )
        self.decode_workers = Gauge(
            "liere_decode_workers", "Decode workers that take items.", registry=registry
        )
        self.limits = Gauge(
            "liere_limit", "What the server is held to, by the setting's name.", ("name",),
            registry=registry,
        )  # fmt: skip
        self.device_fallback = Gauge(
            "liere_device_fallback",
            "1 where graphs run on the CPU although there is a GPU that --device auto would take.",
            registry=registry,
        )
        self.jobs = Gauge("liere_jobs", "Jobs that are kept.", ("state",), registry=registry)
        job_items = Counter(
            "liere_job_items",
            "Files of jobs that got their line: an answer, or an error of their own (failed).",
            ("outcome",),
            registry=registry,
        )
        self.job_items_answered, self.job_items_failed = map(
            job_items.labels, ("answered", "failed")
        )
        self.job_items_waiting = Gauge(
            "liere_job_items_waiting",
            "Files without a line, of jobs that have not ended.",
            registry=registry,
        )
        self.job_bytes = Gauge(
            "liere_job_bytes", "That jobs take on the disk: files and answers.", registry=registry
        )
        self.job_oldest_seconds = Gauge(
            "liere_job_oldest_seconds",
            "Since the oldest of the jobs that are queued came; 0 where none is.",
            registry=registry,
        )
        self.ready = Gauge("liere_ready", "1 while /health/ready is 200.", registry=registry)
        self.bundle_info = Gauge(
            "liere_bundle_info",
            "1 for every bundle and its state.",
            ("bundle", "version", "state"),
            registry=registry,
        )
        self.grid_info = Gauge(
            "liere_grid_info",
            "1 for every grid of a bundle that is ready.",
            ("bundle", "version", "grid"),
            registry=registry,
        )
        self.refused = Counter(
            "liere_refused",
            "Files and requests that were not let in: too much work (wait), no time left "
            "(deadline), too many bytes or requests inside. Batch work has batch for a modality.",
            ("modality", "reason"),
            registry=registry,
        )
        self.predicted_wait = Gauge(
            "liere_predicted_wait_seconds",
            "What a request that came now would wait for, by prediction.",
            ("modality",),
            registry=registry,
        )
        self.lanes = Gauge(
            "liere_device_lanes", "Batches that run at the same time.", registry=registry
        )
        self.devices_left_out = Gauge(
            "liere_devices_left_out",
            "Devices that were named and did not prove themselves; the others do all the work.",
            registry=registry,
        )
        self.worker_restarts = Counter(
            "liere_decode_worker_restarts",
            "Decode workers that ended and were replaced.",
            registry=registry,
        )
        self.loop_lag = Histogram(
            "liere_loop_lag_seconds",
            "By how much the event loop was late for a timer of 50 ms, seen at each of them.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self.memory = Gauge(
            "liere_memory_bytes",
            "What server and decode workers hold, with whatever else is in their control group; "
            "not a number where there is none.",
            registry=registry,
        )
        self.memory_limit = Gauge(
            "liere_memory_limit_bytes",
            "At which the kernel kills one of them; infinite where nobody set one.",
            registry=registry,
        )
        self.memory.set_function(lambda: read_memory().used)
        self.memory_limit.set_function(lambda: read_memory().limit)
        self.shadow_bytes = Gauge(
            "liere_shadow_bytes",
            "Held by copies of files that wait for candidate versions.",
            registry=registry,
        )
        self.shadow_refusals = Counter(
            "liere_shadow_refusals",
            "Candidate versions of the settings that could not begin to see copies.",
            registry=registry,
        )
        self.drift = Drift()
        registry.register(self.drift)
        self.agreements = Agreements()
        registry.register(self.agreements)
        ProcessCollector(registry=registry)

    def stages(self, modality: str, bundle: str) -> dict[str, Histogram]:
        """By name."""
        known = self._stages.get((modality, bundle))
        if known is None:
            known = {one: self._stage_seconds.labels(modality, bundle, one) for one in STAGES}
            self._stages[modality, bundle] = known
        return known

    def serve(self, modality: str) -> None:
        """Let its foreseen answers be 0 before there are any: a rise from nothing is not seen."""
        for status in FORESEEN:
            self.requests.labels(modality, str(status), outcome_of(status))

    def request(
        self, modality: str, bundle: str, status: int, outcome: str, seconds: float
    ) -> None:
        """One request for work and its answer."""
        known = self._answers.get((modality, bundle, status, outcome))
        if known is None:
            count = self.requests.labels(modality, str(status), outcome)
            known = count, self._request_seconds.labels(modality, bundle, outcome)
            self._answers[modality, bundle, status, outcome] = known
        count, times = known
        count.inc()
        times.observe(seconds)

    def watch(
        self,
        numbers: Mapping[str, Callable[[], float]],
        wait: Callable[[str], float],
        backlog: Callable[[str], float],
    ) -> None:
        """Read the gauges from their owners, at every scrape.

        Args:
            numbers: by the name of a field.
            wait: seconds that a newcomer of a modality would wait.
            backlog: seconds that are inside, of a resource.
        """
        for name, read in numbers.items():
            getattr(self, name).set_function(read)
        for modality in AXES:
            self.predicted_wait.labels(modality).set_function(partial(wait, modality))
        for resource in RESOURCES:
            self.backlog_seconds.labels(resource).set_function(partial(backlog, resource))

    def render(self) -> bytes:
        """The text exposition format."""
        return self.expose()

    def own(self) -> bytes:
        """The same of the series of this server alone."""
        return generate_latest(self.registry)


def outcome_of(status: int) -> str:
    """What became of a request, in a word, where nothing but its status is known."""
    known = {200: "ok", 429: "refused", 499: "left", 504: "expired"}
    return known.get(status, "bad" if status < 500 else "failed")
