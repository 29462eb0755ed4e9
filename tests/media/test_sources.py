"""Labelled media: folders, CSVs and npz archives, their splits, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.sources import FIRST, SPLITS, Item, Source, SourceError, assign_splits, open_source


def write(root: Path, *names: str) -> None:
    """Files whose content is their own name: sources read bytes and do not decode."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def write_csv(path: Path, *rows: str, header: str = "path,label,split,group") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def rows_of(source: Source) -> set[tuple[str, str, str]]:
    """(id, class name, split) of every item."""
    return {(item.id, source.labels[item.label], item.split) for item in source.items}


def test_folder_reads_classes_and_files(tmp_path: Path) -> None:
    """CLASS/file at any depth: ids are relative paths, labels the sorted folder names."""
    write(tmp_path, "dog/1.jpg", "cat/deep/2.PNG", "cat/3.webp")
    source = open_source(tmp_path)
    assert source.labels == ("cat", "dog")
    assert {(item.id, item.label) for item in source.items} == {
        ("dog/1.jpg", 1),
        ("cat/deep/2.PNG", 0),
        ("cat/3.webp", 0),
    }
    assert source.read("cat/deep/2.PNG") == b"cat/deep/2.PNG"


def test_folder_keeps_given_splits(tmp_path: Path) -> None:
    """SPLIT/CLASS/file belongs where it lies; ``valid`` and ``validation`` mean ``val``."""
    write(tmp_path, "train/a/1.png", "valid/b/2.png", "test/b/3.png")
    assert rows_of(open_source(tmp_path)) == {
        ("train/a/1.png", "a", "train"),
        ("valid/b/2.png", "b", "val"),
        ("test/b/3.png", "b", "test"),
    }


