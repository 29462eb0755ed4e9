"""The same bytes twice: found across splits and within, in folders, arrays and caches."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from media.contents import Contents, contents_of, split_contents
from media.dataset import prepare_split
from media.duplicates import TOLD, find_duplicates
from media.index import open_dataset
from media.sources import Source, SourceError, open_source
from media.spec import Grid, InputSpec
from tests.media.test_archives import pack
from tests.media.test_dataset import picture


def make_set(root: Path, files: dict[str, bytes]) -> Source:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return open_source(root)


def found_in(source: Source, *splits: str) -> dict[str, object]:
    splits = splits or tuple(source.present())
    return find_duplicates({name: split_contents(source, name) for name in splits}).as_json()


def test_same_bytes_in_two_splits_are_named(tmp_path: Path) -> None:
    """Both ids and both splits, whatever the files are called and whichever class they are of."""
    source = make_set(tmp_path, {
        "train/a/1.png": b"one", "train/b/2.png": b"two", "val/a/3.png": b"three",
        "val/b/4.png": b"two", "test/a/5.png": b"one", "test/b/6.png": b"six",
    })  # fmt: skip
    found = find_duplicates({name: split_contents(source, name) for name in source.present()})
    assert found.named == (
        ("train", "train/a/1.png", "test", "test/a/5.png"),
        ("train", "train/b/2.png", "val", "val/b/4.png"),
    )
    assert (found.across, found.within) == (2, {})
    with pytest.raises(SourceError, match="'train/a/1.png' in train and 'test/a/5.png' in test; "):
        found.check(source)
    assert found.public() == {"across": 2, "within": {}}


@pytest.mark.parametrize("kind", [".tar", ".zip", ""])
def test_advice_is_one_that_these_data_can_follow(tmp_path: Path, kind: str) -> None:
    """A CSV names files; what lies in an archive is given a group there, or unpacked."""
    files = {f"{'ab'[n % 2]}/{n}.png": b"%d" % (n // 9) for n in range(40)}
    make_set(tmp_path / "set", files)
    if kind:
        pack(tmp_path / f"set{kind}", files)
    dataset = open_dataset(tmp_path / f"set{kind}")
    contents = {name: split_contents(dataset.view(name), name) for name in dataset.present()}
    with pytest.raises(SourceError, match="python -m training split") as caught:
        find_duplicates(contents).check(dataset)
    assert ('one "group" in their .json' in str(caught.value)) == bool(kind)
    assert ("split DATA" in str(caught.value)) == (not kind)


def test_same_bytes_within_a_split_are_counted(tmp_path: Path) -> None:
    """Repeats of one split are told, not refused."""
    source = make_set(tmp_path, {
        "train/a/1.png": b"one", "train/a/2.png": b"one", "train/b/3.png": b"one",
        "val/a/4.png": b"four", "val/b/5.png": b"five",
    })  # fmt: skip
    assert found_in(source) == {"across": 0, "within": {"train": 2}, "named": []}
    find_duplicates({"train": split_contents(source, "train")}).check(source)


def test_only_some_of_many_are_named(tmp_path: Path) -> None:
    """The message says how many more there are."""
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(30)]
    files = {f"{split}/{name}": name.encode() for name in names for split in ("train", "val")}
    source = make_set(tmp_path, files)
    contents = {name: split_contents(source, name) for name in ("train", "val")}
    found = find_duplicates(contents)
    assert (found.across, len(found.named)) == (30, TOLD)
    with pytest.raises(SourceError, match=f"and {30 - TOLD} more") as caught:
        found.check(source)
    assert len(re.findall("in train and", str(caught.value))) == TOLD


def test_files_without_bytes_are_no_duplicates(tmp_path: Path) -> None:
    """Empty and unreadable files are broken each for itself, and told as that."""
    files = dict.fromkeys(("train/a/1.png", "train/b/2.png", "val/a/3.png"), b"")
    source = make_set(tmp_path, files | {"val/b/4.png": b"four"})
    for place in ("train/a/5.png", "val/a/6.png"):
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    assert found_in(open_source(tmp_path)) == {"across": 0, "within": {}, "named": []}
    assert found_in(source)["across"] == 0


def test_half_a_digest_is_not_enough() -> None:
    """Digests that begin alike are those of other bytes; wherever the split begins."""
    alike = np.arange(16, dtype=np.uint8) + np.zeros((5, 1), np.uint8)  # [5, 16]
    alike[:, 15] = [7, 8, 9, 8, 7]
    alike = np.concatenate([np.full((3, 16), [[20], [30], [40]], np.uint8), alike])  # [8, 16]
    contents = {
        "train": Contents("", tuple("abcdef"), alike[:6]),
        "val": Contents("", tuple("gh"), alike[6:]),
    }
    found = find_duplicates(contents)
    assert found.named == (("train", "d", "val", "h"), ("train", "e", "val", "g"))
    assert (found.across, found.within) == (2, {})


def test_arrays_are_compared_with_type_and_shape(tmp_path: Path) -> None:
    """Rows of an npz are items like files."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1])
    np.savez(
        tmp_path / "set.npz", train_images=pictures, train_labels=labels,
        val_images=pictures[2:], val_labels=labels[2:],
    )  # fmt: skip
    found = found_in(open_source(tmp_path / "set.npz"))
    assert found["across"] == 2
    assert ["train", "train/2", "val", "val/0"] in list(found["named"])  # type: ignore[call-overload]


