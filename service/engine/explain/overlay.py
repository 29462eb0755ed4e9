"""A map as a picture: what the model saw, in grey, under what it was worth.

Orange is where hiding cost the label something, or where attention was above its mean; blue where
it helped the label, or where attention was below. The strongest of both is the fullest. Cells are
not smoothed: nothing finer was measured. What the model did not see of an image is transparent, so
that the picture fits over the upright original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from service.engine.decode.evidence import Evidence
from service.engine.explain.png import encode_png, resize, sampled

FOR, AGAINST = (255, 140, 0), (30, 110, 255)
FULLEST = 0.6  # of colour, over the grey
SIDE = 512  # pixels of the long side of an image
#: Of the long side of a frame and of a plane; of occlusion up to eight frames stand in a row.
FRAME_SIDE, PLANE_SIDE = 160, 320
GAP, LINE = 4, 3  # pixels between them, and of the line around the frame of the strongest cell

Edges = Sequence[Sequence[int]]


class Look(NamedTuple):
    """How large and how well pictures are drawn.

    Attributes:
        part: of the sides above.
        widest: how many pixels in a row one that the model saw becomes, at most.
        resize: [h, w] -> float32 [height, width].
    """

    part: float
    widest: float
    resize: Callable[[np.ndarray, int, int], np.ndarray]

    def longest(self, side: int, seen: int) -> float:
        """Pixels of one of the sides above, along which the model saw so many."""
        return min(self.part * side, self.widest * seen)


THOROUGH, QUICK = Look(1.0, math.inf, resize), Look(0.5, 4.0, sampled)


def draw(
    modality: str,
    pixels: np.ndarray,
    values: np.ndarray,
    edges: Edges,
    seen: Evidence,
    quick: bool = False,
) -> bytes:
    """A PNG with an alpha channel.

    Of an image: all of it, ``SIDE`` pixels on the long side. Of a clip: the frames in the middles
    of the cells of time, of the view with the strongest cell. Of a scan: the three planes through
    the strongest cell, across the body, from the front, from the side, with the head up.

    Args:
        pixels: ``[views, *pixels per axis, channels]``, 0 to 255.
        values: ``[*cells]``, of a clip ``[views, *cells]``.
        edges: of the cells, pixels per axis.
        seen: what the reader told; nothing of pixels that came prepared.
        quick: half of each side, less where the model saw little, for who waits for it: a large
            one takes as long as an answer.
    """
    look = QUICK if quick else THOROUGH
    strength = values / (np.abs(values).max() or 1)  # -1 to 1
    place = [int(one) for one in np.unravel_index(values.argmax(), values.shape)]
    if modality == "image":
        picture = _image(pixels[0], strength, edges, seen, look)
    elif modality == "video":
        view, strongest = place[:2]
        picture = _frames(pixels[view], strength[view], edges, seen, strongest, look)
    else:
        picture = _planes(pixels[0, ..., 0], strength, edges, seen, place, look)
    return encode_png(picture, quick)


def _image(
    view: np.ndarray, strength: np.ndarray, edges: Edges, seen: Evidence, look: Look
) -> np.ndarray:
    """[h, w, C] where it lies in the upright original."""
    height, width = seen.get("size") or view.shape[:2]
    scale = look.longest(SIDE, max(view.shape[:2])) / max(height, width)
    canvas = np.zeros((_length(scale * height), _length(scale * width), 4), np.uint8)
    box = seen.get("box") or [(0, height), (0, width)]
    rows, columns = (
        _inside(scale * begin, scale * end, most)
        for (begin, end), most in zip(box, canvas.shape, strict=False)
    )
    sides = rows.stop - rows.start, columns.stop - columns.start
    canvas[rows, columns] = _tinted(view.mean(axis=2), strength, edges, look, *sides)
    return canvas


def _frames(
    view: np.ndarray,
    strength: np.ndarray,
    edges: Edges,
    seen: Evidence,
    strongest: int,
    look: Look,
) -> np.ndarray:
    """[time, h, w, C] -> one frame for each cell of time, in a row."""
    box = seen.get("box")
    sides = [end - begin for begin, end in box] if box else view.shape[1:3]
    longest = look.longest(FRAME_SIDE, max(view.shape[1:3]))
    times = [(begin + end) // 2 for begin, end in pairwise(edges[0])]
    row = [
        _panel(view[time].mean(axis=2), heat, edges[1:], sides, longest, look)
        for time, heat in zip(times, strength, strict=True)
    ]
    framed = row[strongest]
    for edge in (np.s_[:LINE], np.s_[-LINE:], np.s_[:, :LINE], np.s_[:, -LINE:]):
        framed[edge] = (*FOR, 255)
    return _beside(row)


def _planes(
    scan: np.ndarray,
    strength: np.ndarray,
    edges: Edges,
    seen: Evidence,
    place: Sequence[int],
    look: Look,
) -> np.ndarray:
    """[d, h, w] -> its three planes through the middle of a cell."""
    spacing = seen.get("spacing_mm") or (1.0, 1.0, 1.0)
    lengths = [mm * side for mm, side in zip(spacing, scan.shape, strict=True)]
    longest = look.longest(PLANE_SIDE, max(scan.shape)) / max(lengths)  # pixels of a mm
    row = []
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        middle = (edges[axis][place[axis]] + edges[axis][place[axis] + 1]) // 2
        sides = [lengths[other] for other in others]
        panel = _panel(
            scan.take(middle, axis), strength.take(place[axis], axis),
            [edges[other] for other in others], sides, longest * max(sides), look,
        )  # fmt: skip
        # Depth runs to the head: drawn downwards it would turn the body upside down.
        row.append(panel if axis == 0 else panel[::-1])
    return _beside(row)


def _panel(
    grey: np.ndarray,
    heat: np.ndarray,
    edges: Edges,
    sides: Sequence[float],
    longest: float,
    look: Look,
) -> np.ndarray:
    """[h, w] tinted, in the shape of ``sides`` (height, width), the long one of ``longest``."""
    scale = longest / (max(sides) or 1)
    return _tinted(grey, heat, edges, look, *(_length(scale * side) for side in sides))


def _tinted(
    grey: np.ndarray, heat: np.ndarray, edges: Edges, look: Look, height: int, width: int
) -> np.ndarray:
    """[h, w] under a colour for each cell, uint8 [height, width, 4]."""
    share = FULLEST * np.abs(heat)[..., np.newaxis].astype(np.float32)  # [*cells, 1]
    colour = share * np.where(heat[..., np.newaxis] > 0, FOR, AGAINST).astype(np.float32)
    left, added = 1 - share, colour  # of the grey, and what comes upon it
    for axis, side in enumerate((height, width)):
        places = _cells(edges[axis], side)
        left, added = left.take(places, axis), added.take(places, axis)
    tinted = np.full((height, width, 4), 255, np.uint8)
    # Both are parts of a whole: nothing is below 0 or above 255 but for rounding, which is cut off.
    tinted[..., :3] = look.resize(grey, height, width)[..., np.newaxis] * left + added
    return tinted


def _cells(edges: Sequence[int], pixels: int) -> np.ndarray:
    """In which cell each of so many pixels along an axis lies."""
    middles = (np.arange(pixels) + 0.5) * edges[-1] / pixels
    return np.searchsorted(edges, middles, "right") - 1  # [pixels]


def _beside(row: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures in a row, transparent between and below them."""
    width = sum(one.shape[1] for one in row) + GAP * (len(row) - 1)
    canvas, left = np.zeros((max(len(one) for one in row), width, 4), np.uint8), 0
    for one in row:
        canvas[: len(one), left : left + one.shape[1]] = one
        left += one.shape[1] + GAP
    return canvas


def _inside(begin: float, end: float, most: int) -> slice:
    """The nearest pixels of so many, one at least."""
    first = min(max(round(begin), 0), most - 1)
    return slice(first, min(max(round(end), first + 1), most))


def _length(pixels: float) -> int:
    return max(1, round(pixels))
