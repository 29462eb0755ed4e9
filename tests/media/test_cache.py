"""Decoded splits on disk: decoded once, the same as ever, refused once damaged, never in part."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import media.cache
from media import INPUTS
from media.cache import Add, CacheError, cache_key, cached
from media.contents import PIECE
from media.dataset import Prepared, prepare_split
from media.sources import Item, Source, SourceError
from media.spec import Grid, InputSpec, VideoSpec, VolumeSpec
from tests.helpers import clip_stub
from tests.helpers.disks import small_disk

CLIPS = InputSpec(modality="video", video=VideoSpec(views=3))
GRID, PATCH = Grid((2, 3, 2)), (2, 2, 5)
ROW = (3, 5)  # of the entries that are written without a split


@pytest.fixture(autouse=True)
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for every clip that is decoded."""
    monkeypatch.setitem(INPUTS, "video", "tests.helpers.clip_stub")
    clip_stub.calls.clear()
    yield clip_stub.calls
    clip_stub.calls.clear()


def make_source(count: int = PIECE + 4, seed: int = 0, broken: tuple[int, ...] = ()) -> Source:
    rng = np.random.default_rng(seed)
    media: dict[str, Any] = {
        str(index): rng.integers(0, 256, (9, 7, 13, 3), dtype=np.uint8) for index in range(count)
    }
    for index in broken:
        media[str(index)] = b"no clip"
    items = tuple(Item(id_, int(id_) % 2, "train") for id_ in media)
    return Source("set", ("a", "b"), items, media.__getitem__)


def prepare(source: Source, cache: Path | None, **changes: Any) -> Prepared:
    spec = changes.pop("spec", CLIPS)
    return prepare_split(source, "train", spec, GRID, PATCH, cache=cache, **changes)


def same(one: Prepared, other: Prepared) -> bool:
    told = [(p.ids, p.labels.tolist(), p.sha256, p.skipped, p.views) for p in (one, other)]
    return told[0] == told[1] and np.array_equal(one.pixels, other.pixels)


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name != ".lock"]


def test_second_run_decodes_nothing(tmp_path: Path, decoded: list[int]) -> None:
    """What the cache gives is what decoding gives, and nothing is decoded for it again."""
    source, cache = make_source(), tmp_path / "deep" / "cache"
    plain = prepare(source, None)
    first = prepare(source, cache, workers=2)
    assert same(first, plain)
    decoded.clear()
    again = prepare(source, cache)
    assert same(again, plain)
    assert decoded == []
    assert isinstance(again.pixels, np.memmap)
    assert again.pixels.shape == (3 * (PIECE + 4), 4, 6, 10, 3)
    assert again.of_items(np.zeros((len(again.pixels), 2))).shape == (PIECE + 4, 2)


def test_changes_to_the_pixels_never_reach_the_cache(tmp_path: Path) -> None:
    """A run may write to its arrays; the file stays what it was."""
    source = make_source(5)
    pixels = prepare(source, tmp_path).pixels
    before = pixels.copy()
    assert pixels.flags.writeable
    pixels[:] = 0
    assert np.array_equal(prepare(source, tmp_path).pixels, before)


