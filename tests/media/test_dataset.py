"""Whole splits as arrays: the serving path, every item in its place, broken ones by name."""

from __future__ import annotations

import io
import shutil
import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media import INPUTS, prepare, read
from media.contents import PIECE
from media.dataset import Prepared, prepare_split
from media.sources import Item, Source, SourceError, open_source
from media.spec import Grid, InputSpec, VideoSpec

GRID, PATCH = Grid((3, 5)), (4, 2)


def picture(seed: int, size: tuple[int, int] = (23, 17)) -> bytes:
    """A PNG of random colours; ``size`` is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_source(count: int, broken: tuple[int, ...] = ()) -> Source:
    """Items that alternate between two classes; the broken ones are cut in the middle."""
    media = {
        f"{index}.png": picture(index)[: 200 if index in broken else None] for index in range(count)
    }
    items = tuple(Item(id_, index % 2, "train") for index, id_ in enumerate(media))
    return Source("set", ("a", "b"), items, media.__getitem__)


def prepared(source: Source, **changes: Any) -> Prepared:
    return prepare_split(source, "train", InputSpec(), GRID, PATCH, **changes)


@pytest.mark.parametrize("workers", [1, 3])
def test_prepared_items_are_what_the_service_would_see(workers: int) -> None:
    """Every array is ``prepare``'s, in the order of the source, however many threads decode."""
    source = make_source(2 * PIECE + 3)
    result = prepared(source, workers=workers)
    expected = [prepare(source.read(item.id), InputSpec(), GRID, PATCH) for item in source.items]
    assert result.pixels.dtype == np.uint8
    assert np.array_equal(result.pixels, np.stack(expected))
    assert result.pixels.shape[1:] == (12, 10, 3)
    assert result.labels.tolist() == [index % 2 for index in range(len(expected))]
    assert result.ids == tuple(item.id for item in source.items)
    assert result.skipped == ()


def test_prepared_hash_names_the_content() -> None:
    """The same data hash the same, with any number of threads; any change hashes otherwise."""
    source = make_source(PIECE + 2)
    base = prepared(source).sha256
    assert prepared(source, workers=2).sha256 == base
    relabelled = Source(
        "set", ("a", "b"), (Item("0.png", 1, "train"), *source.items[1:]), source.read
    )
    swapped = Source("set", ("a", "b"), source.items[1::-1] + source.items[2:], source.read)
    changed = Source("set", ("a", "b"), source.items, lambda id_: source.read(id_) + b"")
    other = Source("set", ("a", "b"), source.items, lambda id_: picture(99))
    assert prepared(changed).sha256 == base
    hashes = {prepared(one).sha256 for one in (relabelled, swapped, other)}
    assert len(hashes | {base}) == 4


def test_unreadable_items_are_counted_and_named() -> None:
    """One broken picture among good ones stops the split and says which one it is."""
    with pytest.raises(
        SourceError, match=r"1 of 9 items in split 'train' .*: 4\.png: the image is"
    ):
        prepared(make_source(9, broken=(4,)))
    with pytest.raises(SourceError, match=r"12 of 12 items .*; 9\.png: [^;]*; \.\.\.$"):
        prepared(make_source(12, broken=tuple(range(12))))


def test_unreadable_items_are_left_out_on_request() -> None:
    """What is left keeps its order and labels, and the skipped items are named with the reason."""
    result = prepared(make_source(9, broken=(0, 5)), skip_unreadable=True, workers=2)
    assert result.ids == tuple(f"{index}.png" for index in (1, 2, 3, 4, 6, 7, 8))
    assert result.labels.tolist() == [1, 0, 1, 0, 0, 1, 0]
    assert [id_ for id_, _ in result.skipped] == ["0.png", "5.png"]
    assert all("truncated" in reason for _, reason in result.skipped)


def test_split_with_nothing_readable_is_refused() -> None:
    """Skipping everything leaves nothing to train on, which is an error and not an empty array."""
    with pytest.raises(SourceError, match="no item of split 'train' can be read"):
        prepared(make_source(3, broken=(0, 1, 2)), skip_unreadable=True)


def test_file_that_cannot_be_opened_is_an_unreadable_item(tmp_path: Path) -> None:
    """A dangling link is named like a picture that cannot be decoded."""
    for name in ("train/a/1.png", "train/b/2.png", "val/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    (tmp_path / "train/b/4.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"1 of 3 .*: train/b/4\.png: No such file"):
        prepared(open_source(tmp_path))


@pytest.mark.parametrize("ending", ["tif", "bmp", "gif"])
def test_every_type_is_prepared(tmp_path: Path, ending: str) -> None:
    """A folder of TIFF, BMP or GIF files prepares to what ``prepare`` gives for each."""
    for number in range(4):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(picture(number))).save(path)
    source = open_source(tmp_path)
    items = source.split("train")
    expected = [prepare(source.read(item.id), InputSpec(), GRID, PATCH) for item in items]
    assert np.array_equal(prepared(source, workers=2).pixels, np.stack(expected))


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("workers", [1, 3])
def test_archive_prepares_like_its_folder(tmp_path: Path, kind: str, workers: int) -> None:
    """The same files in a folder or an archive give one hash, one order and the same arrays."""
    folder = tmp_path / "set"
    for number in range(PIECE + 7):
        path = folder / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    packed = shutil.make_archive(str(folder), kind, tmp_path, "set")
    expected = prepared(open_source(folder))
    found = prepared(open_source(Path(packed)), workers=workers)
    assert (found.sha256, found.ids) == (expected.sha256, expected.ids)
    assert np.array_equal(found.pixels, expected.pixels)


