"""docs/page.md: every command in it runs, and gives what it says."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service_fixtures import CLEAN, RunningServer, picture, serving, write_tiny_bundle

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def blocks(repo_root: Path) -> dict[str, list[str]]:
    """The code of the guide by its language."""
    text = (repo_root / "docs" / "page.md").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        found.setdefault(kind, []).append(block)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its reader stands."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photo.jpg").write_bytes(picture(1, (64, 48), "JPEG"))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One that answers as ``make serve`` does, with a bundle of that name that is opened sooner."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root, "cifar10-liere8")
    with serving(root) as running:
        yield running


def test_requests_get_what_the_guide_says(
    blocks: dict[str, list[str]], folder: Path, server: RunningServer
) -> None:
    """Each line of curl; the answer has the members of the example."""
    (example,) = map(json.loads, blocks["json"])
    lines = [line for block in blocks[""] for line in block.splitlines() if line[:4] == "curl"]
    *prepared, card = [
        subprocess.run(
            [*shlex.split(line.replace(ADDRESS, server.url)), "-sS"],
            cwd=folder, env=CLEAN, capture_output=True, check=True, text=True,
        ).stdout
        for line in lines
    ]  # fmt: skip
    assert len(prepared) == 2
    for answer in map(json.loads, prepared):
        assert set(answer) - {"seen"} == set(example) - {"seen"}
        assert list(answer["pixels"]) == list(example["pixels"])
    assert card == "A tiny network with random weights.\n"


def test_program_reads_the_array(
    blocks: dict[str, list[str]], folder: Path, server: RunningServer
) -> None:
    """As it stands, in the folder of its file."""
    (program,) = blocks["python"]
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ADDRESS, server.url)],
        cwd=folder, env=CLEAN, capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout == "(1, 8, 12, 3) uint8\n"


def test_picture_is_made_by_a_module_that_is_there(
    blocks: dict[str, list[str]], repo_root: Path
) -> None:
    """Its command is run by tests/page/test_shipped.py, where there is a browser."""
    (line,) = [line for block in blocks[""] for line in block.splitlines() if "-m" in line.split()]
    module = line.split("-m ")[1]
    assert (repo_root / f"{module.replace('.', '/')}.py").is_file()
    if importlib.util.find_spec("playwright"):
        assert repo_root / "docs" / "page.png" == importlib.import_module(module).TO
