"""The report of a run: complete, safe to open, made again without the data, never half written."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import json
import random
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import training.report.report
from media.contents import split_sha256
from media.dataset import prepare_split
from media.sources import Source, open_source
from media.spec import Grid, InputSpec
from media.unread import Views
from models.checkpoint import load_checkpoint, save_checkpoint
from models.measures import measure
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers.disks import small_disk
from tests.helpers.effort import alone
from tests.helpers.forks import killable
from tests.media.test_shards import shard
from training.data import no_bar
from training.evaluate import evaluate
from training.processes import Processes
from training.report import pictures
from training.report.held_out import predict
from training.report.predictions import Predictions, PredictionsError, load_predictions
from training.report.report import main, make_report, publish, read_metrics

LABELS = ("<script>alert(1)</script>", 'a & "b" $\\frac', "plain")
#: What the model must never have seen in a page: markup that a label or a file name brings along.
HOSTILE_FILE = "<img src=x onerror=alert(2)> & 'q'.png"

Chatter = pytest.CaptureFixture[str]


# --- a run, made by hand ------------------------------------------------------------------------


def picture(seed: int) -> bytes:
    """A noisy PNG, 11 pixels high and 14 wide."""
    noise = np.random.default_rng(seed).integers(0, 256, (11, 14, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def make_data(folder: Path, labels: tuple[str, ...] = LABELS, test: int = 36) -> Path:
    """A CSV with 6 training items, 24 for validation in 12 groups and some without for the test."""
    folder.mkdir()
    rows = ["path,label,split,group"]
    for split, count in (("train", 6), ("val", 24), ("test", test)):
        for index in range(count):
            name = HOSTILE_FILE if (split, index) == ("val", 0) else f"{split}{index}.png"
            (folder / name).write_bytes(picture(len(rows)))
            label = labels[index % len(labels)].replace('"', '""')
            group = f"patient {index // 2}" if split == "val" else ""
            rows.append(f'"{name}","{label}",{split},{group}')
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder / "labels.csv"


def make_run(root: Path, data: Path, seed: int = 0, metrics: str | None = None) -> Path:
    """A run with one checkpoint of an untrained model, as training leaves it."""
    source = open_source(data)
    torch.manual_seed(seed)
    model = VisionTransformer(spec(len(source.labels)), InputSpec())
    notes = {
        "step": 12,
        "best": {"step": 12, "epoch": 2, "val_top1": 0.5},
        "config": {"data": str(data), "epochs": 3, "device": "cpu", "augment": {"flip": True}},
        "data": {
            "name": source.name,
            "labels": list(source.labels),
            "train": {"items": 6, "sha256": split_sha256(source, "train")},
            "val": {"items": 24, "sha256": split_sha256(source, "val")},
            "skipped": [],
        },
    }
    folder = root / "checkpoints" / f"step-{seed}"
    folder.mkdir(parents=True)
    save_checkpoint(folder, model.eval(), InputSpec(), source.labels, notes)
    (root / "best").unlink(missing_ok=True)
    (root / "best").symlink_to(folder.relative_to(root))
    records = [
        {"step": 6, "epoch": 1, "loss": 1.2, "rate": 1e-3, "val_loss": 1.1, "val_top1": 0.3},
        {"step": 12, "epoch": 2, "loss": 1.0, "rate": 5e-4, "val_loss": 1.0, "val_top1": 0.5,
         "a key of another day": [1]},
        {"step": 18, "epoch": 3, "loss": 0.9, "rate": 0.0},
    ]  # fmt: skip
    text = "".join(json.dumps(record) + "\n" for record in records)
    (root / "metrics.jsonl").write_text(text if metrics is None else metrics)
    return root


def spec(classes: int) -> ModelSpec:
    return ModelSpec(
        patch=(4, 4), grid=(2, 3), classes=classes, width=16, depth=1, heads=2, mlp_dim=16,
        encoding=EncodingSpec("liere", block=4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report; not to be written to."""
    root = make_run(tmp_path_factory.mktemp("runs") / "<i>mine", data)
    assert make_report(root) == root / "report" / "index.html"
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run with its report."""
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


@pytest.fixture
def fresh(data: Path, tmp_path: Path) -> Path:
    """A run without a report."""
    return make_run(tmp_path / "fresh", data)


def json_of(root: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((root / "report" / "report.json").read_bytes())
    return report


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def target_of(root: Path) -> str:
    """The folder in ``reports`` that the link names."""
    return (root / "report").readlink().name


def check_whole(root: Path) -> None:
    """A report with all its parts, and nothing beside it."""
    report = json_of(root)
    names = {"index.html", "report.json"}
    names |= {f"predictions-{split}.npz" for split in report["splits"]}
    assert names_in(root / "report") == names
    assert (root / "report" / "index.html").read_text().rstrip().endswith("</html>")
    for split, part in report["splits"].items():
        assert len(Predictions.load(root / "report", split).ids) == part["items"]


def check_refused(arguments: list[str], capsys: Chatter, *messages: str, status: int = 2) -> None:
    """The command ends with the status and one error that holds every message."""
    capsys.readouterr()
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert len(re.findall("^error: ", error, flags=re.MULTILINE)) == 1
    assert "Traceback" not in error
    for message in messages:
        assert re.search(message, error), f"expected {message!r} in {error!r}"


def prepared(source: Source, split: str) -> Any:
    return prepare_split(source, split, InputSpec(), Grid((2, 3)), (4, 4))


# --- what it says -------------------------------------------------------------------------------


def test_report_holds_what_was_measured(finished: Path, data: Path) -> None:
    """Figures, counts and predictions are those of the best checkpoint on test and val."""
    report, source = json_of(finished), open_source(data)
    model, description = load_checkpoint(finished / "best")
    assert list(report["splits"]) == ["test", "val"]
    for split, part in report["splits"].items():
        items = prepared(source, split)
        kept = Predictions.load(finished / "report", split)
        assert kept.ids.tolist() == list(items.ids)
        assert kept.labels.tolist() == items.labels.tolist()
        assert (kept.logits.dtype, kept.logits.shape) == (np.float32, (len(items.ids), 3))
        assert kept.weights_sha256 == description.weights_sha256
        assert part["sha256"] == kept.data_sha256 == items.sha256
        groups = [item.group for item in source.split(split)]
        expected = measure(kept.probabilities(), kept.labels, groups)
        assert part["figures"]["top1"]["value"] == evaluate(model, items)["top1"]
        for name, figure in expected.figures.items():
            assert part["figures"][name]["value"] == figure.value
            assert part["figures"][name]["low"] == figure.low
        assert part["confusion"] == expected.confusion.tolist()
        assert sum(one["items"] for one in part["calibration"]) == part["items"]
    assert report["checkpoint"]["weights_sha256"] == description.weights_sha256
    assert report["data"]["train"] == {"items": 6, "sha256": split_sha256(source, "train")}
    assert set(report["splits"]["val"]["figures"]) <= set(report["definitions"])
    check_whole(finished)


def test_report_says_what_was_drawn(finished: Path) -> None:
    """Where items name groups, groups are drawn, and the page says so of each split."""
    splits = json_of(finished)["splits"]
    assert (splits["val"]["drawn"], splits["val"]["units"]) == ("groups", 12)
    assert (splits["test"]["drawn"], splits["test"]["units"]) == ("items", 36)
    text = (finished / "report" / "index.html").read_text()
    assert "its 12 groups" in text
    assert "its 36 items" in text


def test_report_says_that_val_chose_the_checkpoint(finished: Path) -> None:
    """The figures of val carry a warning, and those of test stand before them."""
    text = (finished / "report" / "index.html").read_text()
    places = [text.index(word) for word in ("Split test", "Split val", "chose the checkpoint")]
    assert places == sorted(places)


#: Every tag that the page is made of.
TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "table", "tr", "th",
    "td", "div", "img", "code", "dl", "dt", "dd",
}  # fmt: skip


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_escapes_everything_that_comes_from_data(finished: Path) -> None:
    """Labels, ids and the run's name are text: no tag, attribute or script comes from them."""
    tags = Tags((finished / "report" / "index.html").read_text())
    assert {tag for tag, _ in tags.found} == TAGS
    assert not [key for _, attrs in tags.found for key in attrs if key.startswith("on")]
    for text in (*LABELS, "<i>mine", HOSTILE_FILE):
        assert text in tags.text


