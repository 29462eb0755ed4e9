"""A bundle says how good and how sure it is, and every word of that is proven again."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy.optimize import minimize_scalar

import export.remeasure
from export.__main__ import main
from export.answers import Answers, reliability
from export.make import Options, make_bundle
from export.parity import graph_logits, open_graph
from media.contents import split_sha256
from media.dataset import prepare_split
from media.index import open_dataset
from media.sources import SourceError, open_source
from media.spec import Grid, InputSpec
from models.bundle import Bundle, read_bundle
from models.checkpoint import load_checkpoint, save_checkpoint
from models.manifest import GridEntry
from models.measures import measure
from tests.helpers.export_bundles import LABELS, know_graphs, make_model, save, squares
from tests.helpers.spoilt_bundles import edit, stating, verify

GRID, PATCH = Grid((4, 5)), (4, 6)

Chatter = pytest.CaptureFixture[str]


def write_data(folder: Path) -> Path:
    """60 noise pictures as a CSV, 24 of them for validation, two of a group.

    Each has the label that the model gives it, but every second of those that it is unsure of the
    next one: a model that has never learned knows something of them.
    """
    folder.mkdir()
    generator, model = np.random.default_rng(3), make_model()
    pixels = generator.integers(0, 256, (60, *GRID.pixels(PATCH), 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels))
    labels = logits.argmax(1).numpy()
    labels[logits.softmax(1).amax(1).argsort()[:24:2].numpy()] += 1
    rows = ["path,label,split,group"]
    for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(picture).save(folder / f"{number}.png")
        split, group = ("val", f"photo {number // 2}") if number < 24 else ("test", "")
        rows.append(f"{number}.png,{LABELS[label % 3]},{split},{group}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("calibrated") / "data")


@pytest.fixture(scope="module")
def checkpoint(data: Path) -> Path:
    return save(data.parent.parent / "run" / "best", make_model(), data)


@pytest.fixture(autouse=True, scope="module")
def known_graphs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """No graph is made here that another module has made."""
    with pytest.MonkeyPatch.context() as patched:
        know_graphs(patched, squares(tmp_path_factory))
        yield


def exported(checkpoint: Path, out: Path, **options: Any) -> Bundle:
    given = Options(checkpoint, (GRID,), out, "squares", parity_items=36, **options)
    return make_bundle(given, Console(quiet=True))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return exported(checkpoint, checkpoint.parent.parent / "bundles", abstain=0.65)


@pytest.fixture(scope="module")
def answered(bundle: Bundle, data: Path) -> Callable[[str], Answers]:
    """Split -> what the graph answers, asked here."""

    @functools.cache
    def ask(split: str) -> Answers:
        dataset = open_dataset(data)
        prepared = prepare_split(dataset, split, InputSpec(), GRID, PATCH)
        logits = graph_logits(open_graph(bundle.path(f"graphs/{GRID}.onnx")), prepared.pixels)
        return Answers.of(dataset, split, prepared, logits)

    return ask


def noting(checkpoint: Path, **notes: Any) -> Path:
    """The same checkpoint, with other notes."""
    model, known = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, model, known.input, known.labels, known.notes | notes)
    return checkpoint


def skipping(checkpoint: Path) -> Path:
    """Training was told to go on without what cannot be read."""
    config = load_checkpoint(checkpoint)[1].notes["config"]
    return noting(checkpoint, config=config | {"skip_unreadable": True})


def entry_of(bundle: Bundle) -> GridEntry:
    (entry,) = read_bundle(bundle.root).manifest.grids
    return entry


# --- what is written ------------------------------------------------------------------------------


def test_temperature_is_the_likeliest_for_the_validation_split(
    bundle: Bundle, answered: Callable[[str], Answers]
) -> None:
    """It is found on the 24 items of val, and says so; those of test are only measured."""
    calibration, val, test = entry_of(bundle).calibration, answered("val"), answered("test")
    best = minimize_scalar(
        lambda temperature: reliability(val, temperature).nll, bounds=(0.05, 20), method="bounded",
        options={"xatol": 1e-8},
    )  # fmt: skip
    assert calibration.temperature == pytest.approx(best.x, rel=1e-4)
    assert calibration.fitted_on is not None
    told = (calibration.fitted_on.split, calibration.fitted_on.items)
    assert told == ("val", 24)
    assert calibration.fitted_on.split_sha256 == val.sha256 != test.sha256
    assert calibration.before == reliability(test, 1)
    assert calibration.after == reliability(test, calibration.temperature)


def test_figures_are_those_of_a_report(
    bundle: Bundle, answered: Callable[[str], Answers]
) -> None:
    """Values and intervals of the measured split; the mix counts answers, not right classes."""
    entry, test = entry_of(bundle), answered("test")
    told, measured = entry.figures, entry.accuracy
    assert told is not None
    assert measured is not None
    probabilities = np.exp(test.likelihoods(entry.calibration.temperature))
    expected = measure(probabilities, test.labels).figures
    for name in ("top1", "balanced_accuracy", "roc_auc"):
        assert getattr(told, name) == expected[name]
    assert told.top5 is None  # three classes
    assert told.top1.value == measured.top1
    answers = [int((probabilities.argmax(1) == label).sum()) for label in range(3)]
    assert told.mix == pytest.approx([count / 36 for count in answers])
    assert told.confidence == pytest.approx(probabilities.max(1).mean())


def test_bundle_says_when_it_does_not_know(bundle: Bundle) -> None:
    """The threshold that was asked for is told, with what is left of the measured split."""
    entry = entry_of(bundle)
    assert entry.figures is not None
    assert entry.abstain == 0.65
    (left,) = [row for row in entry.figures.coverage if row.threshold == 0.65]
    assert 0 < left.share < 1
    assert left.accuracy is not None
    assert entry.accuracy is not None
    assert left.accuracy > entry.accuracy.top1


def test_card_tells_what_the_manifest_states(bundle: Bundle) -> None:
    """Temperature, calibration error before and after, intervals, and what is left."""
    entry, card = entry_of(bundle), bundle.path("README.md").read_text()
    before, after, told = entry.calibration.before, entry.calibration.after, entry.figures
    assert before and after and told
    for words in (
        f"divided by {entry.calibration.temperature:.4g}, which was fitted on 24 items of val.",
        f"| {before.ece:.4f} -> {after.ece:.4f} |",
        f"{told.top1.value:.4f} ({told.top1.low:.4f} to {told.top1.high:.4f})",
        "It says that it does not know where that is below 0.65.",
        f"| mean probability | {told.confidence:.4f} |",
        f"| {LABELS[0]} | {told.mix[0]:.4f} |",
    ):
        assert words in card


@pytest.mark.parametrize(
    ("split", "kept", "reason"),
    [
        ("val", ("val", "test"), "val is the split that is measured"),
        ("test", ("test",), "the data have no split val"),
    ],
)
def test_without_a_validation_split_nothing_is_fitted(
    split: str,
    kept: tuple[str, ...],
    reason: str,
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    capsys: Chatter,
) -> None:
    """Manifest and card say so and why, and the bundle is verified as any other."""
    shutil.copytree(data.parent, tmp_path / "data")
    table = tmp_path / "data" / "labels.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:1] + [line for line in lines if line.split(",")[2] in kept]))
    made = exported(checkpoint, tmp_path / "out", data=table, split=split)
    calibration = entry_of(made).calibration
    assert (calibration.calibrated, calibration.temperature) == (False, 1)
    assert (calibration.reason, calibration.after) == (reason, None)
    assert f"**not calibrated**: {reason}." in made.path("README.md").read_text()
    status, out, err = verify([made.root, "--data", table], capsys)
    assert (status, err) == (0, "")
    assert f"calibration 4x5: no temperature was fitted: {reason}" in out


@pytest.mark.parametrize("skip", [True, False])
def test_unreadable_validation_items_are_left_out_as_in_training(
    skip: bool, data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Where training was told to go on without them; else they are named, and nothing is made."""
    shutil.copytree(data.parent, tmp_path / "data")
    table = tmp_path / "data" / "labels.csv"
    (tmp_path / "data" / "3.png").write_bytes(b"no picture")
    trained = save(tmp_path / "run", make_model(), table)
    if not skip:
        with pytest.raises(SourceError, match=r"1 of 24 items in split 'val'.*3\.png"):
            exported(trained, tmp_path / "out")
        return
    made = exported(skipping(trained), tmp_path / "out")
    fitted_on = entry_of(made).calibration.fitted_on
    assert fitted_on is not None
    assert fitted_on.items == 23
    assert verify([made.root, "--data", table], capsys)[0] == 0


