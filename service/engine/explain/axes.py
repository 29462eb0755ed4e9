"""Where the cells of a map lie in the file: pixels of the upright picture, seconds, millimetres.

What the reader has seen of the file says it (``service.engine.decode.evidence``). Pixels that came
prepared, and clips whose frames change their size, have no place in a file: their cells are told in
pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from media.spec import AXES
from service.engine.decode.evidence import Evidence

#: Of an axis: pixels of the upright picture, seconds of the clip, millimetres or voxels of the
#: scan in its orientation; or pixels and frames of the network's input.
UNITS = PIXELS, SECONDS, MILLIMETRES, VOXELS, INPUT = ("px", "s", "mm", "voxel", "input px")
DIGITS = 4
#: Where the axes of space stand among those of a map.
BEHIND = {"depth": -3, "height": -2, "width": -1}

Edges = Sequence[int]


class Axis(NamedTuple):
    """One axis of a map.

    Attributes:
        name: of ``media.spec.AXES``.
        cells: [from, to] of each; of the time of a clip a list of these for every view, from its
            first to its last frame.
    """

    name: str
    unit: str
    cells: list[Any]

    def at(self, place: Sequence[int]) -> list[float]:
        """[from, to] of the cell at an index of the values, whose last axes are those of a map."""
        if self.name == "time":
            return [*self.cells[place[0]][place[1]]]
        return [*self.cells[place[BEHIND[self.name]]]]


def axes_of(
    modality: str, shape: Sequence[int], edges: Sequence[Edges], seen: Evidence
) -> list[Axis]:
    """The axes of a map.

    Args:
        shape: of the pixels, ``[views, *pixels per axis, channels]``.
        edges: of the cells, pixels per axis, ``[axes][cells + 1]``.
        seen: what the reader told; nothing of pixels that came prepared.
    """
    names, pixels = AXES[modality], shape[1:-1]
    if modality == "volume":
        sides_of_scan = _scan_sides(seen, pixels)
        return [
            Axis(name, unit, _places(axis, count, begin, end))
            for name, axis, count, (unit, begin, end) in zip(
                names, edges, pixels, sides_of_scan, strict=True
            )
        ]
    box = seen.get("box")
    sides = box or [(0, side) for side in pixels[-2:]]
    plane = [
        Axis(name, PIXELS if box else INPUT, _places(axis, count, *side))
        for name, axis, count, side in zip(names[-2:], edges[-2:], pixels[-2:], sides, strict=True)
    ]
    return [_time(edges[0], shape[0], seen), *plane] if modality == "video" else plane


def _places(edges: Edges, pixels: int, begin: float, end: float) -> list[list[float]]:
    """[from, to] of each cell, where so many pixels lie between two places."""
    places = [round(begin + edge / pixels * (end - begin), DIGITS) for edge in edges]
    return [list(pair) for pair in pairwise(places)]


def _time(edges: Edges, views: int, seen: Evidence) -> Axis:
    """When the first and the last frame of each cell are shown, for every view."""
    told = seen.get("seconds")
    times = told or [list(range(edges[-1]))] * views
    cells = [[[view[a], view[b - 1]] for a, b in pairwise(edges)] for view in times]
    return Axis("time", SECONDS if told else INPUT, cells)


def _scan_sides(seen: Evidence, pixels: Sequence[int]) -> list[tuple[str, float, float]]:
    """Per axis: the unit, and where the input begins and ends, from the scan's first voxel on."""
    if not seen:
        return [(INPUT, 0, side) for side in pixels]
    box, spacing = seen["box"], seen["spacing_mm"]
    if spacing is None or any(begin == end for begin, end in box):
        return [(VOXELS, begin, end) for begin, end in box]
    lengths = [mm * side for mm, side in zip(spacing, pixels, strict=True)]
    return [
        (MILLIMETRES, begin * length / (end - begin), end * length / (end - begin))
        for length, (begin, end) in zip(lengths, box, strict=True)
    ]