def test_page_stands_alone(finished: Path) -> None:
    """Its pictures lie inside, as SVG that an XML reader takes and as PNG; nothing is loaded."""
    tags = Tags((finished / "report" / "index.html").read_text())
    addresses = [value or "" for _, attrs in tags.found for key, value in attrs.items()
                 if key in ("src", "href")]  # fmt: skip
    kinds: Counter[str] = Counter()
    for address in addresses:
        kind, _, code = address.partition(",")
        kinds[kind] += 1
        if kind == "data:image/svg+xml;base64":
            ElementTree.fromstring(base64.b64decode(code))
        else:
            assert Image.open(io.BytesIO(base64.b64decode(code))).size == (12, 8)
    # three curves, three pictures for each of two splits; of each fifteen mistakes, or all it has
    wrong = [
        split["items"] - int(np.trace(split["confusion"]))
        for split in json_of(finished)["splits"].values()
    ]
    shown = sum(min(15, count) for count in wrong)
    assert kinds == {"data:image/svg+xml;base64": 9, "data:image/png;base64": shown}
    assert shown > 20
    policies = [attrs.get("content") for tag, attrs in tags.found if tag == "meta"]
    assert any("default-src 'none'" in (policy or "") for policy in policies)


def test_report_does_not_say_where_the_data_lay(finished: Path, data: Path) -> None:
    """A report may be passed on: no path of the machine is in it."""
    for name in ("index.html", "report.json"):
        assert str(data.parent) not in (finished / "report" / name).read_text()


