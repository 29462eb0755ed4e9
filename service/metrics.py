"""Every series that the service exports, declared once; call sites use fields, never names."""

from __future__ import annotations

from collections.abc import Callable
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

STAGES = ("decode", "queue", "inference", "total")
STAGE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0,
)  # fmt: skip
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The series of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "liere_requests",
            "Requests for work by answer; 499 is a client that left.",
            ("modality", "code"),
            registry=registry,
        )
        self.unauthorized = Counter(
            "liere_unauthorized",
            "Requests of every kind that came without a key and need one.",
            registry=registry,
        )
        stage_seconds = Histogram(
            "liere_stage_seconds",
            "Time in a stage: decode and queue per item, inference per batch, total per request.",
            ("modality", "stage"),
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.stages = {
            modality: {stage: stage_seconds.labels(modality, stage) for stage in STAGES}
            for modality in AXES
        }
        batch_size = Histogram(
            "liere_batch_size",
            "Rows in one run.",
            ("modality",),
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.batch_size = {modality: batch_size.labels(modality) for modality in AXES}
        self.queue_depth = Gauge(
            "liere_queue_depth", "Items that wait.", ("queue",), registry=registry
        )
        self.in_flight = Gauge("liere_in_flight", "Requests for work inside.", registry=registry)
        self.device_fallback = Gauge(
            "liere_device_fallback",
            "1 where graphs run on the CPU although there is a GPU that --device auto would take.",
            registry=registry,
        )
        self.bundle_info = Gauge(
            "liere_bundle_info",
            "1 for every bundle and its state.",
            ("bundle", "version", "state"),
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
        ProcessCollector(registry=registry)

    def watch(
        self,
        decode: Callable[[], int],
        device: Callable[[], int],
        in_flight: Callable[[], int],
        fell_back: Callable[[], bool],
        lanes: Callable[[], int],
        wait: Callable[[str], float],
    ) -> None:
        """Read the gauges from their owners, at every scrape."""
        self.queue_depth.labels("decode").set_function(decode)
        self.queue_depth.labels("device").set_function(device)
        self.in_flight.set_function(in_flight)
        self.device_fallback.set_function(fell_back)
        self.lanes.set_function(lanes)
        for modality in AXES:
            self.predicted_wait.labels(modality).set_function(partial(wait, modality))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)
