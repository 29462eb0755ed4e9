"""Which part of an item is read: training draws one, serving reads what the InputSpec says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from media.spec import SpecError


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of an upright item, told without knowing its size: n axes of space.

    Attributes:
        share: of the whole's area, of a scan of its volume; above 0, at most 1.
        shape: how many times as long a side is as in the shape of the whole, [n]; their product
            is 1.
        place: where the part begins in the room that it leaves along each axis, 0 to 1, [n].
        moment: of a clip, where its frames lie: 0 to 1 from the first to the last time that they
            may have, 0.5 for those of a single view.
    """

    share: float
    shape: tuple[float, ...]
    place: tuple[float, ...]
    moment: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SpecError(f"a part has a share above 0 and up to 1, got {self.share}")
        if len(self.shape) != len(self.place):
            raise SpecError(f"a part has one place an axis, got {self.shape} and {self.place}")
        if not all(0 < side < math.inf for side in self.shape):
            raise SpecError(f"the shape of a part is positive, got {self.shape}")
        if not all(0 <= place <= 1 for place in (*self.place, self.moment)):
            raise SpecError(f"places are from 0 to 1, got {self.place} and {self.moment}")

    def spans(
        self, size: Sequence[float], whole: Sequence[float]
    ) -> list[tuple[float, float]]:
        """Where the part begins and ends along each axis of an item.

        Args:
            size: of the item; a side that would be longer is cut to it.
            whole: sides that a part with all of the area and no shape of its own would have.
        """
        scale = self.share ** (1 / len(size))
        sides = (min(one * scale * factor, most) for one, factor, most in zip(
            whole, self.shape, size, strict=True
        ))  # fmt: skip
        spans = []
        for side, most, place in zip(sides, size, self.place, strict=True):
            start = place * (most - side)
            spans.append((start, min(start + side, most)))
        return spans


def of_shape(size: Sequence[float], shape: Sequence[float]) -> list[float]:
    """Sides in the proportions of ``shape`` whose product is that of ``size``."""
    scale = (math.prod(size) / math.prod(shape)) ** (1 / len(size))
    return [scale * side for side in shape]
