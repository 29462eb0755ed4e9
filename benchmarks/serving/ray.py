"""What do two replicas of Ray Serve cost over one server with the same cores?

    .venv/train/bin/python -m benchmarks.serving.bundles --models tiny-absolute vit_s-absolute
    .venv/scale/bin/python -m benchmarks.serving.ray [--models tiny-absolute vit_s-absolute]

Both are up all the time and are asked in turns: two replicas of one CPU each behind HAProxy, as
deploy/ray/serve.yaml says, and ``python -m service`` with two. A closed loop of 16 connections
gives the requests a second, one of a single connection the p50; ratios and differences are those
within a round, figures their medians. Where the rest goes is told in processor time per right
answer, of replicas, decode workers, HAProxy and of all else that Ray runs.

With --python-proxy requests go through Ray's own proxy in the place of HAProxy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from benchmarks.serving.bare import Bare
from benchmarks.serving.bundles import FOLDER, MODELS, find_bundle
from benchmarks.serving.figures import summary
from benchmarks.serving.media import photographs
from benchmarks.serving.ray_environment import environment, free_port
from benchmarks.serving.running import ROOT, TICKS, Running, cpu_ticks, run_load, serving
from models.bundle import read_bundle

LEAST_RATIO, MOST_ADDED_MS = 0.7, 8.0


def main() -> None:
    """Print a line for every round, then one JSON line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=("tiny-absolute", "vit_s-absolute"))
    add("--folder", type=Path, default=FOLDER, help="where exported models are kept, or made")
    add("--bundle", type=Path, help="folder of another bundle of images to serve instead")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=8.0, help="of each load of a round")
    add("--python-proxy", action="store_true", help="without HAProxy")
    options = parser.parse_args()
    bundles = [options.bundle] if options.bundle else [
        find_bundle(name, options.folder) for name in options.models
    ]
    with tempfile.TemporaryDirectory(prefix="liere-") as folder:
        os.environ.update(environment(Path(folder)))
        if options.python_proxy:
            os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        with ray_running(Path(folder)):
            rows = {one.name: measure(one, options, Path(folder)) for one in bundles}
    told = {"benchmark": "serving.ray", "python_proxy": options.python_proxy}
    print(json.dumps(told | {"models": rows}))


def measure(folder: Path, options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """One bundle: rounds in which both are asked."""
    bundle = read_bundle(folder)
    pictures = scratch / f"pictures-{folder.name}"
    pictures.mkdir()
    files = photographs(pictures)
    expect = Bare(bundle, 2).best_labels(files)
    told = argparse.Namespace(server_arguments="", checkout=ROOT)
    found: dict[str, list[float]] = {}
    spent: dict[str, Counter[str]] = {"bare": Counter(), "ray": Counter()}
    answers: Counter[str] = Counter()
    with ExitStack() as stack:
        bare = stack.enter_context(serving([folder], told, "--cpus", "2"))
        url = stack.enter_context(replicas(folder))
        ways = {"bare": (bare.url(), lambda: bare_seconds(bare)), "ray": (url, ray_seconds)}
        for number in range(options.rounds + 1):  # the first one warms up
            figures: dict[str, float] = {}
            for name, (address, seconds) in ways.items():
                before = seconds()
                rate, right = closed(address, files, expect, 16, options.seconds)
                if number:
                    spent[name] += seconds() - before
                    answers[name] += right
                figures[f"{name}_per_second"] = rate
                figures[f"{name}_p50_ms"] = p50(address, files, expect, options.seconds / 2)
            figures["ratio"] = figures["ray_per_second"] / figures["bare_per_second"]
            figures["added_ms"] = figures["ray_p50_ms"] - figures["bare_p50_ms"]
            print(folder.name, {key: round(value, 2) for key, value in figures.items()}, flush=True)
            if number:
                for key, value in figures.items():
                    found.setdefault(key, []).append(value)
    medians: dict[str, object] = {key: statistics.median(row) for key, row in found.items()}
    cpu = {
        f"{name}_cpu_ms": {who: 1000 * value / answers[name] for who, value in parts.items()}
        for name, parts in spent.items()
    }
    ratio, added = statistics.median(found["ratio"]), statistics.median(found["added_ms"])
    return medians | cpu | {"reached": ratio >= LEAST_RATIO and added <= MOST_ADDED_MS}


def closed(
    url: str, files: Sequence[Path], expect: Sequence[str], connections: int, seconds: float
) -> tuple[float, int]:
    """Right answers a second, and how many."""
    loop = ("--closed", f"{connections}x{seconds}", "--patience", "60")
    records = run_load(url, files, *loop, expect=expect).records
    right = sum(one.outcome == "200" for one in records)
    if not right:
        raise SystemExit(f"no right answer in {seconds} s: {summary(records, seconds)}")
    return right / max(one.due + one.seconds for one in records), right


def p50(url: str, files: Sequence[Path], expect: Sequence[str], seconds: float) -> float:
    """Milliseconds, of a client that is alone."""
    records = run_load(url, files, "--closed", f"1x{seconds}", expect=expect).records
    return 1000 * statistics.median(one.seconds for one in records if one.outcome == "200")


# --- the two sides -----------------------------------------------------------------------------


@contextmanager
def ray_running(folder: Path) -> Iterator[None]:
    """Ray's processes on this machine, with the variables that are set by now."""
    import ray  # noqa: PLC0415  # reads them
    from ray import serve  # noqa: PLC0415

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, namespace="serve",
        log_to_driver=False, object_store_memory=80 * 2**20, _temp_dir=str(folder / "ray"),
    )  # fmt: skip
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def replicas(bundle: Path) -> Iterator[str]:
    """Two of them, as the config says; the address to classify at."""
    from ray import serve  # noqa: PLC0415

    port = free_port()
    with tempfile.TemporaryDirectory() as store:
        shutil.copytree(bundle, Path(store) / bundle.name)
        deploy(Path(store), port, num_replicas=2)
        time.sleep(3)  # until HAProxy knows both
        yield f"http://127.0.0.1:{port}/v1/classify/image"
        serve.shutdown()