def test_report_names_classes_without_items(tmp_path: Path) -> None:
    """A class that a held-out split lacks is in no average, and the page names it."""
    csv = make_data(tmp_path / "set", test=2)
    root = make_run(tmp_path / "run", csv)
    make_report(root)
    part = json_of(root)["splits"]["test"]
    assert part["absent"] == ["plain"]
    assert part["figures"]["top1"]["low"] is None
    text = Tags((root / "report" / "index.html").read_text()).text
    assert "without are: plain." in text
    assert "no interval: 2 to draw from" in text


def test_report_without_a_test_split(tmp_path: Path) -> None:
    """Val alone is measured, and the page says that no unbiased split is there."""
    root = make_run(tmp_path / "run", make_data(tmp_path / "set", test=0))
    make_report(root)
    assert list(json_of(root)["splits"]) == ["val"]
    assert "There is no test split" in (root / "report" / "index.html").read_text()


# --- made again ---------------------------------------------------------------------------------


def test_report_is_made_again_without_the_data(run: Path, tmp_path: Path, data: Path) -> None:
    """Predictions of the same checkpoint are used again; all figures stay as they were."""
    description = run / "best" / "checkpoint.json"
    text = description.read_text().replace(str(data), str(tmp_path / "gone.csv"))
    description.write_text(text)
    before = json_of(run)
    target = target_of(run)
    assert main([str(run)]) == 0
    after = json_of(run)
    assert target_of(run) != target
    assert names_in(run / "reports") == {target_of(run)}
    assert before["splits"] == after["splits"]
    check_whole(run)


def test_other_weights_are_measured_again(run: Path, data: Path, capsys: Chatter) -> None:
    """Predictions of another checkpoint are not used, and the data are asked for."""
    make_run(run, data, seed=1)
    before = json_of(run)
    assert main([str(run)]) == 0
    assert "measuring again: the earlier report is of another checkpoint" in capsys.readouterr().err
    after = json_of(run)
    assert before["checkpoint"]["weights_sha256"] != after["checkpoint"]["weights_sha256"]
    assert before["splits"]["val"]["calibration"] != after["splits"]["val"]["calibration"]


