"""A tiny bundle, pictures and a real server for the tests of the service.

The bundle is made without onnx and torch: its two graphs (Cast, divide by 255, Reshape, MatMul)
are stored below as bytes and read their weights from ``graphs/weights.bin``, which is made here
from a seed. The graphs came from this, run once for 8x12 and 12x8 pixels::

    n = height * width * 3
    weights = TensorProto(name="weights", data_type=FLOAT, dims=[n, 5], data_location=EXTERNAL)
    # external_data: location=weights.bin, offset=0, length=n * 5 * 4
    nodes = [make_node("Cast", ["pixels"], ["f"], to=FLOAT),
             make_node("Div", ["f", "scale"], ["s"]),
             make_node("Reshape", ["s", "shape"], ["flat"]),
             make_node("MatMul", ["flat", "weights"], ["logits"])]
    # pixels: uint8 ["batch", height, width, 3]; logits: float32 ["batch", 5]
    # scale: float32 255; shape: int64 [-1, n]; opset 18, IR version 9
"""

from __future__ import annotations

import base64
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from models.bundle import Accuracy, Golden, GridEntry, Parity, Tolerance, write_bundle
from models.inputs import prepare
from models.spec import EncodingSpec, Grid, InputSpec
from service.app import create_app
from service.protocol import OneWriteProtocol
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
#: Of commands under test: the settings of whoever runs the tests are not theirs.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIERE_")}

LABELS = ("ant", "bee", "cow", "dog", "eel")
PATCH = (4, 4)
#: Neither is square, and both have 288 values, so that they can share their weights.
GRIDS = ("2x3", "3x2")
GRAPHS = {
    "2x3": (
        "CAkSADqwAgocCgZwaXhlbHMSAWYiBENhc3QqCQoCdG8YAaABAgoSCgFmCgVzY2FsZRIBcyIDRGl2ChkKAXMKBXNo"
        "YXBlEgRmbGF0IgdSZXNoYXBlCh8KBGZsYXQKB3dlaWdodHMSBmxvZ2l0cyIGTWF0TXVsEgR0aW55KkgIoAIIBRAB"
        "Qgd3ZWlnaHRzahcKCGxvY2F0aW9uEgt3ZWlnaHRzLmJpbmoLCgZvZmZzZXQSATBqDgoGbGVuZ3RoEgQ1NzYwcAEq"
        "DxABIgQAAH9DQgVzY2FsZSoZCAIQBzoM////////////AaACQgVzaGFwZVolCgZwaXhlbHMSGwoZCAISFQoHEgVi"
        "YXRjaAoCCAgKAggMCgIIA2IdCgZsb2dpdHMSEwoRCAESDQoHEgViYXRjaAoCCAVCBAoAEBI="
    ),
    "3x2": (
        "CAkSADqwAgocCgZwaXhlbHMSAWYiBENhc3QqCQoCdG8YAaABAgoSCgFmCgVzY2FsZRIBcyIDRGl2ChkKAXMKBXNo"
        "YXBlEgRmbGF0IgdSZXNoYXBlCh8KBGZsYXQKB3dlaWdodHMSBmxvZ2l0cyIGTWF0TXVsEgR0aW55KkgIoAIIBRAB"
        "Qgd3ZWlnaHRzahcKCGxvY2F0aW9uEgt3ZWlnaHRzLmJpbmoLCgZvZmZzZXQSATBqDgoGbGVuZ3RoEgQ1NzYwcAEq"
        "DxABIgQAAH9DQgVzY2FsZSoZCAIQBzoM////////////AaACQgVzaGFwZVolCgZwaXhlbHMSGwoZCAISFQoHEgVi"
        "YXRjaAoCCAwKAggICgIIA2IdCgZsb2dpdHMSEwoRCAESDQoHEgViYXRjaAoCCAVCBAoAEBI="
    ),
}


