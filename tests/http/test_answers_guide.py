"""docs/answers.md: every command in it that asks runs, and gives what it says."""

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
from tests.helpers.measured_grids import measured_grids
from tests.helpers.service_fixtures import (
    CLEAN,
    LABELS,
    RunningServer,
    picture,
    run,
    serving,
    write_tiny_bundle,
)

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def guide(repo_root: Path) -> str:
    """The text."""
    return (repo_root / "docs" / "answers.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its reader stands."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photo.jpg").write_bytes(picture(1, (64, 48), "JPEG"))
    (folder / "notes.txt").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated one."""
    root = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(root, grids=measured_grids())
    return root


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


def examples(guide: str) -> list[dict[str, Any]]:
    """Its blocks of JSON."""
    return [json.loads(one) for one in re.findall(r"```json\n(.*?)```", guide, re.DOTALL)]


@pytest.fixture(scope="module")
def answers(guide: str, folder: Path, server: RunningServer) -> list[bytes]:
    """What each line of curl is told."""
    told = []
    for line in commands(guide, "curl"):
        words = shlex.split(line.replace(ADDRESS, server.url).replace("NAME", "tiny"))
        done = subprocess.run(
            [words[0], "-sS", *words[1:]], cwd=folder, env=CLEAN, capture_output=True, check=True
        )
        told.append(done.stdout)
    assert len(told) == 9
    return told


def test_requests_get_what_the_guide_says(guide: str, answers: list[bytes]) -> None:
    """The status, and the keys of its example; arrays of all labels."""
    mixed, strict, probabilities, packed = map(json.loads, answers[:4])
    example = examples(guide)[0]
    for shown, found in zip(example["results"], mixed["results"], strict=True):
        assert set(shown) == set(found)
        assert shown["filename"] == found["filename"]
    assert example["results"][1] == mixed["results"][1]
    assert (strict["status"], strict["detail"][:13]) == (415, "file 2 of 2: ")
    (result,) = probabilities["results"]
    assert len(result["probabilities"]) == len(LABELS)
    (result,) = packed["results"]
    logits = np.frombuffer(base64.b64decode(result["logits"]), "<f4")
    assert logits.shape == (len(LABELS),)


def test_guide_shows_how_sure_an_answer_is(guide: str, answers: list[bytes]) -> None:
    """Raw ones, ones that are withheld, and what is known of the bundle."""
    (raw,), (unsure,) = (json.loads(one)["results"] for one in answers[4:6])
    assert raw["calibrated"] is False
    assert unsure["calibrated"] is True
    withheld = examples(guide)[1]
    assert withheld.keys() <= unsure.keys()
    assert withheld["coverage"].keys() == unsure["coverage"].keys()
    assert withheld["coverage"]["threshold"] == unsure["coverage"]["threshold"]
    (bundle,), (version,) = json.loads(answers[6])["bundles"], json.loads(answers[7])["versions"]
    assert version["grids"] == bundle["grids"]
    assert answers[8] == b"A tiny network with random weights.\n"


def test_commands_give_what_the_guide_says(guide: str, folder: Path, bundles: Path) -> None:
    """Each line of ``python -m service``: one file is answered, the other has its problem."""
    for line in commands(guide, "python -m service"):
        words = shlex.split(line.removeprefix("python -m service "))
        said = [str(folder / word) if (folder / word).exists() else word for word in words]
        done = run(*said, LIERE_BUNDLES=str(bundles))
        first, *others = map(json.loads, done.stdout.splitlines())
        assert {"probabilities", "logits", "abstained"} & set(first)
        assert [one["error"]["status"] for one in others] == [415] * len(others)
        assert done.returncode == bool(others)


def test_guide_names_everything_that_may_be_wanted(guide: str) -> None:
    """A word more in the service is a line more here."""
    table = guide.partition("## What is wanted")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == ("want", *WANTS)