def spoil(path: Path, kind: str) -> None:
    """Damage a file of predictions."""
    with np.load(path) as archive:
        arrays: dict[str, Any] = dict(archive)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-400])
        return
    if kind == "pickle":
        arrays["ids"] = np.array([{"a": 1}], dtype=object)
    elif kind == "shape":
        arrays["labels"] = arrays["labels"][:-1]
    elif kind == "label":
        arrays["labels"][0] = 3
    elif kind == "lacking":
        del arrays["groups"]
    elif kind == "not finite":
        arrays["logits"][0, 0] = np.nan
    elif kind == "weights":
        arrays["weights_sha256"] = "0" * 64
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "predictions-val.npz cannot be read"),
        ("pickle", "predictions-val.npz cannot be read"),
        ("lacking", "predictions-val.npz cannot be read"),
        ("shape", "predictions-val.npz is not one of ours: logits"),
        ("label", "predictions-val.npz is not one of ours: labels beyond 3 classes"),
        ("not finite", "predictions-val.npz is not one of ours: logits"),
        ("weights", "predictions-val.npz is of another checkpoint"),
    ],
)
def test_damaged_predictions_are_refused(run: Path, kind: str, message: str) -> None:
    """A file that is not what a report wrote is named, and never unpickled."""
    weights = json_of(run)["checkpoint"]["weights_sha256"]
    assert set(load_predictions(run / "report", weights, 3)) == {"test", "val"}
    spoil(run / "report" / "predictions-val.npz", kind)
    with pytest.raises(PredictionsError, match=message):
        load_predictions(run / "report", weights, 3)


def test_damaged_predictions_are_measured_again(run: Path, capsys: Chatter) -> None:
    """The command says what it cannot use, measures, and replaces it."""
    before = json_of(run)
    spoil(run / "report" / "predictions-val.npz", "cut")
    assert main([str(run)]) == 0
    assert "measuring again: predictions-val.npz cannot be read" in capsys.readouterr().err
    assert json_of(run)["splits"] == before["splits"]
    check_whole(run)


def test_given_data_are_measured_whatever_is_kept(run: Path, data: Path, tmp_path: Path) -> None:
    """--data measures anew, wherever the same data lie now."""
    moved = shutil.copytree(data.parent, tmp_path / "moved") / "labels.csv"
    spoil(run / "report" / "predictions-val.npz", "label")
    assert main([str(run), "--data", str(moved)]) == 0
    check_whole(run)


# --- bad input ----------------------------------------------------------------------------------


def check_nothing_written(root: Path) -> None:
    assert not (root / "report").exists()
    assert not list(root.glob("reports/*")) + list(root.glob(".report*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"metrics\.jsonl line 2: expected a JSON object with an epoch, got b'{not"),
        ("[1]", "line 2: expected a JSON object with an epoch"),
        ('{"step": 3}', "line 2: expected a JSON object with an epoch"),
        ("", "line 2: expected a JSON object with an epoch, got b''"),
        ('{"epoch": 2, "loss": "low"}', "line 2: expected a number as loss, got 'low'"),
        ('{"epoch": 2, "val_top1": null}', "line 2: expected a number as val_top1, got None"),
    ],
)
def test_unreadable_metrics_are_an_error(
    data: Path, tmp_path: Path, capsys: Chatter, line: str, message: str
) -> None:
    """The line is named, and no report is made."""
    metrics = f'{{"epoch": 1, "loss": 1.5}}\n{line}\n{{"epoch": 3, "loss": 1.5}}\n'
    root = make_run(tmp_path / "run", data, metrics=metrics)
    check_refused([str(root)], capsys, message)
    check_nothing_written(root)


