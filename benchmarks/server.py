"""How much of the bare session's speed does the server keep, and what does a request cost?

    python -m benchmarks.server [--bundle bundles/NAME]

Two things are measured in turn, round after round, so that a noisy machine hurts both alike:

* bare: ``session.run`` on a ready array of ``--concurrency`` images, with the options and the
  threads that the server uses;
* server: ``python -m service`` under a closed loop of ``--concurrency`` keep-alive connections
  from a client in its own process, small PNG pictures as raw bodies.

The ratio, taken round by round, is the serving efficiency. The CPU time is that of the server's
process tree (workers included), read from /proc before and after each round; the client's is
not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.serving.running import tree_cpu_seconds
from media.spec import Grid
from models.bundle import Bundle, read_bundle
from service.cpus import usable_cpus
from service.engine.device.session import open_session

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 64
WARM_UP_SECONDS = 1.5


def main() -> None:
    """Measure and report."""
    options = parse()
    if options.client:
        print(json.dumps(uvloop.run(drive(options.client, options))))
        return
    bundle = read_bundle(options.bundle)
    entry = bundle.manifest.grids[0]
    height, width = Grid.parse(entry.grid).pixels(bundle.manifest.patch)
    shape = (options.concurrency, height, width, bundle.manifest.input.channels)
    session = open_session(bundle.path(entry.graph), "cpu", options.threads)
    rounds = []
    with serving(bundle, options) as (port, pid):
        client(port, (height, width), WARM_UP_SECONDS, options)
        for _ in range(options.rounds):
            bare = bare_speed(session, shape, options.seconds / 2)
            rounds.append({"bare": bare} | server_speed(port, pid, (height, width), options))
    report(bundle, rounds, options)


def parse() -> argparse.Namespace:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    bundle = Path("bundles/cifar10-liere8")
    parser.add_argument("--bundle", type=Path, default=bundle, help="folder of one bundle")
    parser.add_argument("--concurrency", type=int, default=32, help="connections, and the batch")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of one run")
    parser.add_argument("--decode-workers", type=int, default=0, help="0: the server's default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load per round")
    parser.add_argument("--client", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- the two things that are measured --------------------------------------------------------


def bare_speed(session: Any, shape: tuple[int, ...], seconds: float) -> float:
    """Images per second of the session alone; ``shape`` is [batch, height, width, channels]."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    session.run(pixels)
    started, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(pixels)
        images += shape[0]
    return images / elapsed


def server_speed(
    port: int, pid: int, size: tuple[int, int], options: argparse.Namespace
) -> dict[str, float]:
    """One round of load: images per second, latency, CPU milliseconds per request."""
    before = tree_cpu_seconds(pid)
    result = client(port, size, options.seconds, options)
    cpu_seconds = tree_cpu_seconds(pid) - before
    result["cpu_ms"] = 1000 * cpu_seconds / result["requests"]
    return result


def client(
    port: int, size: tuple[int, int], seconds: float, options: argparse.Namespace
) -> dict[str, float]:
    """Run the load in its own process."""
    task = json.dumps({"port": port, "size": size, "seconds": seconds})
    command = [sys.executable, "-m", "benchmarks.server", "--bundle", str(options.bundle)]
    command += ["--concurrency", str(options.concurrency), "--client", task]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@contextmanager
def serving(bundle: Bundle, options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """A server with this one bundle: (port, process id)."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(bundle.root, Path(folder) / bundle.root.name)
        command = [sys.executable, "-m", "service", "--bundles", folder, "--port", "0"]
        command += ["--device", "cpu", "--threads", str(options.threads)]
        command += ["--max-batch", str(options.concurrency)]
        command += ["--decode-workers", str(options.decode_workers)]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()  # "Serving ... on http://HOST:PORT (docs: ...)"
            port = int(line.split("http://")[1].split()[0].rpartition(":")[2])
            yield port, server.pid
        finally:
            server.terminate()
            server.wait(30)


# --- the client ------------------------------------------------------------------------------


async def drive(task: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """A closed loop: every connection sends its next picture when it has its answer."""
    requests = [request(picture(seed, tuple(task["size"]))) for seed in range(PICTURES)]
    latencies: list[float] = []
    started = time.perf_counter()
    end = started + task["seconds"]
    await asyncio.gather(
        *(
            connection(task["port"], requests[number % PICTURES :], end, latencies)
            for number in range(options.concurrency)
        )
    )
    elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, [50, 99])
    return {
        "requests": len(latencies),
        "images_per_second": len(latencies) / elapsed,
        "p50_ms": 1000 * p50,
        "p99_ms": 1000 * p99,
        "client_cpu_ms": 1000 * time.process_time() / len(latencies),
    }


async def connection(port: int, requests: list[bytes], end: float, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    while (started := time.perf_counter()) < end:
        writer.write(requests[sent % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"expected 200, got {head[:40]!r} {body[:200]!r}")
        latencies.append(time.perf_counter() - started)
        sent += 1
    writer.close()


def request(media: bytes) -> bytes:
    head = "POST /v1/classify/image HTTP/1.1\r\nHost: bench\r\nContent-Type: image/png\r\n"
    return f"{head}Content-Length: {len(media)}\r\n\r\n".encode() + media


def picture(seed: int, size: tuple[int, int]) -> bytes:
    """A smooth random PNG of (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(encoded, "PNG")
    return encoded.getvalue()


# --- the report ------------------------------------------------------------------------------


def report(bundle: Bundle, rounds: list[dict[str, float]], options: argparse.Namespace) -> None:
    """A table for people, then one JSON line for machines."""
    median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    ratio = statistics.median(one["images_per_second"] / one["bare"] for one in rounds)
    table = Table(title=f"{bundle.root.name}, concurrency {options.concurrency}")
    for column in ("", "median", "least", "most"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {
        "bare session, images/s": [one["bare"] for one in rounds],
        "server, images/s": [one["images_per_second"] for one in rounds],
        "server / bare": [one["images_per_second"] / one["bare"] for one in rounds],
        "server CPU, ms/request": [one["cpu_ms"] for one in rounds],
        "client CPU, ms/request": [one["client_cpu_ms"] for one in rounds],
        "latency p50, ms": [one["p50_ms"] for one in rounds],
        "latency p99, ms": [one["p99_ms"] for one in rounds],
    }
    for name, values in rows.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{one:.3g}" if one < 100 else f"{one:.0f}" for one in figures))
    Console().print(table)
    result = {
        "benchmark": "server",
        "bundle": bundle.manifest.name,
        "cores": usable_cpus(),
        "threads": options.threads,
        "concurrency": options.concurrency,
        "rounds": options.rounds,
        "bare_images_per_second": round(median["bare"], 1),
        "server_images_per_second": round(median["images_per_second"], 1),
        "ratio": round(ratio, 3),
        "server_cpu_ms_per_request": round(median["cpu_ms"], 3),
        "client_cpu_ms_per_request": round(median["client_cpu_ms"], 3),
        "p50_ms": round(median["p50_ms"], 2),
        "p99_ms": round(median["p99_ms"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
