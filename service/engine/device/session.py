"""The engine, in one page: pixels in, logits out, on a device that it names honestly."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
import onnxruntime as ort

from service.engine.device.nodes import NodeNotThere, cpus_near

log = logging.getLogger(__name__)

#: ``auto``, ``cpu``, ``cpu:N``, ``cuda`` or ``cuda:N``.
DeviceName = str
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
#: NVIDIA's own library: part of its driver, never of an environment or an image.
DRIVER = "libcuda.so.1"
#: Device nodes; and what the driver says of itself, also before anyone has used a GPU.
GPUS = ("dev/nvidia[0-9]*", "proc/driver/nvidia/gpus/*")
#: TF32 keeps 10 bits of mantissa; an fp32 graph would not reproduce its goldens.
CUDA_OPTIONS = {"use_tf32": "0"}
AFFINITIES = "session.intra_op_thread_affinities"
#: The second output of a graph, which older ones lack; the only one of a graph without a head.
EMBEDDING = "embedding"
#: The output that a plain graph does not have.
ATTENTION = "attention"


class Stop(Protocol):
    """Ends a run from another thread, within one operator, once ``terminate`` is true."""

    terminate: bool


class Session(Protocol):
    """One graph of one bundle, ready to run, from several threads at the same time."""

    device: str  # "cpu" or "cuda"

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        """Of ``[batch, *pixels per axis, channels]`` the logits, float32 ``[batch, classes]``.

        Of a graph without a head its features in their place.
        """
        ...


@runtime_checkable
class Embedder(Session, Protocol):
    """A session whose graph has a second output, the features before its head."""

    def embed(
        self, pixels: np.ndarray, stop: Stop | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``run``; also the features, float32 ``[batch, width]``."""
        ...


