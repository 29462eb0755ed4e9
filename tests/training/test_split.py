"""python -m training split: shares, ranges of numbers, groups, and what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from media.sources import open_source
from tests.helpers import dicom_files, training_runs
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


@pytest.mark.parametrize("named", ["", "*.tar"])
def test_split_of_shards_is_refused(tmp_path: Path, capsys: Chatter, named: str) -> None:
    """No CSV can name what lies in them; their own notes say what belongs together."""
    folder, out = write_empty(tmp_path / "set", "train-0.tar", "train-1.tar"), tmp_path / "l.csv"
    assert main(["split", str(folder / named), "--out", str(out)]) == 2
    assert "tar shards, whose items no CSV can name" in (told := capsys.readouterr().err)
    assert 'by "group" in the .json of each item' in told
    assert not out.exists()


def test_split_never_overwrites(hands: Path, tmp_path: Path, capsys: Chatter) -> None:
    """A CSV may have been corrected by hand, so it is left alone."""
    out = tmp_path / "labels.csv"
    out.write_text("mine")
    check_refused(["split", str(hands), "--out", str(out)], capsys, "never overwritten")
    assert out.read_text() == "mine"
    check_refused(["split", str(out), "--out", str(tmp_path / "x")], capsys, "columns path,label")
    out.rename(tmp_path / "labels.zip")
    arguments = ["split", str(tmp_path / "labels.zip"), "--out", str(tmp_path / "x")]
    check_refused(arguments, capsys, "expected a folder with CLASS/file or a CSV")


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


def shares_of_classes(path: Path) -> dict[str, Counter[str]]:
    """How many items of each class are in each split of a CSV."""
    found: dict[str, Counter[str]] = {}
    for row in read_rows(path):
        found.setdefault(row["split"], Counter())[row["label"]] += 1
    return found


def test_split_by_number_keeps_every_class(tmp_path: Path, capsys: Chatter) -> None:
    """Files numbered through one class after the other: each class has ranges of its own."""
    animals = ("ant", "bee", "cat", "dog")
    names = [f"{animals[n // 30]}/frame_{n}.png" for n in range(120)]
    folder, out = write_empty(tmp_path / "set", *names), tmp_path / "l.csv"
    assert main(["split", str(folder), "--out", str(out), "--order", "number"]) == 0
    assert "splits: ranges of numbers within each class" in capsys.readouterr().out
    assert shares_of_classes(out) == {
        split: Counter(dict.fromkeys(animals, count))
        for split, count in (("train", 24), ("val", 3), ("test", 3))
    }
    numbers = {row["path"]: int(row["group"]) for row in read_rows(out)}
    train = [numbers[row["path"]] for row in read_rows(out) if row["split"] == "train"]
    assert sorted(train) == [30 * place + n for place in range(4) for n in range(24)]


@pytest.mark.parametrize(
    ("count", "present"),
    [(1, {"train"}), (2, {"train", "val"}), (3, {"train", "val", "test"}),
     (4, {"train", "val", "test"})],
)  # fmt: skip
def test_split_by_number_gives_scarce_classes_what_they_can_have(
    tmp_path: Path, count: int, present: set[str]
) -> None:
    """A class of three numbers is in every split, whatever the shares; one of fewer is told."""
    names = [f"a/{n}.png" for n in range(30)] + [f"b/{100 + n}.png" for n in range(count)]
    folder, out = write_empty(tmp_path / "set", *names), tmp_path / "l.csv"
    assert main(["split", str(folder), "--out", str(out), "--order", "number"]) == 0
    found = shares_of_classes(out)
    assert {split for split in found if found[split]["b"]} == present
    assert all(found[split]["a"] for split in ("train", "val", "test"))


def test_split_by_number_in_classes_never_cuts_a_number(tmp_path: Path) -> None:
    """A number that two classes share stays whole where each class has ranges of its own."""
    names = [f"{'ab'[n // 30]}/{n}.png" for n in range(60)] + [f"b/x_{n}.png" for n in range(20)]
    folder, out = write_empty(tmp_path / "set", *names), tmp_path / "l.csv"
    assert main(["split", str(folder), "--out", str(out), "--order", "number"]) == 0
    found = shares_of_classes(out)
    assert all(found[split][label] for split in found for label in "ab")
    assert len(found) == 3
    assert all(len(splits) == 1 for splits in split_of_groups(out).values())


def test_split_by_number_names_no_group_that_the_data_name(tmp_path: Path) -> None:
    """A patient called 115 is not the picture with that number; training reads what came out."""
    rows = [f"{n}.png,{'ab'[n % 2]},{'115' if n < 5 else ''}" for n in range(120)]
    table, out = write_table(tmp_path / "set", *rows), tmp_path / "l.csv"
    assert main(["split", str(table), "--out", str(out), "--order", "number"]) == 0
    found = split_of_groups(out)
    assert (found["115"], found["number 115"]) == ({"train"}, {"test"})
    assert len(open_source(out).items) == 120


# --- the same bytes -----------------------------------------------------------------------------


def fill(folder: Path, copies: dict[str, str]) -> Path:
    """Give every file other bytes, but some those of another."""
    for path in folder.rglob("*.png"):
        name = path.relative_to(folder).as_posix()
        path.write_text(copies.get(name, name))
    return folder


@pytest.mark.parametrize("order", ["hash", "number"])
def test_same_bytes_are_one_item(tmp_path: Path, capsys: Chatter, order: str) -> None:
    """Copies lie in one split, of whatever class, and are counted; the rest is dealt as ever."""
    names = [f"{'ab'[n % 2]}/{n}.png" for n in range(120)]
    copies = {f"b/{119 - 2 * n}.png": f"a/{2 * n}.png" for n in range(20)}
    folder = fill(write_empty(tmp_path / "set", *names), copies)
    out = tmp_path / "l.csv"
    assert main(["split", str(folder), "--out", str(out), "--order", order]) == 0
    assert "same bytes: 40 items are copies of 20" in capsys.readouterr().out
    split_of = {row["path"].removeprefix("set/"): row["split"] for row in read_rows(out)}
    assert all(split_of[one] == split_of[other] for one, other in copies.items())
    found = shares_of_classes(out)
    assert all(found[split][label] for split in ("train", "val", "test") for label in "ab")
    assert len(open_source(out).items) == 120


def test_same_bytes_join_the_groups_of_the_data(tmp_path: Path, capsys: Chatter) -> None:
    """Two patients with one picture are one group, and that is told."""
    rows = [f"{n}.png,{'ab'[n // 5 % 2]},p{n // 5}" for n in range(120)]
    table, out = write_table(tmp_path / "set", *rows), tmp_path / "l.csv"
    fill(table.parent, {"11.png": "0.png", "21.png": "12.png"})
    assert main(["split", str(table), "--out", str(out)]) == 0
    assert "one group: of 24 groups 22 are left" in capsys.readouterr().out
    assert len(split_of_groups(out)) == 22
    assert {row["group"] for row in read_rows(out) if int(row["path"][4:-4]) < 25} == {
        "p0", "p1", "p3"
    }  # fmt: skip


def test_same_bytes_stay_where_splits_are_given(tmp_path: Path, capsys: Chatter) -> None:
    """Of a given test split nothing moves, nor is a training picture that it repeats put there."""
    names = [f"{s}/{'ab'[n % 2]}/{n}.png" for s in ("train", "test") for n in range(20)]
    copies = {"test/a/0.png": "train/a/0.png", "train/b/3.png": "train/b/1.png"}
    folder, out = fill(write_empty(tmp_path / "set", *names), copies), tmp_path / "l.csv"
    assert main(["split", str(folder), "--out", str(out)]) == 0
    assert "same bytes: 2 items are copies of 1" in capsys.readouterr().out
    given = {row["path"] for row in read_rows(out) if row["split"] == "test"}
    assert given == {f"set/{name}" for name in names if name.startswith("test")}


# --- groups -------------------------------------------------------------------------------------


def write_table(root: Path, *rows: str, header: str = "path,label,group") -> Path:
    """A CSV and the empty files that it names."""
    write_empty(root, *(row.split(",")[0] for row in rows))
    (root / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "table.csv"


def split_of_groups(path: Path) -> dict[str, set[str]]:
    """Every group of a CSV with the splits that it lies in."""
    found: dict[str, set[str]] = {}
    for row in read_rows(path):
        found.setdefault(row["group"], set()).add(row["split"])
    return found


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """24 patients with five pictures each, of two classes, as CLASS/PATIENT_PICTURE."""
    names = [f"{'ab'[n % 2]}/p{n:02}_{picture}.png" for n in range(24) for picture in range(5)]
    return write_empty(tmp_path / "patients", *names)


def check_patients_are_whole(out: Path) -> None:
    found = split_of_groups(out)
    assert len(found) == 24
    assert all(len(splits) == 1 for splits in found.values())
    assert {split for splits in found.values() for split in splits} == {"train", "val", "test"}


@pytest.mark.parametrize("order", ["hash", "number"])
def test_groups_of_the_data_are_kept(tmp_path: Path, capsys: Chatter, order: str) -> None:
    """Patients that a CSV names lie in one split each and are named in the new CSV."""
    rows = [f"{n // 5:02}/{n}.png,{'ab'[n // 5 % 2]},p{n // 5}" for n in range(120)]
    table, out = write_table(tmp_path / "set", *rows), tmp_path / "labels.csv"
    assert main(["split", str(table), "--out", str(out), "--order", order]) == 0
    check_patients_are_whole(out)
    assert "24 groups" in capsys.readouterr().out
    assert {item.group for item in open_source(out).items} == {f"p{n}" for n in range(24)}


@pytest.mark.parametrize("way", [["--group-regex", "^(p[0-9]+)_"], ["--group-regex", "/(p..)_"]])
def test_groups_by_a_pattern(patients: Path, tmp_path: Path, way: list[str]) -> None:
    """What the brackets match in the name, or in the path of a pattern with a slash."""
    assert main(["split", str(patients), "--out", str(tmp_path / "l.csv"), *way]) == 0
    check_patients_are_whole(tmp_path / "l.csv")
    assert "p07" in split_of_groups(tmp_path / "l.csv")


@pytest.mark.parametrize("level", ["2", "-1"])
def test_groups_by_a_folder_level(tmp_path: Path, level: str) -> None:
    """CLASS/PATIENT/file: a patient with items of both classes is one group."""
    names = [f"{'ab'[i % 2]}/p{n}/{i}.png" for n in range(24) for i in range(6)]
    folder, out = write_empty(tmp_path / "set", *names), tmp_path / "l.csv"
    assert main(["split", str(folder), "--out", str(out), "--group-level", level]) == 0
    check_patients_are_whole(out)
    splits = {(row["split"], row["label"]) for row in read_rows(out)}
    assert len(splits) == 6


def test_groups_by_a_column(tmp_path: Path, capsys: Chatter) -> None:
    """Any column of the table, others beside it mean nothing; a wrong name lists what there is."""
    rows = [f"{n}.png,{'ab'[n % 2]},{n % 7},case {n // 5}" for n in range(120)]
    table = write_table(tmp_path / "set", *rows, header="path,label,age,who")
    out, command = tmp_path / "l.csv", ["split", str(table), "--out", str(tmp_path / "l.csv")]
    check_refused([*command, "--group-column", "patient"], capsys, "'patient', got path,label,age")
    assert main([*command, "--group-column", "who"]) == 0
    check_patients_are_whole(out)


@pytest.mark.parametrize("way", [[], ["--group-level", "1"], ["--group-regex", "^(s[0-9]+)/"]])
def test_columns_of_others_mean_nothing(
    tmp_path: Path, capsys: Chatter, way: list[str]
) -> None:
    """Whatever way to group, or none, reads a table; training itself names the way to use it."""
    rows = [f"s{n // 5}/{n}.png,{'ab'[n % 2]},{n % 7}" for n in range(120)]
    table = write_table(tmp_path / "set", *rows, header="path,label,age")
    out = tmp_path / "l.csv"
    assert main(["split", str(table), "--out", str(out), *way]) == 0
    assert len(read_rows(out)) == 120
    assert len(split_of_groups(out)) == (24 if way else 1)
    check_refused(command(table, tmp_path / "run"), capsys, "got path,label,age", "--group-column")


def test_groups_that_the_data_name_are_never_parted(tmp_path: Path, capsys: Chatter) -> None:
    """A way that would part one is refused by name; one that joins some is told."""
    rows = [f"s{n // 10}/{n}.png,{'ab'[n % 2]},p{n // 5}" for n in range(120)]
    table = write_table(tmp_path / "set", *rows)
    command = ["split", str(table), "--out", str(tmp_path / "l.csv")]
    parted = "--group-regex would part group 'p0' of the data, into '0' and '1'"
    check_refused([*command, "--group-regex", "([0-9]+)"], capsys, parted)
    assert not (tmp_path / "l.csv").exists()
    assert main([*command, "--group-level", "1"]) == 0
    assert "the data name 24, each of them whole in one of the 12" in capsys.readouterr().out
    assert len(split_of_groups(tmp_path / "l.csv")) == 12


def test_groups_by_number_join_what_overlaps(tmp_path: Path) -> None:
    """Ranges of numbers never cut a group, and groups whose numbers overlap stay together."""
    names = [f"{'ab'[n % 2]}/{'xyz'[n // 10]}_{n}.png" for n in range(30)]
    names += ["a/x_12.png", "b/y_3.png"]  # the ranges of x and y overlap
    folder, out = write_empty(tmp_path / "set", *names), tmp_path / "l.csv"
    arguments = ["split", str(folder), "--out", str(out), "--order", "number"]
    arguments += ["--group-regex", "^(.)_", "--fractions", "0.5,0.25,0.25"]
    assert main(arguments) == 2  # two units are too few for three splits
    write_empty(folder, "a/v_90.png", "b/v_91.png", "a/w_95.png", "b/w_96.png", "b/w_97.png")
    assert main(arguments) == 0
    found = split_of_groups(out)
    assert found["x"] == found["y"] == {"train"}
    assert all(len(splits) == 1 for splits in found.values())


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (["--group-regex", "^(q.)"], "gives 120 of 120 items no group: 'a/p00_0.png'"),
        (["--group-regex", "^(p0)"], "--group-regex gives 70 of 120 items no group: 'a/p10_0"),
        (["--group-regex", "^(x)?p"], "gives 120 of 120 items no group"),
        (["--group-regex", "p(.)(.)"], "expected one pair of brackets round the group, got 2"),
        (["--group-regex", "p.."], "expected one pair of brackets round the group, got 0"),
        (["--group-regex", "p(.."], "expected a regular expression, got 'p\\(..'"),
        (["--group-level", "2"], "--group-level gives 120 of 120 items no group"),
        (["--group-column", "who"], "--group-column needs a CSV or a folder with labels.csv"),
        (["--group-dicom-patient"], "'a/p00_0.png' names no patient: expected a DICOM file"),
    ],
)
def test_group_that_is_not_there_is_refused(
    patients: Path, tmp_path: Path, capsys: Chatter, way: list[str], message: str
) -> None:
    """Items without a group are counted and named; nothing is written."""
    out = tmp_path / "l.csv"
    check_refused(["split", str(patients), "--out", str(out), *way], capsys, message)
    assert not out.exists()


@pytest.mark.parametrize(
    "ways", [["--group-level", "0"], ["--group-level", "x"],
             ["--group-level", "1", "--group-regex", "(.)"]],
)  # fmt: skip
def test_ways_that_contradict_are_refused(patients: Path, capsys: Chatter, ways: list[str]) -> None:
    """Two ways to group, or a level that is none."""
    with pytest.raises(SystemExit, match="2"):
        main(["split", str(patients), "--out", "x.csv", *ways])
    assert re.search("not allowed with|expected a folder's place", capsys.readouterr().err)


def test_given_splits_are_kept(tmp_path: Path, capsys: Chatter) -> None:
    """A test split that the data give stays; val comes from train, by whole groups."""
    names = [f"{s}/{'ab'[n % 2]}/{s}{n}_{i}.png" for s in ("train", "test") for n in range(20)
             for i in range(3)]  # fmt: skip
    folder, out = write_empty(tmp_path / "set", *names), tmp_path / "l.csv"
    command = ["split", str(folder), "--out", str(out), "--group-regex", "^([a-z]+[0-9]+)_"]
    assert main(command) == 0
    rows = read_rows(out)
    assert {row["path"] for row in rows if row["split"] == "test"} == {
        f"set/{name}" for name in names if name.startswith("test")
    }
    found = split_of_groups(out)
    assert len(found) == 40
    assert all(len(splits) == 1 for splits in found.values())
    assert {row["label"] for row in rows if row["split"] == "val"} == {"a", "b"}
    out.unlink()
    torn = [*command[:4], "--group-regex", "([0-9]+)_"]
    check_refused(torn, capsys, "group '0' lies in test and in train")
    check_refused([*command, "--order", "number"], capsys, "is split already: --order number makes")


def test_splits_are_told_class_by_class(tmp_path: Path, capsys: Chatter) -> None:
    """How many of each class are in each split, and what was left out."""
    names = [f"{'abcd'[n % 4]}/{n}.png" for n in range(120)]
    folder = write_empty(tmp_path / "set", *names, "a/notes.txt", "README.md")
    assert main(["split", str(folder), "--out", str(tmp_path / "l.csv")]) == 0
    told = capsys.readouterr().out
    assert "train 96 items: 24 a, 24 b, 24 c, 24 d" in told
    assert "val 12 items: 3 a, 3 b, 3 c, 3 d" in told
    assert "left out: 1 .md, 1 .txt" in told


def write_scans(root: Path, patients: int = 8) -> Path:
    """Two scans of each patient, a slice and a zip of two slices, of two classes."""
    for number in range(patients):
        who: Any = {"PatientID": f"MRN-{number:05}"}
        slices = [
            dicom_files.dicom(
                dicom_files.noise(5, 7, seed=10 * number + place),
                **dicom_files.placed((0, 0, place)), **who,
            )
            for place in range(3)
        ]  # fmt: skip
        folder = root / ("ill" if number % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.dcm").write_bytes(slices[0])
        packed = dicom_files.zipped({"1": slices[1], "2": slices[2]})
        (folder / f"{number}.zip").write_bytes(packed)
    return root


def test_groups_by_patient_write_no_number(tmp_path: Path, capsys: Chatter) -> None:
    """Slices and series of one PatientID are one group; the number is written nowhere."""
    folder, out = write_scans(tmp_path / "scans"), tmp_path / "l.csv"
    command = ["split", str(folder), "--group-dicom-patient", "--out"]
    assert main([*command, str(out)]) == 0
    rows = read_rows(out)
    of_patient = {Path(row["path"]).stem: row["group"] for row in rows}
    assert len(rows) == 2 * len(of_patient) == 2 * len(set(of_patient.values())) == 16
    assert all(re.fullmatch("[0-9a-f]{16}", group) for group in of_patient.values())
    assert all(len(splits) == 1 for splits in split_of_groups(out).values())
    captured = capsys.readouterr()
    assert "MRN-0" not in out.read_text() + captured.out + captured.err
    assert main([*command, str(tmp_path / "again.csv")]) == 0
    assert read_rows(tmp_path / "again.csv") == rows


def test_digest_of_a_patient_cannot_be_looked_up(tmp_path: Path) -> None:
    """Its key comes of all the data: one more file gives other digests of the same numbers."""
    folder = write_scans(tmp_path / "scans")
    command = ["split", str(folder), "--group-dicom-patient", "--out"]
    assert main([*command, str(tmp_path / "1.csv")]) == 0
    (folder / "well" / "more.dcm").write_bytes(
        dicom_files.dicom(dicom_files.noise(5, 7), PatientID="MRN-00001")
    )
    assert main([*command, str(tmp_path / "2.csv")]) == 0
    digests = [set(split_of_groups(tmp_path / name)) for name in ("1.csv", "2.csv")]
    assert len(digests[0]) == len(digests[1]) == 8
    assert not digests[0] & digests[1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"PatientID": None}, "names no patient: expected a PatientID; there is none"),
        ({"PatientID": ""}, "names no patient: expected a PatientID; it is empty"),
        ("two", "names no patient: expected the files of one patient, got 2"),
        ("cut", "names no patient: "),
    ],
)
def test_scan_of_no_patient_is_refused(
    tmp_path: Path, capsys: Chatter, files: dict[str, Any] | str, message: str
) -> None:
    """The file is named, and no number is quoted."""
    folder = write_scans(tmp_path / "scans")
    pixels = dicom_files.noise(5, 7)
    if isinstance(files, dict):
        data = dicom_files.dicom(pixels, **files)
    elif files == "two":
        both = {who: dicom_files.dicom(pixels, PatientID=who) for who in ("MRN-1", "MRN-2")}
        data = dicom_files.zipped(both)
    else:
        data = dicom_files.dicom(pixels, PatientID="MRN-1")[:150]
    (folder / "ill" / "odd.zip").write_bytes(data)
    command = ["split", str(folder), "--group-dicom-patient", "--out", str(tmp_path / "l.csv")]
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"'ill/odd.zip' {message}" in error
    assert "MRN" not in error
