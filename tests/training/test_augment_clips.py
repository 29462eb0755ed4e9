"""Augmentation of clips: every frame goes through the same, every clip through its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from media.spec import InputSpec, VideoSpec
from training.augment.augment import augment
from training.augment.draws import Draws
from training.augment.mixing import mix, partners
from training.config import Augment

CPU = torch.device("cpu")
CLIPS = InputSpec(modality="video", video=VideoSpec())
GREY = InputSpec(
    modality="video", channels=1, mean=(0.5,), std=(0.5,), video=VideoSpec(views=2)
)
EVERYTHING = Augment(
    crop_scale=(0.3, 0.9), oversize=1.5, operations=2, magnitude=0.7, colour=0.4, erase=0.5,
    flip_axes=("time", "height"),
)  # fmt: skip
SPECS = [EVERYTHING, Augment(3, flip_axes=("time",)), Augment(2)]


def clips(batch: int, channels: int = 3, frames: int = 5) -> np.ndarray:
    """[batch, frames, 18, 27, channels], smooth and moving."""
    rng = np.random.default_rng(0)
    t, y, x = np.mgrid[0 : 1 : frames * 1j, 0:1:18j, 0:1:27j]
    waves = rng.uniform(-6, 6, (batch, 1, 1, 1, channels, 3))
    places = np.stack([t, y, x], axis=-1)[..., None, :]  # [frames, 18, 27, 1, 3]
    return ((np.sin((waves * places).sum(-1)) + 1) * 127).astype(np.uint8)


def changed(pixels: np.ndarray, spec: Augment, samples: np.ndarray, step: int = 9) -> Tensor:
    input_spec = GREY if pixels.shape[-1] == 1 else CLIPS
    size = (12, 18) if spec.oversize > 1 else (18, 27)
    draws = Draws(3, step, samples)
    return augment(pixels, draws, spec, input_spec, (pixels.shape[1], *size), CPU)


@pytest.mark.parametrize("spec", SPECS, ids=["everything", "shift and time", "shift"])
@pytest.mark.parametrize("channels", [1, 3])
def test_clip_is_augmented_alike_alone_and_among_others(spec: Augment, channels: int) -> None:
    """A batch of clips gives what each of them gives alone, in any order."""
    pixels, samples = clips(9, channels), np.arange(9) * 7
    before = pixels.copy()
    together = changed(pixels, spec, samples)
    size = (12, 18) if spec.oversize > 1 else (18, 27)
    assert together.shape == (9, 5, *size, channels)
    for index in range(9):
        alone = changed(pixels[index : index + 1], spec, samples[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=0.01, rtol=0)
    order = np.random.default_rng(1).permutation(9)
    shuffled = changed(pixels[order], spec, samples[order])
    torch.testing.assert_close(shuffled, together[torch.from_numpy(order)], atol=0.01, rtol=0)
    assert torch.equal(changed(pixels, spec, samples), together)
    assert not torch.equal(changed(pixels, spec, samples, step=10), together)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("spec", SPECS, ids=["everything", "shift and time", "shift"])
def test_every_frame_goes_through_the_same(spec: Augment) -> None:
    """A clip that stands still stands still afterwards; two of them become different ones."""
    pixels = clips(1, frames=1).repeat(5, axis=1).repeat(30, axis=0)  # [30, 5, 18, 27, 3]
    result = changed(pixels, spec, np.arange(30)).float()
    torch.testing.assert_close(result, result[:, :1].expand_as(result), atol=0.01, rtol=0)
    distances = torch.cdist(result[:, 0].flatten(1), result[:, 0].flatten(1))
    apart = (distances > 1).float().mean()
    assert apart > 0.9


def test_frame_of_a_clip_is_what_an_image_with_its_draws_would_be() -> None:
    """Clips know no augmentation of their own but for time."""
    spec = Augment(crop_scale=(0.3, 0.9), operations=1, colour=0.4, erase=0.5)
    pixels, samples = clips(8), np.arange(8)
    result = changed(pixels, spec, samples)
    for frame in range(5):
        draws = Draws(3, 9, samples)
        image = augment(pixels[:, frame], draws, spec, InputSpec(), (18, 27), CPU)
        torch.testing.assert_close(result[:, frame], image, atol=0.01, rtol=0)


def test_clips_may_run_backwards() -> None:
    """Where asked for, half of them do, whole; where not, none."""
    pixels, samples = clips(40), np.arange(40)
    backwards = Draws(3, 9, samples).take(1)[:, 0] < 0.5
    result = changed(pixels, Augment(0, False, flip_axes=("time",)), samples).numpy()
    assert np.array_equal(result[backwards], pixels[backwards, ::-1])
    assert np.array_equal(result[~backwards], pixels[~backwards])
    assert 10 < backwards.sum() < 30
    assert np.array_equal(changed(pixels, Augment(0, False), samples).numpy(), pixels)


@pytest.mark.parametrize("spec", [Augment(mixup=0.3), Augment(cutmix=1.0)])
def test_targets_of_mixed_clips_are_the_shares_of_their_pixels(spec: Augment) -> None:
    """What is pasted is a box in time and space; the label follows its share."""
    pixels = torch.arange(20.0)[:, None, None, None, None].repeat(1, 6, 10, 7, 1)
    labels = np.arange(20) % 7
    mixed, targets = mix(pixels, labels, 7, Draws(0, 0, np.arange(20)), spec)
    partner = partners(Draws(0, 0, np.arange(20)).take(1)[:, 0])
    assert mixed.shape == pixels.shape
    for index, other in enumerate(partner):
        share = (mixed[index].mean().item() - other) / (index - other)
        expected = torch.zeros(7)
        expected[labels[index]] += share
        expected[labels[other]] += 1 - share
        torch.testing.assert_close(targets[index], expected, atol=1e-4, rtol=0)
        pasted = (mixed[index, ..., 0] == other).numpy()  # [6, 10, 7]
        if spec.cutmix and pasted.any():
            sides = [pasted.any(axis=tuple({0, 1, 2} - {axis})).sum() for axis in range(3)]
            assert np.prod(sides) == pasted.sum()  # it is a box
