"""Bad input to training: the message says what was expected and what came."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.kill_training import picture
from models.checkpoint import read_description
from tests.helpers import training_runs
from tests.helpers.training_runs import COLOURS, Chatter, check_refused, command, make_data
from training.__main__ import main

pictures = training_runs.pictures


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (["epoch=3"], ["unknown key 'epoch'", "did you mean epochs", "model.encoding.block, "]),
        (["model=3"], ["unknown key 'model'", "valid keys: accumulate, allow_duplicates, augment"]),
        (["epochs"], ["--set takes key=value, got 'epochs'"]),
        (["epochs=0"], ["epochs must be at least 1, got 0"]),
        (["epochs=2.5"], ["epochs: expected int, got float 2.5"]),
        (["workers=-1"], ["workers must be 0 or more, got -1"]),
        (["seed=-1"], ["seed must be 0 or more, got -1"]),
        (["augment.crop_padding=-1"], ["crop_padding must be 0 or more, got -1"]),
        (["learning_rate=0"], ["learning_rate must be positive, got 0"]),
        (["learning_rate=NaN"], ["learning_rate: expected a finite number, got nan"]),
        (["weight_decay=Infinity"], ["weight_decay: expected a finite number, got inf"]),
        (["label_smoothing=1"], [r"label_smoothing must be in \[0, 1\), got 1"]),
        (["precision=fp16"], ["precision: expected one of fp32, bf16, got 'fp16'"]),
        (["model.width=33"], ["width 33 is not divisible by heads 2"]),
        (["model.encoding.block=7"], ["divide head_dim 16, got 7"]),
        (["model.encoding.name=rope"], ["unknown encoding 'rope'; known: absolute, "]),
        (["model.grid=[3,4,2]"], ["must have the same axes"]),
        (
            ["model.grid=[3,4,2]", "model.patch=[8,8,8]"],
            [r"image input has the axes height, width; got model.grid \(3, 4, 2\)"],
        ),
        (["model.channels=1"], ["model has 1 channels, its input 3"]),
        (["model.classes=7"], ["labels do not match the head", "3 classes, model.classes is 7"]),
        (["batch=43"], [r"batch 43 is larger than the training split \(42 items\)"]),
        (["items=7"], [r"batch 8 is larger than the training split \(7 items\)"]),
        (["items=2"], ["at least one item of each of 3 classes in split 'train', got 2 items"]),
        (["accumulate=3"], ["batch 8 is not divisible by accumulate 3"]),
        (["batch=1", "augment.cutmix=1"], ["mix the items of a batch: .* at least 2, got 1"]),
        (
            ["model.encoding.name=comrope_ap", "model.encoding.block=16"],
            ["head_dim / block divisible by 2 axes"],
        ),
        (["augment.rotate=3"], ["augment.rotate is for volume input; expected 0 for image"]),
        (["class_weights=balanced", "sampling=balanced"], ["expected one of them balanced"]),
    ],
)
def test_setting_that_cannot_be_met_is_refused(
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    messages: list[str],
) -> None:
    """The message says what was expected and what came; no run is begun, nothing is decoded."""
    monkeypatch.setattr("media.dataset.read", None)
    monkeypatch.setattr("training.checks.read", None)
    check_refused(command(pictures, tmp_path / "run", *settings), capsys, *messages)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["smoke-clips", "smoke-volumes"])
def test_preset_of_another_modality_is_refused_before_all_is_read(
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
) -> None:
    """The first items tell, by name; an item of the right kind among them sends them to be read."""
    monkeypatch.setattr("media.dataset.read", None)
    arguments = [preset, "--data", str(pictures), "--out", str(tmp_path / "run")]
    kind = "video" if preset == "smoke-clips" else "volume"
    message = rf"the items are no {kind} input as it is asked for; train/blue/0\.png: expected .*"
    check_refused(arguments, capsys, message + "these are none of them")
    assert not (tmp_path / "run").exists()


def test_place_where_nothing_can_be_written_is_refused_before_all_is_read(
    pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding may take an hour; the folder of the run comes after it."""
    monkeypatch.setattr("media.dataset.read", None)
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    check_refused(command(pictures, out), capsys, "file/run cannot be made: .*/file is a file")
    monkeypatch.setattr("os.access", lambda *_: False)
    arguments = command(pictures, tmp_path / "runs" / "run")
    check_refused(arguments, capsys, "cannot be written: no permission for", status=1)


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
    """All items belong together, so that nothing can be taken from train."""
    make_data(root, {name: COLOURS[name] for name in ("red", "blue")}, train=2)
    files = [f"train/{name}/{number}.png" for name in ("red", "blue") for number in range(2)]
    rows = [f"{file},{file.split('/')[1]},train,one" for file in files]
    (root / "labels.csv").write_text("\n".join(["path,label,split,group", *rows]) + "\n")
    return root


def one_picture(root: Path) -> Path:
    make_data(root, COLOURS, train=1)
    shutil.rmtree(root / "val" / "red")
    return root


def pickled(root: Path) -> Path:
    np.savez(root.with_suffix(".npz"), train_images=np.array([{}, {}]), train_labels=np.arange(2))
    return root.with_suffix(".npz")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", r"expected a folder or a \.csv, .*, got .*nowhere"),
        (empty_class, "class 'white' is empty: expected files ending in"),
        (only_validation, "expected items in split 'train', got .*'val': 12"),
        (no_validation, "expected items in split 'val', got .*'train': 4"),
        (one_picture, "class 'red' has 1 item: expected at least 2, one to train on"),
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
