"""How does a server bear a load that does not wait for it? A generator of requests.

    python -m benchmarks.serving.load http://127.0.0.1:8000/v1/classify/image photo.jpg \\
        --phases 60x5,900x20,60x5 --patience 5
    ... --closed 16x10                16 connections for 10 s: what the server can do at most
    ... --burst 48 --patience 0.3     48 requests at once, whose clients all leave after 0.3 s

Phases are an open loop: requests are sent at a constant rate, on a timetable, whether earlier ones
were answered or not, each on a connection of its own that is kept alive for later ones. Latency
counts from the instant at which a request was due, so that a server that stalls, or a generator
that comes late, cannot hide it. A client whose patience is over closes its connection. With
--expect an answer counts as right only if its best label is the expected one.

Outcomes are the status, or one of: wrong (200 with another best label), timeout (patience was
over), left (the same of a client that was to leave, --leaving), lost (the connection closed before
a whole answer), unreached (there was no connection, so nothing was sent). The lag is how late the
generator itself sent: where it is large, the figures are the generator's and not the server's. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import uvloop

from benchmarks.serving.figures import due_between, percentiles, summary
from benchmarks.serving.generator import Load, Plan

#: Two numbers of an option, like a rate and the seconds of a phase.
Pair = tuple[float, float]


def main() -> None:
    """Send, then print what came of each phase and one JSON line."""
    options = parse()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # many connections
    headers = ["Connection: close"] if options.one_each else []
    headers += [f"Authorization: Bearer {options.key}"] if options.key else []
    messages = [
        message(address, path.read_bytes(), *headers)
        for address, path in zip(options.addresses, options.files, strict=True)
    ]
    expected = options.expect or [None] * len(messages)
    connections, seconds = options.closed
    every, sooner = options.leaving
    plan = Plan(
        messages, expected, options.due, int(connections), seconds,
        options.patience, int(every), sooner,
    )  # fmt: skip
    load = Load(options.url.hostname, options.url.port or 80, plan)
    gc.disable()  # a pause of the generator would be taken for one of the server
    spent = time.process_time()
    try:
        uvloop.run(load.run())
    except ValueError as error:
        raise SystemExit(str(error)) from error
    spent = time.process_time() - spent
    result: dict[str, Any] = {
        "benchmark": "serving.load",
        "requests": len(load.records),
        "begin": load.begin,
        "client_cpu_ms": 1000 * spent / max(1, len(load.records)),
        "lag_p99_ms": percentiles(load.lags)[1],
    }
    if options.records:
        result["records"] = load.records
    else:
        result["phases"] = [
            summary(due_between(load.records, begin, end), end - begin)
            for begin, end in options.spans
        ]
        for phase in result["phases"]:
            print(phase)
    sys.stdout.flush()
    # Where Python does not buffer, print may write no more than fits into a pipe.
    with os.fdopen(sys.stdout.fileno(), "w", closefd=False) as whole:
        whole.write(json.dumps(result) + "\n")


def message(url: SplitResult, media: bytes, *headers: str) -> bytes:
    """A whole request with ``media`` as its body."""
    path = url.path + ("?" + url.query if url.query else "")
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {url.netloc}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(media)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + media


def pair(text: str) -> Pair:
    """``"900x20"`` -> (900.0, 20.0)."""
    first, second = text.split("x")
    return float(first), float(second)


def timetable(phases: Sequence[Pair]) -> tuple[list[float], list[Pair]]:
    """Due instants of (requests per second, seconds), and where each phase begins and ends."""
    due, spans, begin = [], [], 0.0
    for rate, seconds in phases:
        due += [begin + number / rate for number in range(int(rate * seconds))]
        spans.append((begin, begin + seconds))
        begin += seconds
    return due, spans


def parse() -> argparse.Namespace:
    """The options, with what they ask for: ``addresses``, ``due``, ``spans``, ``closed``."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("url", type=urlsplit, help="where to POST to, like http://127.0.0.1:8000/v1/classify/image")
    add("files", nargs="+", type=Path, help="bodies, sent in turn")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--phases", help="RATExSECONDS, several by commas: requests per second")
    way.add_argument("--closed", help="CONNECTIONSxSECONDS: each sends when it has its answer")
    way.add_argument("--burst", type=int, help="so many requests at once")
    add("--patience", type=float, default=5.0, help="seconds that a client waits (default: 5)")
    leaving = "NxSECONDS: every N-th client leaves after so long already"
    add("--leaving", type=pair, default=(0.0, 0.0), help=leaving)
    add("--expect", nargs="+", help="the best label of each file")
    add("--key", help="bearer key of every request")
    add("--one-each", action="store_true", help="a connection of its own for every request")
    add("--paths", nargs="+", help="path and query of each file, in the place of the url's own")
    records = "put (due, seconds, outcome, number of the file) of each into the JSON"
    add("--records", action="store_true", help=records)
    options = parser.parse_args()
    if missing := [str(path) for path in options.files if not path.is_file()]:
        parser.error(f"expected files, got {missing[0]}")
    for name, what in (("expect", "label"), ("paths", "path")):
        if (given := getattr(options, name)) and len(given) != len(options.files):
            counts = f"{len(given)} for {len(options.files)} files"
            parser.error(f"--{name}: expected one {what} for each file, got {counts}")
    own = [options.url._replace(path=path, query="") for path in options.paths or ()]
    options.addresses = own or [options.url] * len(options.files)
    try:
        phases = [pair(text) for text in (options.phases or "").split(",") if text]
        connections, seconds = pair(options.closed or "0x0")
        if any(rate <= 0 for rate, _ in phases):
            raise ValueError
    except ValueError:
        parser.error("expected numbers like 900x20 for --phases and --closed, above 0")
    options.due, options.spans = timetable(phases)
    if options.burst:
        options.due = [0.0] * options.burst
    options.spans = options.spans or [(0.0, seconds or options.patience)]
    options.closed = connections, seconds
    return options


if __name__ == "__main__":
    main()
