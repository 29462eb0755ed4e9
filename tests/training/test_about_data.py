"""What a run says of its data: splits of every class, files left out, the same bytes twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_training import picture
from export.__main__ import main as export
from media.contents import split_sha256
from media.files import sha256_file
from media.sources import FIRST, open_source
from models.checkpoint import DESCRIPTION, read_description
from tests.helpers import exporter
from tests.helpers.training_runs import TINY, Chatter, check_refused
from tests.helpers.training_runs import command as tiny_command
from training.__main__ import main
from training.loop import train
from training.presets import PRESETS
from training.settings import override

tables_of_operators = exporter.tables_of_operators

#: Nothing here depends on the model: the smallest that there is.
SMALLEST = ("model.depth=1", "model.encoding.name=absolute", "model.encoding.block=null")
COLOURS = {"cat": (200, 60, 40), "dog": (40, 200, 60), "eel": (40, 60, 200), "fox": (90, 90, 9)}


def command(data: Path, out: Path, *settings: str, resume: bool = False) -> list[str]:
    return tiny_command(data, out, *SMALLEST, *settings, resume=resume)


def write_pictures(root: Path, split: str, count: int, first: int = 0) -> Path:
    """So many different pictures of each of four classes, below a split where one is named."""
    for place, (name, colour) in enumerate(COLOURS.items()):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            data = picture(colour, first + 1000 * place + index)
            (folder / f"{index}.png").write_bytes(data)
    return root


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty training and six test pictures of four classes, notes between them, no val."""
    root = write_pictures(tmp_path_factory.mktemp("judged") / "set", "train", 30)
    write_pictures(root, "test", 6, first=500)
    for name in ("README.md", "train/cat/notes.txt", "train/dog/more.txt", "test/.DS_Store"):
        (root / name).touch()
    return root


