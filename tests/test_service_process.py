"""``python -m service`` as a process: its command line, its start, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import onnxruntime as ort
import pytest

from service.settings import Settings, SettingsError, read_settings
from tests.service_fixtures import ROOT, RawConnection, picture, wait_until, write_tiny_bundle

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("LIERE_")}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny bundle."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root)
    return root


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "service", *map(str, arguments)]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
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
    bundles: Path, *arguments: str, stderr: IO[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """A ready server: the process, its port, and the two lines that it printed."""
    arguments = ("--bundles", str(bundles), "--port", "0", "--decode-workers", "1", *arguments)
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=CLEAN, stdout=subprocess.PIPE, stderr=stderr, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline(), process.stdout.readline()]
            port = int(lines[0].split("http://127.0.0.1:")[1].split()[0])
            yield process, port, lines
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_start_says_where_and_what_to_try(bundles: Path) -> None:
    """The printed curl line works when a real picture is put in."""
    with running(bundles) as (_, port, lines):
        assert lines[0].startswith("Serving 1 of 1 bundles on http://127.0.0.1:")
        url = lines[1].split()[-1]
        assert (
            lines[1] == f"Try: curl -F file=@photo.jpg http://127.0.0.1:{port}/v1/classify/image\n"
        )
        answer = httpx.post(url, files={"file": picture()})
        assert answer.status_code == 200
        assert "server" not in answer.headers


def test_access_log_has_a_line_per_request(bundles: Path, tmp_path: Path) -> None:
    """--access-log shows its lines at the default level of the others."""
    told = tmp_path / "stderr"
    with told.open("w") as stderr, running(bundles, "--access-log", stderr=stderr) as (_, port, _):
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        wait_until(lambda: '"GET /health/live HTTP/1.1" 200' in told.read_text(), "the line")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_lets_the_request_inside_finish(bundles: Path, name: str) -> None:
    """A request that is half sent when the signal comes is answered; then exit 0, no orphan."""
    media = picture()
    with running(bundles) as (process, port, _), RawConnection(port) as connection:
        workers = children(process.pid)
        assert workers
        connection.send_head(f"Content-Length: {len(media)}")
        connection.send(media[:20])
        time.sleep(0.2)
        process.send_signal(signal.Signals[name])
        wait_until(lambda: refuses_connections(port), "the server to stop accepting")
        connection.send(media[20:])
        status, headers, body = connection.answer()
        assert status == 200
        assert headers["connection"] == "close"
        assert json.loads(body)["results"][0]["bundle"] == "tiny"
        assert process.wait(10) == 0
        wait_until(lambda: not any(map(is_alive, workers)), "the workers to end")


EARLY_SIGNAL = """
import os, signal, sys
import service.__main__ as command

class Early(command.Server):
    def run(self, sockets):
        os.kill(os.getpid(), signal.SIGTERM)
        super().run(sockets)

command.Server = Early
sys.exit(command.main(sys.argv[1:]))
"""


def test_signal_before_the_server_listens_to_signals_ends_it(bundles: Path) -> None:
    """A SIGTERM that comes while the process starts is not lost."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY_SIGNAL, "--bundles", bundles, "--port", "0"],
        cwd=ROOT,
        env=CLEAN,
        timeout=30,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGTERM)


def test_signal_while_bundles_are_examined_ends_the_server(bundles: Path) -> None:
    """A server that is alive and not ready yet ends with exit 0 too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ("--bundles", bundles, "--port", str(port))
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=CLEAN) as process:
        try:
            wait_until(lambda: is_live(port), "the server to be alive")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


def is_live(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_stuck_request_does_not_outlast_the_grace_period(bundles: Path) -> None:
    """A body that never ends cannot keep the server from ending, and its sender is told."""
    with running(bundles, "--grace-seconds", "1") as server:
        process, port, _ = server
        with RawConnection(port) as connection:
            connection.send_head("Content-Length: 1000")
            connection.send("x")
            time.sleep(0.2)
            process.terminate()
            status, _, body = connection.answer()
            assert (status, json.loads(body)["type"]) == (503, "/problems/draining")
            assert process.wait(10) == 0


def test_workers_end_with_a_server_that_is_killed(bundles: Path) -> None:
    """SIGKILL to the server leaves no decode worker behind."""
    with running(bundles) as (process, _, _):
        workers = children(process.pid)
        process.kill()
        process.wait(5)
        wait_until(lambda: not any(map(is_alive, workers)), "the workers to end")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this runtime offers CUDA"
)
def test_explicit_cuda_fails_without_a_gpu(bundles: Path) -> None:
    """--device cuda ends non-zero with a sentence; it does not serve from the CPU."""
    done = run("--bundles", bundles, "--device", "cuda", "--port", "0")
    assert done.returncode == 2
    assert "--device cuda needs a GPU build" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundles", "/nowhere"], "there is no such folder"),
        (["--port", "99999"], "port"),
        (["--max-batch", "0"], "max_batch"),
        (["--prot", "1"], "--prot"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_wrong_command_ends_with_a_sentence(arguments: list[str], words: str) -> None:
    """A mistake of the operator is named, without a traceback, with exit status 2."""
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_without_a_bundle_ends_with_a_sentence(tmp_path: Path) -> None:
    """An empty bundles folder is an error at start."""
    done = run("--bundles", tmp_path)
    assert done.returncode == 2
    assert "there is no bundle in this folder" in done.stderr


def test_default_bundle_that_is_not_there_ends_the_server(bundles: Path) -> None:
    """A mistyped --default-bundle is told at start, with the names that there are."""
    done = run("--bundles", bundles, "--default-bundle", "tinny", "--port", "0")
    assert done.returncode == 1
    assert "--default-bundle tinny: no such bundle; known: tiny" in done.stderr


def test_port_in_use_ends_with_a_sentence(bundles: Path) -> None:
    """A taken port is named before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--bundles", bundles, "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches_every_setting() -> None:
    """--help lists each setting as a flag, with a description."""
    done = run("--help")
    assert done.returncode == 0
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in done.stdout
        assert field.description


def test_flags_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting comes from the flag, else from the variable, else from the table."""
    monkeypatch.setenv("LIERE_MAX_BATCH", "7")
    monkeypatch.setenv("LIERE_PORT", "9000")
    settings = read_settings(["--port", "9001"])
    assert (settings.max_batch, settings.port, settings.device) == (7, 9001, "auto")


def test_mistyped_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with our prefix that nobody reads is not ignored."""
    monkeypatch.setenv("LIERE_MAX_BACH", "7")
    with pytest.raises(SettingsError, match="LIERE_MAX_BACH"):
        read_settings([])
