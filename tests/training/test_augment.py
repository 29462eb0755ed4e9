"""Augmentation: what it does to a picture, and that every item draws for itself."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from media.spec import InputSpec, SpecError
from training.augment.augment import augment, resized_crop
from training.augment.draws import Draws
from training.augment.mixing import mix
from training.augment.rand_augment import OPERATIONS, colour_jitter, rand_augment
from training.augment.shapes import boxes, crop_and_flip, erase, filled, mirror
from training.config import Augment


def plain_crop(image: np.ndarray, draws: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    """Pad with mirrored edges, cut out, mirror: one image, as one would write it down."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    top, left = (int(draw * (2 * padding + 1)) for draw in draws[:2])
    cut = padded[top : top + height, left : left + width]
    return cut[:, ::-1] if flip and draws[2] < 0.5 else cut


@pytest.mark.parametrize("padding", [0, 1, 4, 9])
@pytest.mark.parametrize("flip", [True, False])
def test_crop_and_flip_equals_a_plain_implementation(padding: int, flip: bool) -> None:
    """The vectorised version gives every image what padding, cutting and mirroring give it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 7, 11, 3), dtype=np.uint8)
    draws = rng.random((40, 3))
    most = 1 - 1e-6
    draws[:4] = np.array([[0, 0, 0], [0, most, 0.5], [most, 0, 0.499], [most, most, most]])
    expected = np.stack(
        [plain_crop(one, row, padding, flip) for one, row in zip(pixels, draws, strict=True)]
    )
    result = crop_and_flip(pixels, draws, padding, flip)
    assert result.dtype == np.uint8
    assert np.array_equal(result, expected)


def test_crop_and_flip_leaves_its_input_alone() -> None:
    """The prepared split is shared by all epochs and must not change."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 9, 1), dtype=np.uint8)
    before = pixels.copy()
    crop_and_flip(pixels, np.full((4, 3), 0.1), 2, True)[:] = 0
    assert np.array_equal(pixels, before)


def test_crop_and_flip_reaches_every_shift_equally_often() -> None:
    """With padding 1 the nine shifts come up a ninth of the time each, mirrored half of it."""
    pixels = np.arange(3 * 4, dtype=np.uint8).reshape(1, 3, 4, 1).repeat(9000, axis=0)
    results = crop_and_flip(pixels, Draws(0, 0, np.arange(9000)).take(3), 1, True)
    _, counts = np.unique(results.reshape(9000, -1), axis=0, return_counts=True)
    assert len(counts) == 18
    np.testing.assert_allclose(counts, 500, atol=110)


# --- crops, rectangles, colours ------------------------------------------------------------------

CPU = torch.device("cpu")
GREY = InputSpec(channels=1, mean=(0.5,), std=(0.5,))
EVERYTHING = Augment(
    crop_scale=(0.3, 0.9), oversize=1.5, operations=2, magnitude=0.7, colour=0.4, erase=0.5
)


GOLDEN = "ed162c84bc7c484993d810499bf5a852f242ec742cfb0aaac32765588928bd3a"
#: Settings, and how many uniforms an item draws with them: a run that goes on must draw the same.
TAKEN = [
    (Augment(), 3),
    (Augment(0, False), 3),
    (Augment(crop_scale=(0.3, 0.9), oversize=1.5), 5),
    (Augment(crop_scale=(0.3, 0.9), operations=2, magnitude=0.7, colour=0.4, erase=0.5), 18),
    (Augment(operations=3, erase=0.3, mixup=0.2, cutmix=1.0), 19),
    (Augment(cutmix=1.0), 8),
]


@pytest.mark.parametrize(("spec", "taken"), TAKEN)
def test_images_draw_what_they_always_drew(spec: Augment, taken: int) -> None:
    """Options of other modalities cost images no draw: runs of images stay as they were."""
    draws = Draws(0, 0, np.arange(6))
    pixels = augment(random_pixels(6, 12, 18), draws, spec, InputSpec(), (12, 18), CPU)
    if spec.mixes:
        mix(pixels, np.arange(6) % 2, 2, draws, spec)
    following = draws.take(1)
    at_once = Draws(0, 0, np.arange(6)).take(taken + 1)
    assert np.array_equal(following, at_once[:, taken:])


def test_images_are_shifted_as_they_always_were() -> None:
    """Bytes of a batch that was shifted and mirrored before there were clips and scans."""
    pixels = (np.arange(9 * 6 * 10 * 3) * 7919 % 251).astype(np.uint8).reshape(9, 6, 10, 3)
    result = augment(pixels, Draws(5, 3, np.arange(9)), Augment(2), InputSpec(), (6, 10), CPU)
    assert hashlib.sha256(result.numpy().tobytes()).hexdigest() == GOLDEN


