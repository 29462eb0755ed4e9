"""Augmentation of scans: in three dimensions, in their own units, every scan by its own draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from media.spec import InputSpec, VolumeSpec
from training.augment.augment import augment
from training.augment.draws import Draws
from training.augment.shapes import boxes, crop_and_flip, erase, erase_draws, filled, part_of
from training.augment.volumes import add_noise, change_intensity, cut_and_turn
from training.config import Augment

CPU = torch.device("cpu")
EVERYTHING = Augment(
    crop_scale=(0.4, 0.9), crop_ratio=(0.8, 1.2), oversize=1.5, rotate=15, intensity=0.5, noise=0.1,
    erase=0.5, flip_axes=("depth", "height"),
)  # fmt: skip
TURNS = Augment(2, rotate=10, flip_axes=("depth",))
SHIFTS = Augment(2, flip_axes=("height",))


def scan_spec(dtype: str = "uint8", spacing: tuple[float, ...] = ()) -> InputSpec:
    return InputSpec(
        modality="volume", dtype=dtype, channels=1, fit="stretch", mean=(0.5,), std=(0.5,),  # type: ignore[arg-type]
        volume=VolumeSpec(spacing=spacing),
    )  # fmt: skip


def scans(batch: int, size: tuple[int, ...] = (12, 15, 18), dtype: str = "uint8") -> np.ndarray:
    """[batch, *size, 1], smooth."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in size), indexing="ij")
    waves = rng.uniform(-5, 5, (3, batch, 1, 1, 1))
    values = (np.sin(waves[0] * z + waves[1] * y + waves[2] * x) + 1) * 127
    return values[..., None].astype(dtype)


def changed(pixels: np.ndarray, spec: Augment, samples: np.ndarray, step: int = 9) -> Tensor:
    size = (8, 10, 12) if spec.oversize > 1 else pixels.shape[1:-1]
    input_spec = scan_spec(str(pixels.dtype))
    return augment(pixels, Draws(3, step, samples), spec, input_spec, size, CPU)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("spec", [EVERYTHING, TURNS, SHIFTS], ids=["everything", "turn", "shift"])
