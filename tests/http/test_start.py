"""A server that waits at start: what is not there yet is tried again, what is wrong is not."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import logs
from service.cli import serve
from service.cli.exit_status import end_at_once
from service.engine.device.session import DeviceError
from service.engine.engine import Engine
from tests.helpers.service_fixtures import CLEAN, ROOT, command, run, wait_until, write_tiny_bundle

SMALL = ("--decode-workers", "1", "--threads", "1", "--log-format", "json")


@contextmanager
def waiting(log: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server with --retry-start whose first attempt has failed; its lines are in ``log``."""
    words = command("--retry-start", *SMALL, *arguments)
    with (
        log.open("wb") as stderr,
        subprocess.Popen(words, cwd=ROOT, env=CLEAN, stderr=stderr) as process,
    ):
        try:
            wait_until(lambda: any("again" in line for line in messages(log)), "an attempt")
            yield process
        finally:
            process.kill()


def messages(log: Path) -> list[str]:
    """Of the lines that are complete."""
    whole, _, _ = log.read_text().rpartition("\n")
    return [json.loads(line)["message"] for line in whole.splitlines()]


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found: int = listener.getsockname()[1]
    return found


def test_bundles_that_come_later_are_served(tmp_path: Path, port: int) -> None:
    """A volume that is mounted after the server started is waited for, and each attempt is told."""
    bundles = tmp_path / "bundles"
    with waiting(tmp_path / "log", "--bundles", bundles, "--port", str(port)) as process:
        write_tiny_bundle(bundles)
        wait_until(lambda: is_ready(port), "the server to be ready")
        process.terminate()
        assert process.wait(10) == 0
    first = messages(tmp_path / "log")[0]
    assert first == (f"--bundles {bundles}: there is no such folder; trying again in 1 seconds")


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("bundles", "there is no bundle in this folder; trying"),
        ("bundles/stray", "--default-bundle late: no such bundle; known: none; trying"),
    ],
)
def test_default_bundle_may_come_with_the_bundles(
    tmp_path: Path, port: int, folder: str, words: str
) -> None:
    """While there is no bundle at all, nobody knows whether the one that is named is wrong."""
    (tmp_path / folder).mkdir(parents=True)
    bundles = tmp_path / "bundles"
    arguments = ("--bundles", bundles, "--port", str(port), "--default-bundle", "late")
    with waiting(tmp_path / "log", *arguments):
        write_tiny_bundle(bundles, "late")
        wait_until(lambda: is_ready(port), "the server to be ready")
    assert words in messages(tmp_path / "log")[0]


def test_port_that_is_taken_is_waited_for(tmp_path: Path, port: int) -> None:
    """The server before this one may need a moment to leave."""
    write_tiny_bundle(tmp_path / "bundles")
    with socket.create_server(("127.0.0.1", port)) as taken:
        arguments = ("--bundles", tmp_path / "bundles", "--port", str(port))
        with waiting(tmp_path / "log", *arguments) as process:
            taken.close()
            wait_until(lambda: is_ready(port), "the server to be ready")
            process.terminate()
            assert process.wait(10) == 0
    assert f"cannot listen on 127.0.0.1 port {port}" in messages(tmp_path / "log")[0]


def test_keys_that_come_later_are_asked_for(tmp_path: Path, port: int) -> None:
    """While their file is missing nobody is served, with or without one; then keys are needed."""
    write_tiny_bundle(tmp_path / "bundles")
    keys = tmp_path / "keys.txt"
    arguments = ("--bundles", tmp_path / "bundles", "--port", str(port), "--keys-file", keys)
    with waiting(tmp_path / "log", *arguments):
        keys.write_text(hashlib.sha256(b"secret").hexdigest() + "\n")
        wait_until(lambda: is_ready(port), "the server to be ready")
        assert httpx.get(f"http://127.0.0.1:{port}/v1/bundles").status_code == 401
    first = messages(tmp_path / "log")[0]
    assert first.startswith(f"keys_file {keys}: it cannot be read: No such file or directory;")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_wait_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing is under way: who stops a container that waits does not wait with it. SIGHUP, which
    asks for keys to be read again that were not read yet, ends nothing.
    """
    with waiting(tmp_path / "log", "--bundles", tmp_path / "nowhere") as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(5) == 128 + number


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-batch", "0"], "max_batch"),
        (["--host", "0.0.0.0"], "there are no keys"),
        (["--key-sha256", "none"], "expected a SHA-256"),
        (["--default-bundle", "tyni"], "--default-bundle tyni: no such bundle; known: tiny"),
        (["--default-bundle", "tiny,tiny"], "2 are for modality image"),
    ],
)
def test_wrong_setting_is_not_tried_again(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Time does not mend it: the server ends and says what is wrong."""
    write_tiny_bundle(tmp_path)
    done = run("--retry-start", "--bundles", tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1  # nothing was loaded, nothing is tried again


class Enough(Exception):
    """The test has seen what it wanted."""


def test_device_that_is_not_there_is_tried_again_with_growing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU that fails when the bundles are opened counts too; the waits double, to a minute."""
    write_tiny_bundle(tmp_path)
    waits: list[float] = []

    async def start(*_: object) -> None:
        raise DeviceError("--device cuda: the GPU cannot be used")

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise Enough

    monkeypatch.setattr(logs, "configure", lambda settings: None)  # for the whole process
    monkeypatch.setattr(Engine, "start", start)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(signal, "signal", keep_handlers(signal.signal))
    with pytest.raises(Enough):
        serve.main(["--retry-start", "--bundles", str(tmp_path), "--port", "0", *SMALL])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    told = [one.getMessage() for one in caplog.records if "trying again" in one.getMessage()]
    assert told[3] == (
        "the server cannot become ready, as the lines above say; trying again in 8 seconds"
    )


def keep_handlers(install: Any) -> Any:
    """``signal.signal`` that leaves alone what the tests themselves run under."""

    def pretend(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if handler is end_at_once else install(number, handler)

    return pretend


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
