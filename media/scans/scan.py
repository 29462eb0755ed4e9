"""A decoded scan, whatever its file type, before orientation, window and resampling."""

from __future__ import annotations

import dataclasses

import numpy as np

#: Of points and directions, [4, 4]: the axes of DICOM and ITK to those of NIfTI.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Scan:
    """Voxels and where they lie.

    Attributes:
        voxels: stored values, real numbers of any type, [i, j, k].
        affine: voxel index (i, j, k, 1) -> millimetres to the patient's right, front and head
            ("RAS+"), float64 [4, 4]; None where the file says nothing of places.
        slope, intercept: intensity = slope * stored value + intercept.
    """

    voxels: np.ndarray
    affine: np.ndarray | None
    slope: float = 1.0
    intercept: float = 0.0