def picture(seed: int = 0, size: tuple[int, int] = (31, 23), kind: str = "PNG") -> bytes:
    """A small encoded picture with smooth colours; ``size`` is (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    image.save(encoded, kind)
    return encoded.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises ``width`` x ``height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def weights() -> np.ndarray:
    """float32 ``[288, 5]``: the only layer of the tiny network."""
    return np.random.default_rng(7).normal(0, 0.2, (288, len(LABELS))).astype("<f4")


def tiny_logits(media: bytes, grid: str) -> np.ndarray:
    """What the tiny bundle must answer, float64 ``[5]``."""
    pixels = prepare(media, InputSpec(), Grid.parse(grid), PATCH)
    return pixels.reshape(-1) / 255.0 @ weights().astype(np.float64)


def write_tiny_bundle(root: Path, name: str = "tiny", **changes: Any) -> Path:
    """A bundle of the tiny network in ``root / name``; ``changes`` replace manifest fields."""
    pictures = {f"golden/{seed}.png": picture(seed) for seed in range(3)}

    def fill(folder: Path) -> dict[str, Any]:
        (folder / "graphs").mkdir()
        (folder / "golden").mkdir()
        for grid, graph in GRAPHS.items():
            (folder / f"graphs/{grid}.onnx").write_bytes(base64.b64decode(graph))
        (folder / "graphs/weights.bin").write_bytes(weights().tobytes())
        for path, media in pictures.items():
            (folder / path).write_bytes(media)
        (folder / "README.md").write_text("A tiny network with random weights.\n")
        return manifest | changes

    manifest: dict[str, Any] = {
        "name": name,
        "version": "1",
        "modality": "image",
        "input": InputSpec(),
        "patch": PATCH,
        "encoding": EncodingSpec(),
        "labels": LABELS,
        "precision": "fp32",
        "opset": 18,
        "grids": tuple(
            GridEntry(
                grid, f"graphs/{grid}.onnx", Parity(3, 0.0, 0.0, 3), Accuracy("test", 3, 0.5, "")
            )
            for grid in GRIDS
        ),
        "goldens": tuple(
            Golden(path, {grid: tuple(tiny_logits(media, grid).tolist()) for grid in GRIDS})
            for path, media in pictures.items()
        ),
        "tolerances": (
            Tolerance("cpu", "fp32", 1e-4, 1e-4),
            Tolerance("cuda", "fp32", 1e-3, 1e-3),
        ),
        "source": {"checkpoint": "none"},
    }
    return write_bundle(root / name, fill).root


class RunningServer:
    """An application behind a real socket, in a thread of this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.service = app.state.service
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, loop="uvloop", http=OneWriteProtocol, ws="none", log_config=None
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self.socket],))

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started, "the server to start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=30, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def classify(self, path: str = "/v1/classify/image", **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample, 0 if it was never seen."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def serving(
    bundles: Path, opener: Any = None, ready: bool = True, **settings: Any
) -> Iterator[RunningServer]:
    """A server on a free port; with ``ready``, only once its bundles were examined."""
    chosen = Settings(bundles=bundles, **{"decode_workers": 1, "threads": 1, **settings})
    app = create_app(chosen) if opener is None else create_app(chosen, opener)
    server = RunningServer(app)
    server.start()
    try:
        if ready:
            wait_until(lambda: server.service.registry.examined, "the bundles to be examined")
        yield server
    finally:
        server.stop()


def wait_until(condition: Any, what: str, seconds: float = 20.0) -> None:
    """Poll until ``condition()`` holds; AssertionError names what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.005)


class TinySession:
    """The tiny network in numpy, with a gate to hold it and a list of what it ran.

    A picture whose first pixel is pure red (255, 0, 0) makes it fail; see ``poison``.
    """

    device = "cpu"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def run(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        assert self.gate.wait(30)
        if (pixels[:, 0, 0] == (255, 0, 0)).all(axis=1).any():
            raise RuntimeError("poisoned at /some/path 0xdeadbeef")
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)  # [batch, 288]
        return flat / np.float32(255) @ weights()  # [batch, classes]


def poison() -> bytes:
    """A PNG that decodes well and that ``TinySession`` fails on."""
    encoded = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(encoded, "PNG")
    return encoded.getvalue()


class RawConnection:
    """A socket that says exactly what it is told."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: str | bytes) -> None:
        for part in parts:
            self.socket.sendall(part.encode() if isinstance(part, str) else part)

    def send_head(self, *headers: str, path: str = "/v1/classify/image") -> None:
        lines = (f"POST {path} HTTP/1.1", "Host: test", *headers, "", "")
        self.send("\r\n".join(lines))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body of one answer with a Content-Length."""
        stream = self.socket.makefile("rb")
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, stream.read(int(headers.get("content-length", 0)))

    def closed(self) -> bool:
        """Whether the server closes the connection, soon."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


# --- commands --------------------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    """``python -m service`` with arguments, for ``subprocess``; run it in ``ROOT``."""
    return [sys.executable, "-m", "service", *map(str, arguments)]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=CLEAN | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def running(
    bundles: Path, *arguments: str, stderr: IO[str] | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """A ready server: the process, its port, and the two lines that it printed."""
    arguments = ("--bundles", str(bundles), "--port", "0", "--decode-workers", "1", *arguments)
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=CLEAN | environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline(), process.stdout.readline()]
            port = int(lines[0].split("http://127.0.0.1:")[1].split()[0])
            yield process, port, lines
        finally:
            process.kill()


def complaint(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line on stderr of a command that could not be carried out."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
