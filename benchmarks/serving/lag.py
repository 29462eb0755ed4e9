"""How late a server's event loop was, by its own histogram, and an idle process beside it.

The event loop asks for 50 ms and looks by how much later it was woken; so does the idle process,
which has nothing else to do: where it is late too, the machine was busy with other things.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import time
import urllib.request
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.metrics import LAG_BUCKETS

SAMPLE = re.compile(r'^liere_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
SHARE = 0.999
TICK_SECONDS = 0.05
#: Upper bound of a bucket in seconds -> looks within it.
Looks = Counter[float]


def main() -> None:
    """The idle process: look until standard input ends, then print its looks as JSON."""
    looks = Looks()
    while True:
        due = time.monotonic() + TICK_SECONDS
        if select.select([sys.stdin], [], [], TICK_SECONDS)[0]:
            break
        late = max(0.0, time.monotonic() - due)
        looks[(*LAG_BUCKETS, float("inf"))[bisect_left(LAG_BUCKETS, late)]] += 1
    print(json.dumps(list(looks.items())))


@contextmanager
def idle_process() -> Iterator[Looks]:
    """Looks of a process beside what the block does; there once it has ended."""
    command, looks = [sys.executable, "-m", "benchmarks.serving.lag"], Looks()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield looks
        finally:
            looks.update({bound: count for bound, count in json.loads(process.communicate()[0])})


def read_metrics(port: int) -> str:
    """What a server says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return answer.read().decode()


def read_looks(port: int) -> Looks:
    """Of a server's event loop, since it began; nothing of a server that does not tell."""
    looks, below = Looks(), 0
    for bound, count in SAMPLE.findall(read_metrics(port)):
        looks[float(bound)] = int(float(count)) - below
        below = int(float(count))
    return looks


def late_ms(looks: Looks) -> float | None:
    """Milliseconds that 99.9 % of the looks were within, the end of a bucket; None of nothing."""
    seen, whole = 0, looks.total()
    for bound in sorted(looks):
        seen += looks[bound]
        if whole and seen >= SHARE * whole:
            return round(1000 * bound, 3)
    return None


def loop_lag(looks: Looks, idle: Looks) -> str:
    """The line that every row prints, and ``soak`` reads."""
    told = f"event loop: 99.9 % of {looks.total()} looks at most {late_ms(looks)} ms late"
    return f"{told}, of an idle process beside it {late_ms(idle)} ms"


if __name__ == "__main__":
    main()
