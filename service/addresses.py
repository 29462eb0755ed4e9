"""Where a server is reached; apart from the settings, whose library a health check can spare."""

from __future__ import annotations

#: Where a server is asked that listens everywhere.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def reachable(host: str) -> str:
    """The address to call a server at that listens on ``host``."""
    return LOOPBACK.get(host, host)
