"""What processes share: rows of a batch, items of a split, the words of one; and going on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.kill_training import lines_of, outcome
from media.index import Wanted, open_dataset
from media.spec import InputSpec, SpecError
from tests.conftest import ROOT
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, check_refused, command
from training.__main__ import main
from training.augment.draws import Draws
from training.batches import Batch, Batches, Rows
from training.checks import check_processes
from training.config import Augment
from training.listed import Listed
from training.memory import smaller_passes
from training.own_folder import own_folder
from training.presets import PRESETS
from training.processes import ALONE, BUCKET, Processes, buckets
from training.shared_run import SharedRun, agree, versions

pictures = training_runs.pictures


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({"batch": 12}, 5, "batch 12 cannot be shared alike by 5 processes: expected a multiple"),
        ({"batch": 12, "accumulate": 3}, 2, None),
        ({"batch": 12, "accumulate": 4}, 2, "2 processes in 4 parts each .* a multiple of 8"),
        ({"batch": 24, "mixup": 0.2}, 4, None),
        ({"batch": 24, "cutmix": 1.0}, 3, "in 8 parts .*: expected 1, 2, 4, 8 processes, got 3"),
        ({"batch": 24}, 3, None),
    ],
)
def test_batch_that_cannot_be_shared_is_refused(
    changes: dict[str, Any], count: int, message: str | None
) -> None:
    """Rows alike for each, and nobody mixed with an item of another process."""
    mixing = {name: changes.pop(name) for name in ("mixup", "cutmix") if name in changes}
    config = dataclasses.replace(PRESETS["smoke"]("data"), augment=Augment(**mixing), **changes)
    if message is None:
        check_processes(config, Processes(size=count))
        return
    with pytest.raises(SpecError, match=message):
        check_processes(config, Processes(size=count))


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_rows_of_all_processes_are_all_rows(count: int) -> None:
    """Each once and in order, also where there are fewer rows than processes."""
    rows = [Processes(rank, count).rows(11) for rank in range(count)]
    assert [row for own in rows for row in range(11)[own]] == list(range(11))


def test_processes_draw_what_one_draws_for_the_whole_batch() -> None:
    """Also for a sample that comes twice, in the rows of two of them."""
    samples = np.array([3, 5, 3, 8, 3, 5])
    whole = Draws(1, 2, samples)
    parts = [Draws(1, 2, samples, rows=rows) for rows in (slice(0, 3), slice(3, 6))]
    assert np.array_equal(np.concatenate([part.keys() for part in parts]), whole.keys())
    taken = np.concatenate([part.take(4) for part in parts])
    assert np.array_equal(taken, whole.take(4))
    assert len(np.unique(taken[:, 0])) == 6


def test_process_reads_its_rows_of_a_batch_and_its_items_of_a_split(pictures: Path) -> None:
    """Exactly those, as they are in the whole."""
    dataset, how = open_dataset(pictures), Wanted(InputSpec(), (8, 9))
    augment = Augment(crop_from="picture", crop_scale=(0.3, 1.0))
    config = dataclasses.replace(PRESETS["smoke"]("data"), batch=8, augment=augment)
    training = Listed(dataset, "train", how)
    whole = Batches(training, config)[6]
    parts = [Batches(training, config, rows)[6] for rows in (slice(0, 4), slice(4, 8))]
    assert isinstance(whole, Batch)
    own = [part for part in parts if isinstance(part, Batch)]
    assert torch.equal(torch.cat([part.pixels for part in own]), whole.pixels)
    assert torch.equal(torch.cat([part.samples for part in own]), whole.samples)
    validation = Listed(dataset, "val", how)
    every = [Rows(validation, 0, 5, items=items)[0] for items in (slice(0, 5), slice(5, 10))]
    expected = np.concatenate([validation.read(item) for item in range(10)])
    assert np.array_equal(torch.cat([batch.pixels for batch in every]).numpy(), expected)  # type: ignore[union-attr]
    assert Rows(validation, 0, 5, items=slice(7, 12)).shape == (5, 8, 9, 3)


def test_gradients_travel_in_few_buckets() -> None:
    """All of them, in order, none of the buckets small but the last."""
    sizes = (3, BUCKET // 4, 7, 5, BUCKET // 2, 1)
    tensors = [torch.empty(size, device="meta") for size in sizes]
    found = list(buckets(tensors))
    assert [len(bucket) for bucket in found] == [2, 3, 1]
    assert [id(one) for bucket in found for one in bucket] == [id(one) for one in tensors]
    assert list(buckets([])) == []


class Others(Processes):
    """Processes of which one says what a test has it say."""

    def __init__(self, *others: Any) -> None:
        super().__init__(size=1 + len(others))
        object.__setattr__(self, "others", others)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]  # type: ignore[attr-defined]


def test_disagreement_names_every_value_with_its_ranks() -> None:
    """What is alike is not named, and what one lacks is."""
    mine = {"torch": "2.1", "code": "abc", "numpy": "1"}
    agree(Others(mine, dict(mine)), "what computes", lambda: mine)
    other = {"torch": "2.2", "numpy": "1"}
    told = r"code: 'abc' in 0, 2; None in 1 \| torch: '2.1' in 0, 2; '2.2' in 1; start all with"
    message = rf"about what computes.*: {told}"
    with pytest.raises(SpecError, match=message):
        agree(Others(other, mine), "what computes", lambda: mine)
    agree(ALONE, "nothing", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert set(versions()) == {"python", "torch", "numpy", "code"}


def test_memory_is_saved_by_parts_that_processes_can_share() -> None:
    """A part of each process's rows, not of the batch."""
    config = dataclasses.replace(PRESETS["smoke"]("data"), batch=12, precision="bf16")
    assert smaller_passes(config, 1) == ["accumulate=2"]
    assert smaller_passes(config, 4) == ["accumulate=3"]


