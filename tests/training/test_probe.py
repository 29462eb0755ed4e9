"""Linear probes and neighbours: features once, a head by its validation, a run like any other."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from media.dataset import prepare_split
from media.index import open_dataset
from media.spec import Grid
from models.checkpoint import Description, load_checkpoint, read_description, save_checkpoint
from models.vit import VisionTransformer
from tests.helpers import training_runs
from tests.helpers.training_runs import COLOURS, Chatter, make_data, names
from tests.training.test_finetune import INPUT, LABELS, SPEC, make_checkpoint, make_model
from training.__main__ import main
from training.evaluate import evaluate
from training.features import without_head
from training.probe import PENALTIES, STEPS, TOLERANCE, Head, chosen

pictures = training_runs.pictures


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of other labels, at grid 4x3."""
    (tmp_path / "runs").mkdir()
    return make_checkpoint(tmp_path / "runs" / "old", SPEC)


def probe(checkpoint: Path, data: Path, out: Path, *options: str, status: int = 0) -> Path:
    words = ["linear-probe", "--init-from", str(checkpoint), "--data", str(data), "--out", str(out)]
    assert main([*words, "--workers", "0", "--no-report", *options]) == status
    return out


def features_of(checkpoint: Path, data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """[N, F] and labels [N], by the model's own method."""
    model, description = load_checkpoint(checkpoint)
    spec = description.model
    prepared = prepare_split(
        open_dataset(data), split, description.input, spec.training_grid, spec.patch
    )
    with torch.inference_mode():
        return model.features(torch.from_numpy(prepared.pixels)).numpy(), prepared.labels


def test_head_is_that_of_scikit_learn(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    """Fitted by hand with the kept penalty: the run's model gives the same logits, as it is."""
    out = probe(checkpoint, pictures, tmp_path / "runs" / "probe")
    model, description = load_checkpoint(out / "best")
    (kept,) = [one for one in told_of(description) if one["penalty"] == penalty_of(description)]
    rows, labels = features_of(checkpoint, pictures, "train")
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    regression = LogisticRegression(
        C=1 / (kept["penalty"] * len(rows)), max_iter=20 * STEPS, tol=TOLERANCE / 10
    ).fit((rows - mean) / deviation, labels)
    held, targets = features_of(checkpoint, pictures, "val")
    expected = regression.predict_proba((held - mean) / deviation)
    with torch.inference_mode():
        logits = model.head(torch.from_numpy(held))
    np.testing.assert_allclose(logits.double().softmax(1).numpy(), expected, atol=2e-3)
    assert (logits.argmax(1).numpy() == targets).mean() == kept["val_top1"]
    assert description.labels == tuple(COLOURS)


def told_of(description: Description) -> list[dict[str, float]]:
    told: list[dict[str, float]] = description.notes["probe"]["penalties"]
    return told


def penalty_of(description: Description) -> float:
    return float(description.notes["probe"]["penalty"])


def test_strongest_penalty_within_a_standard_error_is_kept() -> None:
    """Of 100 items 0.9 and 0.88 are one; the best one itself where less is said than its loss."""
    rows = ((1.0, 0.6, 0.9), (0.1, 0.88, 0.4), (0.01, 0.9, 0.3), (0.001, 0.89, 0.5))
    none = np.empty(0, np.float32)
    heads = [Head(p, none, none, 0.0, {"top1": top1, "loss": loss}, 1) for p, top1, loss in rows]
    assert chosen(heads, "top1", 100).penalty == 0.1
    assert chosen(heads, "top1", 10_000).penalty == 0.01
    assert chosen(heads, "loss", 100).penalty == 0.01


def test_body_stays_and_figures_are_those_of_validation(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """Every weight but the head's is the checkpoint's; the record is what evaluating it gives."""
    out = probe(checkpoint, pictures, tmp_path / "runs" / "probe")
    old, _ = load_checkpoint(checkpoint)
    new, description = load_checkpoint(out / "best")
    state = old.state_dict()
    for name, tensor in new.state_dict().items():
        assert name.startswith("head.") or torch.equal(tensor, state[name]), name
    prepared = prepare_split(open_dataset(pictures), "val", INPUT, Grid((4, 3)), (2, 3))
    measured = evaluate(new, prepared)
    record = description.notes["best"]
    for name, value in measured.items():
        assert record[f"val_{name}"] == pytest.approx(value, abs=1e-5)
    assert [one["penalty"] for one in told_of(description)] == list(PENALTIES)
    assert description.notes["init"]["head"] == "new"


def test_features_are_kept(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second probe, and knn, decode no item of these splits; other weights or sizes do."""
    first = probe(checkpoint, pictures, tmp_path / "runs" / "one")
    kept = names(tmp_path / "runs" / ".features")
    assert len(kept - {".lock"}) == 2

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("an item was decoded")

    with monkeypatch.context() as patched:
        patched.setattr("training.features.answers_of", decode)
        second = probe(checkpoint, pictures, tmp_path / "runs" / "two")
        knn = ["knn", "--init-from", str(checkpoint), "--data", str(pictures), "--workers", "0"]
        assert main(knn) == 0
    weights = [(run / "best" / "weights.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]
    probe(checkpoint, pictures, tmp_path / "runs" / "three", "--grid", "5x7")
    assert len(names(tmp_path / "runs" / ".features") - {".lock"}) == 4


def test_other_labels_of_the_same_files_decode_nothing(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """Features know nothing of labels: a table that calls the same items otherwise finds them."""
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    files = [file.relative_to(root) for file in sorted(root.glob("*/*/*.png"))]
    for table, other in (("one", "green"), ("two", "yellow")):
        named = ((file, file.parts[1].replace("green", other)) for file in files)
        rows = [f"{file},{label},{file.parts[0]}" for file, label in named]
        (root / f"{table}.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
        probe(checkpoint, root / f"{table}.csv", tmp_path / table)
    assert read_description(tmp_path / "two" / "best").labels == ("blue", "red", "yellow")
    assert len(names(checkpoint.parent / ".features") - {".lock"}) == 2


def test_features_are_of_the_architecture_too(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """Weights that two ways to pool share do not share features: the second run gets its own."""
    model, description = load_checkpoint(checkpoint)
    spec = dataclasses.replace(model.spec, norm_before_pool=not model.spec.norm_before_pool)
    other = VisionTransformer(spec, description.input)
    other.load_state_dict(model.state_dict())
    beside = checkpoint.parent / "other"
    beside.mkdir()
    save_checkpoint(beside, other, description.input, description.labels, {})
    assert load_checkpoint(beside)[1].weights_sha256 == description.weights_sha256
    for folder in (checkpoint, beside):
        probe(folder, pictures, tmp_path / f"of-{folder.name}")
    assert len(names(checkpoint.parent / ".features") - {".lock"}) == 4


def test_workers_read_the_same_features(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """With processes that read ahead, in small batches, the head is the same."""
    runs = [
        probe(
            checkpoint, pictures, tmp_path / "runs" / number, "--workers", number, "--batch", "5",
            "--features", str(tmp_path / number),
        )
        for number in ("0", "2")
    ]  # fmt: skip
    heads = [load_checkpoint(run / "best")[0].head.weight for run in runs]
    assert torch.equal(heads[0], heads[1])


def test_run_is_like_any_other(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    """Reported, predicted with, and gone on from with all layers."""
    out = tmp_path / "runs" / "probe"
    words = ["linear-probe", "--init-from", str(checkpoint), "--data", str(pictures)]
    assert main([*words, "--out", str(out), "--workers", "0"]) == 0
    report = json.loads((out / "report" / "report.json").read_bytes())
    assert report["splits"]["val"]["items"] == 12
    assert "index.html" in names(out / "report")
    predicted = tmp_path / "predicted.csv"
    assert main(["predict", str(out), str(pictures), "--out", str(predicted)]) == 0
    more = ["finetune", "--data", str(pictures), "--init-from", str(out)]
    more += ["--out", str(tmp_path / "more"), "--no-report"]
    small = ("epochs=1", "batch=8", "workers=1", "augment.oversize=1", "precision=fp32")
    assert main([*more, *(word for one in small for word in ("--set", one))]) == 0


def test_checkpoint_may_have_no_head(pictures: Path, tmp_path: Path) -> None:
    """The probe gives it one."""
    model = without_head(make_model(), INPUT)
    headless = tmp_path / "runs" / "headless"
    headless.mkdir(parents=True)
    save_checkpoint(headless, model, INPUT, (), {})
    out = probe(headless, pictures, tmp_path / "runs" / "probe")
    assert load_checkpoint(out / "best")[1].labels == tuple(COLOURS)


def test_body_without_head_gives_features() -> None:
    """What the head of the whole model reads."""
    model = make_model()
    pixels = torch.randint(256, (2, 8, 9, 3), dtype=torch.uint8)
    with torch.inference_mode():
        features = without_head(model, INPUT)(pixels)
        assert torch.equal(model.head(features).float(), model(pixels))


def test_two_classes(checkpoint: Path, tmp_path: Path) -> None:
    """Of which scikit-learn fits the difference alone."""
    data = make_data(tmp_path / "data", {name: COLOURS[name] for name in ("blue", "red")})
    out = probe(checkpoint, data, tmp_path / "runs" / "probe")
    model, description = load_checkpoint(out / "best")
    rows, labels = features_of(checkpoint, data, "train")
    with torch.inference_mode():
        right = model.head(torch.from_numpy(rows)).argmax(1).numpy() == labels
    assert right.mean() > 0.9
    assert description.notes["best"]["val_top1"] > 0.9


def test_neighbours_are_counted_by_hand(
    checkpoint: Path, pictures: Path, capsys: Chatter
) -> None:
    """The nearest training item by the angle between features, and votes of five."""
    knn = ["knn", "--init-from", str(checkpoint), "--data", str(pictures), "--workers", "0"]
    assert main(knn) == 0
    shown = dict(re.findall(r"^\W*(\d+).*?(0\.\d{4}|1\.0000)\W*$", capsys.readouterr().out, re.M))
    rows, labels = features_of(checkpoint, pictures, "train")
    held, targets = features_of(checkpoint, pictures, "val")
    angles = unit(held) @ unit(rows).T  # [held, N]
    for count in (1, 5):
        nearest = np.argsort(-angles, axis=1)[:, :count]  # [held, count]
        votes = np.zeros((len(held), len(COLOURS)))
        for place, near in enumerate(nearest):
            np.add.at(votes[place], labels[near], np.exp(angles[place, near] / 0.07))
        assert float(shown[str(count)]) == pytest.approx(
            (votes.argmax(1) == targets).mean(), abs=1e-4
        )
    assert set(shown) == {"1", "5", "10", "20"}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_broken_items_are_named_or_left_out(
    checkpoint: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Nothing is written until it is asked to leave them out; kept features remember them."""
    data = make_data(tmp_path / "data", COLOURS)
    (data / "train" / "red" / "3.png").write_bytes(b"no picture")
    out = tmp_path / "runs" / "probe"
    for _ in range(2):  # the second time of what was kept
        probe(checkpoint, data, out, status=2)
        error = capsys.readouterr().err
        assert re.search("1 of 42 items in split 'train' cannot be read: .*3.png", error)
        assert not out.exists()
    probe(checkpoint, data, out, "--skip-unreadable")
    notes = load_checkpoint(out / "best")[1].notes
    assert notes["data"]["train"]["items"] == 41
    assert [id_ for id_, _ in notes["data"]["skipped"]] == ["train/red/3.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--grid", "4x3x2"), "grid 4x3x2 has 3 axes, the model 2"),
        (("--out", "."), "is not empty"),
        (("--init-from", "nowhere"), "expected a run with best/checkpoint.json in it"),
    ],
)
def test_bad_input_is_refused(
    checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: Chatter,
    options: tuple[str, ...],
    message: str,
) -> None:
    """Before anything is computed."""
    probe(checkpoint, pictures, tmp_path / "runs" / "probe", *options, status=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs" / ".features").exists()


def test_features_that_are_no_numbers_name_their_item(
    pictures: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """And nothing is kept of them."""
    model = VisionTransformer(SPEC, INPUT)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    (tmp_path / "runs" / "old").mkdir(parents=True)
    save_checkpoint(tmp_path / "runs" / "old", model, INPUT, LABELS, {})
    probe(tmp_path / "runs" / "old", pictures, tmp_path / "runs" / "probe", status=1)
    assert re.search("features of 'train/.*png' are not finite", capsys.readouterr().err)
    assert names(tmp_path / "runs" / ".features") == {".lock"}
