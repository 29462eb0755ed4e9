"""Several devices: each has a station, every graph is opened on all, and any may answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.engine.costs import RunCosts
from service.engine.device.devices import Device, Devices
from service.engine.device.session import DeviceError, OpenSession, Session, Stop
from service.engine.device.station import DeviceStation
from service.engine.schedule import DEVICE
from service.http.keys import digest
from service.settings import Settings, SettingsError, make_settings
from tests.helpers.service_fixtures import (
    GRIDS,
    RunningServer,
    TinySession,
    picture,
    serving,
    tiny_logits,
    wait_until,
    write_tiny_bundle,
    write_tiny_versions,
)

NAMES = ("cuda:0", "cuda:2")


class OnGpu(TinySession):
    """The tiny network where the operator wants it."""

    device = "cuda"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Opener:
    """Opens sessions, and remembers them by the device that was asked for."""

    def __init__(self) -> None:
        self.sessions: dict[str, list[OnGpu]] = {name: [] for name in NAMES}

    def __call__(self, graph: Path, device: str, threads: int) -> OnGpu:
        session = OnGpu(device)
        self.sessions[device].append(session)
        return session

    def batches(self, name: str) -> list[int]:
        return [size for session in self.sessions[name] for size in session.batches]

    def clear(self) -> None:
        for name in NAMES:
            for session in self.sessions[name]:
                session.batches.clear()


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RunningServer, Opener]]:
    write_tiny_bundle(tmp_path)
    opener = Opener()
    with serving(tmp_path, opener, device=",".join(NAMES)) as server:
        opener.clear()
        yield server, opener


def test_every_graph_is_opened_and_proven_on_every_device(
    gpus: tuple[RunningServer, Opener],
) -> None:
    """The bundle tells its kind of device; a lane of each counts."""
    server, opener = gpus
    (bundle,) = server.get("/v1/bundles").json()["bundles"]
    assert (bundle["state"], bundle["device"]) == ("ready", "cuda")
    for name in NAMES:
        assert len(opener.sessions[name]) >= len(GRIDS)
    assert server.engine.backlog.rates[DEVICE] == 2
    assert server.metric("liere_device_lanes") == 2


def test_requests_go_where_less_waits(gpus: tuple[RunningServer, Opener]) -> None:
    """One device is held, for longer than it was predicted: all others are answered by the other
    one, rightly.
    """
    server, opener = gpus
    for session in itertools.chain(*opener.sessions.values()):
        session.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(server.classify, content=picture(1))
        wait_until(lambda: any(map(opener.batches, NAMES)), "the device that seems faster")
        free, busy = sorted(NAMES, key=opener.batches)
        for session in opener.sessions[free]:
            session.gate.set()
        for seed in range(4):
            answer = server.classify(content=picture(seed)).json()["results"][0]
            best = int(np.argmax(tiny_logits(picture(seed), GRIDS[0])))
            assert answer["predictions"][0]["index"] == best
        assert (len(opener.batches(busy)), len(opener.batches(free))) == (1, 4)
        for session in opener.sessions[busy]:
            session.gate.set()
        assert held.result().status_code == 200


def test_one_dead_device_is_the_end(gpus: tuple[RunningServer, Opener]) -> None:
    """What fails on it is replayed there; who starts the process again gets both back."""
    server, opener = gpus
    for session in opener.sessions[NAMES[1]]:
        session.run = broken  # type: ignore[method-assign]
    (station,) = (one.station for one in server.engine.devices if one.name == NAMES[1])
    (golden, *_) = station.goldens
    station.on_failed(golden)
    wait_until(lambda: server.engine.died, "the death to be seen")


def broken(pixels: np.ndarray, stop: object = None) -> np.ndarray:
    raise RuntimeError("CUDA error 700")


class Broken(OnGpu):
    """Runs, and computes something else."""

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        return super().run(pixels, stop) + 1


def fails_on(device: str, how: str) -> OpenSession:
    """A device that is not there, or whose answers are wrong; the others are well."""

    def open_one(graph: Path, name: str, threads: int) -> Session:
        if name != device:
            return OnGpu(name)
        if how == "absent":
            raise DeviceError(f"--device {name}: the GPU cannot be used")
        return Broken(name)

    return open_one


@pytest.mark.parametrize("how", ["absent", "wrong"])
@pytest.mark.parametrize("device", NAMES)
def test_device_that_fails_its_proof_is_left_out(
    tmp_path: Path, how: str, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one does all the work; log and metric say which is missing, and why."""
    write_tiny_bundle(tmp_path)
    with serving(tmp_path, fails_on(device, how), device=",".join(NAMES)) as server:
        assert server.get("/health/ready").status_code == 200
        assert server.classify(content=picture(1)).status_code == 200
        (left,) = server.engine.devices
        assert left.name == next(name for name in NAMES if name != device)
        assert server.metric("liere_devices_left_out") == 1
        assert server.metric("liere_device_lanes") == 1
    reason = "the GPU cannot be used" if how == "absent" else "golden"
    (line,) = [one for one in caplog.messages if "is left out" in one]
    assert line.startswith(f"device {device} is left out: ")
    assert reason in line


