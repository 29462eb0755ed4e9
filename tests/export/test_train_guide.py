"""The guide to training is right: its commands for clips, scans and fine-tuning run.

Those for pictures run in ``tests/house/test_containers_retrain.py``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.__main__ import main as export
from models.bundle import read_bundle
from models.checkpoint import load_checkpoint
from tests.helpers.containers import guide_commands
from tests.helpers.scan_files import nifti
from tests.helpers.service_fixtures import clip, picture
from training.__main__ import main as training

#: Exports trace graphs, which takes long where others work too.
pytestmark = pytest.mark.timeout(600)

SPLITS = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
#: The only differences between what the guide says and what runs here: less of everything.
SHORTER = ("epochs=1", "batch=4", "warmup_steps=1", "workers=1", "precision=fp32")
SMALLER = ("model.width=32", "model.depth=1", "model.heads=2", "model.mlp_dim=32")
FEWER = ("--parity-items", "4")


def write(table: Path, make: Callable[[int], bytes], ending: str) -> None:
    """A CSV of two classes whose splits are given, and its files."""
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = ["path,label,split"]
    for number, split in enumerate(SPLITS):
        name, label = f"{table.stem}-{number}{ending}", "AB"[number % 2]
        (table.parent / name).write_bytes(make(number))
        rows.append(f"{name},{label},{split}")
    table.write_text("\n".join(rows) + "\n")


def scan(number: int) -> bytes:
    """Voxels of 3 x 2 x 2.5 mm."""
    voxels = np.random.default_rng(number).integers(-900, 900, (9, 14, 11), np.int16)
    return nifti(voxels, np.diag([3.0, 2.0, 2.5, 1.0]))


def said(root: Path, heading: str, run: str) -> list[list[str]]:
    """Words of the guide's commands for one run: first how it is trained, then its exports."""
    lines = guide_commands(root, heading, "train")
    found = [shlex.split(line)[2:] for line in lines if f"runs/{run} " in f"{line} "]
    assert [words[0] for words in found] == ["training", "export"][: len(found)]
    return found


def train(words: list[str], *settings: str) -> None:
    """As the guide says, but shorter."""
    shorter = [word for one in (*SHORTER, *settings) for word in ("--set", one)]
    assert training([*words[1:], *shorter, "--no-report"]) == 0


def make_clips(table: Path) -> None:
    write(table, lambda number: clip(number, 9, (23, 17)), ".gif")


def make_scans(table: Path) -> None:
    write(table, scan, ".nii")


def make_adrenal(data: Path) -> None:
    """As MedMNIST lays them out; the guide's own command gives names to the classes."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = draw.integers(0, 256, (4, 15, 13, 14), np.uint8)
        arrays[f"{split}_labels"] = np.array([[0], [1], [0], [1]])
    data.parent.mkdir()
    np.savez("adrenalmnist3d_64.npz", **arrays)
    guide = (Path(__file__).parents[2] / "docs" / "train.md").read_text()
    (code,) = re.findall(r'python -c "(.+?)"', guide, flags=re.DOTALL)
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("run", "make", "name"),
    [
        ("clips", make_clips, "clips"),
        ("scans", make_scans, "scans"),
        ("lung", make_clips, "my-lung"),
        ("adrenal", make_adrenal, "my-adrenal"),
    ],
)
def test_clips_and_scans_become_bundles(
    run: str,
    make: Callable[[Path], None],
    name: str,
    repo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trained and exported for the grids that the guide names."""
    monkeypatch.chdir(tmp_path)
    to_train, to_export = said(repo_root, "Clips and scans", run)
    make(Path(to_train[to_train.index("--data") + 1]))
    train(to_train, *SMALLER)
    assert export([*to_export[1:], *FEWER]) == 0
    grids = [to_export[at + 1] for at, word in enumerate(to_export) if word == "--grid"]
    assert [entry.grid for entry in read_bundle(Path("bundles") / name).manifest.grids] == grids


def test_checkpoint_is_fine_tuned(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other pictures and at another size."""
    monkeypatch.chdir(tmp_path)
    (to_train,) = said(repo_root, "Fine-tuning", "other")
    write(Path("data/labels.csv"), lambda number: picture(number, (40, 30)), ".png")
    write(Path("data/other/labels.csv"), lambda number: picture(50 + number, (40, 30)), ".png")
    train(["training", "images", "--data", "data/labels.csv", "--out", "runs/digits"], *SMALLER)
    train(to_train)
    model, _ = load_checkpoint(Path("runs/other/best"))
    assert (model.spec.grid, model.spec.width) == ((12, 12), 32)
