"""A server under test as a process of its own, loads on it, and what it costs the processor."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving.figures import Record, summary
from benchmarks.serving.lag import Looks, idle_process, loop_lag, read_looks, read_metrics

ROOT = Path(__file__).resolve().parents[2]
#: Runs a command as process 1 of its own, which gets no signal but those that it handles.
AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 60
#: Share of one processor below which a server is idle.
IDLE = 0.05


def may_unshare() -> bool:
    """Whether a process may be 1 of its own here."""
    try:
        done = subprocess.run([*AS_PROCESS_1, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


class Running:
    """A ready server."""

    def __init__(self, process: subprocess.Popen[str], port: int, under: bool = False) -> None:
        self.process, self.port = process, port
        self.pid = children(process.pid)[0] if under else process.pid  # of the server itself
        self.idle = Looks()  # of a process beside it; there once the load has ended
        self._looks = read_looks(port)  # what came before it was ready is not counted

    def url(self, modality: str = "image") -> str:
        return f"http://127.0.0.1:{self.port}/v1/classify/{modality}"

    def workers(self) -> list[int]:
        """Its decode workers, those that come up included."""
        return children(self.pid)

    def looks(self) -> Looks:
        """How late the event loop was since the server was ready."""
        return read_looks(self.port) - self._looks

    def metric(self, name: str) -> float:
        """A sample without labels; SystemExit if there is none."""
        for line in read_metrics(self.port).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise SystemExit(f"expected a metric {name}, got none")

    def cpu_seconds(self) -> float:
        """User and system time of its whole process tree so far."""
        return tree_cpu_seconds(self.process.pid)

    def loop_seconds(self) -> float:
        """The same of the thread that runs the event loop: the first of the process."""
        return cpu_ticks(Path(f"/proc/{self.pid}/task/{self.pid}/stat"))[0] / TICKS

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until it is idle; SystemExit if that lasts too long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before, span = self.cpu_seconds(), 0.25
            time.sleep(span)
            if self.cpu_seconds() - before < IDLE * span:
                return
        raise SystemExit(f"the server was still busy {seconds:.0f} s after its load had ended")


@contextmanager
def serving(
    bundles: Sequence[Path],
    options: argparse.Namespace,
    *arguments: str,
    plants: Sequence[str] = (),
    under: Sequence[str] = (),
) -> Iterator[Running]:
    """``python -m service`` with these bundles on a free port; stopped by SIGTERM.

    How late its event loop was is printed then.

    Args:
        options: ``add_options``.
        arguments: more for the service.
        plants: something bad for it to have, see ``benchmarks.serving.planted``.
        under: a command that runs it and ends with its exit status.

    Raises:
        SystemExit: it did not start, or did not end with 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        for bundle in bundles:
            shutil.copytree(bundle, Path(folder) / bundle.name, symlinks=True)
        module = ("benchmarks.serving.planted", *plants, "--") if plants else ("service",)
        command = [*under, sys.executable, "-m", *module, "--bundles", folder]
        command += ["--port", "0", "--device", "cpu", *arguments]
        command += shlex.split(options.server_arguments)
        with started(command, options.checkout, is_under=bool(under)) as server:
            yield server


@contextmanager
def started(
    command: Sequence[str], checkout: Path = ROOT, is_under: bool = False
) -> Iterator[Running]:
    """A command that serves until SIGTERM and prints where first; SystemExit as ``serving``.

    Args:
        is_under: another command runs it.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=checkout, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # "Serving ... on http://HOST:PORT (see ...)"
            if "http://" in line:
                port = int(line.split("http://")[1].split()[0].rpartition(":")[2])
                server = Running(process, port, is_under)
                with idle_process() as server.idle:
                    yield server
                if process.poll() is None:
                    print(loop_lag(server.looks(), server.idle), flush=True)
                    process.terminate()
            if process.wait(STOP_SECONDS) != 0 or "http://" not in line:
                log.seek(0)
                said = log.read()[-4000:]
                raise SystemExit(f"the server ended with {process.returncode}; its log:\n{said}")
        finally:
            process.kill()
            process.wait()


class CpuCurve:
    """Processor time of a server over the monotonic clock, every 0.25 s while it is open."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._samples: list[tuple[float, float]] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> CpuCurve:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self._samples.append((time.monotonic(), self._server.cpu_seconds()))
            if self._closing.wait(0.25):
                return

    def between(self, begin: float, end: float) -> float:
        """Seconds of processor time between two instants."""
        times, spent = zip(*self._samples, strict=True)
        at_begin, at_end = np.interp([begin, end], times, spent)
        return float(at_end - at_begin)


