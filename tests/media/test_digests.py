"""Digests of items: the hashes that reading gives, computed once for a file and kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.contents import Contents, split_contents
from media.dataset import prepare_split
from media.index import Changed, Dataset, Digests, fingerprint, open_dataset
from media.index.digests import KEPT
from media.sources import open_source
from media.sources.texts import Texts
from media.spec import Grid, InputSpec
from tests.media.test_archives import KINDS, TABLE, pack, unpack
from tests.media.test_dataset import picture
from tests.media.test_shards import shard, two_shards


def expect_same(one: Contents, other: Contents) -> None:
    assert (one.sha256, list(one.ids)) == (other.sha256, list(other.ids))
    assert np.array_equal(one.digests, other.digests)


def expect_contents(path: Path, digests: Digests) -> None:
    """Those that reading the source gives, of every split."""
    source, contents = open_source(path), digests.contents()
    assert list(contents) == source.present()
    for split, found in contents.items():
        expect_same(found, split_contents(source, split))


def completed(path: Path, folder: Path | None = None, dataset: Dataset | None = None) -> list[int]:
    """How many items were read piece by piece until all were known, and were what they are."""
    digests, read = Digests(dataset or open_dataset(path), folder), list[int]()
    digests.complete(read.append)
    expect_contents(path, digests)
    return read


def make_set(root: Path) -> Path:
    """Twelve items; one is empty, one cannot be read, two are the same."""
    files = {
        f"{split}/{'ab'[n % 2]}/{n}.png": b"%d" % n for n in range(5) for split in ("train", "val")
    }
    unpack(root, files | {"train/a/empty.png": b""})
    (root / "val" / "b" / "lost.png").symlink_to(root / "nowhere")
    return root


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_digests_say_what_reading_says(tmp_path: Path, kind: str) -> None:
    """The hash of a split, its ids and the digests of its items: of every kind of source."""
    path = tmp_path / f"set{kind}"
    pack(path, TABLE) if kind else unpack(path, TABLE)
    assert sum(completed(path)) == len(open_dataset(path))


def test_digests_are_looked_up_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the folder has is found, whatever the number of items."""
    monkeypatch.setattr("media.index.digests.LOOKED_UP", 4)
    path = make_set(tmp_path / "set")
    (path / "train" / "a" / "empty.png").write_bytes(b"full")
    (path / "val" / "b" / "lost.png").unlink()
    kept = tmp_path / ".digests"
    digests = Digests(open_dataset(path), kept)
    digests.complete()
    again = Digests(open_dataset(path), kept)
    assert len(again.column) == 11
    assert (again.column == digests.column).all()
    assert not len(again.missing())


def test_digests_of_what_has_no_bytes_are_those_of_reading(tmp_path: Path) -> None:
    """Empty files, and such that cannot be read."""
    assert completed(make_set(tmp_path / "set")) == [12]


def test_digests_of_shards_and_arrays_are_those_of_reading(tmp_path: Path) -> None:
    """Of arrays type and shape count too."""
    assert completed(two_shards(tmp_path)) == [4]
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "set.npz", train_images=images, train_labels=[0, 1, 0, 1],
        val_jpeg=np.frombuffer(b"onethree", np.uint8), val_offsets=[0, 3, 8], val_labels=[1, 0],
    )  # fmt: skip
    assert completed(tmp_path / "set.npz", tmp_path / "kept") == [6]
    assert not (tmp_path / "kept").exists()  # they lie in memory whenever it is opened


@pytest.mark.parametrize("kind", ["", ".zip", ".tar"])
def test_file_is_read_once_for_all_times(tmp_path: Path, kind: str) -> None:
    """Whatever opens it next; a file with another time is read again, and only that one."""
    path, kept = tmp_path / f"set{kind}", tmp_path / "kept"
    pack(path, TABLE) if kind else unpack(path, TABLE)
    count = len(open_dataset(path))
    assert completed(path, kept) == [count]
    assert completed(path, kept) == []
    os.utime(path if kind else path / open_dataset(path).columns.ids[1], ns=(1, 1))
    assert completed(path, kept) == [count if kind else 1]
    assert completed(path, kept) == []


