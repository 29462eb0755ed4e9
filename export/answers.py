"""What a graph answers to one split, and what is told of it. N items, C classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Self

import numpy as np

from media.dataset import Prepared
from media.index import Dataset
from media.unread import Unread
from models.bootstrap import DRAWS
from models.coverage import coverage
from models.figures import Figures, Reliability
from models.manifest import Accuracy
from models.measures import calibration_error, measure


@dataclasses.dataclass(frozen=True)
class Answers:
    """One split's items and what the graph says of each.

    Attributes:
        logits: of the items, float [N, C].
        labels: the right classes, int64 [N].
        groups: what each item belongs to, "" for an item of its own; N.
        sha256: of the split's ids, labels and contents, in order, of all its items.
        digests: of each item's bytes, uint8 [N, 16].
    """

    logits: np.ndarray
    labels: np.ndarray
    groups: tuple[str, ...]
    split: str
    sha256: str
    digests: np.ndarray

    @classmethod
    def of(
        cls, dataset: Dataset, split: str, prepared: Prepared | Unread, logits: np.ndarray
    ) -> Self:
        """Of all items of a split that could be read; ``logits`` [N * V, C] are of every view."""
        group_of = {item.id: item.group for item in dataset.view(split).items}
        groups = tuple(group_of[id_] for id_ in prepared.ids)
        means = prepared.of_items(logits)  # [N, C]
        return cls(means, prepared.labels, groups, split, prepared.sha256, prepared.digests)

    def without(self, digests: np.ndarray) -> Self:
        """The items whose bytes are not among those, uint8 [M, 16]."""
        kept = np.flatnonzero(~shared(self.digests, digests))
        return dataclasses.replace(
            self,
            logits=self.logits[kept],
            labels=self.labels[kept],
            groups=tuple(self.groups[index] for index in kept),
            digests=self.digests[kept],
        )

    def likelihoods(self, temperature: float) -> np.ndarray:
        """Logarithms of softmax(logits / temperature), float64 [N, C]."""
        scaled = self.logits.astype(np.float64) / temperature
        scaled -= scaled.max(1, keepdims=True)
        return scaled - np.log(np.exp(scaled).sum(1, keepdims=True))

    def accuracy(self) -> Accuracy:
        """Top-1 of the logits."""
        right = self.logits.argmax(1) == self.labels
        return Accuracy(self.split, len(right), float(right.mean()), self.sha256)


def shared(digests: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which digests, uint8 [N, 16], are among the others, [M, 16]: bool [N]."""
    known = {other.tobytes() for other in others}
    return np.array([digest.tobytes() in known for digest in digests], bool)


def reliability(answers: Answers, temperature: float) -> Reliability:
    """How far the probabilities at a temperature are from what came true."""
    likelihoods, items = answers.likelihoods(temperature), np.arange(len(answers.labels))
    probabilities = np.exp(likelihoods)  # [N, C]
    right = probabilities.argmax(1) == answers.labels
    error = calibration_error(probabilities.max(1), right, np.ones((len(items), 1)))  # [1]
    nll = -likelihoods[items, answers.labels].mean()
    probabilities[items, answers.labels] -= 1  # what is left is the distance from the truth
    return Reliability(error.item(), float(nll), float((probabilities**2).sum(1).mean()))


def figures(
    answers: Answers, temperature: float, thresholds: Iterable[float], draws: int = DRAWS
) -> Figures:
    """What the manifest tells of the measured split.

    Args:
        thresholds: of the coverage.
        draws: behind each interval; 0 for the values alone.
    """
    probabilities = np.exp(answers.likelihoods(temperature))
    measured = measure(probabilities, answers.labels, answers.groups, draws=draws)
    highest, answered = probabilities.max(1), probabilities.argmax(1)  # [N]
    counts = np.bincount(answered, minlength=probabilities.shape[1])  # [C]
    return Figures(
        top1=measured.figures["top1"],
        top5=measured.figures.get("top5"),
        balanced_accuracy=measured.figures["balanced_accuracy"],
        roc_auc=measured.figures["roc_auc"],
        drawn=measured.drawn,
        units=measured.units,
        confidence=float(highest.mean()),
        mix=tuple((counts / len(answered)).tolist()),
        coverage=coverage(highest, answered == answers.labels, thresholds),
    )
