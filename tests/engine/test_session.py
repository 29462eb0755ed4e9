"""Devices are named honestly: auto takes a GPU that works, cuda never becomes the CPU."""

from __future__ import annotations

from pathlib import Path
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
    Device,
    DeviceError,
    check_device,
    open_session,
    session_options,
)
from tests.helpers.service_fixtures import picture, tiny_logits, write_tiny_bundle


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

    def get_available_providers(self) -> list[str]:
        return self.offered

    def InferenceSession(  # noqa: N802 (the runtime's own name)
        self, graph: Path, options: ort.SessionOptions, providers: list[Any]
    ) -> FakeRuntime:
        self.asked.append(providers)
        if self.fails and providers != [CPU]:
            raise RuntimeError("CUDA failure 35")
        if self.broken:
            raise ValueError("no graph")
        return self

    def get_providers(self) -> list[str]:
        return self.got if self.asked[-1] != [CPU] else [CPU]

    SessionOptions = ort.SessionOptions


def use(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime) -> FakeRuntime:
    monkeypatch.setattr(module, "ort", runtime)
    return runtime


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
    """With a working GPU, auto and cuda both land there, without TF32."""
    runtime = use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    devices: tuple[Device, ...] = ("auto", "cuda")
    for device in devices:
        assert open_session(graph, device, 1).device == "cuda"
        assert runtime.asked[-1] == [(CUDA, {"use_tf32": "0"}), CPU]


def test_silent_fallback_is_seen(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that only got the CPU is cpu under auto and an error under cuda."""
    use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU]))
    assert open_session(graph, "auto", 1).device == "cpu"
    with pytest.raises(DeviceError, match="fell back"):
        open_session(graph, "cuda", 1)


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
    graph: Path, monkeypatch: pytest.MonkeyPatch, device: Device
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


def test_threads_do_not_spin() -> None:
    """Waiting threads leave the cores to the decode workers and the event loop."""
    options = session_options(3)
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
