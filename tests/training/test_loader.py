"""Batches that are read ahead: the same whatever reads them, and a reader that fails is named."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.kill_training import ended_with, lines_of, living
from media.index import Dataset, Wanted, open_dataset
from media.part import Part
from media.spec import AXES, InputSpec, SpecError, VideoSpec, VolumeSpec
from media.unread import decoded_bytes
from models.checkpoint import WEIGHTS, read_description
from models.spec import EncodingSpec, ModelSpec
from tests.conftest import ROOT
from tests.helpers import training_runs
from tests.helpers.clip_files import number_of
from tests.helpers.effort import alone
from tests.helpers.training_runs import check_refused, command
from tests.media.test_limits import long_clip
from training.__main__ import main
from training.augment.augment import augment, change
from training.augment.draws import Draws
from training.augment.moving import draw_parts, move
from training.batches import Batch, Batches, NoBatch, Rows
from training.config import Augment, TrainConfig
from training.evaluate import _pieces
from training.listed import Listed, reads_each_step
from training.loader import Loader
from training.run import TRAINING_STATE
from training.stopping import Stopped

pictures = training_runs.pictures

CPU = torch.device("cpu")
MODEL = ModelSpec(
    patch=(2, 3), grid=(4, 3), classes=3, width=24, depth=2, heads=2, mlp_dim=20,
    encoding=EncodingSpec("absolute"),
)  # fmt: skip
IMAGES = InputSpec()
PARTS = Augment(crop_from="picture", crop_scale=(0.2, 0.9), flip_axes=("height",))
CLIPS = InputSpec(modality="video", video=VideoSpec())
SCANS = InputSpec(
    modality="volume", channels=1, mean=(0.5,), std=(0.5,), fit="stretch", volume=VolumeSpec()
)


@pytest.fixture(scope="module")
def kept(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The index of the pictures, mapped from a folder."""
    return open_dataset(pictures).kept(tmp_path_factory.mktemp("index") / "kept")


def make_batches(dataset: Dataset, size: tuple[int, int] = (8, 9), **changes: Any) -> Batches:
    """Five batches of eight an epoch."""
    values: dict[str, Any] = {"batch": 8, "epochs": 2, "augment": PARTS, "seed": 3}
    config = TrainConfig("data", MODEL, IMAGES, **(values | changes))
    return Batches(Listed(dataset, "train", Wanted(IMAGES, size)), config)


def as_arrays(batch: Batch | NoBatch) -> tuple[bytes, list[int], int]:
    assert isinstance(batch, Batch)
    return batch.pixels.numpy().tobytes(), batch.samples.tolist(), batch.taken


def loaded(batches: Batches, first: int, total: int = 10) -> list[tuple[bytes, list[int], int]]:
    """What a loader gives of the steps from ``first`` on."""
    loader = Loader(batches, first, total, CPU)
    try:
        order = [batches.samples(step) for step in range(first, total)]
        steps = zip(range(first, total), order, strict=True)
        return [as_arrays(loader.take(step, samples)) for step, samples in steps]
    finally:
        loader.close()


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_batches_are_the_same_whoever_reads_them(kept: Dataset, workers: int) -> None:
    """Any number of workers, from any step on, across epochs and with items that are left out."""
    changes: dict[str, Any] = {"sampling": "balanced", "skip": ("train/red/3.png",)}
    here = make_batches(kept, **changes)
    expected = [as_arrays(here[step]) for step in range(10)]
    assert len({pixels for pixels, *_ in expected}) == 10
    assert loaded(make_batches(kept, workers=workers, **changes), 3) == expected[3:]


