"""What deploy/kubernetes asks of a server, asked of real ones: probes, keys, queries."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from tests.helpers.effort import alone
from tests.helpers.manifests import KUBERNETES, container, environment, only, read
from tests.helpers.programs import tool
from tests.helpers.service_fixtures import picture, running, wait_until, write_tiny_bundle
from tests.helpers.watching import Prometheus, prometheus

pytestmark = alone
KEY = "a-key-of-these-tests"


def ours(server: dict[str, Any]) -> dict[str, Any]:
    """What a container gives the server."""
    given = environment(server)
    return {name: value for name, value in given.items() if name.startswith("LIERE_")}


def classify(port: int, image: bytes = picture(), **headers: str) -> int:
    url = f"http://127.0.0.1:{port}/v1/classify/image"
    return httpx.post(url, files={"file": image}, headers=headers, timeout=20).status_code


@pytest.mark.parametrize("name", ["overlays/cpu", "overlays/keys", "kserve.yaml"])
def test_a_server_answers_its_probes(tmp_path: Path, name: str) -> None:
    """With its environment, without a key: all three are 200 once it serves, and so is /metrics."""
    if name.endswith("yaml"):
        (server,) = read(name)["spec"]["predictor"]["containers"]
    else:
        server = container(name)
    (tmp_path / "keys.txt").write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} tests\n")
    variables = ours(server)
    if "LIERE_KEYS_FILE" in variables:
        variables["LIERE_KEYS_FILE"] = str(tmp_path / "keys.txt")
    write_tiny_bundle(tmp_path / "bundles")
    with running(tmp_path / "bundles", **variables) as (_, port, _lines):
        probes = [server[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
        for path in (*(probe["httpGet"]["path"] for probe in probes), "/metrics"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20).status_code == 200
        assert classify(port) == (401 if name.endswith("keys") else 200)
        assert classify(port, Authorization=f"Bearer {KEY}") == 200


class Watched(NamedTuple):
    """Two pods of a cluster's Prometheus: one that works and one that idles."""

    prometheus: Prometheus
    port: int  # of the one that works
    busy: str
    idle: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    tool("prometheus")
    root = tmp_path_factory.mktemp("watched")
    write_tiny_bundle(root / "bundles")
    (root / "prometheus").mkdir()
    monitor = only("ServiceMonitor", "monitoring")["spec"]
    labels = only("Service", "overlays/cpu")["metadata"]["labels"]
    # What the operator makes of a ServiceMonitor: the pod's names, and labels of its Service.
    copied = {re.sub(r"\W", "_", one): labels[one] for one in monitor["targetLabels"]}
    copied |= {"namespace": "default", "job": labels[monitor["jobLabel"]]}
    relabel = [{"target_label": name, "replacement": one} for name, one in copied.items()]
    relabel.append({"source_labels": ["__address__"], "target_label": "pod"})
    with ExitStack() as stack:
        ports = [
            stack.enter_context(running(root / "bundles", "--open-metrics"))[1] for _ in range(2)
        ]
        pods = [f"127.0.0.1:{port}" for port in ports]
        asked = stack.enter_context(prometheus(root / "prometheus", pods, relabel))
        yield Watched(asked, ports[0], *pods)


def adapters(metric: str, watched: Watched) -> dict[str, float]:
    """What prometheus-adapter would say of each pod, by its rule for a metric."""
    rules = read("components/queue-seconds/adapter.yaml")["rules"]["custom"]
    (rule,) = (one for one in rules if one["name"]["as"] == metric)
    found = watched.prometheus.ask("series", **{"match[]": rule["seriesQuery"]})
    assert {one["pod"] for one in found} <= {watched.busy, watched.idle}
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    labels = f'namespace="default",pod=~"{watched.busy}|{watched.idle}"'
    rows = watched.prometheus.value(query.replace("<<.LabelMatchers>>", labels))
    assert "<<" not in query.replace("<<.LabelMatchers>>", "")
    return {row["metric"]["pod"]: float(row["value"][1]) for row in rows}


def kedas(trigger: str, watched: Watched) -> float:
    """What KEDA would be told: it takes an answer of one number, and no other."""
    triggers = only("ScaledObject", "overlays/keda")["spec"]["triggers"]
    (query,) = (one["metadata"]["query"] for one in triggers if one["name"] == trigger)
    (row,) = watched.prometheus.value(query)
    assert row["metric"] == {}
    return float(row["value"][1])


def test_autoscalers_are_told_who_works(watched: Watched) -> None:
    """One number for each pod, more than nothing for the one that works; KEDA gets their sum."""

    def works() -> bool:
        assert classify(watched.port) == 200
        told = adapters("liere_lanes_busy", watched)
        return set(told) == {watched.busy, watched.idle} and told[watched.busy] > 0

    wait_until(works, "a lane that was at work")
    told = adapters("liere_lanes_busy", watched)
    assert set(told) == {watched.busy, watched.idle}
    assert 0 < told[watched.busy] < 1
    assert told[watched.idle] == 0
    assert kedas("lanes-busy", watched) == pytest.approx(sum(told.values()), abs=0.05)


def test_autoscalers_are_told_the_queue(watched: Watched) -> None:
    """More than nothing while requests wait for one another; none where nobody asks."""
    large, enough = picture(size=(1400, 900)), threading.Event()

    def ask() -> set[int]:
        answers = set()
        while not enough.is_set():
            answers.add(classify(watched.port, large))
        return answers

    def waits() -> bool:
        return adapters("liere_queue_seconds", watched).get(watched.busy, 0.0) > 0

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        try:
            wait_until(waits, "a queue")
        finally:
            enough.set()
    assert set().union(*(one.result() for one in asking)) <= {200, 429}
    told = adapters("liere_queue_seconds", watched)
    assert told[watched.idle] == 0
    assert kedas("queue-seconds", watched) == pytest.approx(told[watched.busy], rel=0.5)


def test_the_adapters_file_holds_no_more_than_a_chart_knows() -> None:
    """Values of the chart that this project sets."""
    values = yaml.safe_load((KUBERNETES / "components/queue-seconds/adapter.yaml").read_text())
    assert set(values) == {"prometheus", "rules"}
    assert set(values["rules"]) == {"default", "custom"}
    for rule in values["rules"]["custom"]:
        assert set(rule) == {"seriesQuery", "resources", "name", "metricsQuery"}
