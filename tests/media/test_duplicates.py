"""The same bytes twice: found across splits and within, in folders, arrays and caches."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from media.contents import split_contents
from media.dataset import prepare_split
from media.duplicates import TOLD, find_duplicates
from media.sources import Source, SourceError, open_source
from media.spec import Grid, InputSpec
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
        found.check(source.name)
    assert found.public() == {"across": 2, "within": {}}


def test_same_bytes_within_a_split_are_counted(tmp_path: Path) -> None:
    """Repeats of one split are told, not refused."""
    source = make_set(tmp_path, {
        "train/a/1.png": b"one", "train/a/2.png": b"one", "train/b/3.png": b"one",
        "val/a/4.png": b"four", "val/b/5.png": b"five",
    })  # fmt: skip
    assert found_in(source) == {"across": 0, "within": {"train": 2}, "named": []}
    find_duplicates({"train": split_contents(source, "train")}).check("set")


def test_only_some_of_many_are_named(tmp_path: Path) -> None:
    """The message says how many more there are."""
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(30)]
    files = {f"{split}/{name}": name.encode() for name in names for split in ("train", "val")}
    source = make_set(tmp_path, files)
    contents = {name: split_contents(source, name) for name in ("train", "val")}
    found = find_duplicates(contents)
    assert (found.across, len(found.named)) == (30, TOLD)
    with pytest.raises(SourceError, match=f"and {30 - TOLD} more") as caught:
        found.check("set")
    assert len(re.findall("in train and", str(caught.value))) == TOLD


def test_files_without_bytes_are_no_duplicates(tmp_path: Path) -> None:
    """Empty and unreadable files are broken each for itself, and told as that."""
    files = dict.fromkeys(("train/a/1.png", "train/b/2.png", "val/a/3.png"), b"")
    source = make_set(tmp_path, files | {"val/b/4.png": b"four"})
    for place in ("train/a/5.png", "val/a/6.png"):
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    assert found_in(open_source(tmp_path)) == {"across": 0, "within": {}, "named": []}
    assert found_in(source)["across"] == 0


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


def test_decoded_split_knows_its_contents_with_a_cache_and_without(tmp_path: Path) -> None:
    """What was decoded by an earlier run is compared like what is decoded now."""
    pictures = {f"train/{'ab'[n % 2]}/{n}.png": picture(n) for n in range(6)}
    source = make_set(tmp_path / "set", pictures | {"val/a/x.png": picture(3)})
    prepared = [
        prepare_split(source, "train", InputSpec(), Grid((3, 5)), (4, 2), cache=cache)
        for cache in (None, tmp_path / "cache", tmp_path / "cache")
    ]
    for one in prepared:
        assert one.contents is not None
        assert one.contents.ids == one.ids
        found = find_duplicates({"train": one.contents, "val": split_contents(source, "val")})
        assert found.named == (("train", "train/b/3.png", "val", "val/a/x.png"),)


def test_real_pictures_repeat_where_they_are_known_to(data_dir: Path) -> None:
    """Tiny-ImageNet: twenty exact repeats inside train, none shared with val."""
    path = data_dir / "images" / "tinyimagenet32.npz"
    if not path.is_file():
        pytest.skip("Tiny-ImageNet is not beside this checkout")
    assert found_in(open_source(path)) == {"across": 0, "within": {"train": 20}, "named": []}
