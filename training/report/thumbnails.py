"""A small picture of an item, for a person who looks at mistakes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from media.dataset import Prepared
from media.unread import Unread

#: Frames that stand for a clip.
FRAMES = 4
#: Pixels; taller pictures are made smaller.
HEIGHT = 112


def thumbnails(
    prepared: Prepared | Unread, indices: np.ndarray, modality: str
) -> np.ndarray:
    """Pictures of some items, uint8 [number of indices, h, w, 3]."""
    rows = prepared.pixels[indices * prepared.views]  # first views, [n, *pixels per axis, C]
    if not len(rows):
        return np.zeros((0, 1, 1, 3), np.uint8)
    return np.stack([_small(SUMMARIES[modality](np.rint(row).astype(np.uint8))) for row in rows])


def _frames(clip: np.ndarray) -> np.ndarray:
    """A few frames [T, H, W, C] side by side, from the first to the last."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, FRAMES).round().astype(int))
    return np.concatenate(clip[chosen], axis=1)  # [H, frames * W, C]


def _planes(scan: np.ndarray) -> np.ndarray:
    """The three middle planes of a scan [D, H, W, C], side by side with their tops aligned.

    Depth runs to the head, which is drawn above.
    """
    depth, height, width, channels = scan.shape
    planes = (scan[depth // 2], scan[::-1, height // 2], scan[::-1, :, width // 2])
    canvas = np.zeros((max(depth, height), 2 * width + height, channels), np.uint8)
    left = 0
    for plane in planes:
        canvas[: plane.shape[0], left : left + plane.shape[1]] = plane
        left += plane.shape[1]
    return canvas


def _small(picture: np.ndarray) -> np.ndarray:
    """Colour, and no taller than HEIGHT: [h, w, C] -> [h, w, 3]."""
    image = Image.fromarray(np.repeat(picture, 3 // picture.shape[2], axis=2))
    image.thumbnail((100 * HEIGHT, HEIGHT))
    return np.asarray(image)


SUMMARIES = {"image": lambda picture: picture, "video": _frames, "volume": _planes}
