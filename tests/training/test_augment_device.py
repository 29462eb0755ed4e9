"""Augmentation on a device never asks what is in its tensors: the host goes on at once.

The meta device holds no numbers. Whatever wants one of them, or a shape that depends on one
(``item``, ``nonzero``, a boolean index, ``cpu``), is an error there.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from media.spec import InputSpec, VideoSpec, VolumeSpec
from training.augment.augment import augment
from training.augment.draws import Draws
from training.augment.mixing import mix
from training.config import Augment

CLIPS = InputSpec(modality="video", video=VideoSpec())
SCANS = InputSpec(
    modality="volume", channels=1, fit="stretch", mean=(0.5,), std=(0.5,), volume=VolumeSpec()
)
META = torch.device("meta")
OF_IMAGES = Augment(
    crop_scale=(0.3, 1.0), operations=2, colour=0.3, erase=0.5, mixup=0.4, cutmix=1.0
)
OF_SCANS = Augment(
    crop_scale=(0.3, 1.0), rotate=20, intensity=0.3, noise=0.1, erase=0.5, cutmix=1.0
)


@pytest.mark.parametrize(
    ("spec", "input_spec", "sides", "size"),
    [
        (OF_IMAGES, InputSpec(), (20, 28), (16, 24)),
        (OF_IMAGES, CLIPS, (3, 20, 28), (3, 16, 24)),
        (OF_SCANS, SCANS, (6, 10, 14), (4, 8, 12)),
    ],
    ids=["images", "clips", "scans"],
)
def test_no_step_of_it_waits_for_the_device(
    spec: Augment, input_spec: InputSpec, sides: tuple[int, ...], size: tuple[int, ...]
) -> None:
    """Every operation, crops, colours, boxes and mixing, on numbers that nobody can read."""
    items = 64  # each of the operations comes
    pixels = np.zeros((items, *sides, input_spec.channels), np.uint8)
    draws = Draws(0, 3, np.arange(items))
    inputs = augment(pixels, draws, spec, input_spec, size, META)
    mixed, targets = mix(inputs, np.arange(items) % 7, 7, draws, spec)
    assert mixed.shape == (items, *size, pixels.shape[-1])
    assert targets.shape == (items, 7)
    assert mixed.device == targets.device == META
    with pytest.raises((RuntimeError, NotImplementedError), match="[Mm]eta"):
        mixed.mean().item()
