"""Training end to end: what a run leaves, what it refuses to touch or to continue."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.kill_training import lines_of, outcome, picture
from models.checkpoint import load_checkpoint, read_description
from tests.helpers import training_runs
from tests.helpers.training_runs import COLOURS, Chatter, check_refused, command, make_data, names
from training.__main__ import main
from training.run import TRAINING_STATE

pictures, finished = training_runs.pictures, training_runs.finished


def test_training_learns(pictures: Path, tmp_path: Path, capsys: Chatter) -> None:
    """Three colours are told apart after a few epochs, and the best checkpoint says so."""
    arguments = command(pictures, tmp_path / "run", "epochs=8", "learning_rate=0.003")
    assert main(arguments) == 0
    notes = read_description(tmp_path / "run" / "best").notes
    assert notes["best"]["val_top1"] > 0.9
    assert notes["best"]["val_top1"] == max(line["val_top1"] for line in lines_of(tmp_path / "run"))
    assert re.search(r"best: val top-1 [01]\.\d{4} at epoch \d", capsys.readouterr().out)


def test_checkpoint_says_how_it_was_made(finished: Path, pictures: Path) -> None:
    """The resolved config, the data by content and the metrics lie beside the weights."""
    model, description = load_checkpoint(finished / "last")
    assert description.labels == ("blue", "green", "red")
    assert model.spec.classes == 3
    notes = description.notes
    assert (notes["step"], notes["config"]["epochs"], notes["config"]["batch"]) == (15, 3, 8)
    assert notes["config"]["model"]["classes"] == 3
    assert notes["data"]["train"]["items"] == 42
    assert len(notes["data"]["val"]["sha256"]) == 64
    assert str(pictures) not in json.dumps(notes["data"])
    assert [line["step"] for line in lines_of(finished)] == [5, 10, 15]


def test_run_keeps_two_checkpoints_and_no_litter(finished: Path) -> None:
    """When it ends, a run holds its last and its best checkpoint and nothing temporary."""
    links = {"last", "best", "report"}
    assert names(finished) == links | {"checkpoints", "metrics.jsonl", "reports", "tensorboard"}
    kept = {(finished / name).resolve().name for name in ("last", "best")}
    assert names(finished / "checkpoints") == kept


def test_resuming_a_finished_run_changes_nothing(finished: Path, pictures: Path) -> None:
    """There is nothing left to do, which is no error."""
    before = outcome(finished)
    assert main(command(pictures, finished, resume=True)) == 0
    assert outcome(finished) == before


def test_resuming_does_not_care_where_the_data_lie(
    finished: Path, pictures: Path, tmp_path: Path
) -> None:
    """The data are compared by content: moved, they are the same, also for the report."""
    data, run = shutil.copytree(pictures, tmp_path / "data"), tmp_path / "run"
    assert main(command(data, run)) == 0
    shutil.rmtree(run / "reports")
    assert main(command(data.rename(tmp_path / "moved"), run, resume=True)) == 0
    assert outcome(run) == outcome(finished)


@pytest.mark.parametrize("channel", [(), (3,)])
def test_training_takes_decoded_arrays(tmp_path: Path, channel: tuple[int, ...]) -> None:
    """An npz of uint8 images is trained on, grey ones [N, H, W] like coloured ones."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "train_images": rng.integers(0, 256, (20, 13, 17, *channel), dtype=np.uint8),
        "train_labels": np.arange(20) % 2,
        "val_images": rng.integers(0, 256, (6, 13, 17, *channel), dtype=np.uint8),
        "val_labels": np.arange(6) % 2,
    }
    np.savez(tmp_path / "data.npz", **arrays)
    assert main(command(tmp_path / "data.npz", tmp_path / "run", "epochs=1")) == 0


# --- folders that are in use, and runs that cannot go on -----------------------------------------


