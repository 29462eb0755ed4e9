"""Scans made in memory, and how tests read them: no two sides alike, no two voxels alike."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import nibabel
import numpy as np
import SimpleITK

from media import read
from media.spec import Grid, InputSpec, VolumeSpec

SHAPE = (3, 4, 5)  # i, j, k
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def spec(**options: Any) -> InputSpec:
    """An InputSpec for scans; window, percentiles and spacing belong to its VolumeSpec."""
    names = {field.name for field in dataclasses.fields(VolumeSpec)}
    own = {name: options.pop(name) for name in names & set(options)}
    fixed: dict[str, Any] = {"modality": "volume", "channels": 1, "fit": "stretch"}
    return InputSpec(**fixed, mean=(0.5,), std=(0.5,), volume=VolumeSpec(**own), **options)


def prepared(media: bytes | np.ndarray, pixels: tuple[int, ...], **options: Any) -> np.ndarray:
    """What the network sees, [depth, height, width]."""
    sample = read(media, spec(**options), Grid(pixels), (1, 1, 1))
    assert sample.pixels.shape == (1, *pixels, 1)
    return sample.pixels[0, ..., 0]


def seen(media: bytes | np.ndarray, pixels: tuple[int, ...] = (2, 3, 4), **options: Any) -> Any:
    return read(media, spec(**options), Grid(pixels), (1, 1, 1)).evidence


def oriented(media: bytes, low: float = 0, high: float = 255) -> np.ndarray:
    """A scan of few values in the one orientation, voxel for voxel, float32 from low to high."""
    size = tuple(seen(media)["size"])
    values = prepared(media, size, window=(low, high), dtype="float32")
    return values / 255 * (high - low) + low


def numbered(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    """Every voxel another value, below 255: 1, 2, 3 ... with the last axis fastest."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def smooth(shape: tuple[int, ...] = (13, 17, 11)) -> np.ndarray:
    """Soft waves and one sharp corner, int16 from -900 to 1200."""
    i, j, k = np.indices(shape)
    values = 600 * np.sin(i / 3) * np.cos(j / 4) + 40 * k
    values[: shape[0] // 3, : shape[1] // 4, : shape[2] // 2] = 1200
    return np.clip(values, -900, 1200).astype(np.int16)


def nifti(voxels: np.ndarray, affine: np.ndarray | None = None, **header: Any) -> bytes:
    """A .nii file; fields of the header are set last.

    ``version=2`` makes it NIfTI-2, ``order=">"`` big-endian.
    """
    kind = nibabel.Nifti2Image if header.pop("version", 1) == 2 else nibabel.Nifti1Image
    order = header.pop("order", "<")
    image = kind(voxels, affine, dtype=voxels.dtype)
    # nibabel writes in native order; voxels of the other order are written by hand
    fields = type(image.header)(endianness=order)
    for name in image.header:
        fields[name] = image.header[name]
    fields["vox_offset"] = fields.single_vox_offset
    fields["sizeof_hdr"] = fields.sizeof_hdr
    for name, value in header.items():
        fields[name] = value
    start = fields.binaryblock.ljust(fields.single_vox_offset, b"\0")
    return start + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")


def signed_permutations() -> list[np.ndarray]:
    """The 48 ways in which three axes can lie along three others, [3, 3]."""
    signs = itertools.product((1.0, -1.0), repeat=3)
    turns = itertools.product(itertools.permutations(range(3)), signs)
    return [np.eye(3)[list(order)] * np.array(sign)[:, None] for order, sign in turns]


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Turned around x, then y, then z, [3, 3]."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, two = (place for place in range(3) if place != axis)
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def itk_oriented(image: SimpleITK.Image) -> tuple[np.ndarray, list[float]]:
    """[depth, height, width] towards head, back and left, and its spacing, as SimpleITK has it."""
    turned = SimpleITK.DICOMOrient(image, "LPS")
    return SimpleITK.GetArrayFromImage(turned), list(turned.GetSpacing())[::-1]


def itk_image(voxels: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    """Voxels [i, j, k] with an affine to RAS+ (no shear) as SimpleITK holds them."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image
