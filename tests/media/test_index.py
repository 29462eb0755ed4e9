"""A data set as an index: the same items from every kind of source, few bytes each, shared."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from media.index import Changed, Dataset, Wanted, open_dataset
from media.sources import Source, open_source
from media.sources.texts import Texts
from media.spec import InputSpec
from tests.media.test_archives import KINDS, TABLE, pack, unpack
from tests.media.test_dataset import picture


def as_items(dataset: Dataset) -> list[tuple[str, str, str, str]]:
    columns = dataset.columns
    return [
        (
            columns.ids[place],
            dataset.labels[columns.labels[place]],
            ("train", "val", "test")[columns.splits[place]],
            columns.names[columns.groups[place]] if columns.groups[place] >= 0 else "",
        )
        for place in range(len(dataset))
    ]


def expect_source(dataset: Dataset, source: Source) -> None:
    """The index holds what the source holds, and gives the same bytes."""
    assert as_items(dataset) == [
        (item.id, source.labels[item.label], item.split, item.group) for item in source.items
    ]
    assert dataset.counts() == source.counts()
    assert dataset.present() == source.present()
    assert (dataset.name, dataset.rule, dataset.made) == (source.name, source.rule, source.made)
    for place, item in enumerate(source.items):
        assert np.array_equal(dataset.read(place), source.read(item.id))
        if isinstance(medium := source.read(item.id), bytes):
            assert dataset.columns.sizes[place] == len(medium)


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_index_holds_what_its_source_holds(tmp_path: Path, kind: str) -> None:
    """Of folders and archives; also when it is mapped, and by a process that was given it."""
    path = tmp_path / f"set{kind}"
    pack(path, TABLE) if kind else unpack(path, TABLE)
    dataset = open_dataset(path)
    expect_source(dataset, open_source(path))
    kept = dataset.kept(tmp_path / "kept")
    expect_source(kept, open_source(path))
    expect_source(pickle.loads(pickle.dumps(kept)), open_source(path))


def test_csv_may_name_files_anywhere(tmp_path: Path) -> None:
    """Absolute paths, and names that are stored in another form of Unicode than they are told."""
    unpack(tmp_path / "far", {"1.png": b"1"})
    unpack(tmp_path, {"cafe\u0301/2.png": b"22"})
    rows = f"path,label\n{tmp_path}/far/1.png,a\ncaf\u00e9/2.png,b\n"
    (tmp_path / "labels.csv").write_text(rows, encoding="utf-8")
    dataset = open_dataset(tmp_path / "labels.csv").kept(tmp_path / "kept")
    assert sorted(dataset.read(place) for place in range(2)) == [b"1", b"22"]


def test_npz_is_mapped(tmp_path: Path) -> None:
    """Pictures and encoded files of an npz are read by other processes from mapped arrays."""
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "set.npz", train_images=images, train_labels=[0, 1, 0, 1],
        val_jpeg=np.frombuffer(b"onethree", np.uint8), val_offsets=[0, 3, 8], val_labels=[1, 0],
    )  # fmt: skip
    dataset = open_dataset(tmp_path / "set.npz")
    expect_source(dataset, open_source(tmp_path / "set.npz"))
    kept = dataset.kept(tmp_path / "kept")
    (tmp_path / "set.npz").unlink()
    assert np.array_equal(kept.read(2), images[2])
    assert kept.read(5) == b"three"


def test_item_is_read_as_it_is_wanted(tmp_path: Path) -> None:
    """Pixels per axis are those that are asked for, by the path that the service takes."""
    unpack(tmp_path / "set", {f"train/{'ab'[n % 2]}/{n}.png": picture(n) for n in range(4)})
    dataset = open_dataset(tmp_path / "set")
    pixels = dataset.read(1, Wanted(InputSpec(), (6, 10)))
    assert (pixels.shape, pixels.dtype) == ((1, 6, 10, 3), np.uint8)


@pytest.mark.parametrize("kind", ["", ".zip", ".tar"])
@pytest.mark.parametrize("how", ["size", "time"])
def test_file_that_changes_in_use_is_named(tmp_path: Path, kind: str, how: str) -> None:
    """Nobody trains on other bytes than those that were listed."""
    path = tmp_path / f"set{kind}"
    pack(path, TABLE) if kind else unpack(path, TABLE)
    dataset = open_dataset(path)
    file = path if kind else path / dataset.columns.ids[0]
    if how == "size":
        file.write_bytes(file.read_bytes() + b"more")
    else:
        os.utime(file, ns=(1, 1))
    with pytest.raises(Changed, match=r"'x/1.png' changed while it is in use: .*put it back"):
        dataset.read(0)


def test_index_that_nobody_kept_is_not_copied_to_a_process(tmp_path: Path) -> None:
    """Columns of many items are mapped from a folder and never pickled."""
    unpack(tmp_path / "set", TABLE)
    dataset = open_dataset(tmp_path / "set")
    with pytest.raises(TypeError, match="kept in a folder"):
        pickle.dumps(dataset)
    kept = dataset.kept(tmp_path / "kept")
    assert len(pickle.dumps(kept)) < 200 + len(str(tmp_path))


def test_texts_are_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any length and letter, read a piece at a time."""
    monkeypatch.setattr("media.sources.texts.PIECE", 3)
    words = ["", "caf\u00e9", "a", "\U0001f600\u00df"]
    texts = Texts.of(words)
    assert list(texts) == words
    assert (texts[-1], texts[1:3]) == (words[-1], words[1:3])
    with pytest.raises(IndexError):
        texts[4]