def test_foreign_pictures_are_named(tmp_path: Path) -> None:
    """A JPEG 2000 among the PNGs is refused by name, not passed over."""
    for name in ("train/a/1.png", "train/b/2.png", "val/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    Image.new("L", (5, 4)).save(tmp_path / "train/b/4.jp2")
    with pytest.raises(SourceError, match=r"train/b/4\.jp2: expected JPEG, PNG, WEBP, TIFF, BMP,"):
        prepared(open_source(tmp_path))


def test_reading_ahead_is_bounded() -> None:
    """Decoding slower than reading never heaps up more than two pieces per thread and two more."""
    source = make_source(1)
    medium, gate, read = source.read("0.png"), threading.Event(), []

    def slow(id_: str) -> bytes | np.ndarray:
        read.append(id_)
        if len(read) == 3 * PIECE:
            gate.set()
        return medium

    advanced: list[int] = []
    ahead: list[int] = []

    def advance(done: int) -> None:
        advanced.append(done)
        ahead.append(len(read) - sum(advanced))

    items = tuple(Item(str(index), index % 2, "train") for index in range(20 * PIECE))
    prepared(Source("set", ("a", "b"), items, slow), workers=2, advance=advance)
    assert gate.is_set()
    assert sum(advanced) == len(items)
    assert max(ahead) <= 4 * PIECE


def test_limit_takes_the_first_items() -> None:
    """A limit prepares, counts and hashes only the first items of the split."""
    source = make_source(9, broken=(7,))
    result = prepared(source, limit=3)
    assert result.ids == ("0.png", "1.png", "2.png")
    assert result.sha256 == prepared(Source("s", ("a", "b"), source.items[:3], source.read)).sha256


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    """Decoders silence warnings in many threads at once; afterwards the filters are the same."""
    before = list(warnings.filters)
    for _ in range(3):
        prepared(make_source(4 * PIECE), workers=4)
    assert warnings.filters == before


# --- clips and scans ----------------------------------------------------------------------------


def clips(count: int, frames: int = 9) -> Source:
    rng = np.random.default_rng(0)
    media = {
        str(index): rng.integers(0, 256, (frames, 7, 13, 3), dtype=np.uint8)
        for index in range(count)
    }
    items = tuple(Item(id_, int(id_) % 2, "train") for id_ in media)
    return Source("clips", ("a", "b"), items, media.__getitem__)


@pytest.mark.parametrize("workers", [1, 3])
def test_views_of_an_item_lie_side_by_side(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Every clip has as many rows as views, in order; labels and ids count clips."""
    monkeypatch.setitem(INPUTS, "video", "tests.helpers.clip_stub")
    spec = InputSpec(modality="video", video=VideoSpec(views=3))
    source, grid, patch = clips(PIECE + 5), Grid((2, 3, 2)), (2, 2, 5)
    result = prepare_split(source, "train", spec, grid, patch, workers=workers)
    expected = [read(source.read(item.id), spec, grid, patch).pixels for item in source.items]
    assert np.array_equal(result.pixels, np.concatenate(expected))
    assert (result.views, len(result.ids), len(result.labels)) == (3, PIECE + 5, PIECE + 5)
    logits = np.arange(3 * (PIECE + 5) * 2, dtype=np.float32).reshape(-1, 2)
    assert result.of_items(logits)[1].tolist() == [8.0, 9.0]  # of rows 3, 4 and 5


def test_split_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While clips are prepared there are the archive's array, the result, and little besides."""
    monkeypatch.setitem(INPUTS, "video", "tests.helpers.clip_stub")
    monkeypatch.setattr("media.contents.PIECE", 4)
    images = np.full((360, 8, 20, 30, 3), 9, np.uint8)
    np.savez(tmp_path / "clips.npz", train_images=images, train_labels=np.arange(360)[:, None] % 2)
    spec = InputSpec(modality="video", video=VideoSpec())
    tracemalloc.start()
    try:
        source = open_source(tmp_path / "clips.npz")
        opened = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        result = prepare_split(source, "train", spec, Grid((4, 2, 3)), (2, 10, 10))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert opened < 1.3 * images.nbytes
    assert result.pixels.nbytes > 0.9 * images.nbytes
    assert peak < 1.3 * result.pixels.nbytes


def test_large_files_are_read_ahead_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in memory encoded is bounded in bytes too, not in items alone."""
    monkeypatch.setattr("media.contents.PIECE_BYTES", 1000)
    medium = picture(0)
    advanced: list[int] = []
    assert len(medium) > 1000
    items = tuple(Item(str(index), index % 2, "train") for index in range(7))
    source = Source("set", ("a", "b"), items, lambda id_: medium)
    result = prepared(source, advance=advanced.append)
    assert advanced == [1] * 7
    assert result.ids == tuple(map(str, range(7)))
