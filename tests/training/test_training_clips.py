"""Training on clips and scans: views, what counts as an item, the cache, runs that are resumed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.loop
from benchmarks.kill_training import outcome
from media import INPUTS
from media.dataset import Prepared
from media.spec import InputSpec, SpecError, VideoSpec, VolumeSpec
from models.spec import EncodingSpec, ModelSpec
from models.vit import VisionTransformer
from tests.helpers import clip_stub, training_runs
from tests.helpers.training_runs import Chatter, before, check_refused
from training.__main__ import main
from training.augment.draws import Draws
from training.config import Augment, TrainConfig
from training.data import prepare
from training.evaluate import evaluate, logits_of
from training.optim import make_optimiser
from training.presets import PRESETS
from training.progress import Progress
from training.report.predictions import Predictions
from training.report.thumbnails import thumbnails
from training.run import State
from training.step import NotFinite, Setup, make_batch, one_view, train_step

pictures, images_run = training_runs.pictures, training_runs.finished

CLIPS = InputSpec(modality="video", video=VideoSpec(views=3))
SCANS = InputSpec(
    modality="volume", dtype="float32", channels=1, fit="stretch", mean=(0.5,), std=(0.5,),
    volume=VolumeSpec(),
)  # fmt: skip
SPEC = ModelSpec(
    patch=(2, 2, 3), grid=(2, 4, 3), classes=3, width=24, depth=1, heads=2, mlp_dim=20,
    encoding=EncodingSpec("liere", block=4, per_layer=False),
)  # fmt: skip
ITEMS, SIZE = 20, (4, 8, 9)


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for every clip that is decoded."""
    monkeypatch.setitem(INPUTS, "video", "tests.helpers.clip_stub")
    clip_stub.calls.clear()
    yield clip_stub.calls
    clip_stub.calls.clear()


def make_setup(pixels: np.ndarray, input_spec: InputSpec, **changes: Any) -> Setup:
    """Items of three classes; rows of ``pixels`` are their views."""
    model = dataclasses.replace(SPEC, channels=input_spec.channels)
    config = TrainConfig("data", model, input_spec, batch=12, **changes)
    labels = np.arange(ITEMS) % 3
    items = Prepared(pixels, labels, tuple(f"item-{i}" for i in range(ITEMS)), "")
    torch.manual_seed(0)
    network = VisionTransformer(model, input_spec)
    state = State(network, make_optimiser(network, config))
    return Setup(config, state, items, items, ("a", "b", "c"), None)


def numbered() -> np.ndarray:
    """Every row is filled with its own number: [ITEMS * 3, *SIZE, 3]."""
    rows = np.arange(ITEMS * 3, dtype=np.uint8)[:, None, None, None, None]
    return np.broadcast_to(rows, (ITEMS * 3, *SIZE, 3)).copy()


# --- views ---------------------------------------------------------------------------------------


