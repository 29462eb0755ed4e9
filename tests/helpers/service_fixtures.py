"""Tiny bundles of every modality, media for them, and a real server for the tests of the service.

The bundles are made without onnx and torch: ``tiny_graph`` writes the graphs (Cast, divide by 255,
Reshape, MatMul), which read their weights from ``graphs/weights.bin``, made here from a seed.
"""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from media import read
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from models.bundle import write_bundle
from models.manifest import Accuracy, AttentionGraph, Golden, GridEntry, Parity, Tolerance
from models.spec import EncodingSpec
from service.engine.device.session import Stop
from service.http.app import create_app
from service.http.server import make_config
from service.settings import Settings
from tests.helpers.forks import run_forked
from tests.helpers.tiny_graph import tiny_graph

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
#: Of commands under test: the settings of whoever runs the tests are not theirs.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIERE_")}
#: Nor do they measure lanes and start a worker for every CPU, each for itself.
CLEAN |= {"LIERE_LANES": "1", "LIERE_THREADS": "1", "LIERE_DECODE_WORKERS": "1"}

LABELS = ("ant", "bee", "cow", "dog", "eel")


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Input of a tiny network: no two sides are equal, and every grid has 288 values, so that all
    of them can share their weights.
    """

    input: InputSpec
    patch: tuple[int, ...]
    grids: tuple[str, str]


TINY = {
    "image": Tiny(InputSpec(), (4, 4), ("2x3", "3x2")),
    "video": Tiny(InputSpec("video", video=VideoSpec(views=2)), (1, 2, 3), ("4x1x4", "16x1x1")),
    "volume": Tiny(
        InputSpec("volume", 1, "float32", "stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()),
        (2, 2, 2),
        ("2x3x6", "3x4x3"),
    ),
}
PATCH, GRIDS = TINY["image"].patch, TINY["image"].grids


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


def clip(seed: int = 0, frames: int = 10, size: tuple[int, int] = (23, 17)) -> bytes:
    """A GIF of ``frames`` pictures, 0.1 s each; ``size`` is (width, height)."""
    images = [Image.open(io.BytesIO(picture(seed * 100 + n, size))) for n in range(frames)]
    encoded = io.BytesIO()
    images[0].save(encoded, "GIF", save_all=True, append_images=images[1:], duration=100)
    return encoded.getvalue()


def scan(seed: int = 0, size: tuple[int, int, int] = (9, 11, 14)) -> bytes:
    """A NumPy file of int16 voxels; ``size`` is (depth, height, width)."""
    voxels = np.random.default_rng(seed).integers(-900, 2000, size, dtype=np.int16)
    encoded = io.BytesIO()
    np.save(encoded, voxels)
    return encoded.getvalue()


MEDIA: dict[str, Callable[..., bytes]] = {"image": picture, "video": clip, "volume": scan}
ENDINGS = {"image": ".png", "video": ".gif", "volume": ".npy"}


def weights() -> np.ndarray:
    """float32 ``[288, 5]``: the only layer of the tiny network."""
    return np.random.default_rng(7).normal(0, 0.2, (288, len(LABELS))).astype("<f4")


def tiny_logits(
    media: bytes, grid: str, modality: str = "image", views: int | None = None
) -> np.ndarray:
    """What the tiny bundle must answer, float64 ``[5]``."""
    return tiny_embedding(media, grid, modality, views) @ weights().astype(np.float64)


def tiny_embedding(
    media: bytes, grid: str, modality: str = "image", views: int | None = None
) -> np.ndarray:
    """What enters the only layer of the tiny network, float64 ``[288]``."""
    tiny = TINY[modality]
    pixels = read(media, tiny.input, Grid.parse(grid), tiny.patch, views).pixels
    return (pixels.reshape(len(pixels), -1) / 255.0).mean(axis=0)


def tiny_towards(grid: str) -> np.ndarray:
    """float32 ``[288, patches]``: what the tiny network's attention goes by."""
    patches = Grid.parse(grid).tokens
    return np.random.default_rng(8).normal(0, 0.3, (288, patches)).astype("<f4")


