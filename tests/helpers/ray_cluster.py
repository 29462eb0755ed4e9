"""A cluster of Ray on this machine, the server on it as its config says, and loads on that."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ray
import yaml  # type: ignore[import-untyped]
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from benchmarks.serving.ray_environment import free_port
from tests.helpers.service_fixtures import ROOT, picture

CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
APP = "liere"
#: A replica has to import and to prove; other work may go on beside it.
DEPLOY_SECONDS = 180


class Cluster:
    """Ray, with the server as an application."""

    def __init__(self) -> None:
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = self.root  # with the prefix of what is deployed
        self.headers: dict[str, str] = {}  # of every request that says nothing else
        # A connection for each request, which may then reach another replica; loading certificates
        # would take longer than most requests.
        alone = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(timeout=60, verify=False, limits=alone)

    def config(
        self, bundles: Path, *, prefix: str = "/", deployment: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """deploy/ray/serve.yaml with two replicas in the place of autoscaling, and changes.

        Args:
            deployment: members of the deployment; None removes one.
            arguments: settings of the server.
        """
        document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
        document["http_options"]["port"] = self.port
        application = document["applications"][0]
        modest = {"bundles": str(bundles), "decode_workers": 1, "lanes": 1, "threads": 1}
        application["route_prefix"] = prefix
        application["args"] |= modest | arguments
        told = application["deployments"][0]
        told |= {"autoscaling_config": None, "num_replicas": 2} | (deployment or {})
        for name in [one for one in told if told[one] is None]:
            del told[name]
        return document

    def submit(self, document: dict[str, Any]) -> None:
        """What ``serve run`` does with a file."""
        config = ServeDeploySchema.model_validate(document)
        client = serve_start(
            http_options=config.http_options.model_dump(), proxy_location=config.proxy_location
        )
        client.deploy_apps(config, _blocking=False)
        prefix = document["applications"][0]["route_prefix"].rstrip("/")
        self.url = self.root + prefix

    def deploy(self, bundles: Path, **changes: Any) -> None:
        """Submit, and wait until all that is wanted is there and what it replaces is gone."""
        self.submit(self.config(bundles, **changes))
        self.wait("RUNNING")
        until(lambda: self.asks("/health/ready") == 200, "an answer through the front")

    def status(self) -> Any:
        return serve.status().applications[APP]

    def wait(self, *statuses: str) -> Any:
        """Until the application has one of these; its status then."""

        def reached() -> bool:
            found = serve.status().applications.get(APP)
            return found is not None and found.status in statuses

        until(reached, f"{APP} to be {' or '.join(statuses)}", DEPLOY_SECONDS)
        return self.status()

    def count(self) -> int:
        """Replicas that run."""
        states: dict[str, int] = self.status().deployments["Replica"].replica_states
        return states.get("RUNNING", 0) if set(states) <= {"RUNNING"} else -1

    def settle(self, replicas: int) -> None:
        """Until so many run, and no other comes or goes."""
        until(lambda: self.count() == replicas, f"{replicas} replicas", DEPLOY_SECONDS)
        until(
            lambda: len(self.names()) == replicas and all(map(is_alive, self.names())),
            f"the series of {replicas} that are alive", 40,
        )  # fmt: skip

    def asks(self, path: str) -> int:
        """The status of an answer; 0 where there is none."""
        try:
            return self.get(path).status_code
        except httpx.TransportError:
            return 0

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._http.get(self.url + path, **({"headers": self.headers} | options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._http.post(self.url + path, **({"headers": self.headers} | options))

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self._http.delete(self.url + path, **({"headers": self.headers} | options))

    def classify(self, path: str = "/v1/classify/image", **options: Any) -> httpx.Response:
        return self.post(path, **({"files": {"file": picture()}} | options))

    def series(self, name: str) -> dict[str, float]:
        """By replica, the sum of the samples of this name."""
        found: dict[str, float] = {}
        for line in self.get("/metrics").text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                labels, _, value = line.rpartition(" ")
                replica = labels.partition('replica="')[2].partition('"')[0]
                found[replica] = found.get(replica, 0.0) + float(value)
        return found

    def names(self) -> list[str]:
        """Of the replicas, as whoever is asked knows them."""
        return sorted(self.series("liere_ready"))

    def pids(self) -> dict[str, int]:
        """Processes of the replicas, by name."""
        actors = {name: actor_of(name) for name in self.names()}
        asked = [one.__ray_call__.remote(lambda _: os.getpid()) for one in actors.values()]
        return dict(zip(actors, ray.get(asked), strict=True))


def actor_of(name: str) -> Any:
    """The process of a replica; ValueError if it is gone."""
    return ray.get_actor(f"SERVE_REPLICA::{APP}#Replica#{name}", namespace="serve")


def is_alive(name: str) -> bool:
    """Whether a replica is there still: its series stay for some seconds after it."""
    try:
        actor_of(name)
    except ValueError:
        return False
    return True


def until(condition: Any, what: str, seconds: float = 60.0) -> None:
    """Poll until ``condition()`` holds; AssertionError names what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


class Load:
    """Clients that each send when they have their answer, while the block lasts.

    Args:
        pause: seconds between an answer and the next request.

    Attributes:
        outcomes: of every request: its status, or the name of the error of its connection.
        versions: of the bundle, in the answers.
    """

    def __init__(
        self,
        url: str,
        clients: int = 4,
        media: bytes | None = None,
        headers: dict[str, str] | None = None,
        pause: float = 0.0,
    ) -> None:
        self._url, self._clients = f"{url}/v1/classify/image", clients
        self._pause = pause
        self._media, self._headers = media or picture(), headers
        self._ending = threading.Event()
        self.outcomes: Counter[int | str] = Counter()
        self.versions: Counter[str] = Counter()

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask) for _ in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        body = {"file": self._media}
        with httpx.Client(timeout=60, verify=False, headers=self._headers) as client:
            while not self._ending.is_set():
                try:
                    answer = client.post(self._url, files=body)
                except httpx.TransportError as error:
                    self.outcomes[type(error).__name__] += 1
                    continue
                self.outcomes[answer.status_code] += 1
                if answer.status_code == 200:
                    self.versions[answer.json()["results"][0]["version"]] += 1
                self._ending.wait(self._pause)

    def reach(self, count: int, seconds: float = 180.0) -> None:
        """Wait until so many requests have ended."""
        until(lambda: self.outcomes.total() >= count, f"{count} requests", seconds)


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Ray's processes, started with the variables that are set by now.

    Args:
        folder: for their files and sockets; a short path.
    """
    ray.init(
        address="local",  # not what somebody else may run on this machine
        _temp_dir=str(folder / "ray"),
        num_cpus=8,  # to schedule with; the machine may have fewer
        include_dashboard=False,
        namespace="serve",
        log_to_driver=False,
        object_store_memory=80 * 2**20,
    )
    try:
        yield Cluster()
    finally:
        serve.shutdown()
        ray.shutdown()
