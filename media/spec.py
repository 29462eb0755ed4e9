"""What a model wants to be given, as plain data: grids and inputs.

Everything here is frozen, typed and serialisable: training, export and the service all read these
classes from the same JSON.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

AXES: dict[str, tuple[str, ...]] = {
    "image": ("height", "width"),
    "video": ("time", "height", "width"),
    "volume": ("depth", "height", "width"),
}
MAX_VIEWS = 8


class SpecError(ValueError):
    """A specification that cannot be met. The message says what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Tokens per axis, e.g. ``Grid((12, 8))``; written ``12x8`` everywhere."""

    size: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.size or any(tokens < 1 for tokens in self.size):
            raise SpecError(f"a grid needs at least one token per axis, got {self.size}")

    @classmethod
    def parse(cls, text: str) -> Grid:
        """``"12x8"`` -> ``Grid((12, 8))``."""
        if not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){0,3}", text):
            raise SpecError(f"a grid is written like 8x8 (tokens per axis), got {text[:40]!r}")
        return cls(tuple(int(part) for part in text.split("x")))

    def __str__(self) -> str:
        return "x".join(str(tokens) for tokens in self.size)

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def tokens(self) -> int:
        """Number of patch tokens: the product over the axes."""
        return math.prod(self.size)

    def pixels(self, patch: tuple[int, ...]) -> tuple[int, ...]:
        """Pixels per axis of an input with this grid: tokens times patch."""
        if len(patch) != self.axes:
            raise SpecError(f"grid {self} has {self.axes} axes, patch {patch} has {len(patch)}")
        return tuple(tokens * side for tokens, side in zip(self.size, patch, strict=True))


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """Which frames of a clip become the network's input.

    Attributes:
        stride: seconds between two frames; 0 spreads the frames over the whole clip.
        views: how often a clip is sampled, at other times each; the logits are averaged.
    """

    stride: float = 0.0
    views: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.stride < math.inf:
            raise SpecError(f"video.stride must be 0 or more seconds, got {self.stride}")
        if not 1 <= self.views <= MAX_VIEWS:
            raise SpecError(f"video.views must be from 1 to {MAX_VIEWS}, got {self.views}")


@dataclasses.dataclass(frozen=True)
class VolumeSpec:
    """How a scan becomes the network's input. Axes: depth, height, width.

    Attributes:
        spacing: millimetres between two voxels along each axis; what lies beyond the input is cut,
            what is missing is filled with the lowest intensity. Empty: the whole scan is
            stretched to the input.
        window: the intensities, after the file's own rescaling, that become 0 and 255. Empty: the
            ``percentiles`` of the scan itself do.
        percentiles: lowest and highest, 0 to 100.
    """

    spacing: tuple[float, ...] = ()
    window: tuple[float, ...] = ()
    percentiles: tuple[float, ...] = (0.5, 99.5)

    def __post_init__(self) -> None:
        if self.spacing and (
            len(self.spacing) != 3 or not all(0 < side < math.inf for side in self.spacing)
        ):
            raise SpecError(f"volume.spacing must be three positive mm, got {self.spacing}")
        if self.window and not _rising(self.window):
            raise SpecError(f"volume.window must be two rising intensities, got {self.window}")
        ends = self.percentiles
        if not (_rising(ends) and ends[0] >= 0 and ends[1] <= 100):
            raise SpecError(
                f"volume.percentiles must be two rising numbers 0 to 100, got {ends}"
            )


def _rising(pair: tuple[float, ...]) -> bool:
    return len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] < pair[1]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """How bytes become the array that enters the graph; the same in training and serving.

    The array is ``[*pixels per axis, channels]`` with values from 0 to 255; ``mean`` and ``std``
    (in units of value / 255) are applied inside the network.

    Attributes:
        modality: a key of ``AXES``.
        dtype: of the array; float32, for volumes alone, keeps what rounding to 256 steps loses.
        fit: ``crop`` resizes so that the short side just covers the target and cuts the centre;
            ``stretch`` resizes each axis on its own and keeps every pixel. Volumes: ``stretch``.
        crop_ratio: share of each side that is kept, above 0 and up to 1. Below 1 the input is
            resized for a target of ``floor(side / crop_ratio)`` pixels, a side that is longer in
            whole pixels below its own, and the target is cut from the middle: 0.9 or 224 / 256 for
            public models. Not for volumes.
        interpolation: resampling filter; both are anti-aliased when shrinking.
        background: RGB value that transparent pixels are blended onto.
        video, volume: what that modality needs besides; None for the others.
        grey_bits: how many of its 16 bits grey uses where its file does not say, 8 to 16: the
            largest number of so many is white, and so is what lies above. 0 for all. Images alone.
    """

    modality: Literal["image", "video", "volume"] = "image"
    channels: int = 3
    dtype: Literal["uint8", "float32"] = "uint8"
    fit: Literal["crop", "stretch"] = "crop"
    crop_ratio: float = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    background: tuple[int, ...] = (255, 255, 255)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    video: VideoSpec | None = None
    volume: VolumeSpec | None = None
    grey_bits: int = 0

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise SpecError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise SpecError(
                f"mean and std need {self.channels} values (one per channel), "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise SpecError(f"mean and std must be finite, got {self.mean} and {self.std}")
        if not all(value > 0 for value in self.std):
            raise SpecError(f"std must be positive, got {self.std}")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise SpecError(f"background must be three values 0 to 255, got {self.background}")
        self._check_modality()

    def _check_modality(self) -> None:
        for name in ("video", "volume"):
            if (getattr(self, name) is not None) != (self.modality == name):
                raise SpecError(f"{name} must be given for that modality alone: {self.modality}")
        if self.modality == "volume" and (self.channels, self.fit) != (1, "stretch"):
            raise SpecError(
                "volumes need channels 1 and fit stretch, "
                f"got {self.channels} and {self.fit}"
            )
        if not 0 < self.crop_ratio <= 1 or (self.modality == "volume" and self.crop_ratio != 1):
            raise SpecError(
                "crop_ratio must be above 0 and up to 1, and 1 for volumes, "
                f"got {self.crop_ratio} for modality {self.modality}"
            )
        if self.dtype == "float32" and self.modality != "volume":
            raise SpecError(f"dtype float32 is for volumes, got modality {self.modality}")
        if self.grey_bits and not (self.modality == "image" and 8 <= self.grey_bits <= 16):
            raise SpecError(
                "grey_bits must be 0, or from 8 to 16 for images, "
                f"got {self.grey_bits} for modality {self.modality}"
            )

    @property
    def views(self) -> int:
        """How many arrays stand for one item: more than one for some clips."""
        return self.video.views if self.video else 1
