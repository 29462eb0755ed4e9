"""Where attention looked, from the rollout that came with the answer: a map over the patches."""

from __future__ import annotations

import itertools

import numpy as np

from media.spec import Grid
from service.engine.decode.task import Decoded
from service.engine.explain.axes import axes_of
from service.engine.explain.explanation import DIGITS, Attention, Map
from service.engine.explain.overlay import draw
from service.engine.model import Target


def attention_of(target: Target, item: Decoded, rollout: np.ndarray) -> Attention:
    """The map of an item, its place in the file, and its picture.

    Args:
        rollout: float32 ``[views, patches]``.
    """
    grid, modality = Grid.parse(target.grid), target.manifest.modality
    values = rollout.astype(np.float64) * grid.tokens  # [views, patches]
    values = values.reshape(len(values), *grid.size)  # [views, *grid]
    if modality != "video":
        values = values[0]  # [*grid]
    edges = [
        list(itertools.accumulate([side] * tokens, initial=0))
        for side, tokens in zip(target.manifest.patch, grid.size, strict=True)
    ]
    axes = axes_of(modality, item.pixels.shape, edges, item.evidence)
    # More than the mean is drawn as what speaks for a label is, less as what is against it. It is
    # not 1 where class token and registers keep a part, and then nearly all patches may be below 1.
    # Differences that are not told, such as those of rounding, are not drawn.
    contrast = np.round(values - values.mean(), DIGITS)
    overlay = draw(modality, item.pixels, contrast, edges, item.evidence, quick=True)
    share = min(1.0, float(rollout.sum(axis=1).mean()))  # all of it is 1 but for rounding
    return Attention(share, Map(values, axes, overlay))