def test_items_are_mirrored_along_the_axes_that_are_named() -> None:
    """Half of them along each axis, each for itself; pictures upside down where asked for."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 7, 1), dtype=np.uint8)
    draws = Draws(0, 0, np.arange(40)).take(2)
    result = mirror(pixels, draws, (1, 3))
    for item, one, row in zip(pixels, result, draws < 0.5, strict=True):
        expected = item[:: -1 if row[0] else 1, :, :: -1 if row[1] else 1]
        assert np.array_equal(one, expected)
    spec = Augment(0, False, flip_axes=("height",))
    frames = pixels[:, 0]
    again = Draws(0, 0, np.arange(40))
    upright = augment(frames, again, spec, GREY, (5, 7), CPU).numpy()
    down = draws[:, 0] < 0.5
    assert np.array_equal(upright[down], frames[down, ::-1])
    assert np.array_equal(upright[~down], frames[~down])


@pytest.mark.parametrize(
    ("modality", "spec", "message"),
    [
        ("image", Augment(rotate=5), "augment.rotate is for volume input; expected 0 for image"),
        ("image", Augment(noise=0.1), "augment.noise is for volume input; .* image, got 0.1"),
        ("video", Augment(intensity=0.1), "augment.intensity is for volume input; .* for video"),
        ("volume", Augment(operations=1), "operations is for image and video input; .* for volume"),
        ("volume", Augment(colour=0.1), "augment.colour is for image and video input"),
        ("image", Augment(flip_axes=("time",)), r"of image input must be some of height, .*'time'"),
        ("video", Augment(flip_axes=("depth",)), "must be some of time, height, each once"),
        ("volume", Augment(flip_axes=("width",)), r"some of depth, height, each once \(augment.fl"),
        ("volume", Augment(flip_axes=("depth", "depth")), "each once"),
    ],
)
def test_option_of_another_modality_is_refused(
    modality: str, spec: Augment, message: str
) -> None:
    """It is named, with the modality, and never passed over in silence."""
    with pytest.raises(SpecError, match=message):
        spec.check_modality(modality)


def random_pixels(batch: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth pictures, so that moving them a little changes them a little."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = rng.uniform(-6, 6, (batch, 1, 1, channels, 3))
    values = np.sin(waves[..., 0] * y[..., None] + waves[..., 1] * x[..., None] + waves[..., 2])
    return ((values + 1) * 127).astype(np.uint8)  # [batch, height, width, channels]


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_drawn_per_sample(channels: int) -> None:
    """An item comes out the same alone, in any order and among any others."""
    pixels, samples = random_pixels(24, 18, 27, channels), np.arange(24) * 7
    spec = GREY if channels == 1 else InputSpec()
    together = augment(pixels, Draws(3, 9, samples), EVERYTHING, spec, (12, 18), CPU)
    assert together.shape == (24, 12, 18, channels)
    for index in range(24):
        draws = Draws(3, 9, samples[index : index + 1])
        alone = augment(pixels[index : index + 1], draws, EVERYTHING, spec, (12, 18), CPU)
        torch.testing.assert_close(alone[0], together[index], atol=0.01, rtol=0)
    order = np.random.default_rng(1).permutation(24)
    shuffled = augment(pixels[order], Draws(3, 9, samples[order]), EVERYTHING, spec, (12, 18), CPU)
    torch.testing.assert_close(shuffled, together[torch.from_numpy(order)], atol=0.01, rtol=0)


def test_items_of_one_batch_are_augmented_differently() -> None:
    """Sixty copies of one picture become sixty different ones."""
    pixels = random_pixels(1, 18, 27).repeat(60, axis=0)
    draws = Draws(0, 0, np.arange(60))
    result = augment(pixels, draws, EVERYTHING, InputSpec(), (12, 18), CPU)
    distances = torch.cdist(result.flatten(1), result.flatten(1))
    assert (distances + 1e9 * torch.eye(60)).min() > 1


def test_shift_and_flip_alone_keep_the_bytes() -> None:
    """Without more to do, items stay uint8."""
    pixels = random_pixels(4, 6, 10)
    draws = Draws(0, 0, np.arange(4)).take(3)
    spec, again = Augment(2, True), Draws(0, 0, np.arange(4))
    result = augment(pixels, again, spec, InputSpec(), (6, 10), CPU)
    assert np.array_equal(result.numpy(), crop_and_flip(pixels, draws, 2, True))


def test_resized_crop_of_everything_is_the_picture() -> None:
    """All of the area at the picture's own shape gives back its pixels, mirrored on request."""
    images = torch.from_numpy(random_pixels(2, 9, 14)).permute(0, 3, 1, 2).float()
    spec = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=True)
    draws = np.full((2, 5), 0.5)
    draws[1, 4] = 0.4  # the second is mirrored
    result = resized_crop(images, draws, spec, (9, 14))
    torch.testing.assert_close(result[0], images[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(result[1], images[1].flip(-1), atol=1e-3, rtol=0)


def test_resized_crop_takes_the_part_that_was_drawn() -> None:
    """A quarter of the area from the top right corner, drawn to twice its size."""
    ramp = torch.arange(16.0).expand(12, 16)  # [12, 16], each value is its column
    down = torch.arange(12.0)[:, None].expand(12, 16)  # each value is its row
    images = torch.stack([ramp, down])[None]  # [1, 2, 12, 16]
    spec = Augment(crop_scale=(0.25, 0.25), crop_ratio=(1.0, 1.0), flip=False)
    top_right = np.array([[0.5, 0.5, 0.0, 1.0, 0.9]])
    result = resized_crop(images, top_right, spec, (12, 16))[0]
    columns, rows = 8 + (torch.arange(16) - 0.5) / 2, (torch.arange(12) - 0.5) / 2
    torch.testing.assert_close(result[0, 5], columns.clamp(8 - 0.25, 15), atol=1e-3, rtol=0)
    torch.testing.assert_close(result[1, :, 5], rows.clamp(0, 5.25), atol=1e-3, rtol=0)


def test_rectangles_have_their_size_and_stay_inside() -> None:
    """Every rectangle has the drawn sides, rounded to pixels, wherever it is placed."""
    places = np.random.default_rng(0).random((200, 2))
    places[0], places[1] = 0.0, 1 - 1e-9
    tall, wide = np.full(200, 0.5), np.full(200, 0.3)
    inside = filled(boxes((8, 11), (tall, wide), places), (8, 11), torch.device("cpu"))
    assert inside.shape == (200, 8, 11)
    assert (inside.any(2).sum(1) == 4).all()
    assert (inside.any(1).sum(1) == 3).all()
    assert inside[0, 0, 0] and inside[1, -1, -1]
    assert inside.any(0).all()


def test_erased_rectangle_has_the_mean_colour() -> None:
    """What is erased is one colour, the item's own mean, and the rest is untouched."""
    images = torch.rand(30, 3, 10, 14, generator=torch.Generator().manual_seed(0))
    draws = Draws(0, 0, np.arange(30)).take(5)
    result = erase(images, draws, 0.5)
    changed = (result != images).any(1)  # [30, 10, 14]
    assert (changed.flatten(1).any(1).numpy() == (draws[:, 0] < 0.5)).all()
    for index in torch.nonzero(changed.flatten(1).any(1)).flatten():
        colours = result[index][:, changed[index]]  # [3, erased]
        torch.testing.assert_close(colours, images[index].mean((1, 2))[:, None].expand_as(colours))
        assert 0.01 < changed[index].float().mean() < 0.4


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operation_keeps_shape_and_follows_its_strength(name: str, channels: int) -> None:
    """At full strength an operation does something; at none it does nothing, if it has strength."""
    pixels = random_pixels(3, 26, 38, channels)
    images = 0.1 + 0.7 * torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    results = [
        OPERATIONS[name](images, torch.full((3,), strength), torch.tensor([1.0, -1.0, 1.0]))
        for strength in (0.0, 1.0)
    ]
    change = [(result - images).abs().flatten(1).mean(1) for result in results]  # [3] each
    assert all(result.shape == images.shape for result in results)
    if name not in ("auto_contrast", "equalise", "posterise"):
        assert change[0].max() < 1e-5
    if name == "identity" or (name == "saturation" and channels == 1):
        assert change[1].max() == 0
    else:
        assert change[1].min() > 1e-4


def test_auto_contrast_leaves_one_colour_as_it_is() -> None:
    """There is nothing to stretch: white stays white, whatever the other channels do."""
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    images[0, 1] = 1.0
    result = OPERATIONS["auto_contrast"](images, torch.ones(2), torch.ones(2))
    assert torch.equal(result[0, 1], images[0, 1])
    assert result[0, 0].min() == 0
    assert result[1].amax((1, 2)).min() > 0.99


def test_rand_augment_gives_every_item_its_own_operation() -> None:
    """Each row of the result is what the drawn operation makes of that row."""
    images = torch.from_numpy(random_pixels(28, 9, 12)).permute(0, 3, 1, 2).float() / 255
    which = (torch.arange(28) + 0.5) / 28
    sign = torch.arange(28) % 2 * 0.9
    result = rand_augment(images, torch.stack([which, sign], dim=1).double().numpy(), 0.6)
    for index in range(28):
        operation = list(OPERATIONS.values())[index // 2]
        direction = torch.tensor([1.0 if index % 2 else -1.0])
        expected = operation(images[index : index + 1], torch.tensor([0.6]), direction)
        torch.testing.assert_close(result[index], expected[0].clamp(0, 1), atol=1e-5, rtol=0)


def test_colour_jitter_of_no_strength_changes_nothing() -> None:
    """And of some strength it changes every item its own way, grey ones without hue."""
    images = 0.1 + 0.8 * torch.rand(5, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    draws = Draws(0, 0, np.arange(5)).take(4)
    torch.testing.assert_close(colour_jitter(images, draws, 0.0), images, atol=1e-5, rtol=0)
    assert (colour_jitter(images, draws, 0.5) - images).abs().flatten(1).mean(1).min() > 0.01
    assert colour_jitter(images[:, :1], draws, 0.5).shape == (5, 1, 6, 9)
