"""Measuring a model on a prepared split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from media.dataset import Prepared
from media.spec import Grid
from models.vit import VisionTransformer

#: Values that a batch of pixels holds at most; as float32 they take 256 MiB.
VALUES = 2**26


@torch.inference_mode()
def logits_of(
    model: VisionTransformer,
    pixels: np.ndarray,
    batch: int = 256,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Float32 logits [N, classes] for pixels [N, *pixels per axis, C], in order.

    Rotations are computed once, in float64, whatever the training precision was. At most ``batch``
    rows go through the network at a time, fewer where they are large. ``check`` is called before
    every batch and may raise.
    """
    device = model.head.weight.device
    sides = zip(pixels.shape[1:-1], model.spec.patch, strict=True)
    encoded = model.encode(Grid(tuple(side // patch for side, patch in sides)), torch.float64)
    batch = max(1, min(batch, VALUES // pixels[0].size))
    pieces = []
    with torch.compiler.set_stance("force_eager"):  # every odd batch would be compiled anew
        for start in range(0, len(pixels), batch):
            check()
            piece = torch.from_numpy(pixels[start : start + batch]).to(device)
            pieces.append(model(piece, encoded).cpu())
    return torch.cat(pieces)


def evaluate(
    model: VisionTransformer, prepared: Prepared, check: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Measure in evaluation mode; an item's logits are the mean over its views.

    Returns:
        ``top1`` (fraction right), ``balanced_accuracy`` (mean over the classes that are there of
        the fraction right) and ``loss`` (cross-entropy, nats).
    """
    model.eval()
    views = logits_of(model, prepared.pixels, check=check)  # [N * V, classes]
    logits = torch.from_numpy(prepared.of_items(views.numpy()))  # [N, classes]
    targets = torch.from_numpy(prepared.labels)
    right = (logits.argmax(1) == targets).double()
    per_class = [right[targets == label].mean() for label in targets.unique()]
    return {
        "top1": right.mean().item(),
        "balanced_accuracy": torch.stack(per_class).mean().item(),
        "loss": torch.nn.functional.cross_entropy(logits, targets).item(),
    }
