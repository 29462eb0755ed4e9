"""Measuring a model on a prepared split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.prepared import Prepared
from models.spec import Grid
from models.vit import VisionTransformer


@torch.inference_mode()
def logits_of(model: VisionTransformer, pixels: np.ndarray, batch: int = 256) -> Tensor:
    """Float32 logits [N, classes] for uint8 pixels [N, *pixels per axis, C], in order.

    Rotations are computed once, in float64, whatever the training precision was.
    """
    device = model.head.weight.device
    sides = zip(pixels.shape[1:-1], model.spec.patch, strict=True)
    encoded = model.encode(Grid(tuple(side // patch for side, patch in sides)), torch.float64)
    pieces = [
        model(torch.from_numpy(pixels[start : start + batch]).to(device), encoded).cpu()
        for start in range(0, len(pixels), batch)
    ]
    return torch.cat(pieces)


def evaluate(model: VisionTransformer, prepared: Prepared) -> dict[str, float]:
    """``top1`` (fraction right) and ``loss`` (cross-entropy, nats) in evaluation mode."""
    was_training = model.training
    model.eval()
    logits = logits_of(model, prepared.pixels)
    model.train(was_training)
    targets = torch.from_numpy(prepared.labels)
    return {
        "top1": (logits.argmax(1) == targets).double().mean().item(),
        "loss": torch.nn.functional.cross_entropy(logits, targets).item(),
    }