def test_run_is_never_overwritten(finished: Path, pictures: Path, capsys: Chatter) -> None:
    """A folder that holds a run is continued on request or left alone."""
    before = outcome(finished)
    check_refused(command(pictures, finished), capsys, "holds a run; continue it with --resume")
    assert outcome(finished) == before


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/mine", "metrics.jsonl"])
def test_folder_in_other_use_is_left_alone(
    pictures: Path, tmp_path: Path, capsys: Chatter, name: str
) -> None:
    """Training does not move into a folder that somebody uses for something else."""
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("mine")
    check_refused(command(pictures, tmp_path / "run"), capsys, "exists and is not empty")
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_resume_needs_a_run(pictures: Path, tmp_path: Path, capsys: Chatter) -> None:
    """A mistyped --out does not start from the beginning in silence."""
    arguments = command(pictures, tmp_path / "run", resume=True)
    check_refused(arguments, capsys, "run holds no checkpoint to resume from")
    assert not (tmp_path / "run").exists()


def test_resume_with_other_settings_is_refused(
    finished: Path, pictures: Path, capsys: Chatter
) -> None:
    """Every changed field that decides what came before is named with its reason, and no other."""
    changed = ("batch=4", "learning_rate=0.5", "model.encoding.block=4", "model.dropout=0.2")
    arguments = command(pictures, finished, *changed, resume=True)
    why = r"\(its weights are those of that model\)"
    check_refused(
        arguments,
        capsys,
        r"other values of: batch \(it decides what a step is; .*\), "
        rf"model\.dropout {why}, model\.encoding\.block {why}; it may go on with another learning_",
    )


def test_resume_with_other_labels_is_refused(
    finished: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Data of other classes do not continue a run, whatever their number."""
    for classes in (("red", "blue"), ("red", "blue", "pink")):
        colours = {name: COLOURS.get(name, (250, 200, 200)) for name in classes}
        data = make_data(tmp_path / str(len(classes)), colours, train=2)
        arguments = command(data, finished, resume=True)
        check_refused(arguments, capsys, r"expected \['blue', 'green', 'red'\], got \['blue', ")


def test_resume_with_other_items_is_refused(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """A picture that changed since the run began is noticed by the hash of its split."""
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "val/red/0.png").write_bytes(picture((1, 2, 3), 77))
    arguments = command(data, finished, resume=True)
    check_refused(arguments, capsys, "split 'val' is not the one that the run began with")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.safetensors", "weights.safetensors .*cut short or changed"),
        (TRAINING_STATE, "training.safetensors is cut short or changed"),
        ("checkpoint.json", "checkpoint.json: not valid JSON"),
    ],
)
def test_checkpoint_that_is_cut_short_is_refused(
    finished: Path, pictures: Path, tmp_path: Path, capsys: Chatter, name: str, message: str
) -> None:
    """Half a file of any kind stops a resume, by name, instead of resuming from rubbish."""
    out = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    path = out / "last" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_refused(command(pictures, out, resume=True), capsys, message)


def test_recipe_of_long_runs_trains_at_small_size(pictures: Path, tmp_path: Path) -> None:
    """All that ``images-224`` asks of a GPU, on a model of a few numbers: nothing is left out."""
    settings = (
        "model.patch=2x3", "model.grid=4x3", "model.width=24", "model.depth=2", "model.heads=2",
        "model.mlp_dim=20", "model.encoding.block=4", "batch=8", "epochs=1", "workers=0",
    )  # fmt: skip
    arguments = ["images-224", "--data", str(pictures), "--out", str(tmp_path / "run")]
    for setting in settings:
        arguments += ["--set", setting]
    assert main([*arguments, "--no-report"]) == 0
    description = read_description(tmp_path / "run/best")
    assert (description.notes["step"], description.model.grid) == (5, (4, 3))
    kept = description.notes["config"]
    assert kept["augment"]["crop_from"] == "picture"
    assert (kept["precision"], kept["ema"], kept["betas"]) == ("bf16", 0.9999, [0.9, 0.999])