def test_scans_of_floats_are_kept_as_floats(tmp_path: Path) -> None:
    """Values between two steps of a byte are still there the second time."""
    spec = InputSpec(
        modality="volume", dtype="float32", channels=1, fit="stretch", mean=(0.5,), std=(0.5,),
        volume=VolumeSpec(),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    media = {str(index): rng.normal(size=(5, 9, 7)).astype(np.float32) for index in range(4)}
    items = tuple(Item(id_, int(id_) % 2, "train") for id_ in media)
    source = Source("scans", ("a", "b"), items, media.__getitem__)
    first, again = (prepare(source, tmp_path, spec=spec) for _ in range(2))
    assert same(first, again)
    assert again.pixels.dtype == np.float32
    assert (again.pixels != again.pixels.round()).any()
    assert again.pixels.shape == (4, 4, 6, 10, 1)


def test_key_holds_everything_that_decides_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content, input, size, number of views, reader or decoder is another entry."""

    def key(content: str = "0", spec: InputSpec = CLIPS, pixels: tuple[int, ...] = (4, 6)) -> str:
        return cache_key(content, spec, pixels)

    keys = {
        key(),
        key(content="1"),
        key(pixels=(6, 4)),
        key(spec=dataclasses.replace(CLIPS, interpolation="bilinear")),
        key(spec=dataclasses.replace(CLIPS, video=VideoSpec(views=2))),
        key(spec=dataclasses.replace(CLIPS, video=VideoSpec(stride=0.5, views=3))),
    }
    monkeypatch.setattr(media.cache, "PREPROCESSING", media.cache.PREPROCESSING + 1)
    keys.add(key())
    monkeypatch.setattr(media.cache, "_version", lambda name: "another")
    keys.add(key())
    assert len(keys) == 8
    assert all(len(one) == 64 for one in keys)


def test_data_that_changed_are_decoded_anew(tmp_path: Path, decoded: list[int]) -> None:
    """Other contents of the same names have an entry of their own."""
    one, other = make_source(6), make_source(6, seed=1)
    assert not np.array_equal(prepare(one, tmp_path).pixels, prepare(other, tmp_path).pixels)
    assert same(prepare(other, tmp_path), prepare(other, None))
    assert len(entries(tmp_path)) == 2
    assert len(decoded) == 18


def test_data_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    """Pixels are never kept under the hash of something else."""
    media = [make_source(4, seed=seed) for seed in (0, 1)]
    reads: list[str] = []

    def read(id_: str) -> bytes | np.ndarray:
        reads.append(id_)
        return media[len(reads) > 4].read(id_)

    moving = dataclasses.replace(media[0], read=read)
    with pytest.raises(SourceError, match="set: split 'train' changed while it was read"):
        prepare(moving, tmp_path)
    assert entries(tmp_path) == []


def test_items_that_were_left_out_are_told_every_time(
    tmp_path: Path, decoded: list[int]
) -> None:
    """Asked to skip, both runs name them; not asked to, the second is refused like the first."""
    source = make_source(6, broken=(1, 4))
    message = "2 of 6 items in split 'train' cannot be read: 1: this is no array; 4: this is no ar"
    with pytest.raises(SourceError, match=message):
        prepare(source, tmp_path)
    assert entries(tmp_path) == []
    first = prepare(source, tmp_path, skip_unreadable=True)
    decoded.clear()
    again = prepare(source, tmp_path, skip_unreadable=True)
    assert same(first, again)
    assert again.ids == ("0", "2", "3", "5")
    assert again.skipped == (("1", "this is no array"), ("4", "this is no array"))
    with pytest.raises(SourceError, match=message):
        prepare(source, tmp_path)
    assert decoded == []


def test_split_with_nothing_readable_leaves_no_entry(tmp_path: Path) -> None:
    """There are no arrays of nothing."""
    with pytest.raises(SourceError, match="no item of split 'train' can be read"):
        prepare(make_source(2, broken=(0, 1)), tmp_path, skip_unreadable=True)
    assert entries(tmp_path) == []


# --- entries that are not what they were ---------------------------------------------------------


def build(add: Add) -> dict[str, Any]:
    """Seven rows in three pieces."""
    for count in (2, 4, 1):
        add(np.full((count, *ROW), count, np.uint8))
    return {"said": "so"}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def pickled(path: Path) -> None:
    np.save(path, np.array([{}] * 7), allow_pickle=True)


def other_shape(path: Path) -> None:
    np.save(path, np.zeros((7, 5, 3), np.uint8))


DAMAGES = [
    ("pixels.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read"),
    ("pixels.npy", lambda path: path.write_bytes(b""), "cannot be read"),
    ("pixels.npy", lambda path: path.write_bytes(pickle.dumps([1])), "cannot be read"),
    ("pixels.npy", pickled, "cannot be read"),
    ("pixels.npy", flip, r"expected checksum \d+, got \d+"),
    ("pixels.npy", other_shape, r"expected uint8 \(3, 5\), got uint8 \(5, 3\)"),
    ("pixels.npy", lambda path: path.unlink(), "cannot be read"),
    ("notes.json", lambda path: path.unlink(), "cannot be read"),
    ("notes.json", lambda path: path.write_text("[]"), "cannot be read"),
    ("notes.json", lambda path: path.write_text('{"crc32": 1}'), "cannot be read"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damaged_entry_is_refused_and_can_be_removed(
    tmp_path: Path, name: str, damage: Any, message: str
) -> None:
    """Nothing is trained on what is not what was written; without the entry all is well again."""
    rows, notes = cached(tmp_path, "k", ROW, "uint8", build)
    assert rows[:, 0, 0].tolist() == [2, 2, 4, 4, 4, 4, 1]
    assert notes == {"said": "so"}
    expected = rows.copy()
    del rows
    damage(tmp_path / "k" / name)
    with pytest.raises(CacheError, match=f"k is damaged: .*{message}.*remove it"):
        cached(tmp_path, "k", ROW, "uint8", build)
    shutil.rmtree(tmp_path / "k")
    assert np.array_equal(cached(tmp_path, "k", ROW, "uint8", build)[0], expected)


def test_entry_is_plain_numpy_and_json(tmp_path: Path) -> None:
    """Anybody can look at it with what they have, without unpickling."""
    cached(tmp_path, "k", ROW, "uint8", build)
    assert np.load(tmp_path / "k" / "pixels.npy", allow_pickle=False).shape == (7, *ROW)
    assert json.loads((tmp_path / "k" / "notes.json").read_text())["notes"] == {"said": "so"}


# --- never half there ---------------------------------------------------------------------------


def test_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What it raises is raised, and the next run begins anew."""

    def fail(add: Add) -> dict[str, Any]:
        add(np.zeros((2, *ROW), np.uint8))
        raise SourceError("no more")

    with pytest.raises(SourceError, match="no more"):
        cached(tmp_path, "k", ROW, "uint8", fail)
    assert entries(tmp_path) == []
    assert len(cached(tmp_path, "k", ROW, "uint8", build)[0]) == 7


def test_what_a_killed_build_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """The next build takes it away; other people's files in that folder stay."""
    remains = tmp_path / f".{'0a' * 32}.tmpx"
    kept = [tmp_path / ".mine.dir", tmp_path / f"{'0a' * 32}"]
    for folder in (remains, *kept):
        folder.mkdir()
    cached(tmp_path, "k", ROW, "uint8", build)
    assert set(entries(tmp_path)) == {*kept, tmp_path / "k"}


def test_two_runs_at_once_build_one_entry(tmp_path: Path) -> None:
    """The second waits for the first and takes what it built."""
    builds: list[int] = []
    began = threading.Event()

    def slow(add: Add) -> dict[str, Any]:
        builds.append(1)
        began.set()
        time.sleep(0.2)
        return build(add)

    results: list[np.ndarray] = []

    def run() -> None:
        results.append(cached(tmp_path, "k", ROW, "uint8", slow)[0])

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert builds == [1]
    assert np.array_equal(results[0], results[1])


def test_full_disk_is_a_clear_error(disk: Path) -> None:
    """The folder is named with what could be done; nothing is left, and with room all goes well."""

    def large(add: Add) -> dict[str, Any]:
        for _ in range(8):
            add(np.zeros((2**13, *ROW), np.uint8))
        return {}

    with small_disk(disk, 2**19):
        cached(disk / "cache", "small", ROW, "uint8", build)
        message = "the cache .* cannot be written: (No space left on device|File too large); make"
        with pytest.raises(CacheError, match=message):
            cached(disk / "cache", "large", ROW, "uint8", large)
        assert [path.name for path in entries(disk / "cache")] == ["small"]
    assert len(cached(disk / "cache", "large", ROW, "uint8", large)[0]) == 2**16


def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file in its place is named."""
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(CacheError, match="the cache .*/cache cannot be written: File exists"):
        cached(tmp_path / "cache", "k", ROW, "uint8", build)