def test_every_step_shows_one_view_of_every_item() -> None:
    """Which one is the item's own draw of that step, and each comes up as often as the others."""
    setup = make_setup(numbered(), CLIPS, augment=Augment(0, False))
    samples = np.arange(8, 20)
    shown = []
    for step in range(200):
        inputs, targets = make_batch(setup, samples, step)
        rows = inputs[:, 0, 0, 0, 0].numpy()
        assert (inputs.flatten(1).numpy() == rows[:, None]).all()
        assert np.array_equal(rows // 3, samples)
        assert np.array_equal(targets.numpy(), samples % 3)
        shown.append(rows % 3)
    again, _ = make_batch(setup, samples[::-1].copy(), 7)
    assert np.array_equal(again[:, 0, 0, 0, 0].numpy()[::-1] % 3, shown[7])
    counts = np.bincount(np.concatenate(shown), minlength=3)
    np.testing.assert_allclose(counts / 2400, 1 / 3, atol=0.04)


def test_items_with_one_view_draw_none() -> None:
    """Images take no draw for it."""
    draws = Draws(0, 0, np.arange(5))
    assert one_view(np.arange(5), 1, draws).tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(draws.take(2), Draws(0, 0, np.arange(5)).take(2))


def test_measuring_averages_the_logits_of_the_views_and_counts_clips() -> None:
    """Accuracy and loss are those of the mean logits of each clip, not of single views."""
    pixels = np.random.default_rng(0).integers(0, 256, (ITEMS * 3, *SIZE, 3), dtype=np.uint8)
    setup = make_setup(pixels, CLIPS)
    model = setup.model.eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    each = logits_of(model, pixels, batch=7)
    assert each.shape == (ITEMS * 3, 3)
    mean = each.reshape(ITEMS, 3, 3).double().mean(1)
    targets = torch.from_numpy(setup.training.labels)
    measured = evaluate(model, setup.validation)
    right = (mean.argmax(1) == targets).double().mean().item()
    assert measured["top1"] == pytest.approx(right)
    loss = torch.nn.functional.cross_entropy(mean, targets).item()
    assert measured["loss"] == pytest.approx(loss, rel=1e-4)
    views = torch.nn.functional.cross_entropy(each, targets.repeat_interleave(3)).item()
    assert measured["loss"] < views - 0.01  # the mean is another figure than that of the views


def test_large_items_are_measured_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is bounded in values, and the figures do not depend on it."""
    pixels = np.random.default_rng(0).integers(0, 256, (ITEMS, *SIZE, 3), dtype=np.uint8)
    model = make_setup(pixels, dataclasses.replace(CLIPS, video=VideoSpec())).model.eval()
    whole, sizes = logits_of(model, pixels), []
    model.head.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    monkeypatch.setattr("training.evaluate.VALUES", 3 * pixels[0].size + 1)
    torch.testing.assert_close(logits_of(model, pixels), whole)
    assert sizes == [3] * 6 + [2]


def test_loss_that_is_not_finite_names_the_scan() -> None:
    """One voxel of one scan that is no number stops the step, and the scan is named."""
    pixels = np.full((ITEMS, *SIZE, 1), 7, np.float32)
    pixels[5, 1, 2, 3] = np.nan
    setup = make_setup(pixels, SCANS, augment=Augment(0, False))
    with pytest.raises(NotFinite) as raised:
        train_step(setup, np.arange(12), 0, 0.01)
    assert raised.value.samples == ["item-5"]


# --- data -----------------------------------------------------------------------------------------


def write_npz(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> Path:
    """16 training and 6 validation items of two classes that differ in brightness."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 16), ("val", 6)):
        labels = np.arange(count) % 2
        noise = rng.integers(0, 120, (count, *shape))
        bright = 130 * labels.reshape(-1, *(1,) * len(shape)) * (noise % 3 > 0)
        arrays[f"{split}_images"] = (noise + bright).astype(dtype)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def clip_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("clips") / "clips.npz", (9, 19, 26, 3))


@pytest.fixture(scope="module")
def scan_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("scans") / "scans.npz", (11, 19, 26), np.int16)


def test_time_is_not_decoded_oversized(clip_data: Path) -> None:
    """Crops want more pixels of a frame, not more frames; scans grow in all directions."""
    for preset, expected in (("smoke-clips", (4, 48, 60)), ("smoke-volumes", (48, 48, 60))):
        config = PRESETS[preset](str(clip_data))
        model = dataclasses.replace(config.model, grid=(*config.model.grid[:2], 5))
        augment = Augment(crop_scale=(0.5, 1.0), oversize=1.5)
        config = dataclasses.replace(config, model=model, augment=augment)
        sides: list[tuple[int, ...]] = []

        def look(*arguments: Any, sides: list[tuple[int, ...]] = sides, **options: Any) -> Prepared:
            sides.append(arguments[3].size)
            return Prepared(np.zeros((2, 1)), np.arange(2), ("1", "2"), "")

        with pytest.MonkeyPatch.context() as patched, Progress() as progress:
            patched.setattr("training.data.prepare_split", look)
            source = training.loop.data.open_data(config)
            for split in ("train", "val"):
                prepare(source, split, config, progress)
        served = tuple(side * 8 for side in model.grid)
        assert sides == [expected, served if preset == "smoke-volumes" else (4, 32, 40)]


# --- whole runs -----------------------------------------------------------------------------------

