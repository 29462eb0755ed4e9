"""A map as a picture: what the model saw, in grey, under what it was worth.

Orange is where hiding cost the label something, blue where it helped it; the strongest of both is
the fullest. Cells are not smoothed: nothing finer was measured. What the model did not see of an
image is transparent, so that the picture fits over the upright original.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from media.spec import AXES
from service.engine.decode.evidence import Evidence

FOR, AGAINST = (255, 140, 0), (30, 110, 255)
FULLEST = 0.6  # of colour, over the grey
SIDE = 512  # pixels of the long side of an image
#: Of the long side of a frame and of a plane; up to eight frames stand in a row.
FRAME_SIDE, PLANE_SIDE = 160, 320
GAP, LINE = 4, 3  # pixels between them, and of the line around the frame of the strongest cell

Edges = Sequence[Sequence[int]]


def draw(
    modality: str, pixels: np.ndarray, values: np.ndarray, edges: Edges, seen: Evidence
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
    """
    strength = values / (np.abs(values).max() or 1)  # -1 to 1
    place = np.unravel_index(values.argmax(), values.shape)
    if modality == "image":
        picture = _image(pixels[0], strength, edges, seen)
    elif modality == "video":
        view = int(place[0])
        picture = _frames(pixels[view], strength[view], edges, seen, int(place[1]))
    else:
        picture = _planes(pixels[0], strength, edges, seen, [int(one) for one in place])
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _image(view: np.ndarray, strength: np.ndarray, edges: Edges, seen: Evidence) -> Image.Image:
    """[h, w, C] where it lies in the upright original."""
    height, width = seen.get("size") or view.shape[:2]
    box = seen.get("box") or [(0, height), (0, width)]
    scale = SIDE / max(height, width)
    canvas = Image.new("RGBA", _size(scale * height, scale * width))
    (top, bottom), (left, right) = ([round(scale * edge) for edge in side] for side in box)
    inside = _tinted(view, strength, edges).resize(_size(bottom - top, right - left))
    canvas.paste(inside, (left, top))
    return canvas


def _frames(
    view: np.ndarray, strength: np.ndarray, edges: Edges, seen: Evidence, strongest: int
) -> Image.Image:
    """[time, h, w, C] -> one frame for each cell of time, in a row."""
    box = seen.get("box")
    sides = [end - begin for begin, end in box] if box else view.shape[1:3]
    times = [(begin + end) // 2 for begin, end in pairwise(edges[0])]
    row = [
        _panel(view[time], heat, edges[1:], sides, FRAME_SIDE)
        for time, heat in zip(times, strength, strict=True)
    ]
    corner = (row[strongest].width - 1, row[strongest].height - 1)
    ImageDraw.Draw(row[strongest]).rectangle(((0, 0), corner), outline=FOR, width=LINE)
    return _beside(row)


def _planes(
    scan: np.ndarray, strength: np.ndarray, edges: Edges, seen: Evidence, place: Sequence[int]
) -> Image.Image:
    """[d, h, w, 1] -> its three planes through the middle of a cell."""
    spacing = seen.get("spacing_mm") or [1.0] * 3
    lengths = [mm * side for mm, side in zip(spacing, scan.shape, strict=False)]
    longest = max(lengths)
    row = []
    for axis in range(len(AXES["volume"])):
        middle = (edges[axis][place[axis]] + edges[axis][place[axis] + 1]) // 2
        plane = scan.take(middle, axis)  # [rows, columns, 1]
        heat = strength.take(place[axis], axis)
        others = [other for other in range(3) if other != axis]
        sides = [lengths[other] for other in others]
        panel = _panel(
            plane, heat, [edges[other] for other in others], sides,
            PLANE_SIDE * max(sides) / longest,
        )  # fmt: skip
        # Depth runs to the head: where it is drawn downwards the head would be at the bottom.
        row.append(panel if axis == 0 else panel.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    return _beside(row)


def _panel(
    picture: np.ndarray, heat: np.ndarray, edges: Edges, sides: Sequence[float], longest: float
) -> Image.Image:
    """A tinted picture with the shape of ``sides`` (height, width), the long one ``longest``."""
    scale = longest / (max(sides) or 1)
    return _tinted(picture, heat, edges).resize(_size(scale * sides[0], scale * sides[1]))


def _tinted(picture: np.ndarray, heat: np.ndarray, edges: Edges) -> Image.Image:
    """[h, w, C] in grey under a colour for each cell, as RGBA."""
    grey = picture.mean(axis=2, keepdims=True)  # [h, w, 1]
    for axis, places in enumerate(edges):
        heat = np.repeat(heat, np.diff(places), axis)  # at last [h, w]
    share = FULLEST * np.abs(heat)[..., np.newaxis]
    colour = np.where(heat[..., np.newaxis] > 0, FOR, AGAINST)  # [h, w, 3]
    mixed = np.clip((1 - share) * grey + share * colour, 0, 255)
    return Image.fromarray(mixed.astype(np.uint8)).convert("RGBA")


def _beside(row: Sequence[Image.Image]) -> Image.Image:
    width = sum(one.width for one in row) + GAP * (len(row) - 1)
    canvas, left = Image.new("RGBA", (width, max(one.height for one in row))), 0
    for one in row:
        canvas.paste(one, (left, 0))
        left += one.width + GAP
    return canvas


def _size(height: float, width: float) -> tuple[int, int]:
    """As Pillow has it: width and height, at least a pixel of each."""
    return max(1, round(width)), max(1, round(height))