@pytest.mark.parametrize("given", ["train", ""])
def test_advice_fits_whoever_made_the_splits(tmp_path: Path, given: str) -> None:
    """Splits that are made can be made otherwise; of those that are given a file has to go."""
    files = {f"{'ab'[n % 2]}/{n}.png": b"one" for n in range(40)}
    if given:
        files = {f"train/{name}": data for name, data in files.items()}
        files |= {"val/a/x.png": b"one", "val/b/y.png": b"two"}
    source = make_set(tmp_path, files)
    found = find_duplicates({name: split_contents(source, name) for name in source.present()})
    with pytest.raises(SourceError, match="--allow-duplicates goes on") as caught:
        found.check(source)
    assert ("training split DATA --out CSV" in str(caught.value)) == (not given)
    assert ("Remove one of each where splits are given" in str(caught.value)) == bool(given)


def test_split_that_was_read_already_is_not_read_for_its_key(tmp_path: Path) -> None:
    """Known contents find the cache at once; those of other items are of no use."""
    made = {f"train/{'ab'[n % 2]}/{n}.png": picture(n) for n in range(6)}
    source = make_set(tmp_path / "set", made | {"val/a/x.png": picture(9)})
    train, reads = split_contents(source, "train"), list[str]()

    def read(id_: str) -> bytes | np.ndarray:
        reads.append(id_)
        return source.read(id_)

    watched = dataclasses.replace(source, read=read)
    wanted = InputSpec(), Grid((3, 5)), (4, 2)
    other = split_contents(source, "val")
    for contents, expected in ((train, 6), (train, 0), (None, 6), (other, 6)):
        reads.clear()
        cache = tmp_path / "cache"
        found = prepare_split(watched, "train", *wanted, cache=cache, contents=contents)
        assert (len(reads), found.sha256) == (expected, train.sha256)


def test_split_that_changed_since_it_was_read_is_refused(tmp_path: Path) -> None:
    """Nobody trains on other bytes than those that were compared."""
    made = {f"train/{'ab'[n % 2]}/{n}.png": picture(n) for n in range(6)}
    source = make_set(tmp_path / "set", made)
    contents = contents_of(source, source.split("train"))
    (tmp_path / "set" / source.split("train")[0].id).write_bytes(picture(99))
    with pytest.raises(SourceError, match="split 'train' changed while it was read"):
        prepare_split(source, "train", InputSpec(), Grid((3, 5)), (4, 2), contents=contents)


def test_real_pictures_repeat_where_they_are_known_to(data_dir: Path) -> None:
    """Tiny-ImageNet: twenty exact repeats inside train, none shared with val."""
    path = data_dir / "images" / "tinyimagenet32.npz"
    if not path.is_file():
        pytest.skip("Tiny-ImageNet is not beside this checkout")
    assert found_in(open_source(path)) == {"across": 0, "within": {"train": 20}, "named": []}
