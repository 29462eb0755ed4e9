"""Devices that are NUMA nodes: who computes there stays on its CPUs, and so does their pool."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from service.cpus import usable_cpus
from service.engine.device import nodes, session
from service.engine.device.nodes import NodeNotThere, cpus_near, lane_cpus, parse_cpus, stay_on
from service.engine.device.session import DeviceError, check_device, open_session
from tests.helpers.service_fixtures import (
    GRIDS,
    TinySession,
    complaint,
    picture,
    run,
    running,
    serving,
    wait_until,
    write_tiny_bundle,
)

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Tells of other nodes than this machine has: for each the list of its CPUs."""

    def tell(*lists: str, may_use: set[int] | None = None) -> None:
        for number, text in enumerate(lists):
            folder = tmp_path / f"sys/devices/system/node/node{number}"
            folder.mkdir(parents=True)
            (folder / "cpulist").write_text(text + "\n")
        monkeypatch.setattr(nodes, "ROOT", tmp_path)
        if may_use is not None:
            monkeypatch.setattr(os, "sched_getaffinity", lambda pid: may_use)

    return tell


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-2,8\n", {0, 1, 2, 8}), ("5", {5}), ("\n", set()), ("0-1,4-5", {0, 1, 4, 5})],
)
def test_lists_of_cpus_are_read_as_linux_writes_them(text: str, expected: set[int]) -> None:
    """Ranges with both ends, apart by commas; of a node without CPUs nothing."""
    assert parse_cpus(text) == expected


def test_node_has_its_cpus_that_this_process_may_use(machine: Machine) -> None:
    """Of two sockets with every second CPU; devices that are no node have none of their own."""
    machine("0-3,8-11", "4-7,12-15", may_use={2, 3, 4, 8})
    assert cpus_near("cpu:0") == {2, 3, 8}
    assert cpus_near("cpu:1") == {4}
    for device in ("cpu", "auto", "cuda:1"):
        assert cpus_near(device) is None


@pytest.mark.parametrize(
    ("usable", "expected"), [(16, (8, 8)), (8, (4, 4)), (3, (1, 1)), (1, (1, 1))]
)
def test_quota_of_a_container_is_shared_by_the_nodes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, usable: int, expected: tuple[int, int]
) -> None:
    """Each has its part of it, and at least one CPU."""
    machine("0-7", "8-15", may_use=set(range(16)))
    assert (lane_cpus("cpu:0", usable), lane_cpus("cpu:1", usable)) == expected
    assert lane_cpus("cpu", usable) == usable


def test_threads_of_a_node_count_the_cpus_of_the_process(machine: Machine) -> None:
    """Lanes are counted by a thread that stays on its node: that is no smaller machine."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("a machine with one CPU has no two nodes")
    machine(",".join(map(str, usable[:-1])), str(usable[-1]))
    count = len(usable)

    def counted() -> tuple[int, int, int]:
        return usable_cpus(), lane_cpus("cpu:0", count), lane_cpus("cpu:1", count)

    expected = counted()
    with ThreadPoolExecutor(1, initializer=stay_on, initargs=(usable[-1:],)) as executor:
        assert executor.submit(counted).result() == expected
    assert expected[1:] == (count - 1, 1)


def test_node_that_cannot_be_had_is_named(machine: Machine) -> None:
    """Unknown, of memory alone, or outside of what the process may use: before anything starts."""
    machine("0-3", "", "4-7", may_use={0, 1})
    for device, reason in (
        ("cpu:3", "there is no node 3; nodes of this machine: 0, 1, 2"),
        ("cpu:1", "this process may use no CPU of node 1"),
        ("cpu:0,cpu:2", "this process may use no CPU of node 2"),
    ):
        with pytest.raises(DeviceError, match=f"--device {device[-5:]}: {reason}"):
            check_device(device)
    check_device("cpu:0")


def test_machine_without_nodes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel, or a container, may tell of none."""
    monkeypatch.setattr(nodes, "ROOT", tmp_path)
    with pytest.raises(NodeNotThere, match="there is no node 0; nodes of this machine: none"):
        cpus_near("cpu:0")