def test_folder_lists_foreign_pictures_and_leaves_out_the_rest(tmp_path: Path) -> None:
    """A picture that cannot be read is not passed over; notes and hidden files are no items."""
    write(tmp_path, "a/1.png", "b/2.jp2", "b/notes.txt", "b/._2.png", ".git/3.png", "readme.png")
    write(tmp_path, "b/.cache/4.png", "__MACOSX/a/1.png")
    (tmp_path / "b" / "folder.jpg").mkdir()
    (tmp_path / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert {item.id for item in open_source(tmp_path).items} == {"a/1.png", "b/2.jp2", "b/gone.jpg"}


def test_folder_lists_every_type_that_is_read(tmp_path: Path) -> None:
    """TIFF, BMP and GIF are items like JPEG, PNG and WebP, in capitals too."""
    endings = ("jpg", "jpeg", "png", "webp", "tif", "TIFF", "bmp", "GIF")
    names = {f"{'ab'[number % 2]}/{number}.{end}" for number, end in enumerate(endings)}
    write(tmp_path, *names)
    assert {item.id for item in open_source(tmp_path).items} == names


def test_folder_lists_clips_and_scans(tmp_path: Path) -> None:
    """Every type that a reader takes is an item, and so is a zip: a series of slices, not a source.

    Detached headers and other media that no reader takes are listed, to be refused by name.
    """
    endings = (
        "mp4", "mov", "mkv", "webm", "AVI", "gif", "mpeg", "mpg", "ts", "m4v", "nii", "nii.gz",
        "NII.GZ", "dcm", "zip", "npy", "npz", "nrrd", "mha", "mhd", "wmv",
    )  # fmt: skip
    names = {f"{'ab'[number % 2]}/scan.{number}.{end}" for number, end in enumerate(endings)}
    write(tmp_path, *names, "a/notes.txt", "a/tables.tar.gz", "b/mp4", "b/._1.nii.gz", "b/1.gz")
    source = open_source(tmp_path)
    assert {item.id for item in source.items} == names
    assert all(source.read(item.id) == item.id.encode() for item in source.items)


def test_csv_names_clips_and_scans_of_any_ending(tmp_path: Path) -> None:
    """A series in a zip, a packed scan and a file without an ending, each with split and group."""
    write(tmp_path, "p1/series.zip", "p2/scan.nii.gz", "p3/IM0001")
    rows = ("p1/series.zip,ill,train,p1", "p2/scan.nii.gz,well,train,p2", "p3/IM0001,ill,test,p3")
    source = open_source(write_csv(tmp_path / "scans.csv", *rows))
    assert [source.read(item.id) for item in source.items] == [
        b"p1/series.zip", b"p2/scan.nii.gz", b"p3/IM0001",
    ]  # fmt: skip
    assert [item.group for item in source.items] == ["p1", "p2", "p3"]


@pytest.mark.parametrize("layout", ["b", "train/b"])
def test_folder_may_be_a_link(tmp_path: Path, layout: str) -> None:
    """A class that lies elsewhere and is linked is read; a link further down leads nowhere."""
    place = layout.removesuffix("b")
    write(tmp_path, f"data/{place}a/1.png", f"data/{place}a/deep/2.png", "other/3.png")
    (tmp_path / "data" / layout).symlink_to(tmp_path / "other")
    (tmp_path / "data" / place / "a" / "deep" / "again").symlink_to(tmp_path / "data")
    found = {item.id.removeprefix(place) for item in open_source(tmp_path / "data").items}
    assert found == {"a/1.png", "a/deep/2.png", "b/3.png"}


def test_folder_follows_the_table_at_its_root(tmp_path: Path) -> None:
    """A labels.csv in the folder decides alone: it may carry splits and groups that matter."""
    write(tmp_path, "x/1.png", "x/2.png", "y/3.png", "y/unlisted.png")
    write_csv(tmp_path / "labels.csv", "x/1.png,a,train,p1", "x/2.png,b,val,p2", "y/3.png,b,test,")
    assert rows_of(open_source(tmp_path)) == {
        ("x/1.png", "a", "train"),
        ("x/2.png", "b", "val"),
        ("y/3.png", "b", "test"),
    }
    assert open_source(tmp_path).items == open_source(tmp_path / "labels.csv").items


def test_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A file name that is not UTF-8 could be hashed and reported by nobody."""
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "caf\udce9.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"expected names in UTF-8, got 'b/caf\\udce9.png'"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "expected media of at least two classes, got none"),
        (("1.png", "2.png"), "expected media of at least two classes, got none"),
        (("a/1.png",), "at least two classes, got \\['a'\\]"),
        (("a/1.png", "b/notes.txt"), "class 'b' is empty: expected files ending in .bmp"),
        (("a/1.png", "b/x.txt", "b/y.txt", "b/z"), "got 2 .txt, 1 without an ending$"),
        (("a/1.png", "b/.DS_Store"), "class 'b' is empty: .*; got none$"),
    ],
)
def test_folder_without_two_filled_classes_is_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    """An empty class, a single one or none is named instead of being trained on."""
    write(tmp_path, *names)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "data.zip", "data.csv", "data.tar.gz"])
def test_source_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    """The message says what would have been understood, and what came."""
    understood = "a pattern of shards or a .csv, .npz, .zip, .tar, .tar.gz, .tgz file"
    with pytest.raises(SourceError, match=f"{understood}, got .*{name}"):
        open_source(tmp_path / name)


def test_csv_reads_every_column(tmp_path: Path) -> None:
    """Paths relative to the CSV, in any column order, with a byte order mark and spaces."""
    write(tmp_path, "x/1.png", "x/2.png", "x/3.png")
    text = "\ufefflabel, group,path,split\n".replace(", ", ",")
    text += "cat,g1,x/1.png,train\n dog , g2 ,x/2.png,validation\ncat,,x/3.png,test\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    source = open_source(tmp_path / "labels.csv")
    assert source.labels == ("cat", "dog")
    assert source.items == (
        Item("x/1.png", 0, "train", "g1"),
        Item("x/2.png", 1, "val", "g2"),
        Item("x/3.png", 0, "test", ""),
    )
    assert source.read("x/2.png") == b"x/2.png"


def test_csv_may_point_outside_its_folder(tmp_path: Path) -> None:
    """The data are the user's own: absolute paths and parents are read like any other."""
    write(tmp_path, "pictures/1.png", "2.png")
    (tmp_path / "lists").mkdir()
    absolute = tmp_path / "2.png"
    path = write_csv(tmp_path / "lists" / "l.csv", "../pictures/1.png,a,,", f"{absolute},b,,")
    source = open_source(path)
    assert source.read("../pictures/1.png") == b"pictures/1.png"
    assert source.read(str(absolute)) == b"2.png"


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("file,label", ("1.png,a",), "expected columns path,label and optionally split,group"),
        ("path,label,weight", ("1.png,a,1",), "got path,label,weight"),
        ("path,label,label", ("1.png,a,b",), "got path,label,label"),
        ("Path,Label", ("1.png,a",), "expected columns path,label.*got Path,Label"),
        ("", (), "expected columns path,label and optionally split,group; got $"),
        ("path,label", (), "expected media of at least two classes, got none"),
        ("path,label", ("1.png,", "2.png,"), "line 2 lacks a path or a label"),
        ("path,label", ("1.png,a", "./1.png,b"), "'1.png' and './1.png' are the same file"),
        ("path,label,split", ("1.png,a,Train", "2.png,b,"), "split must be one of .*got 'Train'"),
        ("path,label", ("1.png,a,train",), "line 2 has more than 2 columns"),
        ("path,label", ("1.png,a", "2.png,"), "line 3 lacks a path or a label"),
        ("path,label", ("1.png,a", "2.png"), "line 3 lacks a path or a label"),
        ("path,label", (",a",), "line 2 lacks a path or a label"),
        ("path,label,split", ("1.png,a,dev", "2.png,b,"), "split must be one of .*got 'dev'"),
        (
            "path,label",
            ("1.png,a", "4.png,b", "5.png,b"),
            "2 of 3 files are missing, first '4.png'",
        ),
        ("path,label", ("1.png,a", "1.png,b"), "'1.png' is listed more than once"),
        ("path,label", ("1.png,a", "2.png,a"), "at least two classes"),
    ],
)
def test_csv_that_cannot_be_used_is_refused(
    tmp_path: Path, header: str, rows: tuple[str, ...], message: str
) -> None:
    """Each mistake is named with its line or its value."""
    write(tmp_path, "1.png", "2.png")
    with pytest.raises(SourceError, match=message):
        open_source(write_csv(tmp_path / "labels.csv", *rows, header=header))


