"""Resampling of scans, against Pillow axis by axis and against a plain loop voxel by voxel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from media import BrokenMedia
from media.scans import geometry
from tests.helpers.scan_files import nifti, numbered, prepared, smooth

SPACING = (0.7, 1.1, 2.5)  # mm along i, j, k
AFFINE = np.diag([-0.7, -1.1, 2.5, 1.0])  # i to the left, j to the back, k to the head


def by_pillow(array: np.ndarray, pixels: tuple[int, ...], interpolation: str) -> np.ndarray:
    """Each axis after the other by Pillow's resampling of float pictures."""
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    array = array.astype(np.float32)
    for axis, target in enumerate(pixels):
        rows = np.moveaxis(array, axis, -1)  # [..., axis]
        flat = Image.fromarray(np.ascontiguousarray(rows.reshape(-1, rows.shape[-1])))
        flat = flat.resize((target, flat.height), kind[interpolation])
        rows = np.asarray(flat).reshape(*rows.shape[:-1], target)
        array = np.moveaxis(rows, -1, axis)
    return array


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("pixels", [(13, 17, 11), (6, 4, 5), (20, 31, 12), (40, 5, 11), (1, 2, 3)])
def test_stretched_scan_is_what_pillow_makes_of_it(
    interpolation: str, pixels: tuple[int, ...]
) -> None:
    """Enlarged or anti-aliased, along all three axes, edges included."""
    array = smooth()
    windowed = np.clip((array + 500) / 1000, 0, 1) * 255
    expected = np.clip(by_pillow(windowed, pixels, interpolation), 0, 255)
    options: Any = {"window": (-500, 500), "interpolation": interpolation}
    found = prepared(array, pixels, dtype="float32", **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.002)
    rounded = prepared(array, pixels, **options)
    assert rounded.dtype == np.uint8
    np.testing.assert_allclose(rounded, expected, atol=0.504)


def plain_resampling(array: np.ndarray, steps: list[float], pixels: tuple[int, ...]) -> np.ndarray:
    """Trilinear around the same centre, voxel by voxel, anti-aliased; 0 outside."""
    result = np.zeros(pixels)
    for place in np.ndindex(*pixels):
        shares = []
        for axis, one in enumerate(place):
            centre = (one + 0.5 - pixels[axis] / 2) * steps[axis] + array.shape[axis] / 2
            reach = max(steps[axis], 1)
            row = [max(0, 1 - abs(n + 0.5 - centre) / reach) for n in range(array.shape[axis])]
            inside = 0 <= centre <= array.shape[axis]
            shares.append(np.array(row) / sum(row) if inside else np.zeros(len(row)))
        result[place] = np.einsum("ijk,i,j,k", array, *shares)
    return result


@pytest.mark.parametrize("spacing", [(2.5, 1.1, 0.7), (1.0, 2.0, 3.0), (6.0, 0.4, 0.9)])
def test_spacing_puts_the_scan_on_the_asked_voxels(spacing: tuple[float, ...]) -> None:
    """The centre stays the centre; what lies beyond is cut, what is missing is 0."""
    array, pixels = smooth((7, 6, 5)), (6, 5, 9)
    windowed = np.clip((array + 500) / 1000, 0, 1) * 255  # [i, j, k]
    steps = [mm / own for mm, own in zip(spacing, SPACING[::-1], strict=True)]
    expected = plain_resampling(windowed.transpose(2, 1, 0), steps, pixels)
    options: Any = {"spacing": spacing, "window": (-500, 500), "interpolation": "bilinear"}
    found = prepared(nifti(array, AFFINE), pixels, dtype="float32", **options)
    np.testing.assert_allclose(found, expected, atol=0.002)


def test_spacing_far_beyond_the_scan_is_zero_and_not_an_error() -> None:
    """A scan that is smaller than one voxel of the model lies between two of them."""
    media = nifti(numbered(), AFFINE)
    found = prepared(media, (2, 4, 3), spacing=(1e9, 1e9, 1e9), window=(-1, 255))
    assert not found.any()


def test_scan_without_places_cannot_have_a_spacing() -> None:
    """A model that needs millimetres refuses a scan that tells of none."""
    with pytest.raises(BrokenMedia, match="needs voxels of 1x2x2.5 mm"):
        prepared(numbered(), (2, 3, 4), spacing=(1.0, 2.0, 2.5))


@pytest.mark.parametrize("block", [1, 7, 60, 1000])
def test_blocks_do_not_show(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the scan is cut into blocks, the sums are the same."""
    pixels = (4, 9, 6)
    whole = prepared(smooth(), pixels, dtype="float32")
    monkeypatch.setattr(geometry, "BLOCK_VOXELS", block)
    np.testing.assert_allclose(prepared(smooth(), pixels, dtype="float32"), whole, atol=1e-3)


def test_halves_are_rounded_up_whatever_the_last_bit() -> None:
    """A mask of half the size is what whole numbers give: sums that end in one half go up."""
    mask = np.random.default_rng(0).integers(0, 2, (2, 3, 64), dtype=np.uint8) * 255
    pairs = np.pad(mask, ((0, 0), (0, 0), (1, 1))).astype(int)  # [2, 3, 66]
    sums = pairs[..., 0:-2:2] + 3 * pairs[..., 1:-2:2] + 3 * pairs[..., 2:-1:2] + pairs[..., 3::2]
    expected = (2 * sums[..., 1:-1] + 8) // 16
    found = prepared(mask, (2, 3, 32), window=(0, 255), interpolation="bilinear")
    assert (2 * sums[..., 1:-1] % 16 == 8).any()
    np.testing.assert_array_equal(found[..., 1:-1], expected)