def test_threads_of_the_runtime_stay_on_their_node(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the calling one are told so: the runtime's own setting, which counts from 1."""
    machine("0-1,4", "2-3", may_use={0, 1, 2, 3, 4})
    told: list[tuple[int, dict[str, str]]] = []

    class Options:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}
            self.intra_op_num_threads = self.inter_op_num_threads = self.log_severity_level = 0

        def add_session_config_entry(self, name: str, value: str) -> None:
            self.entries[name] = value

    class Opened:
        def __init__(self, graph: Path, options: Any, providers: Any) -> None:
            assert providers == [session.CPU]
            told.append((options.intra_op_num_threads, options.entries))

        def get_outputs(self) -> list[Any]:
            return []

        def get_providers(self) -> list[str]:
            return [session.CPU]

    monkeypatch.setattr(ort, "SessionOptions", Options)
    monkeypatch.setattr(ort, "InferenceSession", Opened)
    for device, threads in (("cpu:0", 3), ("cpu:1", 2), ("cpu:1", 1), ("cpu", 2)):
        assert open_session(tmp_path, device, threads).device == "cpu"
    found = [entries.get(session.AFFINITIES) for _, entries in told]
    assert found == ["1,2,5;1,2,5", "3,4", None, None]


def threads_allowed() -> set[str]:
    """The CPUs that threads of this process are held to, as Linux lists them."""
    allowed: set[str] = set()
    for status in Path("/proc/self/task").glob("*/status"):
        lines = status.read_text().splitlines()
        allowed.update(one.split()[1] for one in lines if one.startswith("Cpus_allowed_list"))
    return allowed


def test_session_of_a_node_runs_there(machine: Machine, tmp_path: Path) -> None:
    """A real session: its pool and who runs it are on the last CPU that may be used alone."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("a machine with one CPU has nothing to choose from")
    machine(",".join(map(str, usable[:-1])), str(usable[-1]))
    write_tiny_bundle(tmp_path, "tiny")
    (graph,) = (tmp_path / "tiny/graphs").glob(f"*{GRIDS[0]}*.onnx")
    near = cpus_near("cpu:1")
    assert near is not None
    before = threads_allowed()
    with ThreadPoolExecutor(1, initializer=stay_on, initargs=(near,)) as executor:
        opened = executor.submit(open_session, graph, "cpu:1", 3).result()
        added = threads_allowed() - before
        pixels = np.zeros((1, 8, 12, 3), np.uint8)
        assert executor.submit(opened.run, pixels).result().shape == (1, 5)
    assert added == {str(usable[-1])}
    assert os.sched_getaffinity(0) == set(usable)


def test_server_works_on_two_nodes(machine: Machine, tmp_path: Path) -> None:
    """Each has a station whose threads stay on it; both take items."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        pytest.skip("a machine with one CPU has no two nodes")
    own = {"cpu:0": set(usable[:1]), "cpu:1": set(usable[1:])}
    machine(*(",".join(map(str, sorted(one))) for one in own.values()))
    ran: dict[str, list[set[int]]] = {name: [] for name in own}

    class OnNode(TinySession):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def run(self, pixels: np.ndarray, stop: Any = None) -> np.ndarray:
            ran[self.name].append(set(os.sched_getaffinity(0)))
            return super().run(pixels, stop)

    opened: list[OnNode] = []

    def open_one(graph: Path, name: str, threads: int) -> OnNode:
        opened.append(OnNode(name))
        return opened[-1]

    write_tiny_bundle(tmp_path / "bundles")
    with serving(tmp_path / "bundles", open_one, device="cpu:0,cpu:1") as server:
        for one in ran.values():
            one.clear()
        for held in opened:
            held.gate.clear()
        with ThreadPoolExecutor(2) as clients:
            answers = [clients.submit(server.classify, content=picture(seed)) for seed in (1, 2)]
            wait_until(lambda: all(ran.values()), "an item on each node")
            for held in opened:
                held.gate.set()
            assert [one.result().status_code for one in answers] == [200, 200]
        assert server.metric("liere_device_lanes") == 2
    for name, cpus in own.items():
        assert all(one == cpus for one in ran[name])


def test_command_serves_from_a_node(tmp_path: Path) -> None:
    """With the runtime's own sessions, on the node that this machine has; others are refused."""
    if not Path("/sys/devices/system/node/node0/cpulist").exists():
        pytest.skip("this machine tells of no NUMA nodes")
    write_tiny_bundle(tmp_path)
    line = complaint(run("--bundles", tmp_path, "--port", "0", "--device", "cpu:0,cpu:77"), 2)
    assert "--device cpu:77: there is no node 77" in line
    with running(tmp_path, "--device", "cpu:0") as (_, port, _):
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/classify/image", content=picture(1))
        assert answer.status_code == 200
