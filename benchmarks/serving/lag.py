"""How late a server's event loop was, as its own histogram says: by bucket, not by a clock here."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter

SAMPLE = re.compile(r'^liere_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
SHARE = 0.999


def read_metrics(port: int) -> str:
    """What a server says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return answer.read().decode()


def read_looks(port: int) -> Counter[float]:
    """Upper bound of a bucket in seconds -> looks within it; nothing of a server that has none."""
    looks, below = Counter[float](), 0
    for bound, count in SAMPLE.findall(read_metrics(port)):
        looks[float(bound)] = int(float(count)) - below
        below = int(float(count))
    return looks


def late_ms(looks: Counter[float]) -> float | None:
    """Milliseconds that 99.9 % of the looks were within, the end of a bucket; None of nothing."""
    seen, whole = 0, looks.total()
    for bound in sorted(looks):
        seen += looks[bound]
        if whole and seen >= SHARE * whole:
            return round(1000 * bound, 3)
    return None


def loop_lag(looks: Counter[float]) -> str:
    """The line that every row prints, and ``soak`` reads."""
    return f"event loop: 99.9 % of {looks.total()} looks at most {late_ms(looks)} ms late"
