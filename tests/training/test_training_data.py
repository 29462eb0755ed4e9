"""What a run is trained on: classes that can be learned and measured, sizes, descriptions."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from media.duplicates import find_duplicates
from media.index import open_dataset
from media.sources import SourceError
from media.spec import InputSpec, SpecError, VolumeSpec
from models.spec import EncodingSpec, ModelSpec
from tests.media.test_shards import shard
from training.config import Augment, TrainConfig
from training.data import describe, open_data, prepare, read_contents, with_classes
from training.progress import Progress

MODEL = ModelSpec(
    patch=(3, 4), grid=(4, 6), classes=0, width=8, heads=1, encoding=EncodingSpec("absolute")
)


def make_folder(root: Path, counts: dict[str, int]) -> Path:
    """SPLIT/CLASS -> number of pictures, each its own."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            stream = io.BytesIO()
            pixels = rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            (root / name / f"{index}.png").write_bytes(stream.getvalue())
    return root


def make_config(data: Path, augment: Augment | None = None) -> TrainConfig:
    return TrainConfig(str(data), MODEL, InputSpec(), augment=augment or Augment())


def test_class_with_one_item_is_refused(tmp_path: Path) -> None:
    """It could be trained on or measured on, never both."""
    data = make_folder(tmp_path / "data", {"train/cat": 3, "train/dog": 1, "val/cat": 2})
    with pytest.raises(SourceError, match="class 'dog' has 1 item: expected at least 2, one to"):
        open_data(make_config(data))


def test_class_that_is_never_trained_on_is_refused(tmp_path: Path) -> None:
    """Its output could only be wrong."""
    counts = {"train/cat": 3, "train/eel": 3, "val/cat": 2, "val/dog": 2}
    data = make_folder(tmp_path / "data", counts)
    with pytest.raises(SourceError, match="class 'dog' has 2 items and none of them in split 'tra"):
        open_data(make_config(data))


def test_looking_through_shards_is_shown(tmp_path: Path) -> None:
    """Byte by byte of those that have no index; by a bar of the run's own."""
    for name in ("train-0", "train-1", "val-0"):
        members = {f"{n}.jpg": b"%d" % n for n in range(4)}
        members |= {f"{n}.cls": b"ab"[n % 2 :] for n in range(4)}
        shard(tmp_path / f"{name}.tar", members)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    with Progress() as progress:
        assert open_data(make_config(tmp_path), indexing=progress.indexing).labels == ("ab", "b")
        assert not progress.bar.tasks
    sizes, done = list[int](), list[int]()

    @contextlib.contextmanager
    def indexing(size: int) -> Iterator[Callable[[int], None]]:
        sizes.append(size)
        yield done.append

    for path in tmp_path.glob("*.index"):
        path.unlink()
    open_data(make_config(tmp_path), indexing=indexing)
    assert sizes == [total]
    assert 0.5 * total < sum(done) <= total  # what a tar is filled up with may be passed over


def test_class_that_is_never_measured_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small data sets have such classes: the run goes on and says so."""
    data = make_folder(tmp_path / "data", {"train/cat": 3, "train/dog": 3, "val/cat": 2})
    config = make_config(data)
    with Progress() as progress:
        prepare(open_data(config), "val", config, progress)
    assert "val: no items of dog" in capsys.readouterr().err


def test_training_items_are_as_large_as_their_crops_want(tmp_path: Path) -> None:
    """Only the training split is decoded oversized; the others are what is served."""
    data = make_folder(tmp_path / "data", {"train/a": 3, "train/b": 2, "val/a": 2, "val/b": 1})
    config = make_config(data, Augment(crop_scale=(0.5, 1.0), oversize=1.3))
    source = open_dataset(data)
    with Progress() as progress:
        training, validation = (prepare(source, s, config, progress) for s in ("train", "val"))
    assert training.pixels.shape == (5, 16, 31, 3)  # 1.3 times 12 and 24, rounded
    assert validation.pixels.shape == (3, 12, 24, 3)
    contents = read_contents(source)
    described = describe(source, contents, find_duplicates(contents), training, validation)
    assert (described["train"]["items"], described["val"]["items"]) == (5, 3)
    assert str(tmp_path) not in str(described)


def test_head_takes_the_number_of_labels(tmp_path: Path) -> None:
    """A number that was set by hand must be theirs."""
    source = open_dataset(make_folder(tmp_path / "data", {"train/a": 3, "train/b": 2, "val/a": 2}))
    assert with_classes(MODEL, source).classes == 2
    with pytest.raises(SpecError, match="data has 2 classes, model.classes is 7"):
        with_classes(ModelSpec(classes=7), source)


def test_larger_training_scans_show_the_same_millimetres(tmp_path: Path) -> None:
    """With a spacing, ``oversize`` buys detail and not a wider view: a block keeps its share."""
    voxels = np.zeros((40, 44, 48), np.uint8)
    voxels[10:30, 11:33, 12:36] = 200  # a half of every side, [width, height, depth] of 2 mm
    image = nibabel.Nifti1Image(voxels, np.diag([-2.0, -2.0, 2.0, 1.0]))
    for place in ("train/a/1", "train/b/2", "val/a/3", "val/b/4"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / f"{place}.nii").write_bytes(image.to_bytes())
    spec = InputSpec(
        modality="volume", channels=1, fit="stretch", mean=(0.5,), std=(0.5,),
        volume=VolumeSpec(spacing=(6.0, 4.0, 5.0), window=(0.0, 200.0)),
    )  # fmt: skip
    model = replace(MODEL, patch=(2, 3, 4), grid=(8, 7, 4), channels=1)  # 16, 21, 16 voxels
    augment = Augment(flip=False, crop_scale=(0.5, 1.0), oversize=1.5)
    config = TrainConfig(str(tmp_path), model, spec, augment=augment)
    source = open_data(config)
    with Progress() as progress:
        train, val = (prepare(source, split, config, progress) for split in ("train", "val"))
    assert train.pixels.shape[1:4] == (24, 32, 24)  # [depth, height, width]
    assert val.pixels.shape[1:4] == (16, 21, 16)
    assert train.pixels.mean() == pytest.approx(val.pixels.mean(), rel=0.03)
