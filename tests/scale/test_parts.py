"""What a replica is made of, without a cluster."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.ray.front import Front
from deploy.ray.replica import NOT_HERE, given_cpus, replica_settings
from deploy.ray.scaling import by_predicted_seconds
from deploy.ray.scrape import Scrape, together
from deploy.ray.store import Following
from models.promotion import promote
from service.metrics import Metrics
from service.settings import Settings, SettingsError
from tests.helpers.service_fixtures import ROOT, write_tiny_versions


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_is_rays_affair_is_no_setting_here(name: str) -> None:
    """The message names the setting and who decides instead."""
    default = 9000 if name == "grpc_port" else Settings.model_fields[name].default
    value = "here" if default is None or default == () else default or 1
    with pytest.raises(SettingsError, match=f"{name}: not for a replica: {NOT_HERE[name][:20]}"):
        replica_settings({"open": True, name: value})


def test_a_variable_of_the_environment_is_no_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """LIERE_JOBS is refused as jobs is."""
    monkeypatch.setenv("LIERE_JOBS", "/somewhere")
    with pytest.raises(SettingsError, match="jobs: not for a replica"):
        replica_settings({"open": True})


def test_folders_count_from_the_checkout() -> None:
    """Wherever Ray runs its processes; a whole path stays what it is."""
    settings = replica_settings({"bundles": "some", "keys_file": "/etc/keys"})
    assert (settings.bundles, settings.keys_file) == (ROOT / "some", Path("/etc/keys"))


@pytest.mark.parametrize(("resources", "cpus"), [({"CPU": 1.0}, 1), ({"CPU": 3.5, "GPU": 1.0}, 3)])
def test_whole_cpus_are_counted(resources: dict[str, float], cpus: int) -> None:
    assert given_cpus(resources) == cpus


@pytest.mark.parametrize("resources", [{}, {"CPU": 0.5}, {"GPU": 1.0}])
def test_a_replica_without_a_cpu_is_refused(resources: dict[str, float]) -> None:
    """Half a CPU runs no worker and no lane of its own."""
    with pytest.raises(SettingsError, match="num_cpus: expected at least 1"):
        given_cpus(resources)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ([], 3.0),  # nothing is known of those that are there: as many as are meant to be
        ([(0.3, 0.1, 0.0)], 0.5),
        ([(0.3, 0.15, 0.0), (0.3, 0.45, 0.0)], 1.25),  # what nobody predicted counts
        ([(1.5, 0.9, 0.4)], 2.5),  # what is refused counts
        ([(0.9, 0.9, 0.0), (0.3, 0.3, 0.0)], 2.0),
        ([(40.0, 0.9, 0.4)], 2 / 0.6),  # but not however often it comes
        ([(0.3, 0.3, 0.9)], 1.8),  # a replica that can do less than was thought
        ([(0.3, 0.3, 0.9), (0.3, 0.3, 0.0)], 1.0),
    ],
)
def test_replicas_follow_the_predicted_seconds(
    told: list[tuple[float, float, float]], wanted: float
) -> None:
    """By replica: seconds asked for, processor time, share of the wait at which it refuses."""
    names = ("asked", "busy", "fullness")
    columns = zip(names, zip(*told, strict=True), strict=False)  # there are none of no replica
    metrics = {name: dict(enumerate(column)) for name, column in columns}
    context: Any = SimpleNamespace(target_num_replicas=3, aggregated_metrics=metrics)
    assert by_predicted_seconds(context)[0] == pytest.approx(wanted)


def test_series_of_several_replicas_are_one_family_each() -> None:
    """Each family once, each sample with the label of its replica, and no sample lost."""

    def exposed(count: int) -> str:
        registry = CollectorRegistry()
        Counter("asked", "How often.", ("code",), registry=registry).labels("200").inc(count)
        Histogram("took", "Seconds.", buckets=(1, 2), registry=registry).observe(count)
        Gauge("alone", "Without a label.", registry=registry).set(count)
        said = Gauge("said", "With what may stand in a label.", ("text",), registry=registry)
        for text in ('a "b" {c} d\\', "two\nlines\u2028three", ""):
            said.labels(text).set(count)
        return generate_latest(registry).decode()

    text = together({"a": exposed(1), "b": exposed(2)})
    lines = text.splitlines()
    assert lines.count("# TYPE asked_total counter") == 1
    assert [one for one in lines if one.startswith("asked_total")] == [
        'asked_total{replica="a",code="200"} 1.0',
        'asked_total{replica="b",code="200"} 2.0',
    ]
    assert 'took_bucket{replica="b",le="2.0"} 1.0' in lines
    assert 'alone{replica="b"} 2.0' in lines
    for replica, count in (("a", 1), ("b", 2)):  # as a reader of the format has them
        of_one = [
            (sample.name, {**sample.labels, "replica": replica}, sample.value)
            for family in text_string_to_metric_families(exposed(count))
            for sample in family.samples
        ]
        of_all = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels["replica"] == replica
        ]
        timeless = [[one for one in rows if not one[0].endswith("_created")]
                    for rows in (of_all, of_one)]  # fmt: skip
        assert timeless[0] == timeless[1]


def test_a_board_that_is_slow_to_be_found_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's head may be away: requests are answered on the loop that looks for the board."""
    went_on, waited = threading.Event(), list[bool]()

    def find(name: str) -> None:
        waited.append(went_on.wait(5))
        raise ValueError("there is none")

    async def look() -> None:
        async with Scrape(Metrics(), "a", frozenset) as scrape:
            while not waited:
                await asyncio.sleep(0.01)
                went_on.set()
            assert b'liere_ready{replica="a"}' in scrape.expose()

    monkeypatch.setattr("ray.serve.get_deployment_actor", find)
    asyncio.run(look())
    assert waited == [True]