TINY = (
    "batch=8", "epochs=2", "save_every=2", "warmup_steps=1", "model.width=32", "model.mlp_dim=32",
    "model.depth=1", "workers=1",
)  # fmt: skip
CLIP_ROAD = (
    "model.grid=2x2x3", 'augment.flip_axes=["time"]', "augment.crop_scale=[0.5,1]",
    "augment.colour=0.2", "augment.mixup=0.2", "augment.cutmix=1", "sampling=balanced",
)  # fmt: skip
SCAN_ROAD = (
    "model.grid=2x3x4", "input.dtype=float32", 'augment.flip_axes=["depth","height"]',
    "augment.rotate=10", "augment.intensity=0.2", "augment.noise=0.05", "augment.erase=0.3",
    "augment.mixup=0.2", "augment.cutmix=1", "ema=0.9", "choose=balanced_accuracy",
)  # fmt: skip
ROADS = [("smoke-clips", "clip_data", CLIP_ROAD), ("smoke-volumes", "scan_data", SCAN_ROAD)]


def command(
    preset: str, data: Path, out: Path, *settings: str, resume: bool = False
) -> list[str]:
    arguments = [preset, "--data", str(data), "--out", str(out)] + ["--resume"] * resume
    for setting in (*TINY, *settings):
        arguments += ["--set", setting]
    return arguments


class Killed(BaseException):
    """The process ends here."""


def kill(*_: Any, **__: Any) -> None:
    raise Killed


Road = tuple[str, Path, tuple[str, ...]]


@pytest.fixture(params=ROADS, ids=[preset for preset, _, _ in ROADS])
def road(request: pytest.FixtureRequest) -> Road:
    """Preset, path of the data, settings."""
    preset, data, settings = request.param
    return preset, request.getfixturevalue(data), settings