@runtime_checkable
class Looker(Embedder, Protocol):
    """A session whose graph also tells where attention looked, whatever is asked of it."""

    def look(
        self, pixels: np.ndarray, stop: Stop | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As ``embed``; also the rollout of attention, float32 ``[batch, patches]``."""
        ...


#: (graph, device, threads) -> session; tests put another one in its place.
OpenSession = Callable[[Path, DeviceName, int], Session]


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


class DeviceDied(RuntimeError):
    """The device answered and does so no more; a new process may get it back."""


class OrtSession:
    """A graph in ONNX Runtime."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.device = "cuda" if CUDA in session.get_providers() else "cpu"

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        (logits,) = self._session.run(["logits"], {"pixels": pixels}, stop)
        return logits


class OrtEmbedder(OrtSession):
    """The same of a graph that has an embedding; who does not ask for it pays nothing for it."""

    def embed(
        self, pixels: np.ndarray, stop: Stop | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        logits, embedding = self._session.run(["logits", EMBEDDING], {"pixels": pixels}, stop)
        return logits, embedding


class OrtLooker(OrtEmbedder):
    """The same of a graph that explains."""

    def look(
        self, pixels: np.ndarray, stop: Stop | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outputs = ["logits", EMBEDDING, ATTENTION]
        logits, embedding, attention = self._session.run(outputs, {"pixels": pixels}, stop)
        return logits, embedding, attention


class OrtFeatures(OrtSession):
    """The same of a graph without a head, whose features are all that it gives."""

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        (features,) = self._session.run([EMBEDDING], {"pixels": pixels}, stop)
        return features

    def embed(
        self, pixels: np.ndarray, stop: Stop | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        features = self.run(pixels, stop)
        return features, features


def make_stop() -> Stop:
    """What a run can be ended with; for one run."""
    return cast(Stop, ort.RunOptions())


def check_device(device: DeviceName) -> None:
    """Refuse early what cannot be had here: ``cuda``, or a node; DeviceError says why.

    Args:
        device: one name, or several apart by commas.
    """
    if device.startswith("cuda") and CUDA not in ort.get_available_providers():
        raise DeviceError(
            f"--device {device} needs a GPU build of ONNX Runtime; "
            f"this one offers {', '.join(ort.get_available_providers())}"
        )
    for name in device.split(","):
        try:
            cpus_near(name)
        except NodeNotThere as error:
            raise DeviceError(f"--device {name}: {error}") from None


def open_session(graph: Path, device: DeviceName, threads: int) -> Session:
    """Open a graph on a device.

    Args:
        device: ``auto`` takes CUDA if a session really gets it, else the CPU; where a GPU is there
            that is an error in the log.
        threads: of one run on the CPU.

    Raises:
        DeviceError: a GPU was asked for and the session did not get it.
    """
    check_device(device)
    if is_cpu(device):
        return _open(graph, device, threads)
    try:
        return _open_on_gpu(graph, device, threads)
    except DeviceError as error:
        on_cpu = _open(graph, "cpu", threads)  # a broken graph fails here too: no device's fault
        if device != "auto":
            raise DeviceError(f"--device {device}: {error}") from error
        if is_fallback(device, on_cpu):
            log.error(
                "there is a GPU, %s, and graphs run on the CPU: %s; --device cpu says that this is "
                "meant", find_gpu(), error, exc_info=error.__cause__,
            )  # fmt: skip
        else:
            log.debug("graphs run on the CPU: %s", error)
        return on_cpu


def is_cpu(device: DeviceName) -> bool:
    """Whether a device is named that is no GPU for certain."""
    return device.partition(":")[0] == "cpu"


def is_fallback(asked: DeviceName, session: Session) -> bool:
    """Whether a session that may be on the GPU of this machine is not."""
    return asked == "auto" and session.device == "cpu" and find_gpu() is not None


def find_gpu(root: Path = Path("/")) -> Path | None:
    """Where Linux shows the first NVIDIA GPU, whether or not it can be used; None without one."""
    return next((path for pattern in GPUS for path in sorted(root.glob(pattern))), None)


def load_cuda() -> None:
    """Load the CUDA libraries that pip has installed, where the runtime does not look by itself."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):  # it prints, and stdout is for answers
        ort.preload_dlls()
    for line in told.getvalue().splitlines():
        log.warning("%s", line)


def has_driver() -> bool:
    """Whether NVIDIA's driver is here; without it CUDA cannot even be loaded."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _open_on_gpu(graph: Path, device: DeviceName, threads: int) -> Session:
    """A session on a GPU; DeviceError says why there is none."""
    if CUDA not in ort.get_available_providers():
        raise DeviceError("this build of ONNX Runtime is for CPUs alone")
    if not has_driver():
        raise DeviceError(f"the driver's {DRIVER} cannot be loaded")
    load_cuda()
    try:
        session = _open(graph, device, threads)
    except Exception as error:
        raise DeviceError("the GPU cannot be used") from error
    if session.device != "cuda":  # the runtime falls back with a line on stderr
        raise DeviceError("ONNX Runtime fell back to the CPU")
    return session


def _open(graph: Path, device: DeviceName, threads: int) -> OrtSession:
    providers = [CPU] if is_cpu(device) else [(CUDA, cuda_options(device)), CPU]
    options = session_options(threads)
    if threads > 1 and (near := cpus_near(device)) is not None:
        # Of all threads but the one that calls, which is on these CPUs itself; counted from 1.
        one = ",".join(str(cpu + 1) for cpu in sorted(near))
        options.add_session_config_entry(AFFINITIES, ";".join([one] * (threads - 1)))
    session = ort.InferenceSession(graph, options, providers)
    outputs = [output.name for output in session.get_outputs()]
    if outputs == [EMBEDDING]:
        return OrtFeatures(session)
    if ATTENTION in outputs:
        return OrtLooker(session)
    return OrtEmbedder(session) if EMBEDDING in outputs else OrtSession(session)


def cuda_options(device: DeviceName) -> dict[str, str]:
    """Of the provider: which GPU, the first one where none is said, and full precision."""
    return CUDA_OPTIONS | {"device_id": device.partition(":")[2] or "0"}


def session_options(threads: int) -> ort.SessionOptions:
    """Options of every session here; the benchmark opens its bare session with the same."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # Spinning threads would take the cores that the decode workers and the event loop need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
