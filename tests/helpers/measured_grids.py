"""Grids of the tiny bundles as export leaves them: with figures, a temperature and a threshold."""

from __future__ import annotations

from collections.abc import Sequence

from models.coverage import THRESHOLDS
from models.figures import Calibration, Coverage, Estimate, Figures, FittedOn, Reliability
from models.manifest import Accuracy, GridEntry, Parity
from tests.helpers.service_fixtures import LABELS, TINY

#: Of the two grids of a bundle; no other temperature makes these probabilities of those logits.
TEMPERATURES = (2.5, 0.4)
#: Below it the model does not know: of six pictures of the tests some are above and some below.
ABSTAIN = 0.65
MIX = (0.5, 0.25, 0.125, 0.125, 0.0)
CONFIDENCE = 0.625


def coverage() -> tuple[Coverage, ...]:
    """Fewer items and better answers at every further threshold; none at the last."""
    thresholds = sorted((*THRESHOLDS, ABSTAIN))
    shares = [1 - place / (len(thresholds) - 1) for place in range(len(thresholds))]
    return tuple(
        Coverage(threshold, share, 1 - share / 2 if share else None)
        for threshold, share in zip(thresholds, shares, strict=True)
    )


def figures(mix: Sequence[float] = MIX, confidence: float = CONFIDENCE) -> Figures:
    """Of a split of eight items."""
    return Figures(
        top1=Estimate(0.5, 0.25, 0.75, 2000),
        top5=None,
        balanced_accuracy=Estimate(0.625, 0.375, 0.875, 2000),
        roc_auc=Estimate(None, reason="too few items"),
        drawn="items",
        units=8,
        confidence=confidence,
        mix=tuple(mix),
        coverage=coverage(),
    )


def calibration(temperature: float) -> Calibration:
    """Fitted on twelve items."""
    before, after = Reliability(0.19, 0.9, 0.5), Reliability(0.04, 0.7, 0.4)
    return Calibration(True, temperature, "", FittedOn("val", 12, "1" * 64), before, after)


def measured_grids(modality: str = "image", abstain: float | None = None) -> tuple[GridEntry, ...]:
    """For ``write_tiny_bundle(..., grids=...)``: of both grids, at ``TEMPERATURES``."""
    return tuple(
        GridEntry(
            grid=grid,
            graph=f"graphs/{grid}.onnx",
            parity=Parity(3, 0.0, 0.0, 3),
            accuracy=Accuracy("test", 8, 0.5, "2" * 64),
            figures=figures(),
            calibration=calibration(temperature),
            abstain=abstain,
        )
        for grid, temperature in zip(TINY[modality].grids, TEMPERATURES, strict=True)
    )


def many_labels(count: int) -> tuple[str, ...]:
    """Of as many classes as one likes."""
    return (*LABELS, *(f"label {number}" for number in range(len(LABELS), count)))
