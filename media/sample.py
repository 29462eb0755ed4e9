"""What every modality's reader gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

#: An encoded file, or an array that a data set holds already decoded.
Media = bytes | np.ndarray


@dataclasses.dataclass(frozen=True)
class Sample:
    """One item as the network sees it.

    Attributes:
        pixels: ``[views, *pixels per axis, channels]`` of the InputSpec's dtype.
        evidence: which part of the file that is, as plain JSON. Of an image its upright ``size``,
            the ``box`` in it and the ``turn``; of a clip ``seconds``, a list a view, with ``size``
            and ``box`` of its frames; of a scan ``spacing_mm``, ``orientation``, ``size`` and
            ``box``. A box has [from, to] for each axis of ``size``, in its pixels or voxels.
    """

    pixels: np.ndarray
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