def test_data_sets_share_a_folder(tmp_path: Path) -> None:
    """Rows are added to those that are there, also by one that began with none of them."""
    kept = tmp_path / "kept"
    unpack(tmp_path / "one", TABLE)
    two = make_set(tmp_path / "two")
    early = Digests(open_dataset(tmp_path / "one"), kept)
    completed(two, kept)
    early.complete()
    assert completed(tmp_path / "one", kept) == []
    assert completed(two, kept) == [2]  # what has no bytes may have some another time
    size = (kept / KEPT).stat().st_size
    (kept / f".{KEPT}.killed").touch()
    early.complete()
    assert (kept / KEPT).stat().st_size == size
    (two / "train" / "a" / "0.png").write_bytes(b"another")
    completed(two, kept)
    assert not (kept / f".{KEPT}.killed").exists()


@pytest.mark.parametrize("how", ["cut", "changed", "gone", "empty"])
def test_damaged_rows_are_computed_again(tmp_path: Path, how: str) -> None:
    """They are only what can be found again."""
    path, kept = make_set(tmp_path / "set"), tmp_path / "kept"
    completed(path, kept)
    data = bytearray((kept / KEPT).read_bytes())
    data[50] ^= 1
    if how == "gone":
        (kept / KEPT).unlink()
    else:
        (kept / KEPT).write_bytes(bytes({"cut": data[:-9], "changed": data, "empty": b""}[how]))
    assert completed(path, kept) == [12]
    assert completed(path, kept) == [2]


def test_what_was_read_is_kept_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop, or a file that changes, loses nothing of the files before it."""
    monkeypatch.setattr("media.index.digests.PIECE", 5)
    path, kept, read = make_set(tmp_path / "set"), tmp_path / "kept", list[int]()

    def stop() -> None:
        if read:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Digests(open_dataset(path), kept).complete(read.append, stop)
    dataset = open_dataset(path)
    assert len(Digests(dataset, kept).missing()) == 12 - 5 + 1  # the empty one is of the first
    last = path / dataset.columns.ids[10]
    os.utime(last, ns=(1, 1))
    with pytest.raises(Changed, match=f"{last.name}' changed while it is in use"):
        Digests(dataset, kept).complete()
    assert len(Digests(dataset, kept).missing()) < 8


def test_stop_waits_for_one_item(tmp_path: Path) -> None:
    """Whoever reads is asked before each, as one may be a scan of many gigabytes."""
    path, asked = make_set(tmp_path / "set"), list[int]()

    def stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    dataset = open_dataset(path)
    with pytest.raises(KeyboardInterrupt):
        Digests(dataset).complete(check=stop)
    assert len(asked) == 3


def test_storage_that_fails_for_a_moment_changes_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read is read once more at the end."""
    path, failed, read = make_set(tmp_path / "set"), list[int](), Dataset.read

    def sometimes(dataset: Dataset, item: int) -> Any:
        if item in {2, 5} - {*failed}:
            failed.append(item)
            raise OSError(5, "Input/output error")
        return read(dataset, item)

    monkeypatch.setattr(Dataset, "read", sometimes)
    digests = Digests(open_dataset(path), tmp_path / "kept")
    digests.complete()
    monkeypatch.undo()
    assert failed == [2, 5]
    expect_contents(path, digests)
    assert len(Digests(open_dataset(path), tmp_path / "kept").missing()) == 2  # empty, and lost


