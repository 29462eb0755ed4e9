"""deploy/kubernetes, read without a cluster: kinds, selectors, scaling, watching."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from referencing import Registry, Resource

from deploy import rules
from service.engine.schedule import default_max_wait
from service.environment import PREFIX
from service.metrics import Metrics
from service.settings import Settings
from tests.helpers.manifests import (
    APPLIED,
    OVERLAYS,
    SCALED,
    Manifest,
    container,
    environment,
    metrics_of_pods,
    only,
    pod,
    read,
    rendered,
)

CRDS = Path(__file__).parent / "crds"
#: The oldest that docs/kubernetes.md names, and the newest whose schemas there are.
VERSIONS = ("1.30", "1.37")
SERVERS = [f"overlays/{name}" for name in OVERLAYS]


# --- schemas ---------------------------------------------------------------------------------


def check(manifest: Manifest, version: str) -> None:
    """By the schema of Kubernetes, or that of a custom kind; what neither knows fails as well."""
    schema = CRDS / f"{manifest['kind']}.json"
    if not schema.exists():
        kubernetes_validate.validate(manifest, version, strict=True)
        return
    path = f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    core = kubernetes_validate.utils.schema_contents(path, version)
    registry: Registry[Any] = Resource.from_contents(core) @ Registry()
    contents = json.loads(schema.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(contents, registry=registry).validate(manifest)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", APPLIED)
def test_every_manifest_is_what_its_kind_may_be(folder: str, version: str) -> None:
    """No key that an API server would drop, no value that it would refuse, in old and new ones."""
    for manifest in rendered(folder):
        check(manifest, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inference_service_is_what_kserve_takes(version: str) -> None:
    """Its own members by KServe's types, the pod's by those of Kubernetes."""
    check(read("kserve.yaml"), version)


@pytest.mark.parametrize(
    ("folder", "kind", "path", "value"),
    [
        ("overlays/cpu", "Deployment", "spec.template.spec.enableServiceLink", False),
        ("overlays/cpu", "Deployment", "spec.template.spec.terminationGracePeriodSeconds", "35 s"),
        ("overlays/keda", "ScaledObject", "spec.minReplicas", 2),
        ("overlays/keda", "ScaledObject", "spec.triggers", None),
        ("monitoring", "ServiceMonitor", "spec.endpoints", [{"intervall": "5s"}]),
        ("monitoring", "PrometheusRule", "spec.groups", [{"rules": []}]),
        ("kserve.yaml", "InferenceService", "spec.predictor.container", []),
        ("kserve.yaml", "InferenceService", "spec.predictor.volumes", [{"name": 3}]),
    ],
)
def test_schemas_find_mistakes(folder: str, kind: str, path: str, value: object) -> None:
    """A key that is misspelt, a value of another type: each kind's schema refuses them."""
    found = read(folder) if folder.endswith("yaml") else only(kind, folder)
    manifest = json.loads(json.dumps(found))
    *parents, last = path.split(".")
    place = manifest
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        check(manifest, VERSIONS[-1])


