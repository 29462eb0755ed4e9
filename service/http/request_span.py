"""What the span of a request says, by OpenTelemetry's conventions for HTTP servers.

No query, no name of a file, no header and no address of a client is in it, as in the log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.types import Scope

from service.http.exchange import Exchange
from service.http.trace import Span
from service.tracing import Parent

if TYPE_CHECKING:
    from service.spans import Attributes, Trace, Tracing

#: Others are told as _OTHER, or whoever asks could make names without end.
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"))


def begin(tracing: Tracing, scope: Scope, exchange: Exchange) -> Trace:
    """Let a request's trace begin, or go on here; its answer and its log lines will name it."""
    came = exchange.span
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    attributes: dict[str, str | int | float] = {
        "http.request.method": method,
        "network.protocol.version": scope["http_version"],
        "url.path": scope["raw_path"].decode("latin-1"),
        "url.scheme": scope["scheme"],
        "liere.request.id": exchange.id,
    }
    parent = Parent(came.trace_id, came.parent_id, came.flags) if came is not None else None
    trace = tracing.begin(_name(method, ""), parent, exchange.started, attributes)
    made = trace.span.get_span_context()
    if came is not None or trace.span.is_recording():  # nobody would know the others
        exchange.span = Span.of(made.trace_id, made.span_id, made.trace_flags)
    return trace


def end(trace: Trace, scope: Scope, exchange: Exchange, modality: str | None) -> None:
    """Tell its body, and what became of it."""
    ended = exchange.answered or time.monotonic()
    if exchange.received:
        size = {"http.request.body.size": exchange.received}
        whole = bool(exchange.uploaded)
        trace.add(
            "upload", exchange.started, exchange.uploaded or ended, size, "" if whole else "cut"
        )
    route: str = getattr(scope.get("route"), "path", "")
    told: dict[str, str | int | None] = {
        "http.response.status_code": exchange.status,
        "http.route": route,
        "liere.modality": modality,
        "liere.bundle": exchange.bundle,
        "liere.grid": exchange.grid,
        "liere.refused": exchange.refusal,
    }
    attributes: Attributes = {name: value for name, value in told.items() if value}
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    failure = str(exchange.status) if exchange.status >= 500 else ""
    trace.end(_name(method, route), ended, attributes, failure)


def _name(method: str, route: str) -> str:
    return f"{'HTTP' if method == '_OTHER' else method} {route}".strip()
