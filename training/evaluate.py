"""Measuring a model on a split, decoded or listed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from media.dataset import Prepared
from media.spec import Grid
from media.unread import Unread, Views
from models.vit import Encoded, VisionTransformer
from training.batches import Rows
from training.listed import Listed
from training.loader import Loader
from training.processes import ALONE, Processes
from training.step import autocast
from training.stopping import Stop
from training.transfer import to_device

#: Values that a batch of pixels holds at most; as float32 they take 256 MiB.
VALUES = 2**26


@torch.inference_mode()
def logits_of(
    model: VisionTransformer,
    pixels: np.ndarray | Views | Rows,
    batch: int = 256,
    check: Callable[[], None] = lambda: None,
    encoded: Encoded | None = None,
) -> Tensor:
    """Float32 logits [N, classes], on the CPU, for pixels [N, *pixels per axis, C], in order.

    Rotations are computed once, as in a training step: in float32, a cacheful at a time.

    Args:
        batch: rows that go through the network at a time; fewer where they are large, and at a
            larger grid than the trained one, where attention sees more pairs of tokens.
        check: called before every batch, and where a worker has died; it may raise.
        encoded: ``encode_for`` the grid of the pixels, where it is known already.
    """
    device = model.device
    sides = zip(pixels.shape[1:-1], model.spec.patch, strict=True)
    grid = Grid(tuple(side // patch for side, patch in sides))
    encoded = encoded or encode_for(model, grid)
    pairs = max(1, grid.tokens / model.spec.training_grid.tokens) ** 2
    batch = max(1, min(int(batch / pairs), VALUES // math.prod(pixels.shape[1:])))
    pieces = []
    with torch.compiler.set_stance("force_eager"):  # every odd batch would be compiled anew
        for piece in _pieces(pixels, batch, device, check):
            check()
            pieces.append(model(to_device(piece, device), encoded))  # [batch, classes]
    if not pieces:  # a process of several may have no rows
        return torch.empty(0, model.spec.classes)
    return torch.cat(pieces).cpu()  # a GPU is waited for here, once


def _pieces(
    pixels: np.ndarray | Views | Rows,
    batch: int,
    device: torch.device,
    check: Callable[[], None],
) -> Iterator[np.ndarray | Tensor]:
    """``batch`` rows at a time; those that have to be decoded are read ahead."""
    if not isinstance(pixels, Rows):
        for start in range(0, len(pixels), batch):
            yield pixels[start : start + batch]
        return
    rows, count = pixels.in_steps(batch), math.ceil(len(pixels) / batch)
    loader = Loader(rows, 0, count, device, check)
    try:
        for number in range(count):
            yield loader.take(number, rows.rows(number)).pixels
    finally:
        loader.close()


@torch.inference_mode()
def encode_for(model: VisionTransformer, grid: Grid) -> Encoded:
    """What all items at a grid share, without the room that gradients would take."""
    return model.encode(grid)


def validating(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The autocast that a run measures its epochs under: on a GPU that of its steps.

    On a CPU there is none, and none in reports and exports: their figures are those of fp32.
    """
    return autocast(device, precision if device.type == "cuda" else "fp32")


def evaluate(
    model: VisionTransformer,
    prepared: Prepared | Listed,
    batch: int = 256,
    stop: Stop | None = None,
    workers: int = 0,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Measure in evaluation mode; an item's logits are the mean over its views.

    Args:
        batch: as of ``logits_of``.
        stop: may end it before every batch.
        workers: processes that read a listed split ahead.
        processes: that share the items; all of them measure the whole.

    Returns:
        ``top1`` (fraction right), ``balanced_accuracy`` (mean over the classes that are there of
        the fraction right) and ``loss`` (cross-entropy, nats).
    """
    model.eval()
    stop, items = stop or Stop(), processes.rows(len(prepared.labels))
    with stop.together():
        pixels = (
            Rows(prepared, workers, items=items)
            if isinstance(prepared, Listed)
            else rows_of(prepared, items)
        )
        own = logits_of(model, pixels, batch, stop.check)
    views = processes.gather_rows(own)  # [N * V, classes]
    logits = torch.from_numpy(prepared.of_items(views.numpy()))  # [N, classes]
    targets = torch.from_numpy(prepared.labels)
    right = (logits.argmax(1) == targets).double()
    per_class = [right[targets == label].mean() for label in targets.unique()]
    return {
        "top1": right.mean().item(),
        "balanced_accuracy": torch.stack(per_class).mean().item(),
        "loss": torch.nn.functional.cross_entropy(logits, targets).item(),
    }


@overload
def rows_of(prepared: Prepared, items: slice) -> np.ndarray: ...
@overload
def rows_of(prepared: Prepared | Unread, items: slice) -> np.ndarray | Views: ...
def rows_of(prepared: Prepared | Unread, items: slice) -> np.ndarray | Views:
    """All views of some items, [n * V, *pixels per axis, C]; nothing is decoded for it."""
    if isinstance(prepared, Unread):
        return prepared.pixels.of(items)
    return prepared.pixels[items.start * prepared.views : items.stop * prepared.views]