def test_line_that_a_kill_cut_short_is_no_record(tmp_path: Path) -> None:
    """The last line counts once its end is written."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "loss": 1.5}\n{"epoch": 2, "lo')
    assert read_metrics(path) == [{"epoch": 1, "loss": 1.5}]
    path.write_text("")
    assert read_metrics(path) == []


def test_run_without_a_best_checkpoint_is_refused(tmp_path: Path, capsys: Chatter) -> None:
    """A folder that is no run, and a run whose first epoch has not ended."""
    message = "expected a run with a best checkpoint, got .*none"
    check_refused([str(tmp_path / "none")], capsys, message)


def test_run_without_metrics_is_refused(fresh: Path, capsys: Chatter) -> None:
    """Without metrics there are no curves; the file is named."""
    (fresh / "metrics.jsonl").unlink()
    check_refused([str(fresh)], capsys, "No such file.*metrics.jsonl")
    check_nothing_written(fresh)


def test_checkpoint_from_elsewhere_is_refused(fresh: Path, capsys: Chatter) -> None:
    """One that does not say what it was trained on cannot be judged."""
    model, description = load_checkpoint(fresh / "best")
    notes = {key: value for key, value in description.notes.items() if key != "data"}
    save_checkpoint(fresh / "best", model, description.input, description.labels, notes)
    check_refused([str(fresh)], capsys, "does not say its data: training did not write it")


def test_changed_weights_are_refused(fresh: Path, capsys: Chatter) -> None:
    """Weights that are cut short or changed give no report."""
    weights = fresh / "best" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    check_refused([str(fresh)], capsys, "cut short or changed")
    check_nothing_written(fresh)


def test_other_labels_are_refused(fresh: Path, tmp_path: Path, capsys: Chatter) -> None:
    """Data with other labels are named with what was expected and what came."""
    other = make_data(tmp_path / "other", labels=("x", "y"))
    messages = ("labels do not match", "expected.*plain.*got.*'y'")
    check_refused([str(fresh), "--data", str(other)], capsys, *messages)
    check_nothing_written(fresh)


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_items_are_refused(
    fresh: Path, data: Path, tmp_path: Path, capsys: Chatter, split: str
) -> None:
    """A changed val is not what chose the checkpoint; with a changed train, test may be known."""
    changed = shutil.copytree(data.parent, tmp_path / "changed") / "labels.csv"
    (changed.parent / f"{split}1.png").write_bytes(picture(999))
    check_refused(
        [str(fresh), "--data", str(changed)], capsys, f"split '{split}' is not the one of the run"
    )
    check_nothing_written(fresh)


def test_data_that_moved_are_asked_for(
    fresh: Path, data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """The message says how to name their new place."""
    description = fresh / "best" / "checkpoint.json"
    description.write_text(description.read_text().replace(str(data), str(tmp_path / "gone.csv")))
    check_refused([str(fresh)], capsys, "are not at .*gone.csv: say where with --data")
    check_nothing_written(fresh)


def test_report_of_a_run_on_shards_that_a_pattern_names(tmp_path: Path) -> None:
    """Made where training found them, and where they are said to be."""
    for split, items in (("train", range(6)), ("val", range(6, 18))):
        members = {f"{place}.png": picture(place) for place in items}
        members |= {f"{place}.cls": b"%d" % (place % 3) for place in items}
        shard(tmp_path / f"{split}-0.tar", members)
    pattern = tmp_path / "{train,val}-*.tar"
    root = make_run(tmp_path / "run", pattern)
    assert main([str(root)]) == main([str(root), "--data", str(pattern)]) == 0
    assert json_of(root)["splits"]["val"]["items"] == 12


@dataclasses.dataclass(frozen=True)
class Second(Processes):
    """The second of two processes; the first one's rows are zeros here."""

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(rows), rows])