def deploy(bundles: Path, port: int, **members: object) -> None:
    """The server as the config says, or a change of it, until it runs; SystemExit if it does not.

    Args:
        bundles: a store.
        members: of the deployment, in the place of its autoscaling.
    """
    from ray import serve  # noqa: PLC0415
    from ray.serve._private.api import serve_start  # noqa: PLC0415
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415

    document = read_config()
    document["http_options"]["port"] = port
    (application,) = document["applications"]
    application["args"]["bundles"] = str(bundles)
    (deployment,) = application["deployments"]
    del deployment["autoscaling_config"]
    deployment |= members
    config = ServeDeploySchema.model_validate(document)
    options = config.http_options.model_dump()
    client = serve_start(http_options=options, proxy_location=config.proxy_location)
    client.deploy_apps(config, _blocking=False)
    end = time.monotonic() + 180
    while serve.status().applications[application["name"]].status != "RUNNING":
        if time.monotonic() > end:
            raise SystemExit(f"Ray has not started what was asked for: {serve.status()}")
        time.sleep(0.2)


def read_config() -> dict[str, Any]:
    """deploy/ray/serve.yaml."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
    return document


def bare_seconds(server: Running) -> Counter[str]:
    """Processor seconds so far, by who took them."""
    return _seconds(server.pid, lambda command: "server", "decode workers")


def ray_seconds() -> Counter[str]:
    """Of all processes that Ray has started for this one; not those of the loads."""

    def who(command: str) -> str | None:
        if "benchmarks.serving.load" in command or "-m service" in command:
            return None
        if command.startswith("ray::ServeReplica"):
            return "replicas"
        return "haproxy" if "/haproxy" in command else "ray"

    return _seconds(os.getpid(), who, "decode workers", own=False)


def _seconds(root: int, who: object, below: str, own: bool = True) -> Counter[str]:
    """Of a tree of processes; children of a server or of a replica are its ``below``."""
    assert callable(who)
    parents: dict[int, tuple[int, int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                used, buried, parent = cpu_ticks(entry / "stat")
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile
            parents[int(entry.name)] = parent, used + buried, command
    found: Counter[str] = Counter()
    names: dict[int, str | None] = {root: who(parents[root][2]) if own else "driver"}

    def name_of(pid: int) -> str | None:
        if pid not in names:
            parent = parents[pid][0] if pid in parents else 0
            above = name_of(parent) if parent else None
            in_server = above in ("server", "replicas", below)
            names[pid] = below if in_server else who(parents[pid][2]) if above else None
        return names[pid]

    for pid, (_, used, _) in parents.items():
        if (name := name_of(pid)) and name != "driver":
            found[name] += used / TICKS  # type: ignore[assignment]
    return found


if __name__ == "__main__":
    main()