# --- one command that begins and goes on -------------------------------------------------------


def test_same_command_begins_a_run_and_goes_on(pictures: Path, tmp_path: Path) -> None:
    """Also where a start was killed before its first checkpoint, and where the run has ended."""
    out = tmp_path / "run"
    (out / "checkpoints/.step-00000000.x").mkdir(parents=True)
    arguments = [*command(pictures, out, "epochs=1"), "--no-report", "--resume", "auto"]
    assert main(arguments) == 0
    ended = outcome(out)
    assert main(arguments) == 0
    assert outcome(out) == ended
    assert main([*arguments, "--set", "epochs=2"]) == 0
    assert [line["epoch"] for line in lines_of(out)] == [1, 2]


def test_resume_alone_takes_no_other_argument_for_its_value(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """And still insists on a run."""
    arguments = ["--resume", *command(pictures, tmp_path / "run")]
    check_refused(arguments, capsys, "run holds no checkpoint to resume from")


def test_automatic_resume_leaves_other_folders_alone(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """It begins where nothing is, and not where something else is."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    arguments = [*command(pictures, tmp_path / "run"), "--resume", "auto"]
    check_refused(arguments, capsys, "exists and is not empty")


# --- started as one of several -----------------------------------------------------------------


def test_launcher_that_says_too_little_is_told(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size without a rank would have every process write the same run."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_refused(command(pictures, tmp_path / "run"), capsys, "WORLD_SIZE is 2: expected RANK, ")
    check_refused(["split", "data"], capsys, "training split runs as one process")
    assert not (tmp_path / "run").exists()


def test_folder_of_a_process_that_was_killed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no folder of one that lives, which removes its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = "import os; from training.own_folder import own_folder; it = own_folder(); os._exit(9)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", killed], cwd=ROOT, env=environment, check=False)
    (left,) = tmp_path.iterdir()
    (left / "index").mkdir()
    first = own_folder()
    assert [*tmp_path.iterdir()] == [Path(first.name)] != [left]
    second = own_folder()
    assert {*tmp_path.iterdir()} == {Path(first.name), Path(second.name)}
    first.cleanup()
    second.cleanup()
    assert not [*tmp_path.iterdir()]


class SecondMachine(Processes):
    """Its leader, which hears of a folder that is nowhere here from the writer."""

    def gather(self, value: Any) -> list[Any]:
        return ["/elsewhere", value]


def test_leader_of_another_machine_keeps_an_index_of_its_own(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it ends, and not in the run's folder, which it may not reach."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset, run = open_dataset(pictures), SharedRun(tmp_path / "run", SecondMachine(1, 2))
    kept = run.keep_index(dataset)
    (folder,) = tmp_path.iterdir()
    assert kept.folder == folder / "index"
    assert [*kept.columns.ids] == [*dataset.columns.ids]
    run._index.cleanup()
