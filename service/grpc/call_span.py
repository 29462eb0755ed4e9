"""What the span of a call says, by OpenTelemetry's conventions for servers of RPC.

No metadata and no address of a client is in it, as in the log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from service.grpc.call import Call
from service.grpc.statuses import CODES
from service.http.trace import Span
from service.tracing import Parent

if TYPE_CHECKING:
    from service.spans import Attributes, Trace, Tracing

#: What no failure stands for: OK, and CANCELLED by a client that left.
OTHERS = {200: 0, 499: 1}


def begin(tracing: Tracing, call: Call) -> Trace:
    """Let a call's trace begin, or go on here; its answer and its log lines will name it."""
    service, _, method = call.name.strip("/").partition("/")
    attributes: dict[str, str | int | float] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "liere.request.id": call.id,
    }
    came = call.span
    parent = Parent(came.trace_id, came.parent_id, came.flags) if came is not None else None
    trace = tracing.begin(call.name.strip("/"), parent, call.started, attributes)
    made = trace.span.get_span_context()
    if came is not None or trace.span.is_recording():  # nobody would know the others
        call.span = Span.of(made.trace_id, made.span_id, made.trace_flags)
    return trace


def end(trace: Trace, call: Call) -> None:
    """Tell its message, and what became of it."""
    ended = time.monotonic()
    if call.uploaded:
        size = {"liere.message.bytes": call.received}
        trace.add("upload", call.started, call.uploaded, size)
    code = CODES[call.status].value[0] if call.status in CODES else OTHERS[call.status]
    told: dict[str, str | int | None] = {
        "liere.modality": call.kind,
        "liere.bundle": call.bundle,
        "liere.grid": call.grid,
        "liere.refused": call.refusal,
    }
    attributes: Attributes = {
        "rpc.grpc.status_code": code, **{name: value for name, value in told.items() if value}
    }  # fmt: skip
    failure = str(call.status) if call.status >= 500 else ""
    trace.end(call.name.strip("/"), ended, attributes, failure)