def tiny_rollout(media: bytes, grid: str, modality: str = "image") -> np.ndarray:
    """Where the tiny network says that it looked, float64 ``[views, patches]``."""
    tiny = TINY[modality]
    pixels = read(media, tiny.input, Grid.parse(grid), tiny.patch).pixels
    scores = pixels.reshape(len(pixels), -1) / 255.0 @ tiny_towards(grid).astype(np.float64)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def write_tiny_bundle(
    root: Path,
    name: str = "tiny",
    modality: str = "image",
    embeds: bool = False,
    headless: bool = False,
    looks: bool = False,
    **changes: Any,
) -> Path:
    """A bundle of the tiny network in ``root / name``; ``changes`` replace manifest fields.

    ``embeds``: its graphs have their values, [288], as a second output; see ``tiny_embedding``.
    ``headless``: it has no labels, and what are logits of others are its features.
    ``looks``: it has graphs that tell attention too; see ``tiny_rollout``.
    """
    measured = None if headless else Accuracy("test", 3, 0.5, "")
    exact = Parity(3, 0.0, 0.0, 3)
    tiny = TINY[modality]
    golden = {f"golden/{seed}{ENDINGS[modality]}": MEDIA[modality](seed) for seed in range(3)}

    def fill(folder: Path) -> dict[str, Any]:
        (folder / "graphs").mkdir()
        (folder / "golden").mkdir()
        for grid in tiny.grids:
            shape = (*Grid.parse(grid).pixels(tiny.patch), tiny.input.channels)
            graph = tiny_graph(
                shape, len(LABELS), tiny.input.dtype, embeds, "embedding" if headless else "logits"
            )
            (folder / f"graphs/{grid}.onnx").write_bytes(graph)
            if looks:
                graph = tiny_graph(
                    shape, len(LABELS), tiny.input.dtype, True, towards=tiny_towards(grid)
                )
                (folder / f"graphs/{grid}-attention.onnx").write_bytes(graph)
        (folder / "graphs/weights.bin").write_bytes(weights().tobytes())
        for path, media in golden.items():
            (folder / path).write_bytes(media)
        (folder / "README.md").write_text("A tiny network with random weights.\n")
        return manifest | changes

    manifest: dict[str, Any] = {
        "name": name,
        "version": "1",
        "modality": modality,
        "input": tiny.input,
        "patch": tiny.patch,
        "encoding": EncodingSpec(),
        "labels": () if headless else LABELS,
        "precision": "fp32",
        "opset": 18,
        "grids": tuple(
            GridEntry(
                grid, f"graphs/{grid}.onnx", exact, measured,
                attention=AttentionGraph(f"graphs/{grid}-attention.onnx", exact, exact)
                if looks else None,
            )
            for grid in tiny.grids
        ),
        "goldens": tuple(
            Golden(
                path,
                {grid: tuple(tiny_logits(media, grid, modality).tolist()) for grid in tiny.grids},
            )
            for path, media in golden.items()
        ),
        "tolerances": (
            Tolerance("cpu", "fp32", 1e-4, 1e-4),
            Tolerance("cuda", "fp32", 1e-3, 1e-3),
        ),
        "source": {"checkpoint": "none"},
    }
    return write_bundle(root / name, fill).root


def write_tiny_versions(root: Path, name: str, *versions: str, **changes: Any) -> Path:
    """``root / name`` with a tiny bundle for each version."""
    home, made = root / name, root / ".made"
    home.mkdir(parents=True)
    for version in versions:
        write_tiny_bundle(made, name, version=version, **changes).rename(home / version)
    made.rmdir()
    return home


