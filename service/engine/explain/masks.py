"""Which parts of an item are hidden, one after another, and what each cell of it was worth.

An axis is cut into at most ``MOST_CELLS`` cells whose edges lie between patches, since the network
takes its input patch by patch: a mask that cut one in two would show it a picture of the mask's
edge. Where an axis has few patches its cells are finer, or the map would have a handful of places;
where equal cells would be too few, they differ by a patch.

A mask hides a block of two cells along each axis. The blocks cover everything once, and a second
time moved by one cell along all axes, where the outer ones are cut off. So every cell is hidden by
two masks, and no other cell by the same two: where one alone matters, the mean over its masks is
the highest. That takes half as many rows as cells; a block that moved by one cell along each axis
for itself would take more rows than cells, and no less would tell two cells apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from media.spec import InputSpec
from service.engine.model import Target

MOST_CELLS = 8  # of an axis
#: By the number of axes: an axis of fewer patches is cut between pixels, and of one of fewer pixels
#: each is a cell. 6 by 6 cells are 25 masks.
LEAST_CELLS = {2: 6, 3: 4}
MOST_MASKS = 41  # of one view: of 8 by 8 cells; three axes have 5, 4 and 4 cells with 39
MOST_ROWS = 160  # of one item: of a clip every view is masked for itself
WIDTH = 2  # cells that a mask hides along an axis

#: From the first to behind the last, of one axis.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of one view, in order.

    Attributes:
        edges: of its cells, pixels per axis, ``[axes][cells + 1]``; from 0 to the last pixel.
    """

    edges: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, target: Target) -> Masks:
        """As many as the bounds leave to an item of this target."""
        least = LEAST_CELLS[len(target.pixels)]
        units = [
            pixels // side if pixels // side >= least else pixels
            for pixels, side in zip(target.pixels, target.manifest.patch, strict=True)
        ]
        # Nine patches are 6 cells of one or two: 5 by 5 equal ones would be 18 masks.
        wanted = [max(_even(unit), min(unit, least)) for unit in units]
        cells = _bounded(wanted, target.views)
        return cls(
            tuple(
                tuple(unit * cell // count * (pixels // unit) for cell in range(count + 1))
                for unit, count, pixels in zip(units, cells, target.pixels, strict=True)
            )
        )

    @property
    def cells(self) -> tuple[int, ...]:
        """Per axis."""
        return tuple(len(edges) - 1 for edges in self.edges)

    def __len__(self) -> int:
        return _masks(self.cells)

    def __iter__(self) -> Iterator[tuple[Span, ...]]:
        """The cells that each hides, per axis."""
        return itertools.chain.from_iterable(
            itertools.product(*(_spans(count, moved) for count in self.cells)) for moved in (0, 1)
        )

    def hide(self, view: np.ndarray, mask: tuple[Span, ...], fill: np.ndarray) -> np.ndarray:
        """A copy of ``[*pixels per axis, channels]`` with ``fill``, [channels], under a mask."""
        hidden = view.copy()
        places = zip(self.edges, mask, strict=True)
        hidden[tuple(slice(edges[first], edges[end]) for edges, (first, end) in places)] = fill
        return hidden

    def average(self, drops: np.ndarray) -> np.ndarray:
        """Of each cell the mean over its masks: float64 ``[masks]`` -> ``[*cells]``."""
        sums, counts = np.zeros(self.cells), np.zeros(self.cells)
        for mask, drop in zip(self, drops, strict=True):
            places = tuple(slice(*span) for span in mask)
            sums[places] += drop
            counts[places] += 1
        return sums / counts


def neutral(spec: InputSpec) -> np.ndarray:
    """What is put where something is hidden: the mean that the network subtracts, ``[channels]``.

    So the network gets zeros there. It is the same whatever the picture; a blur would leave colours
    and large shapes, which may be what the answer hangs on, and black is a picture of something.
    """
    values = np.clip(255 * np.array(spec.mean), 0, 255)
    return (values if spec.dtype == "float32" else np.rint(values)).astype(spec.dtype)


def _even(units: int) -> int:
    """The most cells that may be of equal size, but for one."""
    return math.ceil(units / math.ceil(units / MOST_CELLS))


def _bounded(cells: list[int], views: int) -> list[int]:
    """Fewer cells, of the longest axis and of the last of several, until the masks are few."""
    while (masks := _masks(cells)) > MOST_MASKS or views * masks > MOST_ROWS:
        longest = max(range(len(cells)), key=lambda axis: (cells[axis], axis))
        cells[longest] -= 1
    return cells


def _masks(cells: list[int] | tuple[int, ...]) -> int:
    return sum(math.prod(len(_spans(count, moved)) for count in cells) for moved in (0, 1))


def _spans(cells: int, moved: int) -> list[Span]:
    """The blocks of one axis, the first beginning ``moved`` cells outside."""
    starts = range(-moved, cells, WIDTH)
    return [(max(start, 0), min(start + WIDTH, cells)) for start in starts]
