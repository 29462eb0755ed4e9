"""Intensities of a scan: rescaling, window and percentiles, and numbers that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from media import BrokenMedia
from media.scans import intensity
from media.scans.scan import Scan
from media.spec import VolumeSpec
from tests.helpers.scan_files import nifti, numbered, prepared, smooth


def test_window_maps_its_ends_to_0_and_255() -> None:
    """Below the window is 0, above it 255, between them a straight line rounded once."""
    array = np.array([-2000, -160, -60, 40, 140, 240, 5000, 241], np.int16).reshape(2, 2, 2)
    expected = [0, 0, 64, 128, 191, 255, 255, 255]  # 63.75, 127.5, 191.25
    np.testing.assert_array_equal(prepared(array, (2, 2, 2), window=(-160, 240)).ravel(), expected)
    exact = prepared(array, (2, 2, 2), window=(-160, 240), dtype="float32").ravel()
    np.testing.assert_allclose(exact, [0, 0, 63.75, 127.5, 191.25, 255, 255, 255])


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i2", "u2", "i4", "u8", "f2", ">f4", "f8"])
@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (0, 100), (10, 37)])
@pytest.mark.parametrize("slope", [2.0, -0.5])
def test_percentiles_are_those_of_numpy(
    dtype: str, percentiles: tuple[float, float], slope: float
) -> None:
    """The window of a scan is exact whatever its stored type, slope and sign."""
    stored = (smooth() // 10 + (90 if np.dtype(dtype).kind == "u" else -15)).astype(dtype)
    low, high = np.percentile(stored.astype(np.float64) * slope + 7, percentiles)
    window = intensity.window(Scan(stored, None, slope, 7.0), VolumeSpec(percentiles=percentiles))
    expected = np.clip((stored.astype(np.float64) * slope + 7 - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(window(stored), expected, atol=1e-4)


def test_percentiles_of_a_large_scan_come_from_every_nth_voxel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a sample stands for the scan, the window lies close to the exact one."""
    stored = np.random.default_rng(0).normal(size=(40, 50, 30)).astype(np.float32)
    exact = intensity.window(Scan(stored, None), VolumeSpec())
    monkeypatch.setattr(intensity, "SAMPLE_VOXELS", 20_000)
    sampled = intensity.window(Scan(stored, None), VolumeSpec())
    assert sampled != exact
    np.testing.assert_allclose(sampled(stored), exact(stored), atol=4)


def test_small_mask_keeps_its_voxels() -> None:
    """Where both percentiles are the background, lowest and highest make the window."""
    mask = np.zeros((12, 11, 10), np.uint8)
    mask[3, 4, 5] = 7
    assert prepared(mask, mask.shape).sum() == 255


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_scan_of_one_intensity_is_all_zero(dtype: str) -> None:
    """Nothing to see is 0, not a division by nothing; a given window still counts."""
    flat = np.full((2, 3, 4), 40, dtype)
    assert not prepared(flat, (4, 3, 2)).any()
    assert (prepared(flat, (4, 3, 2), window=(0, 80)) == 128).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"window": (0.0, 1.0)}])
def test_voxels_that_are_no_numbers_are_refused(value: float, options: dict[str, Any]) -> None:
    """NaN and infinity never become an intensity; the message counts them."""
    array = numbered(dtype=np.float32)
    array[0, 1, 2] = array[2, 3, 4] = value
    with pytest.raises(BrokenMedia, match=r"2 of the 60 voxels are NaN or infinite"):
        prepared(array, (2, 3, 4), **options)


def test_rescaling_that_overflows_is_refused() -> None:
    """Stored numbers that are finite are refused where slope makes them infinite."""
    media = nifti(np.array([[[1, 2, 3]]], np.float64) * 1e300, np.eye(4), scl_slope=1e30)
    with pytest.raises(BrokenMedia, match="3 of the 3 voxels"):
        prepared(media, (1, 1, 3))
    wide = np.array([[[-1.7e308, 0, 1.7e308]]])
    with pytest.raises(BrokenMedia, match="range"):
        prepared(wide, (1, 1, 3))
    tiny = np.array([[[0, 5e-324, 1e-323]]])
    assert not prepared(tiny, (1, 1, 3)).any()
