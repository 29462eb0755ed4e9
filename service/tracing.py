"""The trace that work belongs to, where OpenTelemetry is asked for; else there is none.

A front that lets a request in begins its trace (``Tracing.begin``). Whatever works for it, in the
same task or in one that this one began, finds it by ``current`` and adds spans of what is over,
with times that are taken anyway: where nobody traces, looking is all that it costs.
"""

from __future__ import annotations

import importlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from service.spans import Trace, Tracing

CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Parent(NamedTuple):
    """The span of another service that a request came from."""

    trace_id: str  # 32 characters of 0-9 and a-f
    span_id: str  # 16 of them
    flags: int


def current() -> Trace | None:
    """Of the request that this task works for, if it is to be told."""
    return CURRENT.get()


def open_tracing(settings: Settings) -> Tracing | None:
    """Where spans go; None where the settings name no place.

    Raises:
        SettingsError: they do, and what tells them is not installed.
    """
    if not settings.otel_endpoint:
        return None
    try:
        spans = importlib.import_module("service.spans")
    except ImportError as error:
        raise SettingsError(
            f"otel_endpoint: {error.name} is not installed; the extra `otel` brings it: "
            "pip install -c constraints.txt '.[otel]'"
        ) from error
    tracing: Tracing = spans.Tracing(settings.otel_endpoint, settings.otel_share)
    return tracing