def test_batch_holds_the_parts_that_its_draws_say(kept: Dataset) -> None:
    """Each sample is the part of its own picture that its draws alone decide."""
    batches = make_batches(kept)
    batch = batches[7]
    assert isinstance(batch, Batch)
    assert batch.pixels.shape == (8, 8, 9, 3)
    assert batch.pixels.dtype == torch.uint8
    assert batch.samples.dtype == torch.int64
    for row, sample in enumerate(batch.samples.tolist()):
        draws = Draws(3, 7, np.array([sample]))
        (part,) = draw_parts(draws, PARTS, IMAGES)
        found = batches.training.read_part(sample, part)[None]
        assert np.array_equal(move(found, draws, PARTS, IMAGES)[0], batch.pixels[row].numpy())
        assert draws.taken == batch.taken


# --- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [IMAGES, CLIPS, SCANS], ids=lambda spec: spec.modality)
def test_parts_have_the_shares_and_shapes_that_are_asked_for(spec: InputSpec) -> None:
    """Uniform shares within their ends, shapes within theirs, every place and moment."""
    asked = Augment(crop_from="picture", crop_scale=(0.25, 0.75), crop_ratio=(0.5, 2.0))
    parts = draw_parts(Draws(0, 0, np.arange(2000)), asked, spec)
    space = len(AXES[spec.modality]) - (spec.modality == "video")
    shares = np.array([part.share for part in parts])
    shapes = np.array([part.shape for part in parts])
    places = np.array([part.place for part in parts])
    assert shapes.shape == places.shape == (2000, space)
    assert (shares.min(), shares.max()) == pytest.approx((0.25, 0.75), abs=0.01)
    np.testing.assert_allclose(shapes.prod(axis=1), 1)
    if space == 2:
        ratio = shapes[:, 1] / shapes[:, 0]  # width over height
        assert (ratio.min(), ratio.max()) == pytest.approx((0.5, 2), abs=0.02)
    np.testing.assert_allclose(places.mean(axis=0), 0.5, atol=0.03)
    moments = {part.moment for part in parts}
    assert len(moments) == (2000 if spec.modality == "video" else 1)


def test_whole_picture_is_reached(pictures: Path, kept: Dataset) -> None:
    """A column at the border, which a crop of the centre never shows, is trained on."""
    training = Listed(kept, "train", Wanted(IMAGES, (21, 21)))  # of pictures 21 by 29
    left = training.read_part(0, Part(1, (1, 1), (0, 0)))
    right = training.read_part(0, Part(1, (1, 1), (0, 1)))
    assert not np.array_equal(left, right)


def test_part_is_read_of_a_clip_that_a_server_refuses(tmp_path: Path) -> None:
    """An hour and a half long: its last frame is at the last moment."""
    for label in "ab":
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / f"val/{label}/1.mp4").write_bytes(long_clip())
    listed = Listed(open_dataset(tmp_path), "val", Wanted(CLIPS, (1, 60, 88)))
    (frame,) = listed.read_part(0, Part(1, (1, 1), (0.5, 0.5), 1.0))
    assert number_of(frame) == 7


# --- the boundary ----------------------------------------------------------------------------

#: Of each modality what was moved, by sha256, before it was moved where items are read.
EVERYTHING: dict[str, tuple[InputSpec, tuple[int, ...], Augment]] = {
    "image": (
        IMAGES, (9, 12, 20, 3),
        Augment(flip_axes=("height",), crop_scale=(0.3, 0.9), oversize=2.0, operations=2,
                colour=0.3, erase=0.5),
    ),
    "video": (
        CLIPS, (5, 3, 12, 20, 3),
        Augment(flip_axes=("time",), crop_scale=(0.3, 0.9), oversize=2.0, operations=1,
                colour=0.3, erase=0.5),
    ),
    "volume": (
        SCANS, (5, 8, 12, 20, 1),
        Augment(flip_axes=("depth",), crop_scale=(0.3, 0.9), oversize=2.0, rotate=20,
                intensity=0.3, noise=0.1, erase=0.5),
    ),
}  # fmt: skip
SUMS = {"image": (125.671188, 230.6963), "video": (131.429092, 1225.7750),
        "volume": (137.171585, 325.2195)}  # fmt: skip