def test_killed_run_resumes_to_the_same_weights(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views, time, turns and noise are drawn again as they were, with a cache and without one."""
    preset, path, settings = road
    monkeypatch.setattr("training.loop.make_report", lambda *_: None)
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    assert main(command(preset, path, calm, *settings)) == 0
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):  # noqa: PT012
        patched.setattr(*before("training.loop.train_step", 4, kill))
        main(command(preset, path, troubled, *settings))
    resumed = command(preset, path, troubled, *settings, "cache=.cache", resume=True)
    assert main(resumed) == 0
    assert outcome(troubled) == outcome(calm)
    assert (tmp_path / ".cache").is_dir()


def test_second_run_decodes_nothing_and_ends_alike(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache lies beside the runs; training and report of the second one take all from it."""
    preset, path, settings = road
    reads: list[Any] = []
    arguments = [*settings, "cache=.cache", "epochs=1"]
    assert main(command(preset, path, tmp_path / "first", *arguments)) == 0
    monkeypatch.setattr("media.dataset.read", lambda *_: reads.append(_))
    assert main(command(preset, path, tmp_path / "second", *arguments)) == 0
    assert reads == []
    assert outcome(tmp_path / "first") == outcome(tmp_path / "second")
    assert len(list((tmp_path / ".cache").glob("*/pixels.npy"))) == 2
    text = (tmp_path / "second" / "report" / "report.json").read_text()
    report = json.loads(text)
    assert "cache" not in report["config"]
    assert report["splits"]["val"]["items"] == 6  # clips, not views
    kept = Predictions.load(tmp_path / "second" / "report", "val")
    assert kept.logits.shape == (6, 2)
    assert len(kept.strips) == len(kept.mistakes())
    assert kept.ids.tolist() == [f"val/{index}" for index in range(6)]


@pytest.mark.parametrize(
    ("preset", "setting", "message"),
    [
        ("smoke-volumes", "augment.operations=2", "augment.operations is for image and video inp"),
        ("smoke-clips", "augment.rotate=5", "augment.rotate is for volume input; expected 0 for v"),
        ("smoke-clips", "model.grid=4x4", "must have the same axes"),
        ("smoke-volumes", "input.dtype=uint16", "input.dtype: expected one of uint8, float32"),
        ("smoke-volumes", "input.volume.spacing=[1,1]", "volume.spacing must be three positive mm"),
        ("smoke-clips", "input.video.views=9", "video.views must be from 1 to 8, got 9"),
        ("smoke", "input.modality=video", "video must be given for that modality alone: video"),
    ],
)
def test_setting_that_does_not_fit_the_modality_is_refused(
    clip_data: Path, tmp_path: Path, capsys: Chatter, preset: str, setting: str, message: str
) -> None:
    """The message names the setting, and no run is begun."""
    arguments = [preset, "--data", str(clip_data), "--out", str(tmp_path / "run"), "--set", setting]
    check_refused(arguments, capsys, message)
    assert not (tmp_path / "run").exists()


def test_checkpoint_of_another_modality_is_refused(
    images_run: Path, clip_data: Path, tmp_path: Path, capsys: Chatter
) -> None:
    """A clip's model is not begun from one of images, whoever asks for it."""
    out = tmp_path / "run"
    arguments = command("smoke-clips", clip_data, out)
    message = "of another modality: expected video, which the preset is for, got image"
    check_refused([*arguments, "--init-from", str(images_run)], capsys, message)
    settings = ("input.modality=video", 'input.video={"views":2}', "model.grid=2x3x4",
                "model.patch=2x8x8")  # fmt: skip
    arguments = training_runs.command(clip_data, out, *settings, init_from=images_run)
    message = (
        "another model: input.modality: expected image, got video; model.patch: .*; "
        r"model.grid: expected 2 axes, got \(2, 3, 4\)"
    )
    check_refused(arguments, capsys, message)
    assert not out.exists()


def test_clips_are_fine_tuned_with_their_own_preset(
    clip_data: Path, tmp_path: Path, capsys: Chatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another grid, from a run of clips; the recipe for images is not for them."""
    monkeypatch.setattr("training.loop.make_report", lambda *_: None)
    first = tmp_path / "first"
    assert main(command("smoke-clips", clip_data, first, "epochs=1")) == 0
    tuned = command("smoke-clips", clip_data, tmp_path / "tuned", "epochs=1", "model.grid=3x4x5")
    assert main([*tuned, "--init-from", str(first)]) == 0
    images = ["finetune", "--data", str(clip_data), "--out", str(tmp_path / "x")]
    message = "of another modality: expected image, which the preset is for, got video"
    check_refused([*images, "--init-from", str(first)], capsys, message)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_makes_a_model_for_its_own_input(name: str) -> None:
    """Every preset stands by itself, but for the number of classes."""
    config = PRESETS[name]("data")
    model = VisionTransformer(dataclasses.replace(config.model, classes=2), config.input).eval()
    pixels = config.model.training_grid.pixels(config.model.patch)
    with torch.no_grad():
        shown = torch.zeros(1, *pixels, config.input.channels, dtype=torch.uint8)
        assert model(shown).isfinite().all()
    assert TrainConfig.__dataclass_fields__["cache"].default is None
    assert (config.cache is None) == (config.input.modality == "image" or "smoke" in name)


# --- pictures of mistakes -------------------------------------------------------------------------


def prepared(pixels: np.ndarray, items: int) -> Prepared:
    return Prepared(pixels, np.zeros(items, np.int64), tuple(map(str, range(items))), "")


def test_clip_is_shown_by_frames_of_its_first_view() -> None:
    """The first, the last and two between, side by side."""
    frames = np.arange(7, dtype=np.uint8)[:, None, None, None]
    clip = np.broadcast_to(frames, (7, 5, 9, 3))
    rows = np.stack([clip, clip + 100, clip + 10, clip + 100])  # two views of two clips
    (shown,) = thumbnails(prepared(rows, 2), np.array([1]), "video")
    assert shown.shape == (5, 36, 3)
    assert shown[2, ::9, 0].tolist() == [10, 12, 14, 16]


def test_scan_is_shown_by_its_middle_planes_with_the_head_above() -> None:
    """Seen from below, from the front and from the side; what lies higher is drawn higher."""
    scan = np.zeros((1, 6, 8, 10, 1), np.float32)
    scan[0, 5, :, :] = 200.4  # the uppermost slice
    (shown,) = thumbnails(prepared(scan, 1), np.array([0]), "volume")
    assert shown.shape == (8, 28, 3)
    assert shown[:, :10].max() == 0
    assert (shown[0, 10:] == 200).all()
    assert shown[1:].max() == 0


def test_picture_is_no_taller_than_it_need_be() -> None:
    """And grey becomes colour; no mistakes are no pictures."""
    pixels = np.full((2, 300, 150, 1), 9, np.uint8)
    assert thumbnails(prepared(pixels, 2), np.array([1, 0]), "image").shape == (2, 112, 56, 3)
    assert thumbnails(prepared(pixels, 2), np.array([], np.int64), "image").shape == (0, 1, 1, 3)


def test_modality_of_a_recipe_must_have_its_axes() -> None:
    """Grid and modality belong together."""
    with pytest.raises(SpecError, match="video input has the axes time, height, width; got model"):
        TrainConfig("data", ModelSpec(), CLIPS)