def test_candidate_is_proven_on_a_device_that_works(tmp_path: Path) -> None:
    """Where the first of them was left out the next version can still be promoted."""
    home = write_tiny_versions(tmp_path / "bundles", "tiny", "1", "2")
    (home / "serving.json").write_text('{"schema": 1, "version": "1"}')
    asked: list[str] = []

    async def prove(settings: Settings, name: str, version: str) -> str | None:
        asked.append(settings.device)
        return None

    keys = tmp_path / "keys.txt"
    keys.write_text(f"{digest(b'admin').hex()} admin scopes=admin")
    with serving(
        home.parent, fails_on(NAMES[0], "absent"), device=",".join(NAMES), keys_file=keys
    ) as server:
        server.engine.rollout.succession.prove = prove
        answer = server.request(
            "POST", "/admin/bundles/tiny/versions/2/load",
            headers={"Authorization": "Bearer admin"},
        )  # fmt: skip
        assert answer.json()["loaded"] == "2"
    assert asked == [NAMES[1]]


@pytest.mark.parametrize("how", ["absent", "wrong"])
def test_device_that_has_proven_itself_is_not_doubted_for_a_bundle(
    tmp_path: Path, how: str
) -> None:
    """A second bundle that fails on one of two that answer the first is refused, by its name."""
    for name in ("first", "second"):
        write_tiny_bundle(tmp_path, name)

    def open_one(graph: Path, name: str, threads: int) -> Session:
        is_wrong = "second" in graph.parts and name == NAMES[1]
        return Broken(name) if is_wrong else OnGpu(name)

    with serving(tmp_path, open_one, device=",".join(NAMES)) as server:
        assert len(server.engine.devices) == 2
        refused = server.engine.catalog.bundles["second"]
        assert refused.state == "refused"
        assert str(refused.reason).startswith(f"on {NAMES[1]}: ")
        assert server.classify(content=picture(1)).status_code == 200


def test_bundle_that_fails_on_every_device_is_refused(tmp_path: Path) -> None:
    """Then it is the bundle: no device is left out, and the next one proves itself on both."""
    for name in ("first", "second"):
        write_tiny_bundle(tmp_path, name)

    def open_one(graph: Path, name: str, threads: int) -> Session:
        return Broken(name) if "first" in graph.parts else OnGpu(name)

    with serving(tmp_path, open_one, device=",".join(NAMES)) as server:
        states = {name: one.state for name, one in server.engine.catalog.bundles.items()}
        assert states == {"first": "refused", "second": "ready"}
        assert len(server.engine.devices) == 2


def test_without_any_device_nothing_can_be_served(tmp_path: Path) -> None:
    """What was asked for is not there: no other device takes its place."""
    write_tiny_bundle(tmp_path)

    def open_none(graph: Path, name: str, threads: int) -> Session:
        raise DeviceError(f"--device {name}: the GPU cannot be used")

    with serving(tmp_path, open_none, ready=False, device=",".join(NAMES)) as server:
        wait_until(lambda: server.engine.failure is not None, "the failure to be known")
        assert isinstance(server.engine.failure, DeviceError)


class Idle:
    """Costs nothing and says nothing."""

    device = "cpu"

    def run(self, pixels: np.ndarray, stop: object = None) -> np.ndarray:
        return np.zeros((len(pixels), 2), np.float32)


def test_an_item_goes_where_it_is_done_soonest() -> None:
    """A device that is three times as fast gets its work until as much waits there."""

    async def story() -> None:
        with ThreadPoolExecutor(2) as executor:
            stations = [DeviceStation(executor, 4) for _ in range(2)]
            devices = Devices([Device(str(n), one) for n, one in enumerate(stations)])
            for station, seconds in zip(stations, (0.3, 0.1), strict=True):
                costs = RunCosts()
                costs.learn(1, seconds)
                station.add_queue("q", Idle(), "image", costs)
            assert devices.row_seconds("q") == pytest.approx(0.2)
            pixels = np.zeros((1, 3, 5, 3), np.uint8)  # [views, height, width, channels]
            tasks = [asyncio.ensure_future(devices.submit("q", pixels)) for _ in range(4)]
            await asyncio.sleep(0)  # they queue before the first of them is run
            depths = [one.depth for one in stations]
            assert (sum(depths), depths[1]) == (4, 3)
            await asyncio.gather(*tasks)

    asyncio.run(story())


def test_a_device_that_is_behind_keeps_no_worker_from_decoding_for_another() -> None:
    """What stands before a newcomer is what waits where it would go."""

    async def story() -> None:
        with ThreadPoolExecutor(2) as executor:
            stations = [DeviceStation(executor, 4) for _ in range(2)]
            devices = Devices([Device(str(n), one) for n, one in enumerate(stations)])
            for station in stations:
                costs = RunCosts()
                costs.learn(1, 0.1)
                station.add_queue("q", Idle(), "image", costs)
            pixels = np.zeros((3, 3, 5, 3), np.uint8)  # [views, height, width, channels]
            tasks = [
                asyncio.ensure_future(station.submit("q", pixels[:rows]))
                for station, rows in zip(stations, (3, 1), strict=True)
            ]
            await asyncio.sleep(0)  # they queue before the first of them is run
            assert stations[0].ahead("image") == pytest.approx(0.3)
            assert devices.ahead("image") == pytest.approx(0.1)
            await asyncio.gather(*tasks)

    asyncio.run(story())


@pytest.mark.parametrize(
    "device",
    ["gpu", "cuda:", "cuda:0,cuda:0", "cuda,cuda:1", "auto,cpu", "cpu:0,cuda:0", "cpu:", ""],
)
def test_other_words_for_devices_are_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(SettingsError, match="expected auto, cpu, cuda, or cuda:N"):
        make_settings(bundles=tmp_path, device=device)
