"""python -m training split: shares, ranges of numbers, and what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from media.sources import open_source
from tests.helpers import training_runs
from tests.helpers.training_runs import Chatter, check_refused, command
from training.__main__ import main

pictures = training_runs.pictures


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
