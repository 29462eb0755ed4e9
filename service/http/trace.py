"""W3C Trace Context: the trace that a request belongs to, and this server's span in it.

What came is continued and not begun: a request without a trace has its id, and nobody else would
know a trace that was made up here, unless spans are told (``service.tracing``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

#: Version, trace, parent, flags, and what a later version than 00 may have behind them.
TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.S)
SAMPLED = 0x01  # the only flag of version 00; others are not passed on


@dataclass(frozen=True, slots=True)
class Span:
    """What this server does for one request of a trace."""

    trace_id: str  # 32 characters of 0-9 and a-f
    span_id: str  # 16 of them, this server's own
    flags: int
    parent_id: str = ""  # the span that the request came from, where it came with one

    @classmethod
    def of(cls, trace_id: int, span_id: int, flags: int) -> Span:
        """From numbers, as OpenTelemetry has them."""
        return cls(f"{trace_id:032x}", f"{span_id:016x}", flags & SAMPLED)

    @classmethod
    def begin(cls, traceparents: Sequence[bytes]) -> Span | None:
        """A new span under the one that the request came from.

        Args:
            traceparents: the values of its headers of this name; None unless there is exactly one
                and it is valid.
        """
        if len(traceparents) != 1:
            return None
        match = TRACEPARENT.fullmatch(traceparents[0].strip(b" \t"))
        if match is None:
            return None
        version, trace_id, parent, flags, rest = match.groups()
        if version == b"ff" or (version == b"00" and rest is not None):
            return None
        if not (trace_id.strip(b"0") and parent.strip(b"0")):
            return None
        sampled = int(flags, 16) & SAMPLED
        return cls(trace_id.decode(), secrets.token_hex(8), sampled, parent.decode())

    def header(self) -> bytes:
        """The value of ``traceparent``, in the version that is spoken here."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()