def test_validation_items_that_are_measured_too_are_left_out(
    data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Of a run from before anybody looked for them; manifest, card and proof count them."""
    table = tmp_path / "data" / "labels.csv"
    shutil.copytree(data.parent, table.parent)
    for number in (0, 7, 8):  # of val; 40 and 41 are of test
        shutil.copyfile(table.parent / f"{40 + number % 2}.png", table.parent / f"{number}.png")
    made = exported(save(tmp_path / "run", make_model(), table), tmp_path / "out")
    fitted_on = entry_of(made).calibration.fitted_on
    assert fitted_on is not None
    assert (fitted_on.items, fitted_on.left_out) == (21, 3)
    told = "which was fitted on 21 items of val; 3 more lie in the measured split too."
    assert told in made.path("README.md").read_text()
    assert verify([made.root, "--data", table], capsys)[0] == 0
    stating(lambda m: m["grids"][0]["calibration"]["fitted_on"].update(items=24, left_out=0))(
        made.root
    )
    status, _, err = verify([made.root, "--data", table], capsys)
    assert status == 1
    assert "expected 24 items of val (sha256" in err and "got 21 items of val; 3 more" in err


@pytest.mark.parametrize(
    ("trained", "reason"),
    [
        (None, "and nobody knows whether its items were trained on"),
        ([5, 9, 9], "and 2 of its items were trained on"),
        ([], None),
    ],
    ids=["no train split", "two of val", "none of val"],
)
def test_items_that_may_have_been_trained_on_have_no_say(
    trained: list[int] | None, reason: str | None, data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Of another validation split than the run's own; the bundle says so and is verified."""
    table = tmp_path / "data" / "labels.csv"
    shutil.copytree(data.parent, table.parent)
    checkpoint = save(tmp_path / "run", make_model(), table)
    known = load_checkpoint(checkpoint)[1].notes["data"] | {"val": {"items": 3, "sha256": "1" * 64}}
    if trained is not None:
        Image.new("RGB", (13, 17), "red").save(table.parent / "train0.png")
        for number, original in enumerate(trained, 1):
            shutil.copyfile(table.parent / f"{original}.png", table.parent / f"train{number}.png")
        with table.open("a") as rows:
            for number in range(len(trained) + 1):
                rows.write(f"train{number}.png,{LABELS[0]},train,\n")
        sha256 = split_sha256(open_source(table), "train")
        known |= {"train": {"items": len(trained) + 1, "sha256": sha256}}
    made = exported(noting(checkpoint, data=known), tmp_path / "out", allow_duplicates=True)
    calibration = entry_of(made).calibration
    assert calibration.calibrated is (reason is None)
    if reason:
        assert calibration.reason == f"split val is not the one that the run held out, {reason}"
        assert f"**not calibrated**: {calibration.reason}." in made.path("README.md").read_text()
    assert verify([made.root, "--data", table], capsys)[0] == 0


def test_nothing_was_fitted_and_an_item_is_unreadable(
    data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Training went on without it, so did the export, and so does the proof."""
    shutil.copytree(data.parent, tmp_path / "data")
    table = tmp_path / "data" / "labels.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([lines[0], *lines[1:10], *lines[25:]]))  # 9 of val
    (tmp_path / "data" / "3.png").write_bytes(b"no picture")
    made = exported(skipping(save(tmp_path / "run", make_model(), table)), tmp_path / "out")
    assert entry_of(made).calibration.reason == "val has 5 groups of items, and 10 are needed"
    status, out, err = verify([made.root, "--data", table], capsys)
    assert (status, err) == (0, "")
    assert "ok     calibration 4x5: no temperature was fitted: val has 5 groups" in out


@pytest.mark.parametrize("given", ["0", "1", "-0.5", "70", "nan", "much"])
def test_threshold_that_is_no_probability_is_refused(given: str, capsys: Chatter) -> None:
    """Before anything is read."""
    with pytest.raises(SystemExit, match="2"):
        main(["RUN", "--grid", "4x5", "--out", "OUT", "--abstain", given])
    message = f"--abstain: expected a probability above 0 and below 1, got '{given}'"
    assert message in capsys.readouterr().err


# --- what is proven again -------------------------------------------------------------------------


def test_honest_figures_are_verified(bundle: Bundle, data: Path, capsys: Chatter) -> None:
    """Each is found again, and what was off is far within its bound."""
    status, out, err = verify([bundle.root, "--data", data, "--json"], capsys)
    assert (status, err) == (0, "")
    proofs = {proof["what"]: proof for proof in json.loads(out)["proofs"]}
    for what in ("figures 4x5", "calibration 4x5"):
        assert proofs[what]["passed"]
        assert proofs[what]["found"] < 0.01 * proofs[what]["bound"]


def test_without_data_nothing_of_it_is_proven(bundle: Bundle, capsys: Chatter) -> None:
    """And nothing of it is claimed."""
    status, out, _ = verify([bundle.root], capsys)
    assert status == 0
    for what in ("accuracy", "figures", "calibration"):
        assert f"--     {what}: not measured again: --data was not given" in out


def change(*path: str | int, by: Callable[[Any], Any]) -> Callable[[Path], Any]:
    """Alter one value of the only grid."""

    def alter(manifest: dict[str, Any]) -> None:
        place = manifest["grids"][0]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = by(place[path[-1]])

    return stating(alter)


#: What was changed -> (how, the proof that must fail, its words).
MUTANTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "temperature": (
        change("calibration", "temperature", by=lambda t: 1.01 * t), "calibration 4x5", "stated"),
    "calibration error before": (
        change("calibration", "before", "ece", by=lambda e: e - 0.02), "figures", "before.ece"),
    "calibration error after": (
        change("calibration", "after", "ece", by=lambda e: e / 2), "figures", "after.ece"),
    "likelihood": (
        change("calibration", "after", "nll", by=lambda n: n - 0.01), "figures", "after.nll"),
    "Brier score": (
        change("calibration", "after", "brier", by=lambda b: b - 0.01), "figures", "after.brier"),
    "area": (
        change("figures", "roc_auc", "value", by=lambda a: a + 0.01), "figures", "roc_auc.value"),
    "interval": (
        change("figures", "top1", "low", by=lambda low: low + 0.1), "figures", "top1.low"),
    "what was drawn": (
        change("figures", "drawn", by=lambda _: "groups"), "figures", "figures.drawn"),
    "mean probability": (
        change("figures", "confidence", by=lambda c: c - 0.05), "figures", "confidence"),
    "mix": (change("figures", "mix", by=lambda mix: mix[::-1]), "figures", "figures.mix"),
    "what is left": (
        change("figures", "coverage", 2, "accuracy", by=lambda _: 1.0), "figures", "coverage"),
    "another validation split": (
        change("calibration", "fitted_on", "split_sha256", by=lambda _: "0" * 64),
        "calibration 4x5", "not the ones fitted on: expected 24 items of val (sha256 0000"),
    "items left out": (
        change("calibration", "fitted_on", "left_out", by=lambda _: 1),
        "calibration 4x5", "expected 24 items of val; 1 more lie in the measured split too"),
    "fitted on what is measured": (
        change("calibration", "fitted_on", "split", by=lambda _: "test"),
        "statements", "was fitted on the split that is measured"),
    "share of half an item": (
        change("figures", "coverage", 0, "share", by=lambda s: s - 0.5 / 36),
        "statements", "no whole number of 36 items"),
    "mix of more than all": (
        change("figures", "mix", 0, by=lambda s: s + 1 / 36), "statements", "add up to 1"),
    "two accuracies": (
        change("accuracy", "top1", by=lambda t: t - 1 / 36), "statements", "two different top-1"),
    "more left above": (
        change("figures", "coverage", 7, "share", by=lambda _: 1.0), "statements", "more answers"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_refused(
    name: str, bundle: Bundle, data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Whatever figure is touched up, its proof fails and names it."""
    spoil, proof, words = MUTANTS[name]
    root = shutil.copytree(bundle.root, tmp_path / "squares")
    spoil(root)
    status, _, err = verify([root, "--data", data], capsys)
    assert status == 1
    failed = [line.partition("not verified: ")[2] for line in err.splitlines()]
    assert [line for line in failed if line.startswith(proof) and words in line], err


def rightly(answers: Answers) -> Answers:
    """No answer is wrong: the colder the likelier."""
    return dataclasses.replace(answers, labels=answers.logits.argmax(1))


def hotter(answers: Answers) -> Answers:
    """The same answers, 300 times as sure."""
    return dataclasses.replace(answers, logits=300 * answers.logits)


@pytest.mark.parametrize("other", [rightly, hotter])
@pytest.mark.parametrize(("factor", "passes"), [(1, True), (2, False), (0.5, False), (500, False)])
def test_no_temperature_passes_because_another_processor_finds_none(
    other: Callable[[Answers], Answers],
    factor: float,
    passes: bool,
    bundle: Bundle,
    data: Path,
    tmp_path: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or one that is far away: what it may be off by stays a part of it."""
    root = shutil.copytree(bundle.root, tmp_path / "squares")
    change("calibration", "temperature", by=lambda stated: factor * stated)(root)
    known = export.remeasure.wobbled
    monkeypatch.setattr(
        export.remeasure, "wobbled", lambda *given: [other(one) for one in known(*given)]
    )
    _, out, _ = verify([root, "--data", data], capsys)
    assert ("ok     calibration 4x5" if passes else "FAILED calibration 4x5") in out


@pytest.mark.parametrize(("noise", "passes"), [(1e-6, True), (3e-2, False)])
def test_only_rounding_excuses_another_figure(
    noise: float,
    passes: bool,
    bundle: Bundle,
    data: Path,
    capsys: Chatter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A processor that adds in another order is believed, a graph that answers otherwise is not."""
    random = np.random.default_rng(5)

    def elsewhere(*given: Any, **named: Any) -> np.ndarray:
        logits = graph_logits(*given, **named)
        return logits + random.uniform(-noise, noise, logits.shape).astype(np.float32)

    monkeypatch.setattr(export.remeasure, "graph_logits", elsewhere)
    status, out, _ = verify([bundle.root, "--data", data], capsys)
    assert (status == 0) == passes, out


def test_older_bundle_is_verified_and_states_no_figures(
    bundle: Bundle, data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """What was exported before figures were stated loads, at temperature 1, and proves true."""

    def age(manifest: dict[str, Any]) -> None:
        for key in ("figures", "calibration", "abstain"):
            del manifest["grids"][0][key]

    root = shutil.copytree(bundle.root, tmp_path / "squares")
    edit(root, age)
    (entry,) = read_bundle(root).manifest.grids
    assert (entry.figures, entry.abstain) == (None, None)
    assert (entry.calibration.calibrated, entry.calibration.temperature) == (False, 1)
    status, out, _ = verify([root, "--data", data], capsys)
    assert status == 0
    assert "--     figures 4x5: not stated" in out
    assert "--     calibration 4x5: no temperature was fitted: not stated" in out
