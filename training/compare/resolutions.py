"""What a checkpoint of a comparison is measured by: other grids, and patches out of order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from media.dataset import Prepared
from media.index import Dataset
from media.spec import Grid
from models.checkpoint import load_checkpoint
from models.vit import VisionTransformer
from training import data
from training.augment.draws import Draws
from training.checks import pick_device
from training.compare.comparison import Recipe
from training.evaluate import evaluate
from training.progress import Progress
from training.run import Run
from training.step import autocast

#: Of the draws that put patches out of order.
SEED = 0


def measure(root: Path, recipe: Recipe, dataset: Dataset, progress: Progress) -> dict[str, Any]:
    """The best checkpoint of a finished run, as plain JSON; accuracies are top-1, 0 to 1.

    The network runs in the precision of the recipe, rotations are computed in float32.

    Raises:
        FloatingPointError: the model gives an answer that is no number.
    """
    model, description = load_checkpoint(root / "best")
    device = pick_device(recipe.config.device)
    model.to(device)
    held_out = data.thin(dataset, recipe.split, recipe.items)
    cache = Run(root).cache(description.notes["config"]["cache"])
    trained = model.spec.training_grid

    def prepare(grid: Grid) -> Prepared:
        return data.prepare(held_out, recipe.split, recipe.config, progress, cache, grid)

    grids = {scale: scaled(trained, scale) for scale in recipe.scales}
    plain = prepare(trained)
    mixed = Prepared(shuffled(plain.pixels, model.spec.patch), plain.labels, plain.ids, "")
    with autocast(device, recipe.config.precision):
        batch = recipe.config.items_at_a_time
        accuracy = {
            scale: _top1(model, prepare(grid), grid, batch) for scale, grid in grids.items()
        }
        without_order = _top1(model, mixed, trained, batch)
    return {
        "accuracy": {f"{scale:g}": value for scale, value in accuracy.items()},
        "grids": {f"{scale:g}": str(grid) for scale, grid in grids.items()},
        "shuffled": without_order,
        "items": len(plain.ids),
        "parameters": _count(model),
        "encoding_parameters": _count(model.encoding),
        "epoch": description.notes["best"]["epoch"],
        "step_seconds": Run(root).notes().get("step_seconds"),
        "weights_sha256": description.weights_sha256,
    }


def scaled(grid: Grid, scale: float) -> Grid:
    """The grid with so many times the tokens per axis, halves rounded up, at least one."""
    return Grid(tuple(max(1, math.floor(side * scale + 0.5)) for side in grid.size))


def shuffled(pixels: np.ndarray, patch: tuple[int, ...], seed: int = SEED) -> np.ndarray:
    """Every item's patches in an order of its own: [N, *pixels per axis, C], the same shape.

    The order depends on the seed and the item's index alone.
    """
    axes, channels = len(patch), pixels.shape[-1]
    shape = [len(pixels)]
    for side, size in zip(pixels.shape[1:-1], patch, strict=True):
        shape += [side // size, size]
    cut = pixels.reshape(*shape, channels)  # [N, g1, p1, g2, p2, ..., C]
    there = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    patches = cut.transpose(there)  # [N, g1, g2, ..., p1, p2, ..., C]
    tokens = math.prod(patches.shape[1 : axes + 1])
    flat = patches.reshape(len(pixels), tokens, -1)  # [N, T, values]
    order = Draws(seed, 0, np.arange(len(pixels))).take(tokens).argsort(1)  # [N, T]
    moved = np.take_along_axis(flat, order[..., None], 1).reshape(patches.shape)
    return moved.transpose(np.argsort(there)).reshape(pixels.shape)


def _top1(model: VisionTransformer, prepared: Prepared, grid: Grid, batch: int) -> float:
    figures = evaluate(model, prepared, batch)
    if not math.isfinite(figures["loss"]):
        raise FloatingPointError(f"logits at grid {grid} are not finite")
    return figures["top1"]


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
