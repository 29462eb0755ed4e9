"""By which signal do replicas scale better: requests inside, or the engine's predicted seconds?

    .venv/scale/bin/python -m benchmarks.serving.ray_scaling [--rounds 2] [--factor 1.5]

One to two replicas of Ray Serve of one CPU each, as deploy/ray/serve.yaml says, serve the shipped
bundles of images and of clips. An open loop sends as much as a third of what one replica can do,
then --factor times as much as one can do, then a third again; clients wait 2 s. What one can do is
measured before each round by a closed loop of each shape of requests. Loads: ``pictures`` are
JPEGs of 96x64 pixels, ``clips`` are of 320x240 and 96 frames, in ``mixed`` each takes half of the
time. The same arrivals meet every way of scaling in turn:

    config           as the config of deploy/ray says
    ongoing-N        requests inside, N to each replica
    predicted        deploy.ray.scaling:by_predicted_seconds

The delays of all are short (--delays), so that a step of half a minute tells of scaling up, of
holding and of scaling down what one of many minutes would.

Told is, of what was due within the step: the share answered in time, refusals (429), those whose
patience was over, p99 of answers; when the second replica had answered, counted from the step; of
the whole load the replica-seconds, whatever state a replica was in, how often one was started, and
what failed otherwise, while one went too. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.figures import due_between, summary
from benchmarks.serving.media import clip, thumbnails
from benchmarks.serving.mixed_grids import MOST_OF_ONE, Shape, interleaved
from benchmarks.serving.ray import deploy, ray_running, read_config
from benchmarks.serving.ray_environment import environment, free_port
from benchmarks.serving.running import ROOT, run_load

LOADS = ("pictures", "clips", "mixed")
PICTURES, CLIPS = "cifar10-liere8", "lung-ultrasound"
#: Of what one replica can do, before and after the step.
LIGHT = 0.33
PATIENCE = 2.0
CONNECTIONS = 8
#: Seconds of the closed loop of a shape; the first ones are not counted.
CALIBRATION, SETTLING = 6.0, 3.0
BY_SECONDS = {"policy_function": "deploy.ray.scaling:by_predicted_seconds"}
LOOK_SECONDS = 0.25
#: A replica has to come, and to go again, on a machine that may have other work.
MOST_SECONDS = 120


@dataclass(frozen=True)
class Load:
    """What is sent in turn, and how many requests a second one replica can answer."""

    files: Sequence[Path]
    paths: Sequence[str]
    per_second: float


def main() -> None:
    """Print a line for every turn, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--bundles", type=Path, default=ROOT / "bundles", help=f"with {PICTURES} and {CLIPS}")
    add("--loads", nargs="+", choices=LOADS, default=("clips", "mixed"))
    add("--ways", nargs="+", type=way, default=("ongoing-8", "predicted"), help="see above")
    add("--rounds", type=int, default=2)
    add("--factor", type=float, default=1.5, help="of the step, of what one replica can do")
    phases = "seconds before, of and after the step"
    add("--seconds", nargs=3, type=float, default=(3.0, 30.0, 13.0), help=phases)
    delays = "seconds of upscale_delay_s, downscale_delay_s and look_back_period_s"
    add("--delays", nargs=3, type=float, default=(2.0, 3.0, 4.0), help=delays)
    options = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="liere-") as folder:
        scratch = Path(folder)
        os.environ.update(environment(scratch))
        ways = {name: scaling(name, options.delays) for name in options.ways}
        for bundle in (PICTURES, CLIPS):
            shutil.copytree(options.bundles / bundle, scratch / "bundles" / bundle)
        shapes = [
            Shape(f"/v1/classify/image?bundle={PICTURES}", thumbnails(scratch)),
            Shape(f"/v1/classify/video?bundle={CLIPS}", [clip(scratch / "clip.mp4")]),
        ]
        with ray_running(scratch):
            server = Server(scratch / "bundles", free_port())
            for number in range(options.rounds):
                loads = calibrated(server, shapes, options.loads)
                for load_name, load in loads.items():
                    for name in list(ways)[:: -1 if number % 2 else 1]:
                        row = turn(server, load, ways[name], options)
                        rows.setdefault(f"{load_name} {name}", []).append(row)
                        print(f"{number + 1} {load_name} {name}: {row}", flush=True)
    line = {"benchmark": "serving.ray_scaling", "factor": options.factor}
    line |= {"seconds": options.seconds, "delays": options.delays}
    print(json.dumps(line | {"medians": {name: medians(of) for name, of in rows.items()}}))