# --- the layout ------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", SERVERS)
def test_everything_is_about_the_pods_of_its_own_deployment(folder: str) -> None:
    """An empty selector would be every pod of the namespace, another overlay's its servers."""
    labels = pod(folder)["metadata"]["labels"]
    assert set(labels) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    spread = pod(folder)["spec"]["topologySpreadConstraints"]
    selectors = [
        only("Deployment", folder)["spec"]["selector"]["matchLabels"],
        only("Service", folder)["spec"]["selector"],
        only("PodDisruptionBudget", folder)["spec"]["selector"]["matchLabels"],
        only("NetworkPolicy", folder)["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in spread),
    ]
    assert selectors == [labels] * len(selectors)


def test_servers_of_three_kinds_may_be_in_one_namespace() -> None:
    """On CPUs, on GPUs, and one for jobs: no name is taken twice, no pods are found by two."""
    folders = [f"overlays/{overlay}" for overlay in ("cpu", "gpu", "jobs")]
    names = [(one["kind"], one["metadata"]["name"]) for at in folders for one in rendered(at)]
    assert len(names) == len(set(names))
    instances = [pod(at)["metadata"]["labels"]["app.kubernetes.io/instance"] for at in folders]
    assert len(instances) == len(set(instances))


@pytest.mark.parametrize("overlay", SCALED)
def test_only_autoscalers_say_how_many_servers_there_are(overlay: str) -> None:
    """Applying it again leaves as many as there are."""
    folder = f"overlays/{overlay}"
    deployment = only("Deployment", folder)
    assert "replicas" not in deployment["spec"]
    kind = "ScaledObject" if overlay == "keda" else "HorizontalPodAutoscaler"
    name = deployment["metadata"]["name"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    assert only(kind, folder)["spec"]["scaleTargetRef"] == target


def test_a_folder_of_jobs_has_one_server() -> None:
    """One pod, which ends before the next one starts; its volume has room for all it may keep."""
    spec = only("Deployment", "overlays/jobs")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    kinds = {one["kind"] for one in rendered("overlays/jobs")}
    assert not kinds & {"HorizontalPodAutoscaler", "ScaledObject"}
    claim = only("PersistentVolumeClaim", "overlays/jobs")
    volumes = pod("overlays/jobs")["spec"]["volumes"]
    (mounted,) = (one for one in volumes if "persistentVolumeClaim" in one)
    assert mounted["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    room = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert room > Settings.model_fields["jobs_max_gib"].default
    rights = pod("overlays/jobs")["spec"]["securityContext"]
    assert rights["fsGroup"] == rights["runAsGroup"]  # a new volume is root's


@pytest.mark.parametrize("folder", SERVERS)
def test_pods_may_do_nothing_but_serve(folder: str) -> None:
    """What the Pod Security Standard `restricted` asks, a root that is read-only, and no token."""
    spec, server = pod(folder)["spec"], container(folder)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPort" in port for port in server["ports"])
    assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("folder", SERVERS)
def test_the_network_lets_in_clients_and_prometheus_and_nothing_out(folder: str) -> None:
    """Nothing that kustomize adds to selectors narrows whom it lets in."""
    spec = only("NetworkPolicy", folder)["spec"]
    assert (spec["policyTypes"], spec["egress"]) == (["Ingress", "Egress"], [])
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": "http"}]
    clients, prometheus = rule["from"]
    client = {"key": "liere-client", "operator": "Exists"}
    assert clients == {"podSelector": {"matchExpressions": [client]}}
    (namespace,) = prometheus["namespaceSelector"]["matchExpressions"]
    assert namespace["values"] == ["monitoring"]
    adapter = read("components/queue-seconds/adapter.yaml")["prometheus"]["url"]
    assert adapter.endswith(".monitoring.svc")


@pytest.mark.parametrize("folder", SERVERS)
def test_settings_are_those_of_the_service(folder: str) -> None:
    """The server refuses a variable that it does not know: manifests give it none."""
    for one in (container(folder), read("kserve.yaml")["spec"]["predictor"]["containers"][0]):
        given = {name: value for name, value in environment(one).items() if name.startswith(PREFIX)}
        assert given
        values = {name.removeprefix(PREFIX).lower(): value for name, value in given.items()}
        assert set(values) <= set(Settings.model_fields)
        Settings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", SERVERS)
def test_probes_ask_what_the_engine_means_by_them(folder: str) -> None:
    """Each has its own address; one that starts is not killed before it had its time."""
    server = container(folder)
    kinds = ("startup", "readiness", "liveness")
    assert {kind: server[f"{kind}Probe"]["httpGet"] for kind in kinds} == {
        "startup": {"path": "/health/startup", "port": "http"},
        "readiness": {"path": "/health/ready", "port": "http"},
        "liveness": {"path": "/health/live", "port": "http"},
    }
    start = server["startupProbe"]
    patience = start["periodSeconds"] * start["failureThreshold"]
    assert patience < only("Deployment", folder)["spec"]["progressDeadlineSeconds"]


def test_a_gpu_is_never_waited_for_by_its_own_successor() -> None:
    """Where every GPU has its server, an update takes one away before it brings one."""
    rolling = only("Deployment", "overlays/gpu")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}
    rolling = only("Deployment", "overlays/cpu")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_kserve_is_given_the_same_pod() -> None:
    """Under KServe's name for the container, with its word for the protocol and v2's health."""
    predictor = read("kserve.yaml")["spec"]["predictor"]
    (given,) = predictor["containers"]
    ours = json.loads(json.dumps(container("overlays/cpu")))
    assert environment(given) == {"PROTOCOL": "v2"} | environment(ours)
    assert given["name"] == "kserve-container"
    addresses = {"startup": "/health/startup", "readiness": "/v2/health/ready"}
    for kind, path in (addresses | {"liveness": "/v2/health/live"}).items():
        assert given[f"{kind}Probe"].pop("httpGet") == {"path": path, "port": 8000}
        del ours[f"{kind}Probe"]["httpGet"]
    for one in (given, ours):
        del one["env"], one["name"], one["ports"]
    assert given == ours
    spec = pod("overlays/cpu")["spec"]
    shared = set(spec) & set(predictor) - {"containers"}
    assert {name: predictor[name] for name in shared} == {name: spec[name] for name in shared}
    assert set(spec) - shared == {"containers", "topologySpreadConstraints"}
    assert predictor["timeout"] > Settings.model_fields["slow_deadline_seconds"].default


# --- as many as it takes -----------------------------------------------------------------------


def quantity(value: str) -> float:
    """``200m`` -> 0.2."""
    return float(value.removesuffix("m")) / 1000 if value.endswith("m") else float(value)


def test_the_adapter_provides_what_the_autoscaler_asks_for() -> None:
    """A metric under another name would leave as many servers as there are."""
    asked = [one["metric"]["name"] for one in metrics_of_pods()]
    provided = read("components/queue-seconds/adapter.yaml")["rules"]["custom"]
    assert asked == [one["name"]["as"] for one in provided] == ["liere_queue_seconds",
                                                               "liere_lanes_busy"]  # fmt: skip


def test_queries_ask_for_series_that_the_service_has() -> None:
    """A renamed series would leave an autoscaler without an answer."""
    known = {one.name + end for one in Metrics().registry.collect() for end in ("", "_total")}
    rows = read("components/queue-seconds/adapter.yaml")["rules"]["custom"]
    asked = [one[key] for one in rows for key in ("seriesQuery", "metricsQuery")]
    triggers = only("ScaledObject", "overlays/keda")["spec"]["triggers"]
    asked += [one["metadata"]["query"] for one in triggers if one["type"] == "prometheus"]
    series = set(re.findall(r"liere_\w+(?=\{)", " ".join(asked)))
    assert series <= known
    assert "liere_predicted_wait_seconds" in series


def test_keda_does_what_the_autoscaler_does() -> None:
    """The same bounds, targets and pace; its queries are about the servers of its own overlay."""
    scaler = only("HorizontalPodAutoscaler", "overlays/cpu")["spec"]
    keda = only("ScaledObject", "overlays/keda")["spec"]
    assert keda["minReplicaCount"] == scaler["minReplicas"]
    assert keda["maxReplicaCount"] == scaler["maxReplicas"]
    behavior = keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == scaler["behavior"]
    *queries, cpus = keda["triggers"]
    targets = [quantity(one["target"]["averageValue"]) for one in metrics_of_pods()]
    assert [float(one["metadata"]["threshold"]) for one in queries] == targets
    (used,) = (one["resource"] for one in scaler["metrics"] if one["type"] == "Resource")
    assert (cpus["type"], cpus["metricType"]) == (used["name"], used["target"]["type"])
    assert int(cpus["metadata"]["value"]) == used["target"]["averageUtilization"]
    instance = pod("overlays/keda")["metadata"]["labels"]["app.kubernetes.io/instance"]
    copied = only("ServiceMonitor", "monitoring")["spec"]["targetLabels"]
    assert copied == ["app.kubernetes.io/instance"]
    for one in queries:
        assert one["metricType"] == "AverageValue"
        asked = re.findall(r"liere_\w+\{([^}]*)\}", one["metadata"]["query"])
        ours = f'job="liere",app_kubernetes_io_instance="{instance}"'
        assert asked
        assert all(labels.startswith(ours) for labels in asked)


def test_servers_are_added_before_they_refuse() -> None:
    """The least --max-wait that a server gives itself is above the target."""
    targets = {one["metric"]["name"]: one["target"]["averageValue"] for one in metrics_of_pods()}
    assert quantity(targets["liere_queue_seconds"]) < default_max_wait(0.0) / 2


# --- watched ---------------------------------------------------------------------------------


def test_the_operators_rules_are_those_of_prometheus() -> None:
    """One source: deploy/prometheus/rules.yml, from which the file is written."""
    assert rules.PATH.read_text(encoding="utf-8") == rules.render()
    source = yaml.safe_load(rules.SOURCE.read_text(encoding="utf-8"))

    def plain(groups: list[dict[str, Any]]) -> str:
        """Without line breaks, which kustomize moves, and which mean nothing in an expression."""
        return " ".join(json.dumps(groups, sort_keys=True).replace("\\n", " ").split())

    assert plain(only("PrometheusRule", "monitoring")["spec"]["groups"]) == plain(source["groups"])


def test_services_are_watched_as_compose_watches_them(repo_root: Path) -> None:
    """Job, address and pace of deploy/prometheus; both Services are found, by their labels."""
    config = yaml.safe_load((repo_root / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    monitor = only("ServiceMonitor", "monitoring")["spec"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["interval"] == config["global"]["scrape_interval"]
    assert endpoint["scrapeTimeout"] == config["global"]["scrape_timeout"]
    assert endpoint["path"] == job.get("metrics_path", "/metrics")
    for folder in SERVERS:
        service = only("Service", folder)
        labels = service["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert labels[monitor["jobLabel"]] == job["job_name"]
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
