"""Proof that an exported graph gives the checkpoint's answers, on real inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from models.bundle import Accuracy, Parity
from models.prepared import Prepared
from models.spec import Grid
from models.vit import VisionTransformer

#: Allowed |graph - torch| on the machine that exports: ATOL + RTOL * |torch|.
ATOL, RTOL = 1e-5, 1e-4
BATCH = 64


class ParityError(RuntimeError):
    """The graph and the checkpoint disagree."""


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """A CPU session for a graph."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def graph_logits(
    session: onnxruntime.InferenceSession,
    pixels: np.ndarray,
    advance: Callable[[int], None] = lambda items: None,
) -> np.ndarray:
    """Float32 logits [N, classes] for uint8 pixels [N, *pixels per axis, C]."""
    pieces = []
    for start in range(0, len(pixels), BATCH):
        piece = pixels[start : start + BATCH]
        pieces.append(session.run(["logits"], {"pixels": piece})[0])
        advance(len(piece))
    return np.concatenate(pieces)


@torch.inference_mode()
def torch_logits(model: VisionTransformer, pixels: np.ndarray, grid: Grid) -> np.ndarray:
    """The same from the checkpoint, rotations in float64."""
    encoded = model.encode(grid, torch.float64)
    pieces = [
        model(torch.from_numpy(pixels[start : start + BATCH]), encoded).numpy()
        for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(pieces)


def compare(actual: np.ndarray, expected: np.ndarray) -> Parity:
    """Graph against torch, both [N, classes].

    The bound on every logit is one on the first class too: it can differ only where torch's own
    margin is below twice the bound. Such items are counted.

    Raises:
        ParityError: a logit is outside the bound, or not finite.
    """
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        raise ParityError("the graph or torch gave logits that are not finite")
    difference = np.abs(actual - expected)
    bound = ATOL + RTOL * np.abs(expected)
    worst = float((difference / bound).max())
    if worst > 1:
        raise ParityError(
            f"logits differ by up to {difference.max():.3g}, {worst:.3g} times the bound "
            f"{ATOL} + {RTOL} |torch|"
        )
    equal = int((actual.argmax(1) == expected.argmax(1)).sum())
    return Parity(len(actual), float(difference.max()), worst, equal)


def accuracy(logits: np.ndarray, prepared: Prepared, split: str) -> Accuracy:
    """Top-1 of graph logits [N, classes] on the split that they came from."""
    right = float((logits.argmax(1) == prepared.labels).mean())
    return Accuracy(split, len(logits), right, prepared.sha256)
