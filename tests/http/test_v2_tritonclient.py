"""NVIDIA's own client, unmodified, in an environment of its own: its pins are not ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import read
from media.spec import Grid
from service.engine.job import softmax
from tests.helpers.service_fixtures import (
    CLEAN,
    LABELS,
    TINY,
    picture,
    serving,
    tiny_logits,
    write_tiny_bundle,
)

#: As in tests/http/tritonclient.txt; an older one is another client.
VERSION = "2.73.0"
GOOD = picture(1)


@pytest.fixture(scope="module")
def triton(repo_root: Path) -> Path:
    """The interpreter that has tritonclient."""
    python = repo_root / ".venv/tritonclient/bin/python"
    if not python.exists():
        pytest.skip("make triton-env has not set up the environment of tritonclient here")
    return python


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Two prepared pictures, ``[2, 8, 12, 3]``."""
    tiny = TINY["image"]
    files = [picture(seed) for seed in (1, 2)]
    items = [read(file, tiny.input, Grid.parse("2x3"), tiny.patch).pixels for file in files]
    return np.concatenate(items)


@pytest.fixture(scope="module")
def seen(
    triton: Path, repo_root: Path, pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the program saw of a server with one bundle."""
    folder = tmp_path_factory.mktemp("triton")
    write_tiny_bundle(folder / "bundles", "tiny")
    (folder / "picture.png").write_bytes(GOOD)
    np.save(folder / "pixels.npy", pixels)
    program = repo_root / "tests/http/tritonclient_program.py"
    with serving(folder / "bundles") as server:
        command = [triton, "-I", program, f"127.0.0.1:{server.port}", "tiny"]
        command += [folder / "picture.png", folder / "pixels.npy"]
        done = subprocess.run(
            [str(word) for word in command], env=CLEAN, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_client_is_the_one_that_was_meant(seen: dict[str, Any]) -> None:
    """An installer that is left alone takes one of 2023."""
    assert seen["version"] == VERSION


def test_client_sees_server_and_models(seen: dict[str, Any]) -> None:
    """Health, readiness by name and by version, metadata and the index."""
    assert (seen["live"], seen["ready"]) == (True, True)
    assert seen["models_ready"] == [True, True, False]
    assert seen["version_ready"] == [True, False]
    assert "binary_tensor_data" in seen["server"]["extensions"]
    assert seen["model"]["inputs"] == [{"name": "file", "datatype": "BYTES", "shape": [-1]}]
    assert seen["twin"]["inputs"][0]["datatype"] == "UINT8"
    assert [one["name"] for one in seen["index"]] == ["tiny", "tiny_tensor"]


def test_client_gets_numbers_and_labels(seen: dict[str, Any], pixels: np.ndarray) -> None:
    """Of files and of prepared rows, by bytes and by JSON, one after another and at once."""
    of_file = tiny_logits(GOOD, "2x3")
    for found in seen["files"]:
        np.testing.assert_allclose(found, [of_file, of_file], atol=1e-4)
    logits, probabilities = seen["both"]
    np.testing.assert_allclose(logits, of_file, atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(of_file), atol=1e-4)
    of_rows = [tiny_logits(picture(seed), "2x3") for seed in (1, 2)]
    for found in (*seen["rows"], *seen["async"]):
        np.testing.assert_allclose(found, of_rows, atol=1e-4)
    ((best, _),) = seen["labels"]
    index = int(np.argmax(of_file))
    assert best.split(":")[1:] == [str(index), LABELS[index]]


def test_client_reads_what_was_wrong(seen: dict[str, Any]) -> None:
    """Its exception has the status and our own sentence."""
    unknown, wrong = seen["errors"][0]
    assert unknown == ["404", "unknown model 'nope'; known: tiny, tiny_tensor"]
    assert wrong[0] == "422"
    assert wrong[1].startswith("inputs[0].shape: expected [rows, 8, 12, 3] or [rows, 12, 8, 3]")
