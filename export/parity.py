"""Proof that an exported graph gives the checkpoint's answers, on real inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from export.check import ATTENTION
from media.spec import Grid
from media.unread import Views
from models.manifest import Parity

#: Rows that are run together at most, and how many scores (tokens squared) of a head they may
#: have: both bound the memory that a run takes.
BATCH, SCORES = 64, 2**22


class ParityError(RuntimeError):
    """The graph and the checkpoint disagree."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """Allowed difference between two logits: atol + rtol * |expected|."""

    atol: float
    rtol: float

    def __str__(self) -> str:
        return f"{self.atol:.3g} + {self.rtol:.3g} |torch|"

    def allowed(self, expected: np.ndarray) -> np.ndarray:
        return self.atol + self.rtol * np.abs(expected)  # the shape of expected


#: What an fp32 graph may differ by from torch on the machine that exports, where no logit is
#: larger than 10; of larger ones the share of the largest that any may be off by.
FP32 = Bound(atol=1e-5, rtol=1e-4)
FP32_SHARE = 1e-6
#: Of an fp16 graph: the share of the spread of all logits that one logit may be off by.
FP16_SHARE, FP16_RTOL = 8e-3, 1e-3


def fp32_bound(largest: float) -> Bound:
    """What fp32 logits may differ by, from the magnitude of the largest one, torch's.

    A logit is a sum of products of features, which the last LayerNorm gives one length, and the
    head's weights. Its rounding goes with those products: a logit near 0 is off by as much as a
    large one, and all by a thousand times as much under a head of a thousand times the weights, as
    a linear probe with a weak penalty has. Of five small public families under such heads the
    largest difference was 1.1e-6 of the largest logit, and at most 5.4e-7 of it beyond ``rtol``.
    Logits up to 10, which trained models have, are held to ``FP32``.
    """
    return Bound(max(FP32.atol, FP32_SHARE * largest), FP32.rtol)


def fp16_bound(expected: np.ndarray) -> Bound:
    """What fp16 logits may differ by from fp32 ones, from the fp32 logits [N, classes] alone.

    A single operator in fp16 is commonly held to 2.5e-3 + 1e-3 |logit|. A whole network cannot
    be: fp16 keeps 11 bits, and rounding the weights of a 6-layer CIFAR-10 model, with all
    arithmetic in fp32, takes 0.8 of that already; rounding every result too takes 1.9 times it.
    The last LayerNorm gives all tokens one length, so rounding reaches every logit, a small one
    as well, in proportion to how far logits lie apart in general. Over that spread (standard
    deviation) the largest difference was 4.3e-3 on that model and 3.8e-3 on a 12-layer random
    ViT-S/16; twice that is allowed.
    """
    return Bound(FP16_SHARE * float(expected.std()), FP16_RTOL)


def batch_of(grid: Grid) -> int:
    """Rows of a grid that are run together."""
    return max(1, min(BATCH, SCORES // grid.tokens**2))


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """A CPU session for a graph."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def graph_logits(
    session: onnxruntime.InferenceSession,
    pixels: np.ndarray | Views,
    advance: Callable[[int], None] = lambda rows: None,
    batch: int = BATCH,
) -> np.ndarray:
    """Float32 logits [N, classes] for pixels [N, *pixels per axis, C] of the graph's type.

    Of a graph without a head its features.
    """
    pieces, output = [], session.get_outputs()[0].name
    for start in range(0, len(pixels), batch):
        piece = pixels[start : start + batch]
        pieces.append(session.run([output], {"pixels": piece})[0])
        advance(len(piece))
    return np.concatenate(pieces)


def graph_rollout(
    session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of a graph that explains, float32 logits [N, classes] and rollout of attention [N, T]."""
    rows = [
        session.run(["logits", ATTENTION], {"pixels": pixels[start : start + batch]})
        for start in range(0, len(pixels), batch)
    ]
    logits, rollouts = zip(*rows, strict=True)
    return np.concatenate(logits), np.concatenate(rollouts)


def compare(
    actual: np.ndarray, expected: np.ndarray, bound: Bound | None = None, what: str = "logits"
) -> Parity:
    """Graph against torch, both [N, classes]; without a bound they are held to ``fp32_bound``.

    The bound on every logit is one on the first class too: it can differ only where torch's own
    margin is below twice the bound. Such items are counted.

    Raises:
        ParityError: a logit is outside the bound, or not finite; it calls them ``what``.
    """
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        raise ParityError(f"the graph or torch gave {what} that are not finite")
    largest = float(np.abs(expected).max())
    bound = bound or fp32_bound(largest)
    difference = np.abs(actual - expected)
    worst = float((difference / bound.allowed(expected)).max())
    if worst > 1:
        raise ParityError(
            f"{what} differ by up to {difference.max():.3g}, {worst:.3g} times the bound {bound}"
        )
    equal = int((actual.argmax(1) == expected.argmax(1)).sum())
    return Parity(
        len(actual), float(difference.max()), worst, equal, bound.atol, bound.rtol, largest
    )