MOVED = {
    "image": "6c716ad65fc2ccc4eee2a025787cdf09df067dd1bbf02d76fd4a82baadc5d7cf",
    "video": "443095aa506b5bef41caef5f937c72e531b8b0177421185f85861ee286c296a0",
    "volume": "c12f50c0bfabfa9ee39d73d4673584edebfee060866e064900682ad4fd654f07",
}
SHIFTED = {
    "image": (IMAGES, (9, 6, 10, 3), Augment(2, flip_axes=("height",))),
    "video": (CLIPS, (5, 3, 6, 10, 3), Augment(2, flip_axes=("time",))),
    "volume": (SCANS, (5, 4, 6, 10, 1), Augment(1, flip_axes=("depth", "height"))),
}


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7919 % 251).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize("name", MOVED)
def test_items_are_moved_as_they_always_were(name: str) -> None:
    """Bytes of batches that were moved before that was a matter of its own."""
    input_spec, shape, spec = SHIFTED[name]
    moved = move(numbers(shape), Draws(5, 3, np.arange(shape[0])), spec, input_spec)
    assert hashlib.sha256(moved.tobytes()).hexdigest() == MOVED[name]


@pytest.mark.parametrize("name", SUMS)
def test_two_halves_are_the_whole_that_they_were(name: str) -> None:
    """Moved here and changed there from the draws that are left: what one function gave before."""
    input_spec, shape, spec = EVERYTHING[name]
    size = (6, 10) if name == "image" else (3 if name == "video" else 4, 6, 10)
    samples = np.arange(shape[0])
    draws = Draws(5, 3, samples)
    moved = move(numbers(shape), draws, spec, input_spec)
    rest = Draws(5, 3, samples, draws.taken)
    result = change(torch.from_numpy(moved), rest, spec, input_spec, size, CPU)
    whole = Draws(5, 3, samples)
    assert torch.equal(result, augment(numbers(shape), whole, spec, input_spec, size, CPU))
    assert rest.taken == whole.taken
    waves = torch.cos(torch.arange(result.numel()).double()).reshape(result.shape)
    found = result.double().mean().item(), (result * waves).sum().item()
    assert found == pytest.approx(SUMS[name], rel=1e-4)


# --- what is read when -------------------------------------------------------------------------


def test_split_that_does_not_fit_is_read_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, above half of the memory; not where all items are to be decoded anyway."""
    how = Wanted(IMAGES, (8, 9))
    assert decoded_bytes(how) == 8 * 9 * 3
    monkeypatch.setattr("media.unread.memory_bytes", lambda: 100 * 8 * 9 * 3)

    def each_step(items: int, **changes: Any) -> bool:
        return reads_each_step(TrainConfig("data", MODEL, IMAGES, **changes), items, how)

    assert [each_step(50), each_step(51)] == [False, True]
    assert [each_step(1, read="each-step"), each_step(51, read="once")] == [True, False]
    assert each_step(1, augment=PARTS)
    assert not each_step(51, cache=".cache")
    assert not each_step(51, skip_unreadable=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"read": "once"}, "crop_from=picture decodes another part in every step: expected read"),
        (
            {"augment": {"oversize": 1.5}},
            "crop_from=picture reads parts .*: expected .* 1, got 1.5",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    """The message says which of them to change."""
    with pytest.raises(SpecError, match=message):
        values = {"crop_from": "picture", **changes.pop("augment", {})}
        TrainConfig("data", MODEL, IMAGES, augment=Augment(**values), **changes)


def test_split_is_measured_alike_whether_it_was_decoded_or_is_read(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing fits into memory, items are read in steps and in measuring, to the same end."""
    runs = [tmp_path / "once", tmp_path / "read"]
    for run, memory in zip(runs, (2**40, 1), strict=True):
        monkeypatch.setattr("media.unread.memory_bytes", lambda memory=memory: memory)
        assert main([*command(pictures, run, "workers=2", "epochs=1"), "--no-report"]) == 0
    assert lines_of(runs[0]) == lines_of(runs[1])
    assert [(run / "index").exists() for run in runs] == [False, True]


