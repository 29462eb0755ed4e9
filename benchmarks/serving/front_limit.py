"""How many requests a second does one server process answer, where the model costs nothing?

    python -m benchmarks.serving.front_limit [--seconds 8] [--rounds 3]

The graphs of the server are stubs that return the same logits at once. What is left is the front:
HTTP, admission, the way to a decode worker and back, the queue of the device, the answer. PNGs of
32x32 pixels come from another process over 16 connections, each of which sends when it has its
answer. The figures are medians over rounds; CPU-ms are those of the server's process tree, and of
them those of the thread that runs the event loop.

One more round runs under a profiler, and of the event loop's thread the five functions are printed
that take most processor time themselves; what the loop does between two calls is none of theirs.
The profiler slows what it measures, Python more than the rest: these are shares and no more.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.figures import summary
from benchmarks.serving.media import encode_png
from benchmarks.serving.running import Running, run_load, started
from media.spec import InputSpec
from models.bundle import write_bundle
from models.manifest import Accuracy, Golden, GridEntry, Parity, Tolerance
from models.spec import EncodingSpec
from service.engine.device.session import Stop
from service.http.app import create_app
from service.http.server import Server
from service.settings import read_settings

CONNECTIONS, PICTURES, TOP = 16, 8, 5
GRID, PATCH, SIDE = "8x8", (4, 4), 32
LOGITS = np.arange(10, dtype=np.float32)
LABELS = tuple(f"class{number}" for number in range(len(LOGITS)))


def main() -> None:
    """Print the rounds and the profile, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    server = "be the server under test: bundles, and where to write the profile"
    parser.add_argument("--serve", type=Path, nargs=2, metavar="PATH", help=server)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        line = measure(Path(folder), options.seconds, options.rounds)
    print(json.dumps({"benchmark": "serving.front_limit", "seconds": options.seconds} | line))


def measure(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """The figures of one server, and its profile."""
    files = [folder / f"{number}.png" for number in range(PICTURES)]
    bundles, profile = folder / "bundles", folder / "profile"
    for number, file in enumerate(files):
        file.write_bytes(encode_png(number, SIDE))
    write_stub(bundles, files[0].read_bytes())
    command = [sys.executable, "-m", "benchmarks.serving.front_limit", "--serve"]
    with started([*command, str(bundles), str(profile)]) as server:
        load(server, files, seconds / 4)  # warms up
        taken = [load(server, files, seconds) for _ in range(rounds)]
        server.process.send_signal(signal.SIGUSR1)
        profiled = load(server, files, seconds)["requests"]
    for one in taken:
        print("{per_second:.0f}/s, {cpu_ms:.3f} CPU-ms, {loop_ms:.3f} of the loop".format(**one))
    top = most_expensive(profile, profiled)
    for name, milliseconds in top.items():
        print(f"{milliseconds:.4f} ms a request under the profiler: {name}")
    figures = {
        name: round(statistics.median(one[name] for one in taken), 4)
        for name in ("per_second", "cpu_ms", "loop_ms")
    }
    return figures | {"requests": sum(one["requests"] for one in taken), "top": top}


def load(server: Running, files: Sequence[Path], seconds: float) -> dict[str, float]:
    """Right answers, how many a second, and what each took of the processor."""
    whole, loop = server.cpu_seconds(), server.loop_seconds()
    closed = ("--closed", f"{CONNECTIONS}x{seconds}")
    records = run_load(server.url(), files, *closed, expect=[LABELS[-1]] * len(files)).records
    whole, loop = server.cpu_seconds() - whole, server.loop_seconds() - loop
    right = sum(one.outcome == "200" for one in records)
    if right < len(records) or not right:
        raise SystemExit(f"expected right answers alone, got {summary(records, seconds)}")
    span = max(one.due + one.seconds for one in records)
    spent = {"cpu_ms": 1000 * whole / right, "loop_ms": 1000 * loop / right}
    return {"requests": right, "per_second": right / span, **spent}


def most_expensive(profile: Path, requests: float) -> dict[str, float]:
    """The functions whose own time is longest -> milliseconds a request, descending."""
    stats: Any = pstats.Stats(str(profile))  # its tables are not known to mypy
    known = stats.stats  # (file, line, name) -> (calls, calls, own seconds, ...)
    own = {where: times[2] for where, times in known.items()}
    longest = sorted(own, key=own.__getitem__, reverse=True)[:TOP]
    return {_name(*where): round(1000 * own[where] / requests, 5) for where in longest}


def _name(file: str, line: int, function: str) -> str:
    """``service/http/guard.py:59 __call__``: the last three parts tell the package."""
    return f"{'/'.join(Path(file).parts[-3:])}:{line} {function}" if line else function


# --- the server under test ---------------------------------------------------------------------


class Stub:
    """A graph that knows the answer."""

    device = "cpu"

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        """uint8 ``[batch, height, width, 3]`` -> the same logits ``[batch, classes]`` for all."""
        return np.tile(LOGITS, (len(pixels), 1))


def serve(bundles: Path, profile: Path) -> None:
    """The server, on a free port until SIGTERM, with stubs for graphs; profiled from SIGUSR1 on."""
    # Until a decode worker is warm its files cost so much that a slow machine would refuse some.
    words = ["--bundles", str(bundles), "--port", "0", "--device", "cpu", "--max-wait", "60"]
    settings = read_settings(words)
    app = create_app(settings, lambda *_: Stub())
    server = Server(settings, app, socket.create_server(("127.0.0.1", 0), backlog=2048))
    profiler = cProfile.Profile(time.thread_time)
    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    server.serve_until_signal()
    profiler.dump_stats(profile)


def write_stub(root: Path, golden: bytes) -> None:
    """A bundle whose graph is no graph and whose golden has the stub's logits."""

    def fill(folder: Path) -> dict[str, Any]:
        for name, content in {"graphs/stub": b"no graph", "golden/0.png": golden}.items():
            (folder / name).parent.mkdir()
            (folder / name).write_bytes(content)
        (folder / "README.md").write_text("For measuring what stands before a model.\n")
        return {
            "name": "stub", "version": "1", "modality": "image", "input": InputSpec(),
            "patch": PATCH, "encoding": EncodingSpec(), "labels": LABELS, "precision": "fp32",
            "opset": 18, "source": {"checkpoint": "none"}, "grids": (grid,), "goldens": (known,),
            "tolerances": (Tolerance("cpu", "fp32", 1e-4, 1e-4),),
        }  # fmt: skip

    # Nothing was measured, and a manifest has figures.
    grid = GridEntry(GRID, "graphs/stub", Parity(1, 0.0, 0.0, 1), Accuracy("test", 1, 0.0, ""))
    known = Golden("golden/0.png", {GRID: tuple(LOGITS.tolist())})
    write_bundle(root / "stub", fill)


if __name__ == "__main__":
    main()
