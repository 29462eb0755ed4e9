"""Answers for files: those of validation, from every kind of data, a row for every item."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import training.answers
from media.dataset import prepare_split
from media.index import open_dataset
from media.spec import Grid, InputSpec, VideoSpec
from models.checkpoint import load_checkpoint, save_checkpoint
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers import training_runs
from tests.helpers.containers import guide_commands
from tests.helpers.service_fixtures import clip
from tests.helpers.training_runs import COLOURS, Chatter, before, check_refused, make_data, names
from training.__main__ import main
from training.evaluate import evaluate, logits_of
from training.listed import Listed

pictures = training_runs.pictures

IMAGE = ModelSpec(
    patch=(2, 3), grid=(4, 3), classes=3, width=24, depth=2, heads=2, mlp_dim=20,
    encoding=EncodingSpec("liere", block=4),
)  # fmt: skip
CLIP = dataclasses.replace(IMAGE, patch=(1, 2, 3), grid=(2, 4, 3))
VIEWS = InputSpec(modality="video", video=VideoSpec(views=3))


def make_checkpoint(folder: Path, spec: ModelSpec, input_spec: InputSpec) -> Path:
    """Random weights, whose answers differ well from item to item."""
    torch.manual_seed(3)
    model = VisionTransformer(spec, input_spec)
    torch.nn.init.normal_(model.head.weight, std=0.7)
    folder.mkdir(parents=True)
    save_checkpoint(folder, model, input_spec, tuple(COLOURS), {})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a best checkpoint of pictures; not to be written to."""
    root = tmp_path_factory.mktemp("predict")
    make_checkpoint(root / "checkpoints/step-00000009", IMAGE, InputSpec())
    (root / "best").symlink_to("checkpoints/step-00000009")
    return root


def predict(run: Path, data: Path, out: Path, *options: str, status: int = 0) -> list[Any]:
    """The rows of the table, by their columns."""
    assert main(["predict", str(run), str(data), "--out", str(out), *options]) == status
    with out.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def probabilities(rows: list[Any]) -> np.ndarray:
    return np.array([[float(row[f"p({label})"]) for label in COLOURS] for row in rows])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_answers_are_those_of_validation(
    run: Path, pictures: Path, tmp_path: Path, capsys: Chatter, workers: str
) -> None:
    """Probabilities of the logits that evaluate measures, in order, whoever reads the items."""
    options = ("--split", "val", "--batch", "5", "--workers", workers)
    rows = predict(run, pictures, tmp_path / "a.csv", *options)
    model, description = load_checkpoint(run / "best")
    held = prepare_split(open_dataset(pictures), "val", description.input, Grid((4, 3)), (2, 3))
    expected = logits_of(model, held.pixels).double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6, rtol=0)
    assert [row["id"] for row in rows] == list(held.ids)
    labels = list(COLOURS)
    assert [row["label"] for row in rows] == [labels[label] for label in held.labels]
    assert [row["predicted"] for row in rows] == [labels[one] for one in expected.argmax(1)]
    best = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(best, expected.max(1), atol=1e-6)
    top1 = evaluate(model, held)["top1"]
    assert f"12 items; top-1 {top1:.4f} of 12 whose label" in capsys.readouterr().out
    assert names(tmp_path) == {"a.csv"}


def test_views_of_a_clip_are_averaged(tmp_path: Path) -> None:
    """As logits, before they become probabilities; here of a checkpoint that is in no run."""
    checkpoint = make_checkpoint(tmp_path / "clips", CLIP, VIEWS)
    for split, label, number in (("val", "red", 1), ("val", "blue", 2), ("train", "red", 3)):
        folder = tmp_path / "set" / split / label
        folder.mkdir(parents=True)
        (folder / f"{number}.gif").write_bytes(clip(number, 9, (23, 17)))
    data, options = tmp_path / "set", ("--split", "val", "--batch", "1")
    rows = predict(checkpoint, data, tmp_path / "a.csv", *options)
    model, _ = load_checkpoint(checkpoint)
    held = prepare_split(open_dataset(data), "val", VIEWS, Grid((2, 4, 3)), (1, 2, 3))
    logits = held.of_items(logits_of(model, held.pixels).numpy())
    expected = torch.from_numpy(logits).double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6, rtol=0)
    assert len(held.pixels) == 6


def test_grid_may_be_another_one(run: Path, pictures: Path, tmp_path: Path) -> None:
    """What the model gives at that grid, of pictures that are read as large."""
    rows = predict(run, pictures, tmp_path / "a.csv", "--split", "val", "--grid", "7x5")
    model, description = load_checkpoint(run / "best")
    held = prepare_split(open_dataset(pictures), "val", description.input, Grid((7, 5)), (2, 3))
    expected = logits_of(model, held.pixels).double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6, rtol=0)


# --- whatever holds the items ----------------------------------------------------------------


