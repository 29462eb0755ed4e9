"""docs/train-large.md, command by command, at small size: folder, shards, several processes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_training import below, lines_of
from models.checkpoint import read_description
from tests.conftest import ROOT
from tests.helpers.containers import free_port, guide_commands
from tests.helpers.effort import alone
from tests.helpers.training_runs import COLOURS, make_data
from training.__main__ import main

pytestmark = [alone, pytest.mark.timeout(300)]

#: The only differences between what the guide says and what runs here: less of everything.
LESS = (
    "epochs=2", "batch=8", "warmup_steps=1", "workers=0", "precision=fp32", "device=cpu",
    "save_every=2", "augment.operations=0", "model.patch=[8,8]", "model.grid=[3,4]",
    "model.width=32", "model.depth=2", "model.heads=2", "model.mlp_dim=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guide's ``data/pictures`` lies, packed into shards as it says."""
    folder = tmp_path_factory.mktemp("large")
    make_data(folder / "data/pictures", COLOURS)
    guide = (ROOT / "docs/train-large.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", guide, flags=re.M | re.S)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return folder


def said(heading: str) -> list[str]:
    """The words of a section's one command."""
    (line,) = guide_commands(ROOT, heading, "train-large")
    return shlex.split(line)


def smaller(words: list[str]) -> list[str]:
    """Of a training."""
    return [*words, *(part for one in LESS for part in ("--set", one)), "--no-report"]


def launch(words: list[str], folder: Path, processes: int) -> subprocess.Popen[str]:
    """The launcher that is installed here, with so many processes in place of eight."""
    assert words[0] == ".venv/train/bin/torchrun"
    words[words.index("--nproc-per-node") + 1] = str(processes)
    command = [sys.executable, "-m", "torch.distributed.run", *smaller(words[1:])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("heading", ["A folder", "One GPU"])
def test_one_process_trains(folder: Path, heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files and from shards, which hold the same pictures."""
    monkeypatch.chdir(folder)
    words = said(heading)
    assert words[1:3] == ["-m", "training"]
    assert main(smaller(words[3:])) == 0
    run = Path(words[words.index("--out") + 1])
    data = read_description(run / "best").notes["data"]
    assert (data["labels"], data["train"]["items"]) == (sorted(COLOURS), 42)
    assert len(lines_of(run)) == 2


def test_several_processes_begin_again_after_one_was_killed(folder: Path) -> None:
    """Torchrun starts the same command once more, which goes on where the run was."""
    launcher = launch(said("Eight GPUs"), folder, 2)
    while not (folder / "runs/eight/last").exists():
        assert launcher.poll() is None
        time.sleep(0.02)
    os.kill(below(launcher.pid)[1], signal.SIGKILL)
    _, told = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, told
    # what the other one says of it, torchrun may cut off with its own signal
    assert told.count("failed (exitcode: -9) local_rank: 1") == 1
    assert [line["epoch"] for line in lines_of(folder / "runs/eight")] == [1, 2]


def test_two_machines_train_together(folder: Path) -> None:
    """Each with a launcher of its own; the losses are those of one process."""
    words, port = said("Two machines"), free_port()
    words[words.index("--rdzv-endpoint") + 1] = f"127.0.0.1:{port}"
    machines = [launch(list(words), folder, 1) for _ in range(2)]
    for machine in machines:
        _, told = machine.communicate(timeout=200)
        assert machine.returncode == 0, told
    for together, alone_ in zip(
        lines_of(folder / "runs/two"), lines_of(folder / "runs/one"), strict=True
    ):
        assert together["loss"] == pytest.approx(alone_["loss"], rel=1e-5)
