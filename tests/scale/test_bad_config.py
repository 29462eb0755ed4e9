"""What is wrong is told in a line, and what serves goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.ray.check import check
from models.promotion import promote
from tests.helpers.ray_cluster import CONFIG, DEPLOY_SECONDS, Cluster, Load, until
from tests.helpers.service_fixtures import ROOT, write_tiny_bundle, write_tiny_versions

TEXT = CONFIG.read_text()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    promote(write_tiny_versions(root, "tiny", "1", "2"), "1")
    return root


@pytest.fixture
def one(cluster: Cluster, bundles: Path) -> Iterator[Cluster]:
    """One replica that serves, and a client that never stops asking."""
    cluster.deploy(bundles, deployment={"num_replicas": 1})
    cluster.settle(1)
    with Load(cluster.url, 1) as load:
        yield cluster
    assert load.outcomes == {200: load.outcomes.total()}


def test_the_config_of_the_repository_is_right() -> None:
    """By the command of the guide."""
    command = [sys.executable, "-m", "deploy.ray.check", str(CONFIG)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("num_cpus: 1", "num_cpu: 1", "0.deployments.0.ray_actor_options.num_cpu: unknown key"),
        ("min_replicas", "mni_replicas", "0.autoscaling_config.mni_replicas: unknown key"),
        ("target_ongoing_requests: 2", "policy: {policy_functoin: deploy.ray.scaling:by_nothing}",
         "0.autoscaling_config.policy.policy_functoin: unknown key"),
        ("target_ongoing_requests: 2", "policy: {policy_function: deploy.ray.scaling:by_nothing}",
         "policy: module 'deploy.ray.scaling' has no attribute 'by_nothing'"),
        ("open: true", "opne: true", "applications.0.args: opne: "),
        ("open: true", "open: false", "no keys; set keys_file"),
        ("open: true", "jobs: here", "jobs: not for a replica: a folder of jobs belongs to one"),
        ("open: true", "port: 80", "port: not for a replica: http_options of the config says"),
        ("bundles: bundles", "max_batch: 0", "max_batch: .* greater than or equal to 1, got 0"),
        ("route_prefix", "route_prefx", "applications.0.route_prefx: unknown key"),
        ("host: 127", "hots: 127", "http_options.hots: unknown key"),
        ("name: Replica", "name: Replcia", "0.name: expected Replica, got 'Replcia'"),
        ("proxy_location:", "proxy_location", "expected YAML"),
        ("max_ongoing_requests: 4096", "max_ongoing_requests: 1024",
         "0.max_ongoing_requests: expected more than max_in_flight, which is 1024"),
        ("max_ongoing_requests: 4096", "max_queued_requests: -1", "so that the server .* got 5$"),
        ("num_cpus: 1", "num_cpus: 0", "num_cpus: expected at least 1, .* got 0$"),
        ("num_cpus: 1", "num_cpus: 0.5", "ray_actor_options.num_cpus: .* got 0.5$"),
        ("replica:build", "replica:biuld",
         "0.import_path: expected deploy.ray.replica:build, .* got 'deploy.ray.replica:biuld': "
         "module 'deploy.ray.replica' has no attribute 'biuld'"),
        ("deploy.ray.replica:build", "depoly.ray.replica:build",
         "0.import_path: expected deploy.ray.replica:build, .* No module named 'depoly'"),
        ("deploy.ray.replica:build", "json:loads",
         "applications: expected one with import_path: deploy.ray.replica:build, got none"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(good: str, bad: str, told: str) -> None:
    """Wherever it stands; Ray itself would pass over most of them."""
    assert good in TEXT
    with pytest.raises(ValueError, match=told):
        check(TEXT.replace(good, bad, 1))


@pytest.mark.parametrize("left", ["", "    deployments: []"])
def test_a_config_without_the_deployment_is_refused(left: str) -> None:
    """Ray would take values of its own, with which no replica starts."""
    before, _ = TEXT.split("    deployments:\n")  # the last member of the last application
    with pytest.raises(ValueError, match="0.deployments: expected one named Replica, got none"):
        check(before + left)


def test_somebody_elses_application_may_stand_beside() -> None:
    """And ours may be written as Ray also takes it; it is checked all the same."""
    beside = TEXT + "  - {name: other, route_prefix: /other, import_path: json.loads}\n"
    check(beside)
    with pytest.raises(ValueError, match="opne"):
        check(beside.replace("replica:build", "replica.build").replace("open: true", "opne: true"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"opne": True}, "opne: Extra inputs are not permitted"),
        ({"deployment": {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}}},
         "ray_actor_options.num_cpus: expected at least 1"),
        ({"max_batch": 16, "deployment": {"num_replicas": 1, "max_ongoing_requests": 1000}},
         "max_ongoing_requests: expected more than max_in_flight, which is 1024"),
        ({"default_bundle": ["other"]}, "other"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_told_and_what_serves_goes_on(
    one: Cluster, bundles: Path, changes: dict[str, Any], told: str
) -> None:
    """The status of the application has the reason."""
    submit(one, bundles, changes)
    until(lambda: told in said(one), f"{told!r} in the status", DEPLOY_SECONDS)


def test_a_refused_bundle_is_told_and_what_serves_goes_on(one: Cluster, tmp_path: Path) -> None:
    """A store in which the only bundle is damaged."""
    (write_tiny_bundle(tmp_path) / "graphs" / "weights.bin").write_bytes(b"other")
    submit(one, tmp_path, {"deployment": {"num_replicas": 1}})
    until(lambda: "every bundle was refused" in said(one), "the reason", DEPLOY_SECONDS)
    assert "tiny: graphs/weights.bin" in said(one)


def test_a_store_that_is_not_there_is_told_and_what_serves_goes_on(
    one: Cluster, tmp_path: Path
) -> None:
    """The replicas of the new config never come up."""
    submit(one, tmp_path / "nowhere", {"deployment": {"num_replicas": 1}})
    until(lambda: str(tmp_path / "nowhere") in said(one), "the reason", DEPLOY_SECONDS)


def test_a_store_that_goes_away_stops_nothing(one: Cluster, bundles: Path) -> None:
    """What serves goes on, and follows again when the store is back."""
    away = bundles.with_name("away")
    bundles.rename(away)
    with Load(one.url, 1) as load:
        until(lambda: load.outcomes.total() > 200, "requests meanwhile", 60)
    assert set(load.versions) == {"1"}
    shutil.copytree(away, bundles)
    promote(bundles / "tiny", "2")
    with Load(one.url, 1) as load:
        until(lambda: "2" in load.versions, "the new version to answer")


def submit(cluster: Cluster, bundles: Path, changes: dict[str, Any]) -> None:
    cluster.submit(cluster.config(bundles, **({"deployment": {"num_replicas": 1}} | changes)))


def said(cluster: Cluster) -> str:
    """What the status of application and deployment says."""
    status = cluster.status()
    return " ".join([status.message, *(one.message for one in status.deployments.values())])