def test_scan_is_augmented_alike_alone_and_among_others(spec: Augment, dtype: str) -> None:
    """A batch of scans gives what each of them gives alone, in any order; the input stays."""
    pixels, samples = scans(9, dtype=dtype), np.arange(9) * 5
    before = pixels.copy()
    together = changed(pixels, spec, samples)
    size = (8, 10, 12) if spec.oversize > 1 else (12, 15, 18)
    assert together.shape == (9, *size, 1)
    assert together.min() >= 0
    assert together.max() <= 255
    for index in range(9):
        alone = changed(pixels[index : index + 1], spec, samples[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=0.01, rtol=0)
    order = np.random.default_rng(1).permutation(9)
    shuffled = changed(pixels[order], spec, samples[order])
    torch.testing.assert_close(shuffled, together[torch.from_numpy(order)], atol=0.01, rtol=0)
    assert torch.equal(changed(pixels, spec, samples), together)
    assert not torch.equal(changed(pixels, spec, samples, step=10), together)
    assert np.array_equal(pixels, before)


def test_scans_of_one_batch_are_augmented_differently() -> None:
    """Thirty copies of one scan become thirty different ones."""
    result = changed(scans(1, (12, 15, 18)).repeat(30, axis=0), EVERYTHING, np.arange(30))
    distances = torch.cdist(result.flatten(1), result.flatten(1))
    assert (distances + 1e9 * torch.eye(30)).min() > 1


def test_shifts_and_flips_keep_the_voxels() -> None:
    """Nothing is resampled by them: type and values stay, edges are mirrored, in all directions."""
    pixels, draws = scans(40, (4, 5, 7)), Draws(0, 0, np.arange(40)).take(4)
    result = crop_and_flip(pixels, draws, 2, True)
    for item, one, row in zip(pixels, result, draws, strict=True):
        padded = np.pad(item[..., 0], 2, mode="reflect")
        start = [int(draw * 5) for draw in row[:3]]
        cut = padded[tuple(slice(at, at + side) for at, side in zip(start, (4, 5, 7), strict=True))]
        assert np.array_equal(one[..., 0], cut[..., ::-1] if row[3] < 0.5 else cut)
    for dtype in ("uint8", "float32"):
        assert changed(scans(3, dtype=dtype), SHIFTS, np.arange(3)).numpy().dtype == dtype


# --- turning and cutting ---------------------------------------------------------------------


def draws_of(**columns: float) -> np.ndarray:
    """One row for ``cut_and_turn``; what is not named lies in the middle."""
    names = ["volume", "d", "h", "w", "z", "y", "x", "about_d", "about_h", "about_w"]
    return np.array([[columns.get(name, 0.5) for name in names]])


def ball(size: tuple[int, ...], centre: tuple[float, ...], spacing: tuple[float, ...]) -> Tensor:
    """A soft ball, [1, 1, *size], where voxels measure ``spacing`` mm; the centre in mm."""
    axes = [
        (np.arange(side) + 0.5 - side / 2) * step for side, step in zip(size, spacing, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # [*size, 3]
    distance = np.linalg.norm(places - centre, axis=-1)
    return torch.from_numpy(np.exp(-((distance / 5) ** 2)))[None, None].float()


def test_nothing_drawn_leaves_the_scan_as_it_is() -> None:
    """The middle of all draws is no turn and no cut."""
    pixels = torch.rand(2, 1, 5, 9, 7, generator=torch.Generator().manual_seed(0))
    result = cut_and_turn(pixels, draws_of().repeat(2, axis=0), Augment(rotate=40), (5, 9, 7))
    torch.testing.assert_close(result, pixels, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spacing", [(), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turned_scan_keeps_its_shape_in_millimetres(
    spacing: tuple[float, ...], axis: int
) -> None:
    """A ball aside of the centre lands where a quarter turn takes it, round as it was."""
    steps, size = spacing or (1.0, 1.0, 1.0), (22, 44, 30) if spacing else (30, 34, 38)
    others = [other for other in range(3) if other != axis]
    start = [0.0, 0.0, 0.0]
    start[axis], start[others[0]] = 3.0, 7.0
    names = ("about_d", "about_h", "about_w")
    draws = draws_of(**{names[axis]: 1.0})
    result = cut_and_turn(ball(size, tuple(start), steps), draws, Augment(rotate=90), size, spacing)
    expected = []
    for sign in (-1, 1):
        end = [0.0, 0.0, 0.0]
        end[axis], end[others[1]] = 3.0, sign * 7.0
        expected.append(ball(size, tuple(end), steps))
    errors = sorted((result - one).abs().max().item() for one in expected)
    assert errors[0] < 0.1
    assert errors[1] > 0.5


def test_cut_takes_the_part_that_was_drawn() -> None:
    """An eighth of the volume from one corner, drawn to twice its size."""
    size = (8, 12, 16)
    grids = np.stack(np.meshgrid(*(np.arange(side) for side in size), indexing="ij"))  # [3, *size]
    pixels = torch.from_numpy(grids).float()[None]  # each channel is its own index
    spec = Augment(crop_scale=(0.125, 0.125), crop_ratio=(1.0, 1.0))
    draws = draws_of(z=0.0, y=1.0, x=0.5)
    result = cut_and_turn(pixels, draws, spec, size)[0]
    inner = (slice(1, -1),) * 3
    depth = (torch.arange(8) - 0.5) / 2
    height = 6 + (torch.arange(12) - 0.5) / 2
    width = 4 + (torch.arange(16) - 0.5) / 2
    expected = torch.stack(torch.meshgrid(depth, height, width, indexing="ij"))
    torch.testing.assert_close(result[:, *inner], expected[:, *inner], atol=1e-3, rtol=0)


def test_parts_have_the_volume_that_was_drawn() -> None:
    """The product of the sides is the share, whatever the shape; shapes differ."""
    draws = np.random.default_rng(0).random((50, 3))
    volume = np.linspace(0.1, 0.9, 50)
    sides = part_of(volume, (0.8, 1.25), draws)
    np.testing.assert_allclose(np.prod(sides, axis=0), volume)
    mean = np.cbrt(volume)
    for side in sides:
        assert 0.6 < (side / mean).min() < 0.95
        assert 1.05 < (side / mean).max() < 1.6


# --- intensity, noise, boxes -------------------------------------------------------------------


def test_intensity_follows_its_formula_and_stays_in_range() -> None:
    """Gamma, scale and offset of each scan; at no strength nothing changes."""
    values = torch.rand(3, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    draws = np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]])
    result = change_intensity(values, draws, 1.0)
    torch.testing.assert_close(result[0], values[0] ** 2)
    torch.testing.assert_close(result[1], (values[1] * 1.5).clamp(0, 1))
    torch.testing.assert_close(result[2], (values[2] + 0.25).clamp(0, 1))
    torch.testing.assert_close(change_intensity(values, draws, 0.0), values)


def test_noise_is_normal_and_belongs_to_its_scan() -> None:
    """Deviation as drawn, no two scans alike, the same again for the same draws."""
    grey = torch.full((3, 1, 20, 24, 28), 0.5)
    draws = np.array([[1.0, 0.3], [0.5, 0.7], [0.0, 0.1]])
    result = add_noise(grey, draws, 0.1)
    deviations = (result - grey).std(dim=(1, 2, 3, 4))
    torch.testing.assert_close(deviations, torch.tensor([0.1, 0.05, 0.0]), atol=0.002, rtol=0)
    assert abs((result[0] - 0.5).mean()) < 0.003
    correlation = torch.corrcoef((result[:2] - 0.5).flatten(1))[0, 1]
    assert abs(correlation) < 0.05
    assert torch.equal(add_noise(grey[1:2], draws[1:2], 0.1)[0], result[1])


def test_boxes_have_their_sides_and_stay_inside() -> None:
    """In three directions too."""
    places = np.random.default_rng(0).random((100, 3))
    places[0], places[1] = 0.0, 1 - 1e-9
    edges = boxes((8, 11, 5), [np.full(100, share) for share in (0.5, 0.3, 0.4)], places)
    inside = filled(edges, (8, 11, 5), torch.device("cpu"))
    assert inside.shape == (100, 8, 11, 5)
    assert (inside.sum((1, 2, 3)) == 4 * 3 * 2).all()
    assert (inside.any((2, 3)).sum(1) == 4).all()
    assert (inside.any((1, 2)).sum(1) == 2).all()
    assert inside[0, 0, 0, 0] and inside[1, -1, -1, -1]


def test_erased_box_has_the_mean_of_its_scan() -> None:
    """The rest is untouched, and as many scans are erased as were drawn."""
    pixels = torch.rand(30, 1, 9, 10, 14, generator=torch.Generator().manual_seed(0))
    draws = Draws(0, 0, np.arange(30)).take(erase_draws(3))
    result = erase(pixels, draws, 0.5)
    erased = (result != pixels).flatten(1)  # [30, voxels]
    assert (erased.any(1).numpy() == (draws[:, 0] < 0.5)).all()
    for index in torch.nonzero(erased.any(1)).flatten():
        values = result[index].flatten()[erased[index]]
        torch.testing.assert_close(values, pixels[index].mean().expand_as(values))
        assert 0.005 < erased[index].float().mean() < 0.45
