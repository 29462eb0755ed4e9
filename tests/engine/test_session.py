"""Devices are named honestly: auto takes a GPU that works, cuda never becomes the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from media import prepare
from media.spec import Grid, InputSpec
from service.engine.device import session as module
from service.engine.device.session import (
    CPU,
    CUDA,
    DeviceError,
    DeviceName,
    check_device,
    find_gpu,
    is_fallback,
    open_session,
    session_options,
)
from tests.helpers.service_fixtures import picture, serving, tiny_logits, write_tiny_bundle


class FakeRuntime:
    """Stands for onnxruntime: what it offers, and which provider a session really gets."""

    def __init__(
        self, offered: list[str], got: list[str], fails: bool = False, broken: bool = False
    ) -> None:
        self.offered = offered
        self.got = got
        self.fails = fails  # on CUDA
        self.broken = broken  # the graph, so everywhere
        self.asked: list[list[Any]] = []
        self.preloaded = False

    def get_available_providers(self) -> list[str]:
        return self.offered

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn.so.9")  # as the real one does
        self.preloaded = True

    def InferenceSession(  # noqa: N802 (the runtime's own name)
        self, graph: Path, options: ort.SessionOptions, providers: list[Any]
    ) -> FakeRuntime:
        assert self.preloaded or providers == [CPU]
        self.asked.append(providers)
        if self.fails and providers != [CPU]:
            raise RuntimeError("CUDA failure 35")
        if self.broken:
            raise ValueError("no graph")
        return self

    def get_providers(self) -> list[str]:
        return self.got if self.asked[-1] != [CPU] else [CPU]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="logits")]

    SessionOptions = ort.SessionOptions


def use(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime) -> FakeRuntime:
    monkeypatch.setattr(module, "ort", runtime)
    monkeypatch.setattr(module, "has_driver", lambda: True)
    return runtime


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """These machines show no GPU, unless a test says so."""
    see_gpu(monkeypatch, tmp_path)


def see_gpu(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Whoever looks for a GPU sees what is below ``root``."""
    monkeypatch.setattr(module, "find_gpu", lambda: find_gpu(root))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The device node of one that is there."""
    node = tmp_path / "dev/nvidia0"
    node.parent.mkdir()
    node.touch()
    return node


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real graph for 8x12 pixels."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles")) / "graphs/2x3.onnx"


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this runtime offers CUDA")
def test_cuda_without_a_gpu_build_is_refused(graph: Path) -> None:
    """An explicit cuda fails at once where the runtime has none, and says what there is."""
    with pytest.raises(DeviceError, match=CPU):
        check_device("cuda")
    with pytest.raises(DeviceError):
        open_session(graph, "cuda", 1)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_graph_runs_and_agrees_with_numpy(graph: Path, device: Any) -> None:
    """A real session gives the logits of the formula, on either choice of device."""
    media = [picture(1), picture(2)]
    pixels = np.stack([prepare(one, InputSpec(), Grid((2, 3)), (4, 4)) for one in media])
    session = open_session(graph, device, 1)
    assert session.device == "cpu" or device == "auto"
    expected = np.stack([tiny_logits(one, "2x3") for one in media])
    assert np.allclose(session.run(pixels), expected, atol=1e-3)


def test_auto_takes_cuda_when_the_session_gets_it(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a working GPU, auto and cuda both land on the first one, without TF32."""
    runtime = use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    for device, number in (("auto", "0"), ("cuda", "0"), ("cuda:0", "0"), ("cuda:3", "3")):
        assert open_session(graph, device, 1).device == "cuda"
        options = {"use_tf32": "0", "device_id": number}
        assert runtime.asked[-1] == [(CUDA, options), CPU]


def test_silent_fallback_is_seen(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that only got the CPU is cpu under auto and an error under cuda."""
    use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU]))
    assert open_session(graph, "auto", 1).device == "cpu"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceError, match=f"--device {device}: .*fell back"):
            open_session(graph, device, 1)


def test_gpu_that_fails_is_an_error_only_for_cuda(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the provider itself fails, auto goes on with the CPU and cuda does not."""
    use(monkeypatch, FakeRuntime([CUDA, CPU], [], fails=True))
    assert open_session(graph, "auto", 1).device == "cpu"
    with pytest.raises(DeviceError, match="cannot be used"):
        open_session(graph, "cuda", 1)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_broken_graph_is_not_the_devices_fault(
    graph: Path, monkeypatch: pytest.MonkeyPatch, device: DeviceName
) -> None:
    """A graph that opens nowhere raises its own error, also where a GPU is insisted on."""
    use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU], broken=True))
    with pytest.raises(ValueError, match="no graph"):
        open_session(graph, device, 1)


