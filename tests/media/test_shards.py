"""Tar shards: webdataset's convention, names of every kind of tar, an index that fits its shard."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from media.index import open_dataset, open_media
from media.sources import SourceError, open_source, tar_walk
from media.sources.tar_walk import walk_tar
from tests.media.test_archives import tar_entry, tarred
from tests.media.test_index import as_items, expect_source

LONG = "deep/" * 30 + "x" * 90  # longer than any header has room for


def shard(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as target:
        for name, data in members.items():
            target.addfile(tar_entry(name, len(data)), io.BytesIO(data))
    return path


def two_shards(folder: Path) -> Path:
    """Four items: by .cls with a number, by .json, and what belongs to nobody."""
    folder.mkdir(exist_ok=True)
    shard(folder / "train-00.tar", {
        "a/1.jpg": b"one", "a/1.cls": b"0", "a/1.txt": b"a caption",
        "a/2.png": b"two" * 999, "a/2.json": json.dumps({"label": 1, "more": "x" * 900}).encode(),
        "readme": b"",
    })  # fmt: skip
    shard(folder / "val-00.tar", {
        "1.cls": b"1\n", "1.jpg": b"three", "2.jpg": b"four",
        "2.json": json.dumps({"label": "0", "split": "test", "group": "p"}).encode(),
    })  # fmt: skip
    return folder


def test_shards_are_one_data_set(tmp_path: Path) -> None:
    """Labels by .cls or .json, splits by .json or the shard's name, also for a mapped copy."""
    folder = two_shards(tmp_path)
    dataset = open_dataset(folder)
    assert as_items(dataset) == [
        ("train-00/a/1.jpg", "0", "train", ""),
        ("train-00/a/2.png", "1", "train", ""),
        ("val-00/1.jpg", "1", "val", ""),
        ("val-00/2.jpg", "0", "test", "p"),
    ]
    assert [dataset.read(place) for place in range(4)] == [b"one", b"two" * 999, b"three", b"four"]
    assert dict(dataset.left_out) == {".txt": 1, "without an ending": 1}
    for pattern in (folder, folder / "{train,val}-00.tar", folder / "*.tar"):
        expect_source(open_dataset(pattern), open_source(folder))
    expect_source(dataset.kept(tmp_path / "kept"), open_source(folder / "*-{00..00}.tar"))


@pytest.mark.parametrize("written", ["classes.txt", "classes.json"])
def test_class_names_lie_beside_the_shards(tmp_path: Path, written: str) -> None:
    """Numbers are places among them."""
    names = ["zebra", "ant"]
    text = json.dumps(names) if written.endswith("json") else "zebra\nant\n"
    (two_shards(tmp_path) / written).write_text(text)
    dataset = open_dataset(tmp_path)
    assert dataset.labels == ("zebra", "ant")
    assert [item[1] for item in as_items(dataset)] == ["zebra", "ant", "ant", "zebra"]


