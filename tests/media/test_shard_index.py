"""What is known of a shard is kept, follows it, and is never believed where it cannot be so."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.files import write_atomic
from media.index import Changed, Dataset, listing, open_dataset, open_media
from media.sources import shard_index, shard_members
from media.sources.tar_walk import walk_tar
from tests.media.test_archives import pack
from tests.media.test_index import as_items
from tests.media.test_shards import GOOD, shard, two_shards


def test_index_is_kept_beside_the_shard_and_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is walked once; again where it changed, or its index is damaged."""
    walked: list[str] = []

    def watched(path: Path, *more: Any) -> Any:
        walked.append(path.name)
        return walk_tar(path, *more)

    monkeypatch.setattr(shard_members, "walk_tar", watched)
    two_shards(tmp_path)
    first = as_items(open_dataset(tmp_path))
    assert walked == ["train-00.tar", "val-00.tar"]
    assert as_items(open_dataset(tmp_path)) == first
    (tmp_path / "val-00.tar.index").write_bytes(b"PK\3\4 what is this")
    pack(tmp_path / "train-00.tar", GOOD)
    walked.clear()
    changed = open_dataset(tmp_path)
    assert walked == ["train-00.tar", "val-00.tar"]
    assert changed.columns.ids[0] == "train-00/1.jpg"
    os.utime(tmp_path / "train-00.tar", ns=(1, 1))
    with pytest.raises(Changed, match="train-00.tar had"):
        changed.read(0)


def of(row: int, number: int) -> Callable[[np.ndarray], np.ndarray]:
    """Replaces a row of an index's numbers: starts, sizes, labels, splits, groups."""
    return lambda numbers: np.where(np.arange(5)[:, None] == row, number, numbers)


def told(**words: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda data: np.frombuffer(json.dumps(json.loads(data.tobytes()) | words).encode(), "u1")


def as_before(stamp: np.ndarray) -> np.ndarray:
    """That of an index which took hidden files for items, and a cut shard for a whole one."""
    return np.array([1, *stamp[1:]])


DAMAGED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "of the first version": ("stamp", as_before),
    "fewer items": ("numbers", lambda numbers: numbers[:, :1]),
    "no whole numbers": ("numbers", lambda numbers: numbers.astype(float)),
    "a start before the shard": ("numbers", of(0, -1)),
    "a start behind the shard": ("numbers", of(0, 2**62)),
    "an end behind the shard": ("numbers", of(1, 10**15)),
    "a negative size": ("numbers", of(1, -1)),
    "no such label": ("numbers", of(2, 2)),
    "no such label, of 32 bits one": ("numbers", of(2, 2**32)),
    "no such split": ("numbers", of(3, 9)),
    "no such group": ("numbers", of(4, 9)),
    "names turned round": ("offsets", lambda offsets: offsets[::-1].copy()),
    "fewer names": ("offsets", lambda offsets: offsets[:-1]),
    "names cut off": ("names", lambda names: names[:-1]),
    "no UTF-8": ("names", lambda names: np.full_like(names, 255)),
    "labels of another kind": ("told", told(said=[1, 2])),
    "no labels": ("told", told(said=5)),
    "kinds of another kind": ("told", told(left_out={"a": "b"})),
    "no kinds": ("told", told(left_out=[3])),
    "a lone surrogate": ("told", told(said=["\ud800", "1"])),
    "deep": ("told", lambda _: np.frombuffer(b"[" * 100_000, np.uint8)),
}


