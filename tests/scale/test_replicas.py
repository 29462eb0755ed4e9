"""Replicas come, go, die and change while requests go on."""

from __future__ import annotations

import io
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client import Client
from models.promotion import promote
from tests.helpers.ray_cluster import DEPLOY_SECONDS, Cluster, Load, until
from tests.helpers.service_fixtures import picture, write_tiny_versions

CLIENTS = 4


def noise() -> bytes:
    """A picture of 360 kB, which no buffer of HAProxy holds whole."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle in three versions, of which the first answers."""
    root = tmp_path_factory.mktemp("bundles")
    promote(write_tiny_versions(root, "tiny", "1", "2", "3"), "1")
    return root


@pytest.fixture
def two(cluster: Cluster, bundles: Path) -> Iterator[Cluster]:
    """Two replicas of it."""
    cluster.deploy(bundles)
    cluster.settle(2)
    yield cluster


@pytest.mark.parametrize("media", [picture(), noise()], ids=["small", "large"])
def test_a_killed_replica_loses_only_what_it_held(
    two: Cluster, tmp_path: Path, media: bytes
) -> None:
    """Each client has one request under way, so at most so many fail. One that tries again loses
    none. Another replica comes in the place of the dead one.
    """
    before = two.pids()
    victim = next(iter(before))
    file = tmp_path / "a.png"
    file.write_bytes(media)
    with Load(two.url, CLIENTS, media) as load, Client(two.url) as patient:
        load.reach(100)
        os.kill(before[victim], signal.SIGKILL)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert patient.classify(file).version == "1"
        load.reach(load.outcomes.total() + 100)
    assert load.outcomes.total() - load.outcomes[200] <= CLIENTS, load.outcomes
    two.settle(2)
    assert victim not in two.names()


def test_a_promoted_version_is_followed_by_all_and_no_request_fails(
    two: Cluster, bundles: Path
) -> None:
    """2,000 requests while ``serving.json`` names another version: all are answered, those that
    come after it by the new one, whichever replica they reach.
    """
    with Load(two.url, CLIENTS) as load:
        load.reach(500)
        promote(bundles / "tiny", "2")
        load.reach(2000)
        until(lambda: len(loaded(two, "2")) == 2, "both replicas to have the version")
    assert load.outcomes == {200: load.outcomes.total()}
    assert set(load.versions) == {"1", "2"}
    with Load(two.url, CLIENTS) as later:
        later.reach(50)
    assert set(later.versions) == {"2"}


def test_a_rolling_update_fails_no_request(cluster: Cluster, bundles: Path) -> None:
    """2,000 requests while replicas with another store take the place of those that there are."""
    cluster.deploy(bundles)
    cluster.settle(2)
    before = cluster.names()
    newer = bundles.parent / "newer"
    shutil.copytree(bundles, newer)
    promote(newer / "tiny", "3")
    with Load(cluster.url, CLIENTS) as load:
        load.reach(200)
        cluster.submit(cluster.config(newer))
        until(lambda: load.versions["3"] > 0, "an answer of the new version", DEPLOY_SECONDS)
        until(lambda: cluster.count() == 2, "the old replicas to be gone", DEPLOY_SECONDS)
        load.reach(2000)
    assert load.outcomes == {200: load.outcomes.total()}
    assert not set(before) & set(cluster.names())


@pytest.mark.parametrize(
    "signal",
    [
        {"target_ongoing_requests": 2},
        {"policy": {"policy_function": "deploy.ray.scaling:by_predicted_seconds"}},
    ],
    ids=["ongoing", "predicted"],
)
def test_scaling_by_load_loses_no_request(
    cluster: Cluster, bundles: Path, signal: dict[str, Any]
) -> None:
    """1 -> 2 -> 1 replicas, as more clients come and leave; what the one that goes holds is
    answered. That one replica refuses some of what is meant for two is an answer too.

    Pictures take long enough to decode, and few enough may wait, for one replica to be full.
    """
    scaling = {
        "min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 0, "downscale_delay_s": 1,
        "metrics_interval_s": 2, "look_back_period_s": 6,
    }  # fmt: skip
    deployment = {"num_replicas": None, "autoscaling_config": scaling | signal}
    cluster.deploy(bundles, deployment=deployment, max_wait=0.05)
    with Load(cluster.url, 1, pause=0.2) as lasting:
        cluster.settle(1)
        with Load(cluster.url, 8, noise()) as more:
            until(lambda: cluster.count() == 2, "a second replica", DEPLOY_SECONDS)
            more.reach(more.outcomes.total() + 500)
        until(lambda: cluster.count() == 1, "the second one to be gone", DEPLOY_SECONDS)
    for load in (lasting, more):
        assert load.outcomes[200]
        assert set(load.outcomes) <= {200, 429}, load.outcomes


def loaded(cluster: Cluster, version: str) -> list[str]:
    """Replicas in which a version answers."""
    lines = cluster.get("/metrics").text.splitlines()
    wanted = [one for one in lines if one.startswith("liere_bundle_info{")]
    return [one for one in wanted if f'version="{version}"' in one and one.endswith(" 1.0")]