@pytest.fixture(scope="module")
def run(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on them; not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(command(judged, out, "epochs=1")) == 0
    return out


@pytest.fixture
def twice(judged: Path, tmp_path: Path) -> Path:
    """The same set, with a training picture among the test pictures and one in train again."""
    root = shutil.copytree(judged, tmp_path / "twice")
    shutil.copy(root / "train" / "cat" / "3.png", root / "test" / "dog" / "known.png")
    shutil.copy(root / "train" / "eel" / "5.png", root / "train" / "eel" / "again.png")
    return root


def data_of(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = read_description(run / "best").notes["data"]
    return data


def report_of(run: Path) -> tuple[dict[str, Any], str]:
    folder = run / "report"
    return json.loads((folder / "report.json").read_bytes()), (folder / "index.html").read_text()


def export_of(run: Path, out: Path, *options: str) -> list[str]:
    grid = ["--grid", "3x4", "--parity-items", "8"]
    return [str(run), *grid, "--out", str(out), *options]


def test_validation_of_a_small_set_has_every_class(run: Path, judged: Path) -> None:
    """The test split is as given; val holds some of each class, and the run counts them."""
    data = data_of(run)
    assert (data["rule"], data["made"]) == (2, ["val"])
    assert data["classes"]["test"] == [6, 6, 6, 6]
    assert all(1 <= count <= 2 for count in data["classes"]["val"])
    assert sum(data["classes"]["val"]) == data["val"]["items"] == 6
    assert data["classes"] == open_source(judged).counts()


def test_start_tells_classes_and_what_is_left_out(
    judged: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Before the first step, one line a split."""
    assert main(command(judged, tmp_path / "run", "epochs=1")) == 0
    told = capsys.readouterr().err
    assert "splits: val taken from train by rule 2" in told
    assert "test 24 items: 6 cat, 6 dog, 6 eel, 6 fox" in told
    assert "left out: 2 .txt, 1 .DS_Store, 1 .md" in told


def test_report_and_card_tell_of_the_data(run: Path, tmp_path: Path) -> None:
    """Items of each class in each split, who made the splits, and what was passed over."""
    report, page = report_of(run)
    assert report["data"]["left_out"] == {".txt": 2, ".DS_Store": 1, ".md": 1}
    assert report["data"]["classes"] == data_of(run)["classes"]
    assert report["data"]["duplicates"]["across"] == 0
    assert "passed over: 2 .txt, 1 .DS_Store, 1 .md." in page
    assert "val taken from train by rule 2" in page
    assert export(export_of(run, tmp_path)) == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "passed over: 2 .txt, 1 .DS_Store, 1 .md." in card
    assert "| items of class | train | val | test |" in card
    assert "Splits made by rule 2, not given: val." in card
    assert "items in common" not in card + page


def test_same_bytes_in_two_splits_end_every_command(
    twice: Path, run: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """Training, a comparison, a report and an export name the pair, and leave nothing behind."""
    pair = "'train/cat/3.png' in train and 'test/dog/known.png' in test"
    check_refused(command(twice, tmp_path / "run"), capsys, pair, "--allow-duplicates")
    assert not (tmp_path / "run" / "last").exists()
    compared = ["compare", "--preset", "smoke", "--data", str(twice), "--out", str(tmp_path / "c")]
    check_refused([*compared, "--encodings", "absolute", "--set", "batch=8"], capsys, pair)
    known = shutil.copytree(run, tmp_path / "known", symlinks=True)
    (twice / "train" / "eel" / "again.png").unlink()  # now train is that of the run
    check_refused(["report", str(known), "--data", str(twice)], capsys, pair)
    assert export(export_of(known, tmp_path / "bundles", "--data", str(twice))) == 2
    assert pair in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()
    assert main(["report", str(known), "--data", str(twice), "--allow-duplicates"]) == 0
    assert report_of(known)[0]["data"]["duplicates"]["across"] == 1
    out = export_of(known, tmp_path / "bundles", "--data", str(twice), "--allow-duplicates")
    assert export(out) == 0
    assert "items in common" in (tmp_path / "bundles" / "known" / "README.md").read_text()


def test_same_bytes_that_are_allowed_are_told(twice: Path, tmp_path: Path, capsys: Chatter) -> None:
    """The run goes on; its output, description, report and card say so, the card without names."""
    out = tmp_path / "run"
    assert main([*command(twice, out, "epochs=1"), "--allow-duplicates"]) == 0
    told = capsys.readouterr().err
    assert "same bytes in two splits: 1" in told
    assert "same bytes more than once within train: 1" in told
    expected = {
        "across": 1, "within": {"train": 1},
        "named": [["train", "train/cat/3.png", "test", "test/dog/known.png"]],
    }  # fmt: skip
    assert data_of(out)["duplicates"] == expected
    report, page = report_of(out)
    assert report["data"]["duplicates"] == expected
    assert "Splits have items in common" in page
    assert "test/dog/known.png" in page
    shutil.move(twice, tmp_path / "away")
    assert main(["report", str(out)]) == 0  # of kept predictions, without the data
    assert report_of(out)[0]["data"]["duplicates"] == expected
    shutil.move(tmp_path / "away", twice)
    assert export(export_of(out, tmp_path / "bundles")) == 0
    bundle = tmp_path / "bundles" / "run"
    assert "same bytes in two of train, val and test: 1." in (bundle / "README.md").read_text()
    source = json.loads((bundle / "manifest.json").read_bytes())["source"]
    assert source["duplicates"] == {"across": 1, "within": {"train": 1}}
    assert "known.png" not in json.dumps(source)


def test_same_bytes_are_found_before_anything_is_decoded(
    twice: Path, run: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new run on them, and one that is resumed with other files, end before the long work."""

    def decode(*_: Any, **__: Any) -> None:
        pytest.fail("decoding has begun")

    monkeypatch.setattr("training.loop.data.prepare", decode)
    check_refused(command(twice, tmp_path / "run"), capsys, "the same bytes lie in two splits")
    known = shutil.copytree(run, tmp_path / "known", symlinks=True)
    changed = "split 'train' is not the one that the run began with: expected 114 items"
    check_refused(command(twice, known, "epochs=1", resume=True), capsys, changed)


def test_made_splits_with_the_same_bytes_become_good_ones(tmp_path: Path, capsys: Chatter) -> None:
    """What the refusal says to do is done, and training reads the result."""
    data, out = write_pictures(tmp_path / "set", "", 10), tmp_path / "l.csv"
    for name in COLOURS:
        for place in range(9):
            shutil.copy(data / name / "0.png", data / name / f"again{place}.png")
    advice = "python -m training split DATA --out CSV puts equal bytes"
    check_refused(command(data, tmp_path / "run"), capsys, advice)
    assert main(["split", str(data), "--out", str(out)]) == 0
    assert main(command(out, tmp_path / "run", "epochs=1")) == 0
    assert data_of(tmp_path / "run")["duplicates"]["across"] == 0


# --- runs from before ---------------------------------------------------------------------------


def old_run(data: Path, out: Path) -> tuple[Path, Path]:
    """Data without splits, and a run on them as code that knew one rule left it."""
    settings = [*TINY, *SMALLEST, "epochs=1", "allow_duplicates=true"]
    config = override(PRESETS["smoke"](str(data)), settings)
    train(config, out, report=False, rule=FIRST)
    for name in ("last", "best"):
        path = (out / name).resolve() / DESCRIPTION
        description = json.loads(path.read_bytes())
        for key in ("rule", "made", "classes", "left_out", "duplicates"):
            description["notes"]["data"].pop(key, None)
        description["notes"]["config"].pop("allow_duplicates", None)
        path.write_text(json.dumps(description))
    return data, out


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, Path]:
    return old_run(write_pictures(tmp_path / "set", "", 30), tmp_path / "run")


def test_run_from_before_is_told_of_the_same_bytes(tmp_path: Path, capsys: Chatter) -> None:
    """Nobody looked when it began: it goes on, is reported and exported as ever, and all say so."""
    data = write_pictures(tmp_path / "set", "", 30)
    for place in range(30):
        shutil.copy(data / "cat" / "0.png", data / "cat" / f"again{place}.png")
    source, out = open_source(data, FIRST), tmp_path / "run"
    assert len({item.split for item in source.items if "again" in item.id}) > 1
    old_run(data, out)
    path = (out / "best").resolve() / DESCRIPTION
    before, _ = path.read_bytes(), capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert "same bytes in two splits: " in capsys.readouterr().err
    assert "Splits have items in common" in report_of(out)[1]
    assert export(export_of(out, tmp_path / "bundles")) == 0
    assert "same bytes in two of train, val and test: " in capsys.readouterr().err
    assert "items in common" in (tmp_path / "bundles" / "run" / "README.md").read_text()
    assert path.read_bytes() == before
    longer = ["epochs=3"]
    assert main(command(data, out, *longer, resume=True)) == 0
    assert "same bytes in two splits: " in capsys.readouterr().err
    assert read_description(out / "last").notes["data"]["duplicates"]["across"] > 0
    assert main(command(data, out, *longer, resume=True)) == 0  # it says so itself by now
    assert main(["report", str(out), "--data", str(data)]) == 0


def test_run_from_before_keeps_its_splits(old: tuple[Path, Path], tmp_path: Path) -> None:
    """It is resumed, reported, exported and verified on the splits that it was trained with."""
    data, out = old
    hashes = {split: split_sha256(open_source(data, FIRST), split) for split in ("train", "val")}
    assert hashes != {split: split_sha256(open_source(data), split) for split in hashes}
    described = data_of(out)
    assert "rule" not in described
    assert {split: described[split]["sha256"] for split in hashes} == hashes
    assert main(command(data, out, "epochs=1", resume=True)) == 0
    report, page = report_of(out)
    assert report["splits"]["val"]["sha256"] == hashes["val"]
    assert set(report["splits"]) == {"val", "test"}
    assert "by rule" not in page
    assert export(export_of(out, tmp_path / "bundles")) == 0
    bundle = tmp_path / "bundles" / "run"
    card = (bundle / "README.md").read_text()
    assert "items of class" not in card
    assert export(["verify", str(bundle), "--data", str(data)]) == 0


def test_run_that_is_resumed_keeps_its_rule(run: Path, judged: Path, tmp_path: Path) -> None:
    """A finished run of today says the same of its data when it is resumed."""
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    before = sha256_file(copy / "best" / DESCRIPTION)
    assert main(command(judged, copy, "epochs=1", resume=True)) == 0
    assert sha256_file(copy / "best" / DESCRIPTION) == before


def test_comparison_from_before_goes_on_by_its_rule(tmp_path: Path) -> None:
    """Encodings that are added later are trained and measured on the splits of the first ones."""
    data, out = write_pictures(tmp_path / "set", "", 30), tmp_path / "compared"
    arguments = ["compare", "--preset", "smoke", "--data", str(data), "--out", str(out)]
    arguments += ["--seeds", "1", "--rounds", "1", "--scales", "1"]
    for setting in (*TINY, "epochs=1"):
        arguments += ["--set", setting]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.compare.compare.RULE", FIRST)
        assert main([*arguments, "--encodings", "absolute"]) == 0
    written = json.loads((out / "compare.json").read_bytes())
    del written["recipe"]["rule"]
    (out / "compare.json").write_text(json.dumps(written))
    assert main([*arguments, "--encodings", "absolute,liere_4"]) == 0
    hashes = {data_of(folder)["train"]["sha256"] for folder in (out / "runs").iterdir()}
    assert hashes == {split_sha256(open_source(data, FIRST), "train")}