@pytest.mark.parametrize("data", [b"path,label\n\xff\xfe,a\n", b'path,label\n"1.png\0\n'])
def test_csv_that_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    """Bytes that are not UTF-8, or not CSV, are an error of the file and not a crash."""
    (tmp_path / "labels.csv").write_bytes(data)
    with pytest.raises(SourceError, match=r"labels\.csv"):
        open_source(tmp_path / "labels.csv")


def arrays(**changes: Any) -> dict[str, Any]:
    """Six colour images of 5x7 pixels in two classes, and a test split of two grey ones."""
    values = {
        "train_images": np.arange(6 * 5 * 7 * 3, dtype=np.uint8).reshape(6, 5, 7, 3),
        "train_labels": np.array([[0], [1], [0], [1], [0], [1]]),
        "test_images": np.zeros((2, 5, 7), np.uint8),
        "test_labels": np.array([1, 0]),
    } | changes
    return {name: value for name, value in values.items() if value is not None}


def write_npz(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def test_npz_reads_decoded_images(tmp_path: Path) -> None:
    """Rows of SPLIT_images are items, colour or grey; labels may be a column; classes numbers."""
    source = open_source(write_npz(tmp_path / "d.npz"))
    assert source.labels == ("0", "1")
    assert np.array_equal(source.read("train/4"), arrays()["train_images"][4])
    assert np.array_equal(source.read("test/1"), np.zeros((5, 7)))
    assert [item.label for item in source.items] == [0, 1, 0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 7, 3)])