@pytest.mark.parametrize(("part", "damage"), DAMAGED.values(), ids=DAMAGED)
def test_index_that_cannot_be_so_is_made_anew(
    tmp_path: Path, part: str, damage: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Whatever a hand or a disk did to it: no error, and nothing of it in the data set."""
    path = shard(tmp_path / "val.tar", GOOD)
    expected = as_items(open_dataset(tmp_path))
    kept = path.with_name("val.tar.index")
    with np.load(kept) as arrays:
        good = dict(arrays)
    with kept.open("wb") as stream:
        np.savez(stream, **(good | {part: damage(good[part])}))
    dataset = open_dataset(tmp_path)
    assert (as_items(dataset), dataset.read(1)) == (expected, GOOD["2.jpg"])
    with np.load(kept) as arrays:
        np.testing.assert_array_equal(arrays[part], good[part])


def test_index_of_damaged_bytes_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit anywhere, as zip, array and JSON have them."""
    path = shard(tmp_path / "val.tar", GOOD)
    expected = as_items(open_dataset(tmp_path))
    kept = path.with_name("val.tar.index")
    good = kept.read_bytes()
    monkeypatch.setattr(shard_index, "write_atomic", lambda *_: None)  # it waits for the disk
    for place in range(0, len(good), 17):
        kept.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        assert as_items(open_dataset(tmp_path)) == expected


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_index_goes_to_a_cache_where_the_shards_cannot_be_written_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The run's own folder has it then, whatever stood in the way."""
    two_shards(tmp_path / "set")
    refuse_writes(monkeypatch, ["set"], code)
    open_dataset(tmp_path / "set", cache=tmp_path / "cache")
    assert not list((tmp_path / "set").glob("*.index"))
    assert len(list((tmp_path / "cache").glob("*.index"))) == 2
    monkeypatch.setattr(shard_members, "walk_tar", lambda *_: pytest.fail("walked again"))
    again = open_dataset(tmp_path / "set", cache=tmp_path / "cache")
    assert again.columns.labels.tolist() == [0, 1, 1, 0]


def test_index_that_can_be_kept_nowhere_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning says so and why; the data are used."""
    two_shards(tmp_path / "set")
    refuse_writes(monkeypatch, ["set", "cache"], errno.ENOSPC)
    for cache in (None, tmp_path / "cache"):
        with pytest.warns(UserWarning, match=r"no index of shards can be kept .*No space left"):
            assert len(open_dataset(tmp_path / "set", cache=cache)) == 4


def refuse_writes(monkeypatch: pytest.MonkeyPatch, folders: list[str], code: int) -> None:
    def write(path: Path, data: bytes) -> None:
        if path.parent.name in folders:
            raise OSError(code, os.strerror(code), str(path))
        write_atomic(path, data)

    monkeypatch.setattr(shard_index, "write_atomic", write)


@pytest.mark.parametrize("writable", [True, False])
def test_remains_of_killed_writes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    """Beside the shards and in the cache, once no write can take so long; nothing else is."""
    two_shards(tmp_path / "set")
    if not writable:
        refuse_writes(monkeypatch, ["set"], errno.EROFS)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Path, "replace", killed)
        dying.setattr(Path, "unlink", lambda *_, **__: None)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                open_dataset(tmp_path / "set", cache=tmp_path / "cache")
    old, young = sorted((tmp_path / ("set" if writable else "cache")).glob(".*"))
    other = old.with_name(".notes.tar.index.of-somebody")
    other.write_bytes(b"")
    for path in (old, other):
        os.utime(path, (0, 0))
    open_dataset(tmp_path / "set", cache=tmp_path / "cache")
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


@pytest.mark.parametrize("kind", ["shards", "tar", "zip"])
@pytest.mark.parametrize("open_", [open_dataset, open_media])
def test_archive_that_changes_while_it_is_listed_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    open_: Callable[[Path], Dataset],
) -> None:
    """Its bytes are no longer where the list says."""
    path = tmp_path / ("set/train.tar" if kind == "shards" else f"set.{kind}")
    path.parent.mkdir(exist_ok=True)
    files = {"train/a/1.jpg": b"1", "train/b/1.jpg": b"2", "val/a/1.jpg": b"3", "val/b/1.jpg": b"4"}
    pack(path, GOOD if kind == "shards" else files)
    for name in ("open_shards", "open_source", "list_media"):
        monkeypatch.setattr(listing, name, then(getattr(listing, name), path))
    dataset = open_(path.parent if kind == "shards" else path)
    with pytest.raises(Changed, match=f"{path.name} had"):
        dataset.read(0)


def then(listed: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """The same, and a byte more at the end of a file once something was found."""

    def wrapped(*arguments: Any, **words: Any) -> Any:
        if found := listed(*arguments, **words):
            path.write_bytes(path.read_bytes() + b"\0")
        return found

    return wrapped