def test_cpu_never_asks_for_a_gpu(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--device cpu leaves a GPU alone even where there is one."""
    runtime = use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    assert open_session(graph, "cpu", 1).device == "cpu"
    assert runtime.asked == [[CPU]]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ((), None),
        (("dev/nvidiactl", "dev/nvidia-uvm"), None),  # the driver's own, there without a GPU too
        (("dev/nvidia1", "dev/nvidia0", "dev/nvidiactl"), "dev/nvidia0"),
        (
            ("proc/driver/nvidia/gpus/0000:01:00.0/information",),
            "proc/driver/nvidia/gpus/0000:01:00.0",
        ),
        (("proc/driver/nvidia/version",), None),
    ],
)
def test_gpu_is_found_without_any_library(
    tmp_path: Path, paths: tuple[str, ...], expected: str | None
) -> None:
    """Device nodes and the driver's own list tell, also where nothing can use it."""
    for name in paths:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_gpu(tmp_path) == (tmp_path / expected if expected else None)


@pytest.mark.parametrize(
    ("runtime", "driver", "reason"),
    [
        (FakeRuntime([CPU], [CPU]), True, "this build of ONNX Runtime is for CPUs alone"),
        (FakeRuntime([CUDA, CPU], [CUDA]), False, "the driver's libcuda.so.1 cannot be loaded"),
        (FakeRuntime([CUDA, CPU], [CPU]), True, "ONNX Runtime fell back to the CPU"),
        (FakeRuntime([CUDA, CPU], [], fails=True), True, "the GPU cannot be used"),
    ],
)
def test_gpu_that_auto_cannot_use_is_an_error_in_the_log(
    graph: Path,
    gpu: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    runtime: FakeRuntime,
    driver: bool,
    reason: str,
) -> None:
    """Whoever paid for a GPU hears that nothing runs on it, and why; who has none hears nothing."""
    use(monkeypatch, runtime)
    monkeypatch.setattr(module, "has_driver", lambda: driver)
    session = open_session(graph, "auto", 1)
    assert is_fallback("auto", session)
    assert not is_fallback("cpu", session)
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert f"there is a GPU, {gpu}, and graphs run on the CPU: {reason}" in record.getMessage()
    caplog.clear()
    gpu.unlink()
    assert not is_fallback("auto", open_session(graph, "auto", 1))
    assert all(one.levelno < logging.ERROR for one in caplog.records)


def test_libraries_are_loaded_before_cuda_and_alone_for_it(
    graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the runtime prints meanwhile goes to the log: stdout is for answers."""
    for device, preloaded in (("cpu", False), ("auto", True), ("cuda", True)):
        runtime = use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
        open_session(graph, device, 1)
        assert runtime.preloaded == preloaded
    cpu_build = use(monkeypatch, FakeRuntime([CPU], [CPU]))
    open_session(graph, "auto", 1)
    assert not cpu_build.preloaded
    assert capsys.readouterr().out == ""
    assert "Failed to load libcudnn.so.9" in caplog.text


@pytest.mark.parametrize("here", [True, False])
def test_metric_tells_the_fallback(
    tmp_path: Path, gpu: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """1 where a GPU is there that auto could not take, else 0."""
    if not here:
        gpu.unlink()
    write_tiny_bundle(tmp_path / "bundles")
    with serving(tmp_path / "bundles") as server:
        assert f"liere_device_fallback {float(here)}" in server.get("/metrics").text
    with serving(tmp_path / "bundles", device="cpu") as server:
        assert "liere_device_fallback 0.0" in server.get("/metrics").text


def test_threads_do_not_spin() -> None:
    """Waiting threads leave the cores to the decode workers and the event loop."""
    options = session_options(3)
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