def test_lock_of_another_user_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a folder of another user: all is read, and nothing is kept."""
    path, kept = make_set(tmp_path / "set"), tmp_path / "kept"
    kept.mkdir()
    open_file = Path.open

    def refused(path: Path, *rest: Any, **named: Any) -> Any:
        if path.name == ".lock":
            raise PermissionError(13, "Permission denied")
        return open_file(path, *rest, **named)

    monkeypatch.setattr(Path, "open", refused)
    assert completed(path, kept) == [12]
    assert not (kept / KEPT).exists()


def test_unknown_digests_are_no_contents(tmp_path: Path) -> None:
    """Nobody goes by the hash of zeros."""
    digests = Digests(open_dataset(make_set(tmp_path / "set")))
    assert digests.missing_bytes() == 10
    with pytest.raises(ValueError, match="12 items are not read"):
        digests.contents()


def test_listing_tells_data_apart_before_they_are_read(tmp_path: Path) -> None:
    """Ids, labels and sizes by one hash, times by another; of one split at a time."""
    path = make_set(tmp_path / "set")

    def told() -> list[str]:
        return [*fingerprint(open_dataset(path), "train").values()]

    before = told()
    os.utime(path / "val" / "a" / "0.png", ns=(1, 1))
    assert told() == before
    os.utime(path / "train" / "a" / "0.png", ns=(1, 1))
    items, times = told()
    assert (items == before[0], times == before[1]) == (True, False)
    (path / "train" / "a" / "0.png").write_bytes(b"more")
    assert told()[0] != items
    (path / "train" / "a" / "0.png").rename(path / "train" / "b" / "00.png")
    assert len({items, told()[0], before[0]}) == 2


def test_split_of_an_index_is_prepared_like_that_of_its_source(tmp_path: Path) -> None:
    """Pixels, labels, ids and hash; of the first items too, and without some."""
    made = {
        f"{split}/{'ab'[n % 2]}/{n}.png": picture(n) for n in range(6) for split in ("train", "val")
    }
    unpack(tmp_path / "set", made)
    source, dataset = open_source(tmp_path / "set"), open_dataset(tmp_path / "set")
    wanted = InputSpec(), Grid((3, 5)), (4, 2)
    for limit in (None, 4):
        one, other = (
            prepare_split(data, "val", *wanted, limit=limit) for data in (source, dataset)
        )
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.ids, one.sha256, one.labels.tolist()) == (
            other.ids,
            other.sha256,
            other.labels.tolist(),
        )
    fewer = dataset.without(dataset.split("val")[[1, 4]])
    ids = [item.id for place, item in enumerate(source.split("val")) if place not in (1, 4)]
    assert list(prepare_split(fewer, "val", *wanted).ids) == ids
    assert len(dataset.split("val")) == 6


def test_prepared_split_knows_the_shards_of_its_items(tmp_path: Path) -> None:
    """Of those that could be read; where there are several."""
    for name in ("train-0.tar", "train-1.tar", "val-0.tar"):
        members = {f"{n}.png": picture(n) if n != 2 else b"no picture" for n in range(4)}
        shard(tmp_path / name, members | {f"{n}.cls": b"%d" % (n % 2) for n in range(4)})
    dataset = open_dataset(tmp_path)
    wanted = InputSpec(), Grid((3, 5)), (4, 2)
    prepared = prepare_split(dataset, "train", *wanted, skip_unreadable=True)
    assert prepared.shards is not None
    assert prepared.shards.tolist() == [0, 0, 0, 1, 1, 1]
    first = prepare_split(dataset, "train", *wanted, skip_unreadable=True, limit=5)
    assert first.shards is not None
    assert first.shards.tolist() == [0, 0, 0, 1]
    unpack(tmp_path / "set", TABLE)
    assert open_dataset(tmp_path / "set").shards("train") is None


def test_texts_are_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, some of them twice, a piece at a time."""
    monkeypatch.setattr("media.sources.texts.PIECE", 2)
    words = ["", "caf\u00e9", "a", "\U0001f600\u00df"]
    places = np.array([3, 0, 1, 1, 2])
    assert list(Texts.of(words).picked(places)) == [words[place] for place in places]
    assert list(Texts.of(words).picked(places[:0])) == []
