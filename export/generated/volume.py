"""Scans: smooth waves with ellipsoids in them, non-cubic, some oblique and anisotropic.

Voxels are as large and intensities as high as the InputSpec expects them, so that another spacing
or window gives another input.
"""

from __future__ import annotations

import gzip
import io

import nibabel
import numpy as np

from media.spec import InputSpec, VolumeSpec

#: Voxel sides over those of the input, in the order of the file's axes.
ANISOTROPY = np.array((1.7, 2.2, 4.1))
SHAPES = ((30, 26, 14), (25, 20, 12), (16, 18, 28), (22, 27, 18))


def generated(spec: InputSpec) -> dict[str, bytes]:
    """File name -> encoded scan; the same at every call."""
    volume = spec.volume or VolumeSpec()
    size = np.array(volume.spacing[::-1] or (1.0, 1.0, 1.0))  # mm to the left, back, head
    low, high = volume.window or (-500.0, 1500.0)
    reach = (1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low)  # as much again lies outside
    scans = [_scan(shape, number) for number, shape in enumerate(SHAPES)]
    files = {
        "0.nii.gz": gzip.compress(_nifti(scans[0], size, (20, -15, 10), reach), mtime=0),
        "1.nrrd": _nrrd(scans[1], size, (-10, 25, 0), reach),
        "2.nii": _nifti(scans[2], size, (95, 5, 0), reach),
    }
    if volume.spacing:  # an array does not tell how large its voxels are
        return files | {"3.nii": _nifti(scans[3], size, (-90, 0, 8), reach)}
    return files | {"3.npy": _npy(scans[3], reach)}


def _scan(shape: tuple[int, int, int], number: int) -> np.ndarray:
    """Float64 of that shape, from 0 to 1."""
    random = np.random.Generator(np.random.Philox(key=number))
    sides = tuple(slice(0, 1, side * 1j) for side in shape)
    places = np.mgrid[sides]  # [3, *shape]
    scan = np.zeros(shape)
    for *slopes, phase in random.uniform(-2, 2, size=(3, 4)):
        scan += np.sin(2 * np.pi * (np.tensordot(slopes, places, 1) + phase)) / 6
    scan += 0.5
    for *centre, radius, value in random.uniform(0, 1, size=(4, 5)):
        away = ((places - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0)  # shape
        scan[away < (0.1 + 0.2 * radius) ** 2] = value
    return scan


def _nifti(
    scan: np.ndarray, size: np.ndarray, turns: tuple[int, ...], reach: tuple[float, float]
) -> bytes:
    """int16 with a slope and an intercept."""
    steps = 10_000
    stored = np.round(scan * steps).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = _rotation(turns) @ np.diag(size * ANISOTROPY)
    affine[:3, 3] = (-30.0, 12.5, 40.0)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_slope_inter((reach[1] - reach[0]) / steps, reach[0])
    return image.to_bytes()


def _npy(scan: np.ndarray, reach: tuple[float, float]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, _intensities(scan, reach))
    return stream.getvalue()


def _nrrd(
    scan: np.ndarray, size: np.ndarray, turns: tuple[int, ...], reach: tuple[float, float]
) -> bytes:
    """Float32, gzip; the first axis is the fastest in the file."""
    matrix = _rotation(turns) @ np.diag(size * ANISOTROPY)
    directions = (f"({','.join(f'{value:.6f}' for value in column)})" for column in matrix.T)
    header = f"""NRRD0004
type: float
dimension: 3
space: left-posterior-superior
sizes: {" ".join(map(str, scan.shape))}
space directions: {" ".join(directions)}
kinds: domain domain domain
endian: little
encoding: gzip
space origin: (5.0,-20.0,60.0)

"""
    voxels = _intensities(scan, reach).astype("<f4").tobytes(order="F")
    return header.encode() + gzip.compress(voxels, mtime=0)


def _intensities(scan: np.ndarray, reach: tuple[float, float]) -> np.ndarray:
    """Float32 from ``reach[0]`` to ``reach[1]``."""
    return (reach[0] + scan * (reach[1] - reach[0])).astype(np.float32)


def _rotation(turns: tuple[int, ...]) -> np.ndarray:
    """[3, 3], about the third, the second and the first axis by so many degrees."""
    matrix = np.eye(3)
    for angle, (i, j) in zip(np.radians(turns), ((0, 1), (0, 2), (1, 2)), strict=True):
        turn, cosine, sine = np.eye(3), np.cos(angle), np.sin(angle)
        turn[[i, i, j, j], [i, j, i, j]] = cosine, -sine, sine, cosine
        matrix @= turn
    return matrix
