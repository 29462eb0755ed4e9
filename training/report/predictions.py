"""What a checkpoint answers on a held-out split, kept beside the report that was made of it.

A file is an npz of plain arrays, by the names of the fields of ``Predictions``.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

#: Mistakes that a report shows.
SHOWN = 15


class PredictionsError(ValueError):
    """Predictions that cannot be used. The message says why."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One split's items and what the model says of each. N items, C classes.

    Attributes:
        logits: float32 [N, C].
        labels: the right classes, int64 [N].
        ids, groups: text [N]; a group is "" where an item has none.
        skipped: ids of the unreadable items that were left out, text.
        strips: pictures of ``mistakes()``, uint8 [their number, h, w, 3].
        weights_sha256: of the checkpoint.
        data_sha256: of the split, as ``media.dataset`` computes it.
    """

    logits: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    groups: np.ndarray
    skipped: np.ndarray
    strips: np.ndarray
    weights_sha256: str
    data_sha256: str

    def probabilities(self) -> np.ndarray:
        """Softmax over the classes, float64 [N, C]."""
        return torch.from_numpy(self.logits).double().softmax(1).numpy()

    def mistakes(self) -> np.ndarray:
        """Indices of the wrong items that the model was surest of, most probable first; int64."""
        probabilities = self.probabilities()
        given = probabilities.argmax(1)
        wrong = np.flatnonzero(given != self.labels)
        return wrong[np.argsort(-probabilities[wrong, given[wrong]], kind="stable")][:SHOWN]

    def save(self, folder: Path, split: str) -> None:
        """Write the file of a split; OSError where the disk is full."""
        with _file(folder, split).open("wb") as stream:
            arrays: dict[str, Any] = vars(self)
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, folder: Path, split: str) -> Self:
        """Read what ``save`` wrote; PredictionsError where it is anything else."""
        path = _file(folder, split)
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays: dict[str, Any] = {name: archive[name] for name in names}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            kind = type(error).__name__
            raise PredictionsError(f"{path.name} cannot be read ({kind})") from error
        for name in ("weights_sha256", "data_sha256"):
            arrays[name] = str(arrays[name])
        loaded = cls(**arrays)
        loaded._check(path.name)
        return loaded

    def _check(self, name: str) -> None:
        """Types, shapes and values that belong together."""
        items, classes = (self.labels.size,), self.logits.shape[1:2]
        wanted = {
            "logits": ("f", (*items, *classes)),
            "labels": ("i", items),
            "ids": ("U", items),
            "groups": ("U", items),
            "skipped": ("U", (self.skipped.size,)),
            "strips": ("u", (*self.strips.shape[:3], 3)),
        }
        for field, (kind, shape) in wanted.items():
            array = getattr(self, field)
            if array.dtype.kind != kind or array.shape != shape:
                raise PredictionsError(f"{name} is not one of ours: {field} {array.shape}")
        if not classes or not self.labels.size or not np.isfinite(self.logits).all():
            raise PredictionsError(f"{name} is not one of ours: logits {self.logits.shape}")
        if not 0 <= self.labels.min() <= self.labels.max() < classes[0]:
            raise PredictionsError(f"{name} is not one of ours: labels beyond {classes[0]} classes")
        if len(self.strips) != len(self.mistakes()):
            raise PredictionsError(f"{name} is not one of ours: strips {self.strips.shape}")


def load_predictions(folder: Path, weights_sha256: str, classes: int) -> dict[str, Predictions]:
    """Those of every split of a report; PredictionsError unless all are of this checkpoint."""
    try:
        report = json.loads((folder / "report.json").read_bytes())
        weights, splits = report["checkpoint"]["weights_sha256"], list(report["splits"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PredictionsError("report.json is not one of ours") from error
    if weights != weights_sha256:
        raise PredictionsError("the earlier report is of another checkpoint")
    loaded = {split: Predictions.load(folder, split) for split in splits}
    for split, one in loaded.items():
        if one.weights_sha256 != weights or one.logits.shape[1] != classes:
            raise PredictionsError(f"{_file(folder, split).name} is of another checkpoint")
    return loaded


def _file(folder: Path, split: str) -> Path:
    return folder / f"predictions-{split}.npz"