def test_splits_that_nobody_says_are_made_by_the_rule(tmp_path: Path) -> None:
    """As of any other source, and known as made."""
    members = {f"{n}.png": b"%d" % n for n in range(40)}
    members |= {f"{n}.cls": b"dog" if n % 2 else b"cat" for n in range(40)}
    shard(tmp_path / "all.tar", members)
    dataset = open_dataset(tmp_path)
    assert dataset.made == ("train", "val", "test")
    assert dataset.labels == ("cat", "dog")
    expect_source(dataset, open_source(tmp_path))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_all_formats_give_the_names_that_tarfile_gives(tmp_path: Path, form: int) -> None:
    """ustar's prefix, GNU's long names, pax headers; folders are passed over."""
    members = {"./a.jpg": b"", "deep/" * 30 + "b.jpg": b"b" * 513, "caf\u00e9.cls": b"1"}
    if form != tarfile.USTAR_FORMAT:
        members[LONG + ".jpg"] = b"long"
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form, pax_headers={"comment": "global"}) as target:
        target.addfile(tar_entry("deep", kind=tarfile.DIRTYPE))
        for name, data in members.items():
            target.addfile(tar_entry(name, len(data)), io.BytesIO(data))
    data, told = path.read_bytes(), []
    for entry in walk_tar(path):
        told.append((entry.name, data[entry.start : entry.start + entry.size]))
        assert bytes(entry.head[: min(entry.size, 512)]) == told[-1][1][:512]
    assert told == [(name.removeprefix("./"), content) for name, content in members.items()]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_that_is_cut_anywhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: int
) -> None:
    """Also in the padding behind a member or a long name: up to the block that ends it."""
    monkeypatch.setattr(tar_walk, "AHEAD", 2)
    members = {"1.jpg": b"one", "1.cls": b"0", "2.jpg": b"two" * 200}
    if form != tarfile.USTAR_FORMAT:
        members[LONG + ".jpg"] = b"long"
    path = shard(tmp_path / "x.tar", members, form)
    *_, last = walk_tar(path)
    end = last.start + -(-last.size // 512) * 512 + 512  # with the block of zeros
    os.truncate(path, end)
    assert len(list(walk_tar(path))) == len(members)
    for length in sorted({*range(0, end, 512), *range(1, end, 37)}, reverse=True):
        os.truncate(path, length)
        with pytest.raises(SourceError, match=r"x.tar is cut short: .* ends at byte \d+.*copy it"):
            list(walk_tar(path))


GOOD = {"1.jpg": b"one", "1.cls": b"0", "2.jpg": b"two" * 400, "2.cls": b"1"}


def linked(kind: bytes = tarfile.SYMTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        target.addfile(tar_entry("1.jpg", kind=kind, link="/etc/passwd"))
    return stream.getvalue()


def other_sum() -> bytes:
    data = bytearray(tarred(GOOD))
    data[1030] ^= 1  # a letter of the second member's name
    return bytes(data)


REFUSED: dict[str, tuple[bytes, str]] = {
    "cut in a medium": (tarred(GOOD)[:3000], "is cut short: '2.jpg' has 1200 bytes"),
    "cut between members": (tarred(GOOD)[:2048], "is cut short: it has no end"),
    "changed header": (other_sum(), "is damaged: the header of .* has another checksum"),
    "a link": (linked(), "'1.jpg' is a link or a device"),
    "a sparse file": (linked(tarfile.GNUTYPE_SPARSE), "'1.jpg' is a sparse file; expected whole"),
    "outside": (tarred({"../1.jpg": b""}), "expected names below the archive's root"),
    "no label": (tarred({"1.jpg": b"", "2.jpg": b""}), "'1.jpg' has no label"),
    "no medium": (tarred(GOOD | {"3.cls": b"1"}), "label of '3' names a missing member"),
    "one key twice": (tarred(GOOD | {"1.png": b""}), "two items with one key: '1.jpg' and '1.png'"),
    "two labels": (tarred(GOOD | {"1.json": b'{"label": 1}'}), "expected one label, got '1'"),
    "two splits": (
        tarred({"1.jpg": b"", "1.cls": b"0", "1.json": b'{"split": "val"}'}
               | {"1.JSON": b'{"split": "test"}'}),
        "'1.JSON': expected one split, got 'test' after 'val'",
    ),
    "two groups": (
        tarred(GOOD | {"1.json": b'{"group": "p"}', "1.JSON": b'{"group": 2}'}),
        "'1.JSON': expected one group, got '2' after 'p'",
    ),
    "a split alone": (tarred(GOOD | {"3.json": b'{"split": "val"}'}), "split of '3' names a miss"),
    "a group alone": (tarred(GOOD | {"3.json": b'{"group": "p"}'}), "group of '3' names a miss"),
    "deep JSON": (tarred(GOOD | {"1.json": b"[" * 200_000}), "'1.json': expected JSON"),
    "a long number": (tarred(GOOD | {"1.json": b'{"label": %s}' % (b"1" * 9**4)}), "expected JSON"),
    "half a letter": (
        tarred(GOOD | {"1.json": rb'{"group": "\ud800"}'}), "expected a group in UTF-8, got '.ud8"
    ),
    "no JSON": (tarred(GOOD | {"1.json": b"{"}), "'1.json': expected JSON"),
    "no split": (tarred(GOOD | {"1.json": b'{"split": "x"}'}), "split must be one of train"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_shard_that_cannot_be_used_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """By its name and what is wrong; no index of it is kept."""
    (tmp_path / "train-7.tar").write_bytes(data)
    with pytest.raises(SourceError, match=f"train-7.tar.*{message}|train-7: .*{message}"):
        open_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train-7.tar"]


def test_notes_of_one_item_may_agree(tmp_path: Path) -> None:
    """Twice the same is no contradiction, nor is a note that says nothing of an unknown item."""
    notes = {"1.json": b'{"label": 0, "split": "valid"}', "1.JSON": b'{"split": "val"}'}
    shard(tmp_path / "x.tar", GOOD | notes | {"3.json": b'{"url": "x"}'})
    assert as_items(open_dataset(tmp_path))[0] == ("x/1.jpg", "0", "val", "")


def test_what_systems_leave_in_a_shard_is_no_item(tmp_path: Path) -> None:
    """As of any other archive."""
    names = "__MACOSX/3.jpg", "._1.jpg", "a/.git/4.jpg", "a/.5.jpg", ".DS_Store"
    junk = dict.fromkeys(names, b"")
    shard(tmp_path / "val.tar", GOOD | junk | {"__init__/6.jpg": b"six", "__init__/6.cls": b"1"})
    dataset = open_dataset(tmp_path)
    assert [item[0] for item in as_items(dataset)] == [
        "val/1.jpg", "val/2.jpg", "val/__init__/6.jpg",
    ]  # fmt: skip
    assert dataset.left_out == {"hidden": 2, ".DS_Store": 1, "._*": 1, "__MACOSX": 1}


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ((b"\xef\xbb\xbf0", b"1"), ("0", "1")),  # a byte order mark is no letter
        (("\u00b2".encode(), b"1"), ("1", "\u00b2")),
        (("\u0663".encode(), b"1"), ("1", "\u0663")),
        ((b"9" * 5000, b"1"), ("1", "9" * 5000)),
        ((b"20210101123", b"1"), ("1", "20210101123")),
    ],
)
def test_labels_that_only_look_like_numbers_are_names(
    tmp_path: Path, labels: tuple[bytes, bytes], classes: tuple[str, str]
) -> None:
    """Digits of other kinds, and more of them than any number of classes has."""
    shard(tmp_path / "val.tar", GOOD | dict(zip(("1.cls", "2.cls"), labels, strict=True)))
    assert open_dataset(tmp_path).labels == classes


@pytest.mark.parametrize(
    ("written", "data", "message"),
    [
        ("classes.txt", b"\xff\xfe", "classes.txt: expected UTF-8"),
        ("classes.json", b'["\xff"]', "classes.json: expected UTF-8"),
        ("classes.json", b"[" * 200_000, "classes.json: expected JSON"),
        ("classes.json", rb'["a", "\ud800"]', "classes.json: expected UTF-8"),
    ],
)
def test_class_names_that_cannot_be_read_are_refused(
    tmp_path: Path, written: str, data: bytes, message: str
) -> None:
    """By the file that says them."""
    (two_shards(tmp_path) / written).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_dataset(tmp_path)


def test_items_without_a_label_are_found_and_not_trained_on(tmp_path: Path) -> None:
    """Whoever only wants answers takes them; the index that is kept serves both."""
    shard(tmp_path / "test-0.tar", {"1.jpg": b"one", "2.jpg": b"two", "2.cls": b"ant"})
    for _ in range(2):
        found = open_media(tmp_path)
        assert as_items(found)[1] == ("test-0/2.jpg", "ant", "test", "")
        assert (found.columns.labels.tolist(), found.read(0)) == ([-1, 0], b"one")
        with pytest.raises(SourceError, match="test-0.tar: '1.jpg' has no label: expected a .cls"):
            open_dataset(tmp_path)
        assert (tmp_path / "test-0.tar.index").exists()


def test_few_items_of_high_classes_are_found_and_not_trained_on(tmp_path: Path) -> None:
    """Whoever only wants answers need not have items of all classes before them."""
    shard(tmp_path / "x.tar", GOOD | {"1.cls": b"21000", "2.cls": b"007"})
    found = open_media(tmp_path)
    assert found.labels == ("7", "21000")
    assert [item[1] for item in as_items(found)] == ["21000", "7"]
    with pytest.raises(SourceError, match="got the number 21000 and only 2 numbers; count them"):
        open_dataset(tmp_path)


def test_items_with_captions_are_trained_on_once_they_have_labels(tmp_path: Path) -> None:
    """As programs write them that fetch pictures: a caption, and a .json of its own fields."""
    for labels in ({}, {"label": "cat"}):
        members: dict[str, bytes] = {}
        for n in range(2):
            fields = {"key": f"{n:09}", "caption": "a", "width": 5, "exif": "{}", "error": None}
            told = fields | (labels and {"label": ("cat", "dog")[n]})
            members |= {f"{n:09}.jpg": b"%d" % n, f"{n:09}.txt": b"a"}
            members[f"{n:09}.json"] = json.dumps(told).encode()
        shard(tmp_path / "00000.tar", members)
        assert len(open_media(tmp_path)) == 2
        if labels:
            assert open_dataset(tmp_path).labels == ("cat", "dog")
        else:
            with pytest.raises(SourceError, match='"label"'):
                open_dataset(tmp_path)


@pytest.mark.parametrize("labels", [(b"0", b"2"), (b"0", b"0")])
def test_classes_without_items_are_refused(tmp_path: Path, labels: tuple[bytes, bytes]) -> None:
    """Numbers that are left out, and a single class."""
    shard(tmp_path / "val.tar", GOOD | dict(zip(("1.cls", "2.cls"), labels, strict=True)))
    with pytest.raises(SourceError, match=r"class '1' has no items|at least two classes"):
        open_dataset(tmp_path)


def test_group_in_two_shards_of_other_splits_is_refused(tmp_path: Path) -> None:
    """One person there would let a model be judged on what it knows."""
    for split in ("train", "val"):
        told = {"1.json": b'{"group": "p1"}'}
        shard(tmp_path / f"{split}.tar", GOOD | told)
    with pytest.raises(SourceError, match="group 'p1' lies in (train and in val|val and in train)"):
        open_dataset(tmp_path)


def test_what_lies_beside_shards_is_counted(tmp_path: Path) -> None:
    """Pictures, folders without any, and what systems leave; the shards stay a data set."""
    two_shards(tmp_path)
    (tmp_path / "README").mkdir()
    for name in ("loose.jpg", "README/a.md", "README/b", ".DS_Store", "val-01.zip", "classes.txt"):
        (tmp_path / name).write_bytes(b"zebra\nant" if name == "classes.txt" else b"")
    for _ in range(2):  # the second time beside indexes
        dataset = open_dataset(tmp_path)
        assert (len(dataset), dataset.left_out) == (4, {
            "without an ending": 2, ".DS_Store": 1, ".jpg": 1, ".md": 1, ".txt": 1, ".zip": 1,
        })  # fmt: skip
    expect_source(dataset, open_source(tmp_path))
    assert open_media(tmp_path).left_out == dataset.left_out


def test_compressed_shard_beside_others_is_refused(tmp_path: Path) -> None:
    """It would be half of the data."""
    (two_shards(tmp_path) / "train-01.tar.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"train-01.tar.gz is compressed: .* plain tars"):
        open_dataset(tmp_path)


def test_folders_of_classes_stay_what_they_are_beside_a_tar(tmp_path: Path) -> None:
    """Such as the one that they were unpacked from; it is counted."""
    shard(tmp_path / "all.tar", GOOD)
    for place in ("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(place.encode())
    dataset = open_dataset(tmp_path)
    assert (dataset.labels, dataset.left_out) == (("cat", "dog"), {".tar": 1})


def test_pattern_of_which_a_shard_is_missing_is_refused(tmp_path: Path) -> None:
    """None is left out unseen."""
    two_shards(tmp_path)
    with pytest.raises(SourceError, match=r"train-01.tar is missing"):
        open_dataset(tmp_path / "train-{00..01}.tar")


def test_pattern_may_be_longer_than_a_path_can_be(tmp_path: Path) -> None:
    """Names one by one, of shards that do not follow each other."""
    two_shards(tmp_path)
    pattern = "{" + ",".join(["train-00", "val-00"] * 40) + "}.tar"
    assert len(pattern) > 255
    assert as_items(open_dataset(tmp_path / pattern)) == as_items(open_dataset(tmp_path))
