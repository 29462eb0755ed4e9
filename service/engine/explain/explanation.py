"""What an explanation is asked with, and what it says; how it comes about is ``occlusion``'s."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.explain.axes import Axis
from service.engine.failures import BadParameter
from service.engine.model import Choice
from service.engine.vocabulary import EXPLAIN, EXPLAINED, MOST_EXPLAINED

METHODS = EXPLAIN.words
DIGITS = 6  # of a value in JSON


@dataclass(frozen=True, slots=True)
class Explain:
    """Which answer shall be explained.

    Attributes:
        label: its place in the bundle's list; None for the most probable one.
    """

    label: int | None = None

    def check(self, want: str, labels: int) -> None:
        """BadParameter where the rest of a job does not go with it."""
        if want not in EXPLAINED:
            raise BadParameter(
                f"explain: of an answer, so with want={', '.join(EXPLAINED)}; got want={want}"
            )
        if self.label is not None and not 0 <= self.label < labels:
            raise BadParameter(f"explain: expected a label below {labels}, got {self.label}")


def is_explained(parameters: Mapping[str, str]) -> bool:
    """Whether ``explain`` is said; BadParameter for another method, or what does not go with it."""
    if (method := parameters.get("explain")) is None:
        if "explain_label" in parameters:
            raise BadParameter(f"explain_label: only with explain={METHODS[0]}")
        return False
    if method not in METHODS:
        raise BadParameter(f"explain: expected {', '.join(METHODS)}; got {method[:20]!a}")
    Explain().check(parameters.get("want", EXPLAINED[0]), 1)
    return True


def parse_explain(parameters: Mapping[str, str], choice: Choice, files: int) -> Explain | None:
    """From ``explain`` and ``explain_label``; None where none is asked for.

    Args:
        files: of the request.

    Raises:
        BadParameter: as ``is_explained``; too many files, or a label that the bundle does not have.
    """
    if not is_explained(parameters):
        return None
    if files > MOST_EXPLAINED:
        raise BadParameter(f"explain: expected at most {MOST_EXPLAINED} files, got {files}")
    if (label := parameters.get("explain_label")) is None:
        return Explain()
    manifest = choice.manifest
    if label not in manifest.labels:
        raise BadParameter(
            f"explain_label: bundle {manifest.name} has no label {label[:40]!a}; "
            "GET /v1/bundles lists them"
        )
    return Explain(manifest.labels.index(label))


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What hiding each part of an item took from one label.

    Attributes:
        label, index: which one.
        log_odds: of it, with nothing hidden: log(p / (1 - p)).
        masks: rows that were run with something hidden.
        values: what the log odds lost in the mean of the masks over a cell, float64 ``[*cells]``,
            of clips ``[views, *cells]``.
        axes: where the cells of the last axes lie in the file.
        overlay: a picture of it, PNG.
    """

    label: str
    index: int
    log_odds: float
    masks: int
    values: np.ndarray
    axes: list[Axis]
    overlay: bytes

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        place = [int(one) for one in np.unravel_index(self.values.argmax(), self.values.shape)]
        return {
            "method": METHODS[0],
            "label": self.label,
            "index": self.index,
            "log_odds": round(self.log_odds, DIGITS),
            "masks": self.masks,
            "axes": [axis._asdict() for axis in self.axes],
            "values": np.round(self.values, DIGITS).tolist(),
            "peak": {
                "value": round(float(self.values[tuple(place)]), DIGITS),
                "index": place,
                "where": {axis.name: axis.at(place) for axis in self.axes},
            },
            "overlay": base64.b64encode(self.overlay).decode(),
        }
