"""Spans told by OpenTelemetry over OTLP: in a thread, by the batch, and dropped before they delay.

Nobody imports this but where it is asked for (``service.tracing``): the extra ``otel`` brings what
it needs. What OpenTelemetry reads from ``OTEL_...`` variables holds: headers and certificates for
the receiver, the service's name, attributes of the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from service.tracing import CURRENT, Parent

#: Of the newest spans when the server ends; a receiver that is not there may not keep it.
LAST_SECONDS = 3.0
#: Of one message to the receiver, with what it takes to try again.
SEND_SECONDS = 10.0
Attributes = Mapping[str, str | int | float]


class Tracing:
    """Where the spans of a server go, between ``start`` and ``close``.

    Args:
        endpoint: URL that takes OTLP over HTTP.
        share: of the traces that begin here, in [0, 1]; of others their ``traceparent`` says
            whether they are told.
    """

    _provider: TracerProvider
    _tracer: Tracer

    def __init__(self, endpoint: str, share: float) -> None:
        self._endpoint = endpoint
        self._share = share

    def start(self) -> None:
        """Begin the thread that sends."""
        told = OTELResourceDetector().detect()  # by variables, which may name the service too
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(self._share)),
            resource=Resource.create({"service.name": "liere"}).merge(told),
            shutdown_on_exit=False,  # which would wait for the receiver as long as it takes
        )
        exporter = OTLPSpanExporter(self._endpoint, timeout=SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("service")

    def begin(
        self, name: str, parent: Parent | None, began: float, attributes: Attributes
    ) -> Trace:
        """The trace of a request that came in, the current one of this task until ``Trace.end``.

        Args:
            began: seconds, monotonic.
        """
        return Trace(self._tracer, name, parent, began, attributes)

    def flush(self) -> None:
        """Send what is waiting, and wait for that."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what is waiting, wait for that a moment, and send no more."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(LAST_SECONDS)


class Trace:
    """One request's spans; all times are monotonic seconds.

    Attributes:
        span: that of the request, which all others are below.
    """

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        parent: Parent | None,
        began: float,
        attributes: Attributes,
    ) -> None:
        self._tracer = tracer
        self._ahead = time.time_ns() - time.monotonic_ns()  # of 1970, before the monotonic clock
        self.span: Span = tracer.start_span(
            name,
            set_span_in_context(_span_of(parent)) if parent is not None else Context(),
            SpanKind.SERVER,
            dict(attributes),
            start_time=self._nanoseconds(began),
        )
        self._below = set_span_in_context(self.span)
        self._token = CURRENT.set(self if self.span.is_recording() else None)

    def add(
        self, name: str, began: float, ended: float, attributes: Attributes, failure: str = ""
    ) -> None:
        """A span of something that is over.

        Args:
            failure: what kind of failure it ended in.
        """
        span = self._tracer.start_span(
            name, self._below, attributes=dict(attributes), start_time=self._nanoseconds(began)
        )
        if failure:
            _fail(span, failure)
        span.end(self._nanoseconds(ended))

    def end(self, name: str, ended: float, attributes: Attributes, failure: str = "") -> None:
        """The request is answered; ``name`` is what it turned out to be."""
        CURRENT.reset(self._token)
        self.span.update_name(name)
        self.span.set_attributes(attributes)
        if failure:
            _fail(self.span, failure)
        self.span.end(self._nanoseconds(ended))

    def _nanoseconds(self, moment: float) -> int:
        """Since 1970."""
        return int(moment * 1e9) + self._ahead


def _span_of(parent: Parent) -> Span:
    numbers = int(parent.trace_id, 16), int(parent.span_id, 16)
    flags = TraceFlags(parent.flags)
    return NonRecordingSpan(SpanContext(*numbers, is_remote=True, trace_flags=flags))


def _fail(span: Span, failure: str) -> None:
    span.set_attribute("error.type", failure)
    span.set_status(Status(StatusCode.ERROR))
