"""The guide to the protocol: every command in it runs, against the bundle that it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service_fixtures import CLEAN, RunningServer, picture, serving

MADE_UP = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def server(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the shipped bundle of images."""
    root = tmp_path_factory.mktemp("bundles")
    name = "cifar10-liere8"
    shutil.copytree(repo_root / "bundles" / name, root / name)
    with serving(root) as running:
        yield running


def blocks(root: Path, language: str) -> list[str]:
    """What the guide shows of a language, in order."""
    text = (root / "docs/v2.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def execute(command: list[str], folder: Path) -> str:
    """What a command prints, in a folder with photo.jpg; it must end well."""
    (folder / "photo.jpg").write_bytes(picture(1, (64, 48), "JPEG"))
    environment = CLEAN | {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_of_the_guide_are_answered(
    server: RunningServer, repo_root: Path, tmp_path: Path
) -> None:
    """Every curl is 200, and the last names three labels."""
    answers = []
    for block in blocks(repo_root, "sh"):
        script = block.replace(MADE_UP, f"127.0.0.1:{server.port}")
        script = script.replace("curl ", "curl -sS --fail-with-body ")
        answers.append(execute(["bash", "-euo", "pipefail", "-c", script], tmp_path))
    assert len(answers) == 2
    assert '"binary_tensor_data"' in answers[0]
    assert '"ready":true' in answers[0]
    assert '"shape":[1,3]' in answers[1]
    assert len(re.findall(r'"-?[0-9.]+:[0-9]:[a-z]+"', answers[1])) == 3


def test_program_of_the_guide_runs(server: RunningServer, repo_root: Path, tmp_path: Path) -> None:
    """With tritonclient, in its environment."""
    python = repo_root / ".venv/tritonclient/bin/python"
    if not python.exists():
        pytest.skip("make triton-env has not set up the environment of tritonclient here")
    (program,) = blocks(repo_root, "python")
    program = program.replace(MADE_UP, f"127.0.0.1:{server.port}")
    said = execute([str(python), "-I", "-c", program], tmp_path).splitlines()
    assert len(re.findall(r"b'-?[0-9.]+:[0-9]:[a-z]+'", " ".join(said[:-1]))) == 3
    assert said[-1] == "(8, 10)"