def members(tar: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(tar, "w") as target:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            target.addfile(entry, io.BytesIO(data))
    return tar


def as_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def as_table(root: Path, files: dict[str, bytes]) -> Path:
    """With a column that means nothing here, and a label in one row."""
    as_files(root, files)
    rows = [f"{name},{'red' if n == 1 else ''},x" for n, name in enumerate(files)]
    (root / "items.csv").write_text("\n".join(["path,label,note", *rows]) + "\n")
    return root / "items.csv"


def as_zip(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "set.zip", "w") as target:
        for name, data in files.items():
            target.writestr(name, data)
    return root / "set.zip"


def as_npz(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir()
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in files.values()]
    np.savez(root / "set.npz", test_images=np.stack(images), test_names=[*files])
    return root / "set.npz"


def as_shards(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir()
    for number, (name, data) in enumerate(files.items()):
        members(root / f"test-{number}.tar", {name: data})
    return root


def as_deep_files(root: Path, files: dict[str, bytes]) -> Path:
    return as_files(root, {f"red/x/{name}": data for name, data in files.items()})


def as_folder_with_table(root: Path, files: dict[str, bytes]) -> Path:
    return as_table(root, files).rename(root / "labels.csv").parent


KINDS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": as_files,
    "folder of folders": as_deep_files,
    "table of a folder": as_folder_with_table,
    "CSV": as_table,
    "zip": as_zip,
    "tar": lambda root, files: members(root.with_suffix(".tar"), files),
    "npz": as_npz,
    "shards": as_shards,
}
SAID = {"folder of folders": ["red"] * 3, "table of a folder": ["", "red", ""],
        "CSV": ["", "red", ""]}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_items_need_no_label_whatever_holds_them(
    run: Path, pictures: Path, tmp_path: Path, kind: str
) -> None:
    """The same pictures have the same answers; where the data say a label, it stands beside."""
    paths = [pictures / "val/red" / f"{number}.png" for number in range(3)]
    data = KINDS[kind](tmp_path / "set", {path.name: path.read_bytes() for path in paths})
    rows = predict(run, data, tmp_path / "all.csv")
    assert [Path(row["id"]).name for row in rows] == [path.name for path in paths]
    assert [row["label"] for row in rows] == SAID.get(kind, ["", "", ""])
    alone = [predict(run, path, tmp_path / f"{path.stem}.csv") for path in paths]
    assert [one["id"] for (one,) in alone] == [path.name for path in paths]
    one_by_one = np.concatenate([probabilities(one) for one in alone])
    np.testing.assert_allclose(probabilities(rows), one_by_one, atol=1e-6, rtol=0)


def test_splits_are_those_that_training_makes(run: Path, tmp_path: Path) -> None:
    """Where the data give none, of labelled items; all of them are answered for without --split."""
    data = make_data(tmp_path / "made", COLOURS, train=10) / "train"
    expected = open_dataset(data).view("test").items
    rows = predict(run, data, tmp_path / "a.csv", "--split", "test")
    assert [row["id"] for row in rows] == [item.id for item in expected]
    assert len(predict(run, data, tmp_path / "b.csv")) == 30


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "1"])
def test_item_that_cannot_be_read_is_a_row_with_its_problem(
    run: Path, pictures: Path, tmp_path: Path, capsys: Chatter, workers: str
) -> None:
    """The others are answered for all the same, and the status says that not all are."""
    shutil.copytree(pictures / "val/red", tmp_path / "set")
    whole = predict(run, tmp_path / "set", tmp_path / "whole.csv")
    broken = tmp_path / "set/1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (tmp_path / "set/2.png").unlink()
    (tmp_path / "set/2.png").symlink_to("nowhere")
    rows = predict(
        run, tmp_path / "set", tmp_path / "a.csv", "--batch", "2", "--workers", workers, status=1
    )
    assert [row["problem"][:22] for row in rows] == [
        "", "the image is truncated", "No such file or direct", "",
    ]  # fmt: skip
    assert {value for row in rows[1:3] for name, value in row.items() if name[:2] == "p("} == {""}
    good = probabilities([rows[0], rows[3]])
    np.testing.assert_allclose(good, probabilities([whole[0], whole[3]]), atol=1e-6, rtol=0)
    assert "4 items, 2 without an answer" in capsys.readouterr().out