def tree_cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living descendants and those it has buried."""
    parents: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                own, buried, parent = cpu_ticks(entry / "stat")
            except OSError:
                continue  # it ended meanwhile
            parents.setdefault(parent, []).append(int(entry.name))
            ticks[int(entry.name)] = own + buried
    tree, total = [pid], 0
    while tree:
        process = tree.pop()
        total += ticks.get(process, 0)
        tree += parents.get(process, [])
    return total / TICKS


def children(pid: int) -> list[int]:
    """Processes that the first thread of a process has begun, and that have not been buried."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_ticks(stat: Path) -> tuple[int, int, int]:
    """Ticks of a process or thread and of the children it has buried, and its parent."""
    fields = stat.read_text().rpartition(") ")[2].split()
    user, system, buried_user, buried_system = map(int, fields[11:15])
    return user + system, buried_user + buried_system, int(fields[1])


# --- loads -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What came of a load; ``lag_p99_ms`` is how late the generator itself sent."""

    records: list[Record]
    begin: float  # of the monotonic clock; due instants count from it
    client_cpu_ms: float  # of the generator, per request
    lag_p99_ms: float | None


def start_load(
    url: str, media: Sequence[Path], *arguments: str, expect: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """A generator in a process of its own; see ``benchmarks.serving.load`` for its arguments."""
    command = [sys.executable, "-m", "benchmarks.serving.load", url, *map(str, media), *arguments]
    command += ["--records", *(["--expect", *expect] if expect else [])]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def read_result(process: subprocess.Popen[str]) -> Result:
    """As soon as its load has ended, before the generator itself has."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the generator of the load failed, as the lines above say")
    document = json.loads(line)
    records = [Record(*one) for one in document["records"]]
    return Result(records, document["begin"], document["client_cpu_ms"], document["lag_p99_ms"])


def run_load(
    url: str, media: Sequence[Path], *arguments: str, expect: Sequence[str] = ()
) -> Result:
    """A load from its first request to its last answer."""
    with start_load(url, media, *arguments, expect=expect) as process:
        return read_result(process)


@dataclass(frozen=True)
class Capacity:
    """What a closed loop got out of a server."""

    per_second: float
    cpu_ms: float  # of the server's process tree, per right answer
    p50_ms: float | None


def measure_capacity(
    server: Running, media: Sequence[Path], connections: int, seconds: float, expect: Sequence[str]
) -> Capacity:
    """Right answers a second, where every connection sends when it has its answer."""
    before = server.cpu_seconds()
    closed = ("--closed", f"{connections}x{seconds}", "--patience", "60")
    result = run_load(server.url(), media, *closed, expect=expect)
    cpu_ms = 1000 * (server.cpu_seconds() - before)
    right = sum(one.outcome == "200" for one in result.records)
    if not right:
        raise SystemExit(f"no right answer in {seconds} s: {summary(result.records, seconds)}")
    span = max(one.due + one.seconds for one in result.records)
    p50 = summary(result.records, span)["p50_ms"]
    return Capacity(right / span, cpu_ms / right, p50)


# --- options of every row ----------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the rows have in common."""
    add = parser.add_argument
    add("--server-arguments", default="", help="more arguments for python -m service, in one text")
    add("--checkout", type=Path, default=ROOT, help="whose service is measured (default: this one)")
    quick = "all spans a twentieth as long: shows that it runs, no more"
    add("--quick", action="store_const", dest="scale", const=0.05, default=1.0, help=quick)