def way(text: str) -> str:
    """The name of a way of scaling, as an option; ValueError where it is none."""
    if text not in ("config", "predicted"):
        float(text.removeprefix("ongoing-"))
    return text


def scaling(name: str, delays: Sequence[float]) -> dict[str, Any]:
    """``autoscaling_config`` of a way."""
    (application,) = read_config()["applications"]
    found: dict[str, Any] = dict(application["deployments"][0]["autoscaling_config"])
    names = ("upscale_delay_s", "downscale_delay_s", "look_back_period_s")
    found |= dict(zip(names, delays, strict=True)) | {"min_replicas": 1, "max_replicas": 2}
    if name == "config":
        return found
    for signal in ("policy", "target_ongoing_requests"):
        found.pop(signal, None)
    if name == "predicted":
        return found | {"policy": BY_SECONDS}
    return found | {"target_ongoing_requests": float(name.removeprefix("ongoing-"))}


class Server:
    """The application on Ray, with one store and one port."""

    def __init__(self, bundles: Path, port: int) -> None:
        self.bundles, self.port = bundles, port

    def scale(self, autoscaling: dict[str, Any]) -> None:
        """From now on so, beginning with one replica."""
        deploy(self.bundles, self.port, autoscaling_config=autoscaling)
        end = time.monotonic() + MOST_SECONDS
        while replica_states() != {"RUNNING": 1}:
            if time.monotonic() > end:
                raise SystemExit(f"expected one replica, got {replica_states()}")
            time.sleep(LOOK_SECONDS)

    def load(self, files: Sequence[Path], paths: Sequence[str], *arguments: str) -> Any:
        """What ``run_load`` says."""
        url = f"http://127.0.0.1:{self.port}/"
        return run_load(url, files, *arguments, "--paths", *paths)


def calibrated(server: Server, shapes: Sequence[Shape], names: Sequence[str]) -> dict[str, Load]:
    """What one replica can do of each load, now."""
    server.scale({"min_replicas": 1, "max_replicas": 1})
    rates = []
    for shape in shapes:
        closed = ("--closed", f"{CONNECTIONS}x{SETTLING + CALIBRATION}", "--patience", "60")
        paths = [shape.path] * len(shape.files)
        records = server.load(shape.files, paths, *closed).records
        counted = due_between(records, SETTLING, SETTLING + CALIBRATION)
        right = [one.due + one.seconds for one in counted if one.outcome == "200"]
        if not right:
            raise SystemExit(f"no answer in {CALIBRATION} s: {summary(records, CALIBRATION)}")
        rates.append(len(right) / (max(right) - SETTLING))
    print("one replica, requests a second:", [round(one, 1) for one in rates], flush=True)
    loads = {
        name: Load(one.files, [one.path] * len(one.files), rate)
        for name, one, rate in zip(("pictures", "clips"), shapes, rates, strict=True)
        if name in names
    }
    if "mixed" in names:
        counts = [max(1, min(MOST_OF_ONE, round(rates[0] / rates[1]))), 1]
        cycle = [shapes[place] for place in interleaved(counts)]
        files = [one.files[number % len(one.files)] for number, one in enumerate(cycle)]
        seconds = sum(count / rate for count, rate in zip(counts, rates, strict=True))
        loads["mixed"] = Load(files, [one.path for one in cycle], len(cycle) / seconds)
    return loads


