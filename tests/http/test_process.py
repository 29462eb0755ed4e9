"""``python -m service`` as a process: its command line, its start, its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import onnxruntime as ort
import pytest

from service.settings import Settings, SettingsError, read_settings
from tests.helpers.effort import alone
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    RawConnection,
    children,
    command,
    complaint,
    is_alive,
    picture,
    run,
    running,
    serving,
    wait_until,
)

pytestmark = alone


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
import service.cli.serve as command

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
        (["--log-format", "xml"], "log_format"),
        (["--upload-seconds", "30", "--deadline-seconds", "10"], "at most deadline_seconds"),
        (["--deadline-seconds", "10"], "upload_seconds: expected at most deadline_seconds"),
        (["clasify", "photo.jpg"], "'clasify'; known: bundles, classify, health, jobs, new-key"),
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
    assert done.returncode == 2
    assert "--default-bundle tinny: no such bundle; known: tiny" in done.stderr


def test_port_in_use_ends_with_a_sentence(bundles: Path) -> None:
    """A taken port is named before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--bundles", bundles, "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr


# --- python -m service health ----------------------------------------------------------------


def test_health_command_says_ready_only_when_it_is(bundles: Path) -> None:
    """0 while requests should be sent here, else 1 with the reason: drained, then gone."""
    with serving(bundles, key_sha256=("0" * 64,)) as server:
        done = run("health", "--port", str(server.port))
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
        server.engine.draining = True
        line = complaint(run("health", LIERE_PORT=str(server.port), LIERE_HOST="0.0.0.0"), 1)
        assert "not ready, status 503" in line
        assert "the server is shutting down" in line
    line = complaint(run("health", "--port", str(server.port)), 1)
    assert f"no answer from 127.0.0.1 port {server.port}" in line


def test_health_command_survives_what_is_no_server() -> None:
    """Something else on the port is not ready either, and its words cannot move the terminal."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        asking = command("health", "--port", port)
        with subprocess.Popen(
            asking, cwd=ROOT, env=CLEAN, stderr=subprocess.PIPE, text=True
        ) as process:
            with listener.accept()[0] as connection:
                connection.sendall(b"\x1b[2J what do you want?\r\n\r\n")
            assert process.stderr is not None
            told = process.stderr.read()
        assert process.returncode == 1
    assert "no answer" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("port", ["0", "65536", "http", ""])
def test_health_command_wants_a_port(port: str) -> None:
    """What is no port is a wrong command, from the flag and from the variable."""
    for done in (run("health", "--port", port), run("health", LIERE_PORT=port)):
        assert done.returncode == 2
        assert "expected a port from 1 to 65535" in done.stderr


def test_health_command_is_cheap() -> None:
    """It runs every few seconds in a container, so it loads nothing but the standard library."""
    code = (
        "import sys, service.__main__ as command\n"
        "command.main(['health', '--port', '1'])\n"
        "heavy = {'numpy', 'pydantic', 'onnxruntime', 'fastapi', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=CLEAN, check=False)
    assert done.returncode == 0


# --- settings --------------------------------------------------------------------------------


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


def test_help_of_every_command_says_how_to_use_it() -> None:
    """Each small command has a --help, by an interpreter of its own, and the server's names them
    all.
    """
    told = run("--help").stdout
    for name in ("bundles", "classify", "health", "new-key"):
        asked = command(name, "--help")
        done = subprocess.run(
            asked, cwd=ROOT, env=CLEAN, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert f"usage: python -m service {name}" in done.stdout
        assert name in told


def test_mistyped_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with our prefix that nobody reads is not ignored."""
    monkeypatch.setenv("LIERE_MAX_BACH", "7")
    with pytest.raises(SettingsError, match="LIERE_MAX_BACH"):
        read_settings([])
