"""How many batches run at the same time: measured where nobody says it, and what that charges."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_manifest
from service import settings as settings_module
from service.engine.costs import RunCosts
from service.engine.device import lanes as module
from service.engine.device.lanes import Lanes, choose_lanes
from service.engine.device.session import Session, Stop
from service.engine.engine import Engine
from service.engine.job import Job
from service.engine.model import Choice, Model, Target
from service.engine.schedule import CPU, DEVICE
from service.settings import make_settings
from tests.helpers.service_fixtures import TINY, write_tiny_bundle

ROW = np.zeros((1, 8, 12, 3), np.uint8)


class Timed:
    """A run takes so long, and other runs go on meanwhile."""

    def __init__(self, seconds: float = 0.0, device: str = "cpu", threads: int = 1) -> None:
        self.seconds, self.device, self.threads = seconds, device, threads
        self.running = self.at_once = 0

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        time.sleep(self.seconds)
        self.running -= 1
        return np.zeros((len(pixels), 2), np.float32)


def opener(graph: Path, device: str, threads: int) -> Session:
    return Timed(threads=threads)


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "usable_cpus", lambda: 4)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(0.0, (4, 1)), (0.2, (4, 1)), (0.8, (2, 2)), (0.95, (1, 4)), (1.5, (1, 4))],
)
def test_the_faster_way_is_taken_and_of_equals_the_fewest_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, expected: tuple[int, int]
) -> None:
    """A run of t threads is 1 + gain (t - 1) times as fast as one of one; a tenth is no matter."""

    def rate(session: Timed, lanes: Lanes, rows: np.ndarray, seconds: float) -> float:
        assert session.threads == lanes.threads
        return lanes.lanes * (1 + gain * (lanes.threads - 1))

    monkeypatch.setattr(module, "rate", rate)
    settings = make_settings(bundles=tmp_path)
    assert choose_lanes(settings, opener, tmp_path, "cpu", ROW) == expected


def test_rate_counts_the_runs_of_all_lanes() -> None:
    """Each of them runs rows of its own; what none of them ran is not counted."""
    session = Timed(0.001)
    assert 0 < module.rate(session, Lanes(3, 1), ROW, 0.1) < 3 / 0.001
    assert session.at_once == 3


@pytest.mark.parametrize(
    ("given", "expected"), [({}, (1, 4)), ({"threads": 1}, (1, 1)), ({"lanes": 2}, (2, 4))]
)
def test_a_gpu_that_auto_finds_has_one_lane(
    tmp_path: Path, given: dict[str, int], expected: tuple[int, int]
) -> None:
    """Threads of the CPU are no lanes of it; the operator may say more."""
    settings = make_settings(bundles=tmp_path, **given)
    on_gpu = lambda graph, device, threads: Timed(device="cuda")  # noqa: E731
    assert choose_lanes(settings, on_gpu, tmp_path, "auto", ROW) == expected


@pytest.mark.parametrize(
    ("on_cpu", "threads", "expected"),
    [(True, 1, {DEVICE: 0.03, CPU: 0.03}), (True, 4, {DEVICE: 0.03, CPU: 0.12}),
     (False, 4, {DEVICE: 0.03})],
)  # fmt: skip
def test_runs_are_charged_where_they_take_time(
    tmp_path: Path, on_cpu: bool, threads: int, expected: dict[str, float]
) -> None:
    """Every view on a lane; with all its threads on CPUs that decode too, on a GPU with none."""
    write_tiny_bundle(tmp_path, modality="video")
    engine = Engine(make_settings(bundles=tmp_path))
    manifest = read_manifest(tmp_path / "tiny")
    target = Target.make(Model(manifest, 1), TINY["video"].grids[0], 3, 5.0)
    costs = RunCosts()
    costs.learn(1, 0.01)
    (device,) = engine.devices
    device.station.add_queue(target.key, Timed(0.0), "video", costs)
    device.station.threads, device.kind = threads, "cpu" if on_cpu else "cuda"
    job = Job(bytes(1000), Choice.of([target]))
    work = engine.pipeline.predict(job)
    assert work.parts["run"] == pytest.approx(expected)
    assert engine.pipeline.run_seconds(job, target) == pytest.approx(0.03)
    assert work.own == pytest.approx(0.03 + 0.005 + 0.0005)


@pytest.mark.parametrize(("given", "counted"), [(0, 4), (3, 3), (9, 4)])
def test_a_server_counts_with_the_cpus_that_it_is_given(given: int, counted: int) -> None:
    """Never with more than there are: in lanes, in workers and in what is predicted."""
    engine = Engine(make_settings(cpus=given))
    assert engine.backlog.rates[CPU] == counted
    settings = make_settings(cpus=given, lanes=1)
    assert choose_lanes(settings, opener, Path("graph"), "cpu", ROW) == (1, counted)