def test_npz_reads_scans_and_clips(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Rows may be scans [D, H, W] or clips [T, H, W, C]; items are views of the one array."""
    images = np.arange(6 * np.prod(shape)).astype(np.uint8).reshape(6, *shape)
    changes = {"train_images": images, "test_images": None, "test_labels": None}
    source = open_source(write_npz(tmp_path / "d.npz", **changes))
    media = [np.asarray(source.read(item.id)) for item in source.items]
    assert np.array_equal(np.stack(media), images)
    assert {id(medium.base) for medium in media} == {id(media[0].base)}
    assert [item.label for item in source.items] == [0, 1, 0, 1, 0, 1]


def test_npz_reads_encoded_files(tmp_path: Path) -> None:
    """SPLIT_jpeg is cut at SPLIT_offsets; names and classes are taken where they are given."""
    data = np.frombuffer(b"onetwothree", np.uint8)
    changes = {
        "train_images": None,
        "train_jpeg": data,
        "train_offsets": np.array([0, 3, 6, 11]),
        "train_labels": np.array([0, 1, 1]),
        "train_names": np.array(["x", "y", "z"]),
        "classes": np.array(["cat", "dog"]),
    }
    source = open_source(write_npz(tmp_path / "d.npz", **changes))
    assert source.labels == ("cat", "dog")
    assert [source.read(f"train/{name}") for name in "xyz"] == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None, "test_labels": None}, "expected train_labels, got keys"),
        ({"train_images": None}, "expected train_images, or train_jpeg with train_offsets"),
        ({"train_labels": np.zeros(5, int)}, "train has 6 media, 5 labels"),
        ({"train_labels": np.zeros(6)}, "expected whole numbers in train_labels, got float64"),
        ({"train_labels": np.array([0, 1, 2, 10**12, 0, 1])}, "label 1000000000000 is outside"),
        ({"train_labels": np.array([0, 1, -1, 0, 0, 1])}, "label -1 is outside"),
        ({"train_labels": np.array([0, 1, 3, 0, 0, 1])}, "class '2' has no items"),
        ({"classes": np.array(["a"])}, "at least two classes"),
        (
            {
                "train_images": np.zeros((0, 5, 7), np.uint8),
                "train_labels": np.zeros(0, int),
                "test_images": None,
                "test_labels": None,
            },
            "expected media of at least two classes, got none",
        ),
        ({"train_names": np.array(list("aabcde"))}, "'train/a' is listed more than once"),
        ({"train_labels": np.array([0, "x", None, 1, 0, 1], object)}, "it holds pickled objects"),
        ({"train_images": np.array([None] * 6)}, "it holds pickled objects"),
    ],
)
def test_npz_that_cannot_be_used_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Each mistake is named; pickled objects are never unpickled."""
    with pytest.raises(SourceError, match=message):
        open_source(write_npz(tmp_path / "d.npz", **changes))


@pytest.mark.parametrize("damage", [lambda data: data[:300], lambda data: b"junk" + data[:9]])
def test_npz_that_is_cut_short_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A download that stopped is an error of the file."""
    path = write_npz(tmp_path / "d.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError, match=r"d\.npz: expected an npz of plain arrays"):
        open_source(path)


def test_npz_with_a_damaged_member_is_refused(tmp_path: Path) -> None:
    """A flipped byte inside an array fails its checksum before anything is trained on it."""
    path = write_npz(tmp_path / "d.npz")
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(100, 120)))] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"d\.npz"):
        open_source(path)


def items(count: int, group: Callable[[int], str] = lambda index: "") -> list[Item]:
    return [Item(f"{index}.png", index % 3, "", group(index)) for index in range(count)]


def test_splits_are_drawn_in_the_promised_shares() -> None:
    """Of many items without a split about 80, 10 and 10 percent go to train, val and test."""
    counts = Counter(item.split for item in assign_splits(items(5000)))
    assert set(counts) == set(SPLITS)
    assert abs(counts["train"] / 5000 - 0.8) < 0.02
    assert abs(counts["val"] / 5000 - 0.1) < 0.015


def test_first_rule_looks_at_each_item_alone() -> None:
    """Adding or shuffling items moves none that was there."""
    few = {item.id: item.split for item in assign_splits(items(500), FIRST)}
    many = {item.id: item.split for item in assign_splits(reversed(items(900)), FIRST)}
    assert few == {id_: many[id_] for id_ in few}


def test_splits_never_cut_a_group() -> None:
    """Items of one group share a split, whichever it is."""
    found: dict[str, set[str]] = {}
    for item in assign_splits(items(2000, lambda index: f"patient {index // 4}")):
        found.setdefault(item.group, set()).add(item.split)
    assert {len(splits) for splits in found.values()} == {1}
    assert {split for splits in found.values() for split in splits} == set(SPLITS)


def test_missing_validation_is_taken_from_train() -> None:
    """Where only train and test are given, 5 percent of train become val and test stays."""
    given = [Item(str(i), 0, "test" if i % 5 == 0 else "train") for i in range(5000)]
    counts = Counter(item.split for item in assign_splits(given))
    assert counts["test"] == 1000
    assert abs(counts["val"] / 4000 - 0.05) < 0.012


def test_splits_that_are_given_stay() -> None:
    """With train and val in place nothing is moved, and an item without a split teaches."""
    given = [Item("a", 0, "train"), Item("b", 1, "val"), Item("c", 1, "")]
    assert [item.split for item in assign_splits(given)] == ["train", "val", "train"]


def test_split_without_items_is_refused(tmp_path: Path) -> None:
    """Asking for a split that is empty says how many items the others have."""
    write(tmp_path, "train/a/1.png", "val/b/2.png")
    with pytest.raises(SourceError, match="expected items in split 'test', got .*'train': 1"):
        open_source(tmp_path).split("test")


@pytest.mark.parametrize(
    "names",
    [
        ("Train/a/1.png", "Test/b/2.png"),
        ("train/a/1.png", "test/b/2.png", "extra/b/3.png"),
        ("training/a/1.png", "testing/b/2.png"),
    ],
)
def test_folders_that_look_like_splits_are_never_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    """A model that tells train pictures from test pictures is nobody's wish."""
    write(tmp_path, *names)
    with pytest.raises(SourceError, match="expected either classes or the splits train, val, test"):
        open_source(tmp_path)


def test_group_in_train_and_nowhere_is_refused_too(tmp_path: Path) -> None:
    """An item without a split teaches where others have one, and so can tear its group apart."""
    write(tmp_path, "1.png", "2.png", "3.png")
    rows = ("1.png,a,,p7", "2.png,b,val,p7", "3.png,b,train,p8")
    with pytest.raises(SourceError, match="group 'p7' lies in train and in val"):
        open_source(write_csv(tmp_path / "labels.csv", *rows))


def test_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    """One patient who teaches and judges: the group and both splits are named."""
    write(tmp_path, "1.png", "2.png", "3.png")
    rows = ("1.png,a,train,p7", "2.png,b,test,p7", "3.png,b,val,p8")
    table = write_csv(tmp_path / "labels.csv", *rows)
    with pytest.raises(SourceError, match="group 'p7' lies in train and in test"):
        open_source(table)
