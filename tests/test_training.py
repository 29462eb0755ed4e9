"""Training end to end: splits, bad input, full disks, and runs that are killed and resumed."""

from __future__ import annotations

import csv
import importlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import training.loop
from models.checkpoint import load_checkpoint, read_description
from models.files import sha256_file
from models.sources import open_source
from tests.disks import small_disk
from training.__main__ import main
from training.run import OPTIMISER, Run

COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}
#: Five steps an epoch, a checkpoint every second step; nothing is square.
TINY = (
    "batch=8", "epochs=3", "save_every=2", "warmup_steps=3", "model.grid=[3,4]", "model.width=32",
    "model.mlp_dim=32", "model.dropout=0.1", "flip=true", "workers=1",
)  # fmt: skip

Chatter = pytest.CaptureFixture[str]


def picture(colour: tuple[int, int, int], seed: int) -> bytes:
    """A noisy PNG of one colour, 21 pixels high and 29 wide."""
    noise = np.random.default_rng(seed).normal(0, 60, (21, 29, 3))
    stream = io.BytesIO()
    Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def make_data(root: Path, classes: dict[str, tuple[int, int, int]], train: int = 14) -> Path:
    """SPLIT/CLASS/file with some training and four validation pictures a class."""
    for split, count in (("train", train), ("val", 4)):
        for place, (name, colour) in enumerate(classes.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 1000 * place + index + (500 if split == "val" else 0)
                (folder / f"{index}.png").write_bytes(picture(colour, seed))
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 training and 12 validation pictures of three classes; not to be written to."""
    return make_data(tmp_path_factory.mktemp("pictures") / "data", COLOURS)


def command(data: Path, out: Path, *settings: str, resume: bool = False) -> list[str]:
    """The command line of a tiny run; later settings win."""
    arguments = ["smoke", "--data", str(data), "--out", str(out)] + ["--resume"] * resume
    for setting in (*TINY, *settings):
        arguments += ["--set", setting]
    return arguments


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lines_of(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times of day."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def outcome(out: Path) -> dict[str, Any]:
    """What two runs have in common if they are the same run."""
    files = [out / link / file for link in ("last", "best") for file in ("weights.safetensors",)]
    return {
        "hashes": [sha256_file(path) for path in (*files, out / "last" / OPTIMISER)],
        "names": sorted(path.name for path in out.iterdir()),
        "checkpoints": sorted(path.name for path in (out / "checkpoints").iterdir()),
        "metrics": lines_of(out),
    }


# --- a run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(command(pictures, out)) == 0
    return out


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
    assert names(finished) == {"checkpoints", "last", "best", "metrics.jsonl"}
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
    """The data are compared by content: moved, they are the same."""
    moved = shutil.copytree(pictures, tmp_path / "moved")
    assert main(command(moved, finished, resume=True)) == 0


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


# --- bad input --------------------------------------------------------------------------------


def check_refused(arguments: list[str], capsys: Chatter, *messages: str, status: int = 2) -> None:
    """The command ends with the status and one error that holds every message."""
    capsys.readouterr()
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert len(re.findall("^error: ", error, flags=re.MULTILINE)) == 1
    assert "Traceback" not in error
    for message in messages:
        assert re.search(message, error), f"expected {message!r} in {error!r}"


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (["epoch=3"], ["unknown key 'epoch'", "did you mean epochs", "model.encoding.block, "]),
        (["model=3"], ["unknown key 'model'", "valid keys: batch, "]),
        (["epochs"], ["--set takes key=value, got 'epochs'"]),
        (["epochs=0"], ["epochs must be at least 1, got 0"]),
        (["epochs=2.5"], ["epochs: expected int, got float 2.5"]),
        (["workers=0"], ["workers must be at least 1, got 0"]),
        (["seed=-1"], ["seed must be 0 or more, got -1"]),
        (["crop_padding=-1"], ["crop_padding must be 0 or more, got -1"]),
        (["learning_rate=0"], ["learning_rate must be positive, got 0"]),
        (["learning_rate=NaN"], ["learning_rate: expected a finite number, got nan"]),
        (["weight_decay=Infinity"], ["weight_decay: expected a finite number, got inf"]),
        (["label_smoothing=1"], [r"label_smoothing must be in \[0, 1\), got 1"]),
        (["precision=fp16"], ["precision: expected one of fp32, bf16, got 'fp16'"]),
        (["model.width=33"], ["width 33 is not divisible by heads 2"]),
        (["model.encoding.block=7"], ["divide head_dim 16, got 7"]),
        (["model.encoding.block=null"], ["liere needs a block"]),
        (["model.encoding.name=rope"], ["unknown encoding 'rope'; known: absolute, liere"]),
        (["model.grid=[3,4,2]"], ["must have the same axes"]),
        (
            ["model.grid=[3,4,2]", "model.patch=[8,8,8]"],
            [r"image input has the axes height, width; got model.grid \(3, 4, 2\)"],
        ),
        (["model.channels=1"], ["model has 1 channels, its input 3"]),
        (["model.classes=7"], ["labels do not match the head", "3 classes, model.classes is 7"]),
        (["batch=43"], [r"batch 43 is larger than the training split \(42 items\)"]),
    ],
)
def test_setting_that_cannot_be_met_is_refused(
    pictures: Path, tmp_path: Path, capsys: Chatter, settings: list[str], messages: list[str]
) -> None:
    """The message says what was expected and what came, and no run is begun."""
    check_refused(command(pictures, tmp_path / "run", *settings), capsys, *messages)
    assert not (tmp_path / "run").exists()


def test_device_that_is_not_there_is_refused(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for a GPU where there is none is an error and never a CPU run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = command(pictures, tmp_path / "run", "device=cuda")
    check_refused(arguments, capsys, "device is cuda and torch sees no GPU")


def empty_class(root: Path) -> Path:
    (make_data(root, COLOURS) / "train" / "white").mkdir()
    return root


def only_validation(root: Path) -> Path:
    make_data(root, COLOURS)
    shutil.rmtree(root / "train")
    return root


def no_validation(root: Path) -> Path:
    make_data(root, {name: COLOURS[name] for name in ("red", "blue")}, train=1)
    shutil.rmtree(root / "val")
    return root


def pickled(root: Path) -> Path:
    np.savez(root.with_suffix(".npz"), train_images=np.array([{}, {}]), train_labels=np.arange(2))
    return root.with_suffix(".npz")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "expected a folder, a .csv or an .npz file, got .*nowhere"),
        (empty_class, "class 'white' is empty: expected files ending in"),
        (only_validation, "expected items in split 'train', got .*'val': 12"),
        (no_validation, "expected items in split 'val', got .*'train': 2"),
        (pickled, "data.npz: expected an npz of plain arrays, it holds pickled objects"),
    ],
)
def test_data_that_cannot_be_used_is_refused(
    tmp_path: Path, capsys: Chatter, make: Callable[[Path], Path], message: str
) -> None:
    """The message says what was expected and what came, and no run is begun."""
    data = make(tmp_path / "data")
    check_refused(command(data, tmp_path / "run"), capsys, message)
    assert not (tmp_path / "run").exists()


def test_unreadable_picture_is_named_or_left_out_aloud(tmp_path: Path, capsys: Chatter) -> None:
    """One broken picture stops the run; asked to, training leaves it out and remembers which."""
    data = make_data(tmp_path / "data", COLOURS)
    (data / "train/red/3.png").write_bytes(picture((9, 9, 9), 0)[:300])
    name = "train/red/3.png: the image is truncated"
    check_refused(
        command(data, tmp_path / "run"), capsys, f"1 of 42 items in split 'train' .*: {name}"
    )
    assert main(command(data, tmp_path / "run", "skip_unreadable=true", "epochs=1")) == 0
    assert name in capsys.readouterr().err
    ((skipped, reason),) = read_description(tmp_path / "run/last").notes["data"]["skipped"]
    assert (skipped, "truncated" in reason) == ("train/red/3.png", True)


@pytest.mark.parametrize(
    "arguments", [["smok", "--data", "x", "--out", "y"], ["smoke"], ["split"], ["smoke", "--x"]]
)
def test_command_that_is_not_understood_ends_with_its_usage(
    capsys: Chatter, arguments: list[str]
) -> None:
    """Unknown presets and options are answered with the usage and status 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: python -m training" in capsys.readouterr().err


def test_help_teaches_presets_and_split(capsys: Chatter) -> None:
    """The help of the command describes every preset and names the other command."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("cifar10-liere8", "images", "smoke", "python -m training split --help"):
        assert word in text


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
    """Every changed field is named, and only those."""
    changed = ("batch=4", "model.encoding.block=4", "model.dropout=0.2")
    arguments = command(pictures, finished, *changed, resume=True)
    check_refused(
        arguments, capsys, r"other values of: batch, model\.dropout, model\.encoding\.block\n$"
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
        (OPTIMISER, "optimiser.safetensors is cut short or changed"),
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


def test_loss_that_is_not_finite_stops_the_run(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """The message names step and items, and the last good checkpoint is kept."""
    arguments = command(pictures, tmp_path / "run", "learning_rate=1e30")
    check_refused(
        arguments, capsys, r"loss is nan at step \d+; the batch began with train/", status=1
    )
    model, description = load_checkpoint(tmp_path / "run" / "last")
    assert description.notes["step"] == 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_weights_that_are_not_finite_are_never_saved(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient can overflow behind a finite loss: such weights do not replace good ones."""
    original = training.loop.train_step

    def poisoned(setup: Any, samples: np.ndarray, step: int, rate: float) -> float:
        loss = original(setup, samples, step, rate)
        if step == 3:
            setup.model.head.bias.data[1] = float("nan")
        return loss

    monkeypatch.setattr(training.loop, "train_step", poisoned)
    arguments = command(pictures, tmp_path / "run")
    check_refused(arguments, capsys, r"head\.bias is not finite after step 4", status=1)
    assert read_description(tmp_path / "run" / "last").notes["step"] == 2


# --- a full disk ------------------------------------------------------------------------------


def test_full_disk_keeps_the_last_good_checkpoint(
    finished: Path, pictures: Path, disk: Path, capsys: Chatter
) -> None:
    """A disk that fills up ends the run with a message; freed, the run goes on as if never full."""
    folder = finished / "last" / ""
    size = sum(path.stat().st_size for path in folder.iterdir())
    with small_disk(disk, int(1.8 * size)):  # the initial checkpoint and one with moments fit
        check_refused(
            command(pictures, disk / "run"),
            capsys,
            "No space left on device|File too large",
            "the last good checkpoint is kept in .*/run/last",
            status=1,
        )
    _, description = load_checkpoint(disk / "run" / "last")
    assert 0 <= description.notes["step"] < 15
    litter = [path for path in (disk / "run").rglob("*") if path.name[0] == "."]
    assert litter == []
    assert main(command(pictures, disk / "run", resume=True)) == 0
    assert outcome(disk / "run") == outcome(finished)


# --- killed and resumed -----------------------------------------------------------------------

#: Places at which a run dies, one after the other, each in a process of its own: the function
#: before whose n-th call the process is killed.
PLACES = (
    ("training.run.save_checkpoint", 1),  # the very first checkpoint, half written
    ("training.run.Run._link", 1),  # the first checkpoint is whole, and no link names it
    ("training.loop.train_step", 4),  # between two checkpoints
    ("models.checkpoint.write_atomic", 1),  # weights are there, their description is not
    ("training.run.Run._link", 1),  # a whole checkpoint, the link names the one before
    ("training.run.Run.log", 1),  # an epoch's line is half written
    ("training.run.write_atomic", 1),  # while that line is taken back
    ("training.run.Run._settle", 3),  # last is linked, best is not, nothing is removed
    ("shutil.rmtree", 2),  # while old checkpoints are removed
    ("training.loop._save", 1),  # an epoch's line is written, its checkpoint is not
)


def train_and_die(arguments: list[str], log: Path, place: str = "", call: int = 0) -> None:
    """A whole training process, in a child; killed before the n-th call of ``place``."""
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    if place:
        _die_at(place, call)
    os._exit(main(arguments))


def _die_at(place: str, call: int) -> None:
    module, _, name = place.partition(".Run.") if ".Run." in place else place.rpartition(".")
    owner: Any = importlib.import_module(module)
    owner = owner.Run if ".Run." in place else owner
    original, calls = getattr(owner, name), []

    def deadly(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            if name == "log":
                with arguments[0].metrics.open("a") as stream:
                    stream.write('{"step": 5, "epo')
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, deadly)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts ``train_and_die`` in a process, forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    # the first optimiser of a process imports torch._dynamo, which takes longer than the training
    context.set_forkserver_preload(["training.__main__", "torch._dynamo"])
    log = tmp_path_factory.mktemp("log") / "training.txt"

    def start(out: Path, data: Path, precision: str, place: str = "", call: int = 0) -> Any:
        resume = Run(out).exists()
        arguments = command(data, out, f"precision={precision}", resume=resume)
        process = context.Process(target=train_and_die, args=(arguments, log, place, call))
        process.start()
        return process

    return start


def finish(process: Any, expected: int) -> None:
    process.join(60)
    assert process.exitcode == expected
    process.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_run_resumes_to_the_same_weights(
    pictures: Path, tmp_path: Path, start: Callable[..., Any], precision: str
) -> None:
    """Killed again and again, a run ends with the bits, links and lines of one left in peace."""
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    finish(start(calm, pictures, precision), 0)
    for place, call in PLACES:
        finish(start(troubled, pictures, precision, place, call), -signal.SIGKILL)
    finish(start(troubled, pictures, precision), 0)
    assert outcome(troubled) == outcome(calm)


def test_run_killed_at_any_moment_resumes_to_the_same_weights(
    pictures: Path, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """Kills that come when they like, wherever they hit, leave no trace in the result."""
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    began = time.monotonic()
    finish(start(calm, pictures, "fp32"), 0)
    length = time.monotonic() - began
    moments = random.Random(0)
    for _ in range(6):
        process = start(troubled, pictures, "fp32")
        process.join(moments.uniform(0.3, 0.8) * length)
        process.kill()
        process.join(60)
        if process.exitcode == 0:
            break
    if not Run(troubled).exists() or read_description(troubled / "last").notes["step"] < 15:
        finish(start(troubled, pictures, "fp32"), 0)
    assert outcome(troubled) == outcome(calm)


def test_best_is_linked_though_the_kill_came_in_between(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after ``last`` and before ``best`` was linked is made good at the resume."""
    arguments = command(pictures, tmp_path / "run", "epochs=1")
    with monkeypatch.context() as patched:
        patched.setattr(Run, "_settle", lambda self, notes: None)
        assert main(arguments) == 0
    assert not (tmp_path / "run" / "best").exists()
    assert main([*arguments, "--resume"]) == 0
    links = [(tmp_path / "run" / name).resolve() for name in ("last", "best")]
    assert links[0] == links[1]
    assert names(tmp_path / "run" / "checkpoints") == {links[0].name}


# --- python -m training split -------------------------------------------------------------------


def write_empty(root: Path, *names: str) -> Path:
    """Files without content: a split looks at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def hands(tmp_path: Path) -> Path:
    """Forty takes of ten photos, one a digit, numbered on; two cameras take every photo."""
    numbers = range(1118, 1518)
    photos = [f"{n % 10}/{camera}_{n}.JPG" for n in numbers for camera in ("IMG", "CAM7")]
    return write_empty(tmp_path / "hands", *photos)


def test_split_by_number_cuts_contiguous_ranges(
    hands: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Numbers go up from train to val to test, no number is in two of them, the shares fit."""
    out = tmp_path / "labels.csv"
    assert main(["split", str(hands), "--out", str(out), "--order", "number"]) == 0
    rows = read_rows(out)
    assert len(rows) == 800
    numbers: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row in rows:
        assert row["group"] == str(int(re.findall(r"\d+", Path(row["path"]).stem)[-1]))
        assert row["label"] == Path(row["path"]).parent.name
        numbers[row["split"]].append(int(row["group"]))
    assert max(numbers["train"]) < min(numbers["val"]) <= max(numbers["val"]) < min(numbers["test"])
    assert {split: len(found) for split, found in numbers.items()} == {
        "train": 640, "val": 80, "test": 80,
    }  # fmt: skip
    assert "train 640, val 80, test 80 items" in capsys.readouterr().out


def test_split_by_number_never_cuts_a_number(tmp_path: Path) -> None:
    """Whatever the shares, items with one number stay together, and 10 comes after 3."""
    names = [
        f"{label}/p{n}-{i:02}x{n}.png" for n in (1, 2, 3, 10) for i in range(5) for label in "ab"
    ]
    folder = write_empty(tmp_path / "data", *names)
    arguments = ["split", str(folder), "--order", "number", "--fractions", "0.45,0.3,0.25"]
    assert main([*arguments, "--out", str(tmp_path / "l.csv")]) == 0
    splits = {(row["group"], row["split"]) for row in read_rows(tmp_path / "l.csv")}
    assert splits == {("1", "train"), ("2", "train"), ("3", "val"), ("10", "test")}


def test_split_by_hash_is_what_training_would_do(hands: Path, tmp_path: Path) -> None:
    """Training on the CSV or on the folder teaches with the same items."""
    out = tmp_path / "lists" / "labels.csv"
    out.parent.mkdir()
    assert main(["split", str(hands), "--out", str(out)]) == 0
    listed, direct = open_source(out), open_source(hands)
    assert listed.labels == direct.labels
    in_csv = {item.id.removeprefix("../hands/"): item.split for item in listed.items}
    assert in_csv == {item.id: item.split for item in direct.items}


def test_split_takes_its_shares(hands: Path, tmp_path: Path) -> None:
    """The shares given are those of the items, also at random."""
    arguments = [
        "split",
        str(hands),
        "--out",
        str(tmp_path / "l.csv"),
        "--fractions",
        "0.5,0.2,0.3",
    ]
    assert main(arguments) == 0
    counts = Counter(row["split"] for row in read_rows(tmp_path / "l.csv"))
    for split, share in (("train", 0.5), ("val", 0.2), ("test", 0.3)):
        assert abs(counts[split] / 800 - share) < 0.06


def test_split_can_be_trained_on(pictures: Path, tmp_path: Path) -> None:
    """The CSV that the command writes is one that training reads."""
    folder = shutil.copytree(pictures / "train", tmp_path / "data")
    arguments = ["split", str(folder), "--order", "number", "--out", str(tmp_path / "l.csv")]
    assert main(arguments) == 0
    assert main(command(tmp_path / "l.csv", tmp_path / "run", "epochs=1")) == 0


@pytest.mark.parametrize(
    ("names", "order", "message"),
    [
        (("a/1.png", "b/two.png"), "number", "a number in every file name, got 'b/two.png'"),
        (("a/1.png", "b/1.png"), "number", "expected items in every split, got none in .* of 2"),
        (("a/1.png", "b/2.png"), "hash", "expected items in every split, got none in"),
        (("train/a/1.png", "val/b/2.png"), "hash", "is split already: expected CLASS/file"),
        ((), "hash", "at least two classes"),
        (("a/1.png", "b/notes.txt"), "number", "class 'b' is empty"),
    ],
)
def test_split_that_cannot_be_made_is_refused(
    tmp_path: Path, capsys: Chatter, names: tuple[str, ...], order: str, message: str
) -> None:
    """The message says what was expected and what came, and no CSV is written."""
    folder = write_empty(tmp_path / "data", *names)
    folder.mkdir(exist_ok=True)
    out = tmp_path / "labels.csv"
    check_refused(["split", str(folder), "--out", str(out), "--order", order], capsys, message)
    assert not out.exists()


def test_split_never_overwrites(hands: Path, tmp_path: Path, capsys: Chatter) -> None:
    """A CSV may have been corrected by hand, so it is left alone."""
    out = tmp_path / "labels.csv"
    out.write_text("mine")
    check_refused(["split", str(hands), "--out", str(out)], capsys, "never overwritten")
    assert out.read_text() == "mine"
    check_refused(["split", str(out), "--out", str(tmp_path / "x")], capsys, "expected a folder")


@pytest.mark.parametrize("text", ["0.8,0.2", "0.8,0.1,0.2", "1,0,0", "a,b,c", "0.9,0.2,-0.1"])
def test_split_refuses_shares_that_do_not_add_up(hands: Path, capsys: Chatter, text: str) -> None:
    """Shares are three positive numbers whose sum is 1."""
    with pytest.raises(SystemExit, match="2"):
        main(["split", str(hands), "--out", "x.csv", "--fractions", text])
    assert "three positive shares of train,val,test" in capsys.readouterr().err


def test_split_of_real_hands_leaks_no_number(data_dir: Path, tmp_path: Path) -> None:
    """On the sign-language digits: 2,059 photos, all listed, ranges apart."""
    archive = data_dir / "images" / "sign_digits.zip"
    if not archive.is_file():
        pytest.skip("the sign-language digits are not beside this checkout")
    shutil.unpack_archive(archive, tmp_path / "signs")
    (folder,) = {path.parent.parent for path in (tmp_path / "signs").rglob("*.JPG")}
    out = tmp_path / "labels.csv"
    assert main(["split", str(folder), "--out", str(out), "--order", "number"]) == 0
    rows = read_rows(out)
    assert len(rows) == 2059
    ranges = {
        split: [int(row["group"]) for row in rows if row["split"] == split]
        for split in ("train", "val", "test")
    }
    assert max(ranges["train"]) < min(ranges["val"])
    assert max(ranges["val"]) < min(ranges["test"])
    assert 0.78 < len(ranges["train"]) / len(rows) < 0.82