def turn(
    server: Server, load: Load, autoscaling: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """One load on one way of scaling."""
    before, step, after = options.seconds
    light, heavy = LIGHT * load.per_second, options.factor * load.per_second
    phases = f"{light}x{before},{heavy}x{step},{light}x{after}"
    server.scale(autoscaling)
    with watching() as watch:
        told = ("--phases", phases, "--patience", str(PATIENCE))
        result = server.load(load.files, load.paths, *told)
    within = due_between(result.records, before, before + step)
    figures, outcomes = summary(within, step), Counter(one.outcome for one in result.records)
    after_it = [one for one in result.records if one.due >= before + step]
    begin = result.begin + before
    return {
        "per_second": round(heavy, 1),
        "in_time": round(figures["outcomes"].get("200", 0) / len(within), 4),
        "refused": figures["outcomes"].get("429", 0),
        "too_late": figures["outcomes"].get("timeout", 0),
        "p99_ms": figures["p99_ms"],
        "second_s": watch.second(begin),
        "replica_seconds": watch.replica_seconds(result.begin, begin + step + after),
        "started": watch.started(),
        "failed": sum(outcomes[one] for one in outcomes.keys() - {"200", "429", "timeout"}),
        "after": summary(after_it, after)["outcomes"],
        "lag_p99_ms": result.lag_p99_ms,
    }


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of every figure; None where half of the rounds have none."""
    found: dict[str, Any] = {}
    for name in rows[0].keys() - {"after"}:
        values = sorted(float("inf") if row[name] is None else row[name] for row in rows)
        middle = statistics.median(values)
        found[name] = None if middle == float("inf") else round(middle, 4)
    return found


# --- replicas -----------------------------------------------------------------------------------


def replica_states() -> dict[str, int]:
    """State -> replicas in it."""
    from ray import serve  # noqa: PLC0415

    (application,) = serve.status().applications.values()
    (deployment,) = application.deployments.values()
    return {str(getattr(name, "value", name)): count
            for name, count in deployment.replica_states.items() if count}  # fmt: skip


def answering() -> int:
    """Replicas that have answered since HAProxy was told of another set of them."""
    url = f"http://127.0.0.1:{os.environ['RAY_SERVE_HAPROXY_STATS_PORT']}/stats;csv"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().removeprefix("# ").splitlines()
    servers = [one for one in csv.DictReader(lines) if one["type"] == "2"]  # of 0 to 3, a server
    return sum(int(one["hrsp_2xx"] or 0) > 0 for one in servers)


class Watch:
    """What was seen: instants of the monotonic clock, replicas there, replicas that answer."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, int, int]] = []

    def second(self, begin: float) -> float | None:
        """Seconds from ``begin`` until two had answered."""
        found = next((when for when, _, count in self.looks if count > 1), None)
        return None if found is None else round(found - begin, 2)

    def replica_seconds(self, begin: float, end: float) -> float:
        """Spent between two instants, starting and stopping ones included."""
        spans = zip(self.looks, self.looks[1:], strict=False)
        overlaps = ((min(b, end) - max(a, begin), there) for (a, there, _), (b, _, _) in spans)
        return round(sum(max(0.0, span) * there for span, there in overlaps), 1)

    def started(self) -> int:
        """How often there were more than before."""
        there = [count for _, count, _ in self.looks]
        return sum(later > before for before, later in zip(there, there[1:], strict=False))


@contextmanager
def watching() -> Iterator[Watch]:
    """While the block lasts, a look every quarter of a second."""
    watch, closing = Watch(), threading.Event()

    def look() -> None:
        while not closing.wait(LOOK_SECONDS):
            there = sum(replica_states().values())
            watch.looks.append((time.monotonic(), there, answering()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        closing.set()
        thread.join()


if __name__ == "__main__":
    main()