def test_a_prefix_is_taken_off() -> None:
    """The application sees its own paths; the prefix alone leads to where its links count from."""
    app = FastAPI()

    @app.get("/v1/bundles")
    async def bundles() -> str:
        return "here"

    async def ask() -> None:
        transport = httpx.ASGITransport(Front(app), root_path="/vision")
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            assert (await client.get("/vision/v1/bundles")).json() == "here"
            bare = await client.get("/vision")
            assert (bare.status_code, bare.headers["location"]) == (307, "/vision/")

    asyncio.run(ask())


def test_the_store_is_followed_and_missed_without_an_end(tmp_path: Path) -> None:
    """A change is told; while the folder is away nothing is, and its return is a look again."""
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2")
    changes: list[None] = []

    async def on_change() -> bool:
        changes.append(None)
        return True

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(changes) < count:
                await asyncio.sleep(0.01)

    async def follow() -> None:
        async with Following(tmp_path / "bundles", None, on_change, seconds=0.01):
            promote(home, "2")
            await until(1)
            (tmp_path / "bundles").rename(tmp_path / "away")
            await asyncio.sleep(0.1)
            before = len(changes)
            (tmp_path / "away").rename(tmp_path / "bundles")
            promote(home, "1")
            await until(before + 1)

    asyncio.run(follow())


def test_a_reading_that_failed_is_repeated_less_and_less_often(tmp_path: Path) -> None:
    """Until it succeeds, without a change of the store; whether it fails or breaks."""
    write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2")
    readings: list[float] = []

    async def on_change() -> bool:
        readings.append(asyncio.get_running_loop().time())
        if len(readings) == 2:
            raise OSError("the disk is away")
        return len(readings) == 5

    async def follow() -> None:
        async with Following(tmp_path / "bundles", None, on_change, seconds=0.02):
            async with asyncio.timeout(20):
                while len(readings) < 5:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)

    asyncio.run(follow())
    assert len(readings) == 5
    waits = [later - before for before, later in itertools.pairwise(readings)]
    assert all(wait >= 0.04 * 2**number for number, wait in enumerate(waits))