def test_split_that_does_not_fit_is_decoded_where_it_is_measured(
    finished: Path, fresh: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch at a time, each process its own items, to the same answers and pictures."""
    taken: list[int] = []
    take = Views.__getitem__
    monkeypatch.setattr("media.unread.memory_bytes", lambda: 1)
    monkeypatch.setattr("training.report.held_out.prepare_split", None)
    monkeypatch.setattr("training.report.held_out.PIECE", 10)
    monkeypatch.setattr(Views, "__getitem__", lambda one, rows: note(take(one, rows)))

    def note(pixels: np.ndarray) -> np.ndarray:
        taken.append(len(pixels))
        return pixels

    assert main([str(fresh)]) == 0
    assert taken == [10, 10, 10, 6, 15, 10, 10, 4, 14]  # of both splits: items, then mistakes
    kept = [Predictions.load(root / "report", "test") for root in (finished, fresh)]
    whole, own = (vars(one) for one in kept)
    for name in ("logits", "strips"):
        assert np.array_equal(whole[name], own[name]), name
    assert json_of(finished)["splits"] == json_of(fresh)["splits"]
    taken.clear()
    model, description = load_checkpoint(fresh / "best")
    two = Second(1, 2, 1, 2)
    half, _ = predict(model, description, data, no_bar, processes=two)
    assert taken[:2] == [10, 8]
    assert np.array_equal(half["test"].logits[18:], whole["logits"][18:])


def test_folder_in_the_place_of_the_link_is_kept(fresh: Path, capsys: Chatter) -> None:
    """Somebody's own folder of that name is not removed."""
    (fresh / "report").mkdir()
    (fresh / "report" / "mine.txt").write_text("mine")
    check_refused([str(fresh)], capsys, "expected .*report to be a link")
    assert (fresh / "report" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (2**40, "1 of 36 items in split 'test' cannot be read: test5.png"),
        (1, "'test5.png' cannot be read: "),
    ],
    ids=["fits", "too large"],
)
def test_unreadable_test_item(
    memory: int, message: str, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops the report by name, unless asked to leave it out; then the report names it."""
    monkeypatch.setattr("media.unread.memory_bytes", lambda: memory)
    csv = make_data(tmp_path / "set")
    (csv.parent / "test5.png").write_bytes(b"no picture")
    root = make_run(tmp_path / "run", csv)
    check_refused([str(root)], capsys, message)
    check_nothing_written(root)
    assert main([str(root), "--skip-unreadable"]) == 0
    part = json_of(root)["splits"]["test"]
    assert (part["items"], part["skipped"]) == (35, ["test5.png"])
    assert "left out: test5.png" in (root / "report" / "index.html").read_text()
    assert main([str(root)]) == 0  # made again of what was kept
    assert json_of(root)["splits"]["test"] == part


def test_answers_that_are_no_numbers_are_an_error(fresh: Path, capsys: Chatter) -> None:
    """The item is named, and no report is made."""
    model, description = load_checkpoint(fresh / "best")
    with torch.no_grad():
        model.head.bias[1] = torch.inf
    save_checkpoint(fresh / "best", model, description.input, description.labels, description.notes)
    check_refused([str(fresh)], capsys, "the logits of 'test0.png' are not finite", status=1)
    check_nothing_written(fresh)


# --- never half a report ------------------------------------------------------------------------


@pytest.fixture
def quick(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are not drawn again, for tests of how they are written."""
    text = (finished / "report" / "index.html").read_text()
    monkeypatch.setattr(training.report.report, "page", lambda *_: text)


@pytest.mark.usefixtures("quick")
@alone
def test_full_disk_keeps_the_earlier_report(finished: Path, disk: Path, capsys: Chatter) -> None:
    """Wherever the disk fills up, the error is clear, the old report whole, and nothing is left."""
    needed = sum(path.stat().st_size for path in (finished / "report").iterdir())
    with small_disk(disk, 4 * needed):
        if not disk.is_mount():
            pytest.skip("only root may mount a small file system")
        run = shutil.copytree(finished, disk / "run", symlinks=True)
        target = target_of(run)
        for share in (0.9, 0.5, 0.1, 0):
            room = shutil.disk_usage(disk).free - int(share * needed)
            with (disk / "filler").open("ab") as stream:
                stream.write(bytes(room))
            check_refused([str(run)], capsys, "No space left", "no report was written", status=1)
            assert names_in(run / "reports") == {target}
            check_whole(run)
            assert names_in(run) == names_in(finished)


def publish_forever(root: Path) -> None:
    """The life of a child: it writes the same report again and again."""
    report, page = json_of(root), (root / "report" / "index.html").read_text()
    predictions = {split: Predictions.load(root / "report", split) for split in report["splits"]}
    while True:
        publish(root, page, report, predictions)


@alone
def test_killed_at_any_instant_a_report_is_there(run: Path) -> None:
    """Killed twenty times while reports are written, the link names a whole one."""
    context = killable()
    draw = random.Random(0)
    for _ in range(20):
        target = target_of(run)
        process = context.Process(target=publish_forever, args=(run,))
        process.start()
        while target_of(run) == target:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.join()
        check_whole(run)
    make_report(run)
    check_whole(run)
    assert names_in(run / "reports") == {target_of(run)}
    assert not list(run.glob(".report*"))


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("call", ["symlink_to", "replace", "rename", "unlink"])
def test_end_between_any_two_steps_leaves_a_report(
    run: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before and after each change of a name there is a whole report; the next one tidies up."""
    original = getattr(Path, call)
    for after in (False, True):

        def crash(*arguments: Any, after: bool = after, **options: Any) -> None:
            if after:
                original(*arguments, **options)
            raise Crash

        with monkeypatch.context() as patch, pytest.raises(Crash):  # noqa: PT012
            patch.setattr(Path, call, crash)
            make_report(run)
        check_whole(run)
    make_report(run)
    check_whole(run)
    assert names_in(run / "reports") == {target_of(run)}
    assert not list(run.glob(".report*"))


# --- pictures -----------------------------------------------------------------------------------


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter()
            if element.tag.endswith("}text")]  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "named", "numbered"),
    [(2, True, True), (10, True, True), (25, True, False), (200, False, False)],
)
def test_confusion_matrix_is_readable_for_any_number_of_classes(
    classes: int, named: bool, numbered: bool
) -> None:
    """Numbers and names stand where they fit."""
    counts = np.arange(classes * classes).reshape(classes, classes) + 1000
    found = texts(pictures.confusion(counts, [f"label {index}" for index in range(classes)]))
    assert found.count(f"label {classes - 1}") == 2 * named
    assert ("1001" in found) == numbered


def test_pictures_take_any_label() -> None:
    """Markup, formulas, control characters, other scripts and great length are only text."""
    labels = ["<b>&", "$\\frac{$", "a\x00b\nc", "猫 кот", "x" * 100, "\u202egnp"]
    svg = pictures.confusion(np.eye(6, dtype=np.int64), labels)
    found = texts(svg)
    for shown in ("<b>&", "$\\frac{$", "a\ufffdb\ufffdc", "猫 кот", "x" * 17 + "…", "\ufffdgnp"):
        assert found.count(shown) == 2, shown


def test_pictures_take_classes_without_items() -> None:
    """A row of zeros is no division by zero, and neither is a split in one bin."""
    counts = np.array([[0, 0, 0], [1, 2, 0], [0, 0, 0]])
    assert "2" in texts(pictures.confusion(counts, ["a", "b", "c"]))
    measured = measure(np.full((12, 2), 0.5), np.zeros(12, dtype=np.int64))
    assert "12" in texts(pictures.calibration(measured.calibration))


@pytest.mark.parametrize("title", sorted(pictures.PANELS))
def test_curves_take_short_and_broken_runs(title: str) -> None:
    """One epoch, missing values and no epoch at all give a picture."""
    record = {"epoch": 1, "loss": 1.0, "val_loss": 2.0, "val_top1": 0.5, "rate": 1e-3}
    runs: list[list[dict[str, Any]]] = [[record], [record, {"epoch": 2}, record | {"epoch": 3}], []]
    for records in runs:
        found = texts(pictures.curves(records, title, 1))
        assert title in found
        assert "best" in found


def test_pictures_are_the_same_for_the_same_figures() -> None:
    """Nothing in them depends on the day or on chance."""
    records = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    assert pictures.curves(records, "Loss", 3) == pictures.curves(records, "Loss", 3)
