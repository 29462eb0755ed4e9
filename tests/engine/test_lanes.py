"""How many batches run at the same time: measured where nobody says it, and what that charges."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_manifest
from service.engine.costs import RunCosts
from service.engine.device import lanes as module
from service.engine.device.lanes import choose_lanes
from service.engine.device.session import Session, Stop
from service.engine.engine import Service
from service.engine.model import Target
from service.engine.schedule import CPU, DEVICE
from service.settings import make_settings
from tests.helpers.service_fixtures import TINY, write_tiny_bundle

ROW = np.zeros((1, 8, 12, 3), np.uint8)


class Timed:
    """A run takes so long, and other runs go on meanwhile."""

    def __init__(self, seconds: float, device: str = "cpu") -> None:
        self.seconds, self.device = seconds, device

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        time.sleep(self.seconds)
        return np.zeros((len(pixels), 2), np.float32)


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: 4)
    monkeypatch.setattr(module, "TRIAL_SECONDS", 0.1)


@pytest.mark.parametrize(
    ("one_thread", "gain", "expected"),
    [(0.005, 0.0, (4, 1)), (0.02, 1.0, (1, 4)), (0.02, 0.2, (4, 1))],
    ids=["threads are no use", "threads are as good as lanes", "threads help a little"],
)
def test_the_faster_way_is_taken_and_of_equals_the_fewest_lanes(
    tmp_path: Path, one_thread: float, gain: float, expected: tuple[int, int]
) -> None:
    """A run of t threads is 1 + gain (t - 1) times as fast as one of one."""

    def opener(graph: Path, device: str, threads: int) -> Session:
        return Timed(one_thread / (1 + gain * (threads - 1)))

    settings = make_settings(bundles=tmp_path)
    assert choose_lanes(settings, opener, tmp_path, "cpu", ROW) == expected


@pytest.mark.parametrize(
    ("given", "expected"), [({}, (1, 4)), ({"threads": 1}, (1, 1)), ({"lanes": 2}, (2, 4))]
)
def test_a_gpu_that_auto_finds_has_one_lane(
    tmp_path: Path, given: dict[str, int], expected: tuple[int, int]
) -> None:
    """Threads of the CPU are no lanes of it; the operator may say more."""
    settings = make_settings(bundles=tmp_path, **given)
    opener = lambda graph, device, threads: Timed(0.0, "cuda")  # noqa: E731
    assert choose_lanes(settings, opener, tmp_path, "auto", ROW) == expected


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
    service = Service(make_settings(bundles=tmp_path))
    manifest = read_manifest(tmp_path / "tiny")
    target = Target.make(manifest, TINY["video"].grids[0], 3, 5.0)
    costs = RunCosts()
    costs.learn(1, 0.01)
    service.station.add_queue(target.key, Timed(0.0), "video", costs)
    service.station.threads, service.prover._device = threads, "cpu" if on_cpu else "cuda"
    work = service.predict(target, 1000)
    assert work.parts["run"] == pytest.approx(expected)
    assert service.run_seconds(target) == pytest.approx(0.03)
    assert work.own == pytest.approx(0.03 + 0.005 + 0.0005)
