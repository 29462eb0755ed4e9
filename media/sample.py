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
        evidence: which part of the file that is, as plain JSON; empty for images. Of a clip
            ``seconds``, a list a view; of a scan ``spacing_mm`` and ``orientation``.
    """

    pixels: np.ndarray
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
