"""The engine, in one page: pixels in, logits out, on a device that it names honestly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
#: TF32 keeps 10 bits of mantissa; an fp32 graph would not reproduce its goldens.
PROVIDERS: dict[str, list[Any]] = {"cpu": [CPU], "cuda": [(CUDA, {"use_tf32": "0"}), CPU]}


class Session(Protocol):
    """One graph of one bundle, ready to run. Called from one thread at a time."""

    device: str  # "cpu" or "cuda"

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Of ``[batch, *pixels per axis, channels]`` the logits, float32 ``[batch, classes]``."""
        ...


#: (graph, device, threads) -> session; tests put another one in its place.
OpenSession = Callable[[Path, Device, int], Session]


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


class OrtSession:
    """A graph in ONNX Runtime."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.device = "cuda" if CUDA in session.get_providers() else "cpu"

    def run(self, pixels: np.ndarray) -> np.ndarray:
        (logits,) = self._session.run(["logits"], {"pixels": pixels})
        return logits


def check_device(device: Device) -> None:
    """Refuse ``cuda`` early where this ONNX Runtime cannot have it; DeviceError says why."""
    if device == "cuda" and CUDA not in ort.get_available_providers():
        raise DeviceError(
            "--device cuda needs a GPU build of ONNX Runtime; "
            f"this one offers {', '.join(ort.get_available_providers())}"
        )


def open_session(graph: Path, device: Device, threads: int) -> Session:
    """Open a graph on a device.

    Args:
        device: ``auto`` takes CUDA if a session really gets it, else the CPU.
        threads: of one run on the CPU.

    Raises:
        DeviceError: ``cuda`` was asked for and the session did not get it.
    """
    check_device(device)
    if device == "cpu" or CUDA not in ort.get_available_providers():
        return _open(graph, "cpu", threads)
    try:
        session = _open(graph, "cuda", threads)
    except Exception as error:
        on_cpu = _open(graph, "cpu", threads)  # a broken graph fails here too: no device's fault
        if device == "cuda":
            raise DeviceError("--device cuda: the GPU cannot be used") from error
        log.warning("CUDA is offered and fails (%s); using the CPU", type(error).__name__)
        return on_cpu
    if device == "cuda" and session.device != "cuda":  # the runtime falls back with a log line
        raise DeviceError("--device cuda: ONNX Runtime fell back to the CPU")
    return session


def _open(graph: Path, device: str, threads: int) -> OrtSession:
    return OrtSession(ort.InferenceSession(graph, session_options(threads), PROVIDERS[device]))


def session_options(threads: int) -> ort.SessionOptions:
    """Options of every session here; the benchmark opens its bare session with the same."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # Spinning threads would take the cores that the decode workers and the event loop need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