def test_copy_of_arrays_is_gone_when_the_run_ends(tmp_path: Path) -> None:
    """Workers map what an npz holds from the run's folder, and nobody else needs it there."""
    rng, arrays = np.random.default_rng(0), dict[str, Any]()
    for split, items in (("train", 16), ("val", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (items, 10, 14, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(items) % 2
    np.savez(tmp_path / "data.npz", **arrays)
    arguments = command(tmp_path / "data.npz", tmp_path / "run", "epochs=1", "read=each-step")
    kept = list[bool]()
    look = training_runs.before("training.loop.train_step", 1, lambda *_: kept.append(index()))

    def index() -> bool:
        return (tmp_path / "run/index/held-0.npy").exists()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(*look)
        assert main([*arguments, "--no-report"]) == 0
    assert [*kept, index()] == [True, False]


def test_rows_are_read_a_slice_at_a_time(kept: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one array, cut anywhere: also between two views of an item."""
    read = Listed.read
    views = [lambda pixels: pixels[0], lambda pixels: 255 - pixels[0]]
    monkeypatch.setattr(
        Listed, "read", lambda one, item: np.stack([view(read(one, item)) for view in views])
    )
    listed = Listed(kept, "val", Wanted(IMAGES, (8, 9), views=2))
    whole = np.concatenate([listed.read(item) for item in range(12)])
    rows = Rows(listed, 0).in_steps(5)
    assert rows.shape == whole.shape == (24, 8, 9, 3)
    found = [rows[number] for number in range(5)]
    pixels = [batch.pixels for batch in found if isinstance(batch, Batch)]
    assert [len(one) for one in pixels] == [5, 5, 5, 5, 4]
    assert np.array_equal(np.concatenate(pixels), whole)


# --- failures ----------------------------------------------------------------------------------


def test_item_that_cannot_be_read_is_named_and_can_be_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost of the steps before it, and the command that goes on ends well."""
    data = training_runs.make_data(tmp_path / "data", training_runs.COLOURS)
    (data / "train/red/5.png").write_bytes((data / "train/red/5.png").read_bytes()[:200])
    arguments = command(data, tmp_path / "run", "read=each-step", "workers=2", "save_every=99")
    message = (
        r"'train/red/5\.png' cannot be read: the image is truncated .*\n.*last good checkpoint"
    )
    check_refused(arguments, capsys, message, r"--resume --set skip=train/red/5\.png", status=1)
    assert read_description(tmp_path / "run/last").notes["step"] > 0
    assert main([*arguments, "--resume", "--set", "skip=train/red/5.png", "--no-report"]) == 0


def test_file_that_changes_is_named(pictures: Path, tmp_path: Path) -> None:
    """It is not the one that was listed, and what it holds now is not trained on."""
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    batches = make_batches(open_dataset(data))
    assert isinstance(batches[0], Batch)
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"another")
    error = batches[1]
    assert isinstance(error, NoBatch)
    assert "changed while it is in use" in str(error)


@alone
def test_worker_that_dies_is_told_with_what_to_do(kept: Dataset) -> None:
    """By what ended it; here what the kernel does where memory runs out."""
    batches = make_batches(kept, workers=2, epochs=100)
    before = active_children()
    loader = Loader(batches, 0, 500, CPU)
    first, _ = [one for one in active_children() if one not in before]
    loader.take(0, batches.samples(0))
    first.kill()
    with pytest.raises(NoBatch, match="was ended by SIGKILL, as the kernel does where") as raised:
        for step in range(1, 500):
            loader.take(step, batches.samples(step))
    assert raised.value.settings == ("workers=1", "workers=0")
    loader.close()


def test_worker_that_cannot_be_started_is_told_with_what_to_do(
    kept: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for another process is no reason to lose the run."""

    def fail(*modules: str) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("training.loader.start_server", fail)
    with pytest.raises(NoBatch, match="no worker process can be started: .* memory") as raised:
        Loader(make_batches(kept, workers=2), 0, 5, CPU)
    assert raised.value.settings == ("workers=1", "workers=0")


def stopped() -> None:
    raise Stopped(signal.SIGTERM)


def test_signal_that_workers_got_too_is_no_failure_of_theirs(
    kept: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they are measured from, and while they start."""
    before = active_children()
    rows = Rows(Listed(kept, "val", Wanted(IMAGES, (8, 9))), 1).in_steps(1)
    pieces = _pieces(rows, 1, CPU, stopped)
    next(pieces)
    (worker,) = [one for one in active_children() if one not in before]
    worker.terminate()
    with pytest.raises(Stopped, match="SIGTERM"):
        list(pieces)

    def end(*modules: str) -> None:
        raise EOFError

    monkeypatch.setattr("training.loader.start_server", end)
    with pytest.raises(Stopped, match="SIGTERM"):
        Loader(make_batches(kept, workers=2), 0, 5, CPU, stopped)


def test_memory_that_runs_out_in_a_worker_is_told_with_what_to_do(
    kept: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a value, with the step; any other error is one of the program and stays what it is."""
    batches = make_batches(kept, workers=1)
    monkeypatch.setattr(Listed, "read_part", lambda *_: np.empty(2**62, np.uint8))
    error = batches[4]
    assert isinstance(error, NoBatch)
    assert str(error) == "out of memory while the batch of step 4 was read"
    assert error.settings == ("workers=0",)
    monkeypatch.setattr(Listed, "read_part", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        batches[4]


SMALL = """
import sys
from pathlib import Path
import training.batches
from media.index import open_kept
from tests.training.test_loader import make_batches

training.batches.get_worker_info = object  # as in a worker
batches = make_batches(open_kept(Path(sys.argv[1])), workers=1, batch=40, size=(300, 300))
error = batches[0]
assert isinstance(error, training.batches.NoBatch)
print(error, *error.settings)
"""


@alone
def test_shared_memory_that_is_too_small_is_told_with_what_to_do(kept: Dataset) -> None:
    """In place of a batch that never comes, or of a worker that dies of SIGBUS."""
    inside = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
    space = ["unshare", "-rm", "sh", "-c", inside, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    arguments = [*space, sys.executable, "-c", SMALL, str(kept.folder)]
    said = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "/dev/shm has 1 MiB" in said
    assert "and a batch takes 10.3; give a container more (docker run --shm-size=1g)" in said
    assert said.endswith("workers=0\n")


@alone
def test_killed_run_leaves_no_worker_and_goes_on_to_the_same_weights(
    pictures: Path, tmp_path: Path
) -> None:
    """SIGKILL of the run alone: its workers end by themselves, and what was read ahead is lost."""
    settings = ("read=each-step", "augment.colour=0.2")
    calm, out = tmp_path / "calm", tmp_path / "run"
    assert main([*command(pictures, calm, *settings, "workers=0"), "--no-report"]) == 0
    arguments = [*command(pictures, out, *settings, "workers=2", "epochs=3"), "--no-report"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments], cwd=ROOT, start_new_session=True
    )
    while not (out / "checkpoints/step-00000004").exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert len(living([process.pid])) >= 4  # the run, a server, two workers
    process.kill()
    process.wait()
    assert ended_with([process.pid])
    assert main([*arguments, "--resume"]) == 0
    for name in (WEIGHTS, TRAINING_STATE):
        assert (out / "last" / name).read_bytes() == (calm / "last" / name).read_bytes()
