"""docs/answers_http.md: every command in it runs, and gives what it says."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.parameters import WANTS
from tests.helpers.service_fixtures import CLEAN, RunningServer, picture, run, serving

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def guide(repo_root: Path) -> str:
    """The text."""
    return (repo_root / "docs" / "answers_http.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its reader stands."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photo.jpg").write_bytes(picture(1, (64, 48), "JPEG"))
    (folder / "notes.txt").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    """One that answers as ``make serve`` does, with a bundle that is opened sooner."""
    with serving(bundles) as running:
        yield running


def commands(guide: str, program: str) -> list[str]:
    """The lines of its blocks that call a program."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    return [line for line in lines if line.startswith(program)]


def test_requests_get_what_the_guide_says(guide: str, folder: Path, server: RunningServer) -> None:
    """Each line of curl: the status, and the keys of its example."""
    answers: list[dict[str, Any]] = []
    lines = commands(guide, "curl")
    for line in lines:
        words = shlex.split(line.replace(ADDRESS, server.url))
        done = subprocess.run(
            [words[0], "-sS", *words[1:]], cwd=folder, env=CLEAN, capture_output=True, check=True
        )
        answers.append(json.loads(done.stdout))
    mixed, strict, probabilities, packed = answers
    (example,) = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", guide, re.DOTALL)]
    for shown, found in zip(example["results"], mixed["results"], strict=True):
        assert set(shown) == set(found)
        assert shown["filename"] == found["filename"]
    assert example["results"][1] == mixed["results"][1]
    assert (strict["status"], strict["detail"][:13]) == (415, "file 2 of 2: ")
    labels = server.get("/v1/bundles").json()["bundles"]
    (served,) = [one for one in labels if one["name"] == probabilities["results"][0]["bundle"]]
    (result,) = probabilities["results"]
    assert len(result["probabilities"]) == len(served["labels"])
    (result,) = packed["results"]
    logits = np.frombuffer(base64.b64decode(result["logits"]), "<f4")
    assert logits.shape == (len(served["labels"]),)


def test_commands_give_what_the_guide_says(guide: str, folder: Path, bundles: Path) -> None:
    """Each line of ``python -m service``: one file is answered, the other has its problem."""
    for line in commands(guide, "python -m service"):
        words = shlex.split(line.removeprefix("python -m service "))
        said = [str(folder / word) if (folder / word).exists() else word for word in words]
        done = run(*said, LIERE_BUNDLES=str(bundles))
        first, *others = map(json.loads, done.stdout.splitlines())
        assert {"probabilities", "logits"} & set(first)
        assert [one["error"]["status"] for one in others] == [415] * len(others)
        assert done.returncode == bool(others)


def test_guide_names_everything_that_may_be_wanted(guide: str) -> None:
    """A word more in the service is a line more here."""
    assert tuple(re.findall(r"^\| `(\w+)`", guide, re.MULTILINE)) == ("want", *WANTS)