class RunningServer:
    """An application behind a real socket, in a thread of this process."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.engine = app.state.engine
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ending = 0  # requests whose answers are out and that are not over
        self._server = self.make_server()
        config = self._server.config
        config.app, config.interface = self._watched, "asgi3"  # uvicorn cannot tell of a method
        self._thread = threading.Thread(target=self._server.run, args=([self.socket],))

    def make_server(self) -> uvicorn.Server:
        return uvicorn.Server(make_config(self.engine.settings, self.app))

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started, "the server to start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        # Nothing is encrypted here, and loading the certificates takes longer than most requests.
        return httpx.request(method, self.url + path, timeout=30, verify=False, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def classify(self, path: str = "/v1/classify/image", **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, and how many of its requests were answered and are not over."""
        answered, due = False, -1

        async def told(message: Message) -> None:
            nonlocal answered, due
            if message["type"] == "http.response.start":
                due = int(dict(message["headers"]).get(b"content-length", -1))
            elif message["type"] == "http.response.body":
                due -= len(message.get("body", b""))
                # A refusal is whole before its last message: the rest of its body is read first.
                if not answered and (due == 0 or not message.get("more_body")):
                    answered = True
                    self._ending += 1
            await send(message)

        try:
            await self.app(scope, receive, told)
        finally:
            self._ending -= answered

    def settle(self) -> None:
        """Wait for what answered requests leave behind: they are counted and told of after that."""
        wait_until(lambda: not self._ending, "answered requests to be over")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, whatever others they have; 0 if of none."""
        self.settle()
        families = self.engine.metrics.registry.collect()
        return sum(
            one.value
            for family in families
            for one in family.samples
            if one.name == name and labels.items() <= one.labels.items()
        )


@contextmanager
def serving(
    bundles: Path, opener: Any = None, ready: bool = True, **settings: Any
) -> Iterator[RunningServer]:
    """A server on a free port; with ``ready``, only once its bundles were examined."""
    modest = {"decode_workers": 1, "lanes": 1, "threads": 1}
    chosen = Settings(bundles=bundles, **(modest | settings))
    app = create_app(chosen) if opener is None else create_app(chosen, opener)
    server = RunningServer(app)
    server.start()
    try:
        if ready:
            wait_until(lambda: server.engine.catalog.examined, "the bundles to be examined")
        yield server
    finally:
        server.stop()


def wait_until(condition: Any, what: str, seconds: float = 20.0) -> None:
    """Poll until ``condition()`` holds; AssertionError names what did not happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def access_lines(caplog: pytest.LogCaptureFixture, *ids: str) -> list[dict[str, Any]]:
    """What the access log says of the requests with these ids, in their order.

    A line is written a moment after its answer, so one of an earlier test may come late: lines
    are waited for, and found by the id that the answer told.
    """

    def lines() -> dict[str, dict[str, Any]]:
        records = [vars(one) for one in caplog.records if one.name == "service.access"]
        return {one["fields"]["id"]: one["fields"] for one in records}

    wait_until(lambda: lines().keys() >= set(ids), "the lines of the access log")
    found = lines()
    return [found[one] for one in ids]


class TinySession:
    """The tiny network in numpy, with a gate to hold it and a list of what it ran.

    A picture whose first pixel is pure red (255, 0, 0) makes it fail; see ``poison``.
    """

    device = "cpu"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
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
        return read_answer(self.socket.makefile("rb"))

    def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Everything until the server closes the connection."""
        stream, answers = io.BytesIO(self.socket.makefile("rb").read()), []
        while stream.tell() < len(stream.getbuffer()):
            answers.append(read_answer(stream))
        return answers

    def closed(self) -> bool:
        """Whether the server closes the connection, soon."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def read_answer(stream: IO[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of one answer with a Content-Length."""
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, stream.read(int(headers.get("content-length", 0)))


# --- commands --------------------------------------------------------------------------------


def command(*arguments: str | Path) -> list[str]:
    """``python -m service`` with arguments, for ``subprocess``; run it in ``ROOT``."""
    return [sys.executable, "-m", "service", *map(str, arguments)]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, in a process that has imported the service before."""
    return run_forked("service", [str(one) for one in arguments], CLEAN | environment, 60)


@contextmanager
def running(
    bundles: Path,
    *arguments: str,
    stderr: IO[str] | None = None,
    under: Sequence[str] = (),
    **environment: str,
) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """A ready server: the process, its port, and the two lines that it printed.

    ``under``: a command that runs it, and ends it when it is killed itself.
    """
    arguments = ("--bundles", str(bundles), "--port", "0", "--decode-workers", "1", *arguments)
    with subprocess.Popen(
        [*under, *command(*arguments)],
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
    """Of a process; none of one that has gone."""
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(one) for one in told.split()]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