def test_answer_that_is_no_number_is_a_problem(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said of the item and not written as one."""
    broken = torch.tensor([[1.0, 2, 3], [1, torch.nan, 3], [1, 2, torch.inf], [3, 2, 1]])
    monkeypatch.setattr(training.answers, "logits_of", lambda *_, **__: broken)
    rows = predict(run, pictures / "val/red", tmp_path / "a.csv", status=1)
    answered = ["red", "", "", "blue"]
    assert [row["predicted"] for row in rows] == answered
    assert [row["problem"] for row in rows] == [
        "" if label else "the model gives no finite answer" for label in answered
    ]


def test_no_more_is_decoded_than_is_answered_for_next(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch at a time, so that data may be larger than the memory."""
    read, answer, reads, seen = Listed.read, training.answers.logits_of, [], []

    def reading(listed: Listed, item: int) -> np.ndarray:
        reads.append(item)
        return read(listed, item)

    def answering(*arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(len(reads))
        return answer(*arguments, **options)

    monkeypatch.setattr(Listed, "read", reading)
    monkeypatch.setattr(training.answers, "logits_of", answering)
    predict(run, pictures / "train", tmp_path / "a.csv", "--batch", "9", "--workers", "0")
    assert seen == [9, 18, 27, 36, 42]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_nothing_behind(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Neither half a table nor the index that workers map."""
    monkeypatch.setattr(*before("training.answers.logits_of", 2, lambda *_, **__: act()))

    def act() -> None:
        assert len(names(tmp_path)) == 2
        signal.raise_signal(number)

    arguments = ["predict", str(run), str(pictures), "--out", str(tmp_path / "a.csv")]
    assert main([*arguments, "--batch", "9", "--workers", "1"]) == 128 + number
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_table_is_there_whole_or_not_at_all(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Nor does anything else stay behind, whatever ends it."""
    answer, calls = training.answers.logits_of, []

    def ending(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(len(names(tmp_path)))
        if len(calls) == 2:
            raise error
        return answer(*arguments, **options)

    monkeypatch.setattr(training.answers, "logits_of", ending)
    arguments = ["predict", str(run), str(pictures), "--out", str(tmp_path / "a.csv")]
    status = 130 if isinstance(error, KeyboardInterrupt) else 1
    assert main([*arguments, "--batch", "9", "--workers", "0"]) == status
    assert calls == [1, 1]
    assert names(tmp_path) == set()


def test_too_little_memory_says_what_takes_less(
    run: Path, pictures: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the network, and of what reads ahead of it."""
    arguments = ["predict", str(run), str(pictures), "--out", str(tmp_path / "a.csv"), "--batch"]

    def greedy(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(training.answers, "logits_of", greedy)
        message = "out of memory while answering for 9 items at a time; --batch N takes fewer"
        check_refused([*arguments, "9", "--workers", "0"], capsys, message, status=1)
    monkeypatch.setattr("training.loader.start_server", greedy_start)
    message = r"no worker process can be started: .*; try --workers 1 or --workers 0\n"
    check_refused([*arguments, "9", "--workers", "2"], capsys, message, status=1)
    assert names(tmp_path) == set()


def greedy_start(*_: str) -> None:
    raise OSError(12, "Cannot allocate memory")


REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "nothing there": ("gone", (), "expected a folder, a pattern of shards or a file, got"),
    "no media": ("notes", (), "notes: expected media, got none beside 1 .txt"),
    "no split": ("flat", ("--split", "val"), "expected splits in the data, or a label of every"),
    "empty split": ("given", ("--split", "val"), "expected items in split 'val', got"),
    "other axes": ("flat", ("--grid", "2x3x4"), "grid 2x3x4 has 3 axes, the model 2"),
    "no grid": ("flat", ("--grid", "0x3"), "a grid is written like 8x8"),
}


@pytest.mark.parametrize(("data", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_answered_is_refused(
    run: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    data: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Before anything is decoded, with what was expected."""
    as_files(tmp_path / "notes", {"a.txt": b""})
    shutil.copytree(pictures / "val/red", tmp_path / "flat")
    shutil.copytree(pictures / "val/red", tmp_path / "given/test")
    arguments = ["predict", str(run), str(tmp_path / data), "--out", str(tmp_path / "a.csv")]
    check_refused([*arguments, *options], capsys, message)
    assert not (tmp_path / "a.csv").exists()


def test_checkpoint_without_a_head_answers_nothing(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Features are no answers to a question with labels: refused, with what gives it a head."""
    model = VisionTransformer(dataclasses.replace(IMAGE, classes=0), InputSpec())
    (tmp_path / "headless").mkdir()
    save_checkpoint(tmp_path / "headless", model, InputSpec(), (), {})
    arguments = ["predict", str(tmp_path / "headless"), str(pictures), "--out"]
    message = "the checkpoint has no head: expected one with labels, got features alone"
    check_refused([*arguments, str(tmp_path / "a.csv")], capsys, message)
    assert not (tmp_path / "a.csv").exists()


def test_table_is_never_overwritten(
    run: Path, pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Nor is a folder made for it."""
    (tmp_path / "a.csv").write_text("mine")
    arguments = ["predict", str(run), str(pictures), "--out"]
    check_refused([*arguments, str(tmp_path / "a.csv")], capsys, "exists already and is never")
    check_refused([*arguments, str(tmp_path / "b/a.csv")], capsys, "b is no folder: make it first")
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_command_of_the_guide_runs(
    run: Path, pictures: Path, tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word, on pictures without labels."""
    (line,) = guide_commands(repo_root, "Answers without a server", "train")
    words = shlex.split(line)[3:]
    assert words[:3] == ["predict", "runs/digits", "data/new"]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/digits", symlinks=True)
    shutil.copytree(pictures / "val/blue", "data/new")
    assert main(words) == 0
    assert len(Path(words[-1]).read_text().splitlines()) == 5
