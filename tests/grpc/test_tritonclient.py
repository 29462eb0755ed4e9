"""NVIDIA's own client over gRPC, unmodified, in an environment of its own; and the messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import Grid
from service.engine.job import softmax
from service.grpc import inference_pb2
from tests.helpers.grpc_serving import serving_grpc
from tests.helpers.service_fixtures import CLEAN, LABELS, TINY, picture, tiny_logits

GOOD = picture(1)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Two prepared pictures, ``[2, 8, 12, 3]``."""
    tiny = TINY["image"]
    files = [picture(seed) for seed in (1, 2)]
    items = [read(file, tiny.input, Grid.parse("2x3"), tiny.patch).pixels for file in files]
    return np.concatenate(items)


@pytest.fixture(scope="module")
def seen(
    repo_root: Path, bundles: Path, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the program saw of a server with one bundle."""
    python = repo_root / ".venv/tritonclient/bin/python"
    if not python.exists():
        pytest.skip("make triton-env has not set up the environment of tritonclient here")
    folder = tmp_path_factory.mktemp("triton")
    (folder / "picture.png").write_bytes(GOOD)
    np.save(folder / "pixels.npy", pixels)
    program = repo_root / "tests/grpc/tritonclient_program.py"
    with serving_grpc(bundles) as server:
        command = [python, "-I", program, f"127.0.0.1:{server.front.port}", "tiny"]
        command += [folder / "picture.png", folder / "pixels.npy"]
        done = subprocess.run(
            [str(word) for word in command], env=CLEAN, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_client_sees_server_and_models(seen: dict[str, Any]) -> None:
    """Health, readiness, metadata and the index."""
    assert (seen["live"], seen["ready"]) == (True, True)
    assert seen["models_ready"] == [True, True]
    assert seen["server"]["extensions"] == ["classification"]
    assert seen["model"]["inputs"] == [{"name": "file", "datatype": "BYTES", "shape": ["-1"]}]
    assert [one["name"] for one in seen["index"]["models"]] == ["tiny", "tiny_tensor"]


def test_client_gets_numbers_and_labels(seen: dict[str, Any], pixels: np.ndarray) -> None:
    """Of files at the grid that it names, of prepared rows, one after another and at once."""
    logits, probabilities = seen["files"]
    of_file = tiny_logits(GOOD, "3x2")
    np.testing.assert_allclose(logits, [of_file, of_file], atol=1e-4)
    np.testing.assert_allclose(probabilities[1], softmax(of_file), atol=1e-4)
    of_rows = [tiny_logits(picture(seed), "2x3") for seed in (1, 2)]
    for found in (seen["rows"], *seen["async"]):
        np.testing.assert_allclose(found, of_rows, atol=1e-4)
    ((best, _),) = seen["labels"]
    index = int(np.argmax(tiny_logits(GOOD, "2x3")))
    assert best.split(":")[1:] == [str(index), LABELS[index]]


def test_client_reads_what_was_wrong(seen: dict[str, Any]) -> None:
    """Its exception has the code and our own sentence."""
    unknown, wrong = seen["errors"]
    assert unknown == [
        "StatusCode.NOT_FOUND", "unknown model 'nope'; known: tiny, tiny_tensor"
    ]  # fmt: skip
    assert wrong[0] == "StatusCode.INVALID_ARGUMENT"
    assert wrong[1].startswith("inputs[0].shape: expected [rows, 8, 12, 3] or [rows, 12, 8, 3]")


def our_messages() -> Iterator[Any]:
    """Of the protocol as it is written here."""
    waiting = list(inference_pb2.DESCRIPTOR.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        yield message


def test_messages_are_those_of_the_client(seen: dict[str, Any]) -> None:
    """Every field of ours is one of theirs, by name, number and type."""
    for message in our_messages():
        theirs = seen["messages"][message.full_name]
        for one in message.fields:
            assert [one.name, one.number, one.type, one.is_repeated] in theirs, message.full_name


def test_made_module_is_that_of_the_protocol(repo_root: Path, tmp_path: Path) -> None:
    """``make protocol`` would change nothing."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed here")
    name = "service/grpc/inference"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", f"{name}.proto"]
    subprocess.run(command, cwd=repo_root, check=True, timeout=60)
    for made in (f"{name}_pb2.py", f"{name}_pb2.pyi"):
        assert (tmp_path / made).read_text() == (repo_root / made).read_text()
