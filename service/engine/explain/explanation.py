"""What an explanation is asked with, and what it says; how it comes about is ``occlusion``'s."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.manifest import GridEntry, Manifest
from service.engine.explain.axes import Axis
from service.engine.failures import BadParameter, NoAttention
from service.engine.model import Choice
from service.engine.vocabulary import ATTENTION, EXPLAIN, EXPLAINED, MOST_EXPLAINED, OCCLUSION

METHODS = EXPLAIN.words
DIGITS = 6  # of a value in JSON


@dataclass(frozen=True, slots=True)
class Explain:
    """Which answer shall be explained, and how.

    Attributes:
        label: its place in the bundle's list; None for the most probable one. Of occlusion alone:
            attention carries what the answer is made of, whatever the label.
    """

    label: int | None = None
    method: str = OCCLUSION

    @property
    def hides(self) -> bool:
        """Whether parts of the item are hidden, which takes many runs more."""
        return self.method == OCCLUSION

    def check(self, want: str, labels: int) -> None:
        """BadParameter where the rest of a job does not go with it."""
        if self.method not in METHODS:
            raise BadParameter(
                f"explain: expected {', '.join(METHODS)}; got {self.method[:20]!a}"
            )
        if self.label is not None and not self.hides:
            raise BadParameter(f"explain: a label is explained by {OCCLUSION} alone")
        if want not in EXPLAINED:
            raise BadParameter(
                f"explain: of an answer, so with want={', '.join(EXPLAINED)}; got want={want}"
            )
        if self.label is not None and not 0 <= self.label < labels:
            raise BadParameter(f"explain: expected a label below {labels}, got {self.label}")


def explain_method(parameters: Mapping[str, str]) -> str | None:
    """What ``explain`` says; BadParameter for another method, or what does not go with it."""
    method = parameters.get("explain")
    if method is not None:
        Explain(method=method).check(parameters.get("want", EXPLAINED[0]), 1)
    if method != OCCLUSION and "explain_label" in parameters:
        raise BadParameter(f"explain_label: only with explain={OCCLUSION}")
    return method


def parse_explain(parameters: Mapping[str, str], choice: Choice, files: int) -> Explain | None:
    """From ``explain`` and ``explain_label``; None where none is asked for.

    Args:
        files: of the request.

    Raises:
        BadParameter: as ``explain_method``; too many files, or a label that the bundle does not
            have.
        NoAttention: as ``check_attention``.
    """
    if (method := explain_method(parameters)) is None:
        return None
    if method == ATTENTION:
        check_attention(choice)
        return Explain(method=method)
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


def explains(manifest: Manifest, entry: GridEntry) -> list[str]:
    """The methods that a grid of a bundle can be asked for."""
    if not manifest.labels:
        return []
    return [OCCLUSION] if entry.attention is None else [OCCLUSION, ATTENTION]


def check_attention(choice: Choice) -> None:
    """NoAttention where a grid that may answer cannot tell where attention looked."""
    lacking = [one for one in choice.targets.values() if one.entry.attention is None]
    if lacking:
        raise NoAttention(
            f"explain: bundle {lacking[0].bundle} tells no attention at grid {lacking[0].grid}: "
            f"expected one that was exported with --explain, or explain={OCCLUSION}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """What is told of every part of an item, and where the parts lie.

    Attributes:
        values: float64 ``[*cells]``, of clips ``[views, *cells]``.
        axes: where the cells of the last axes lie in the file.
        overlay: a picture of it, PNG.
    """

    values: np.ndarray
    axes: list[Axis]
    overlay: bytes

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        place = [int(one) for one in np.unravel_index(self.values.argmax(), self.values.shape)]
        return {
            "axes": [axis._asdict() for axis in self.axes],
            "values": np.round(self.values, DIGITS).tolist(),
            "peak": {
                "value": round(float(self.values[tuple(place)]), DIGITS),
                "index": place,
                "where": {axis.name: axis.at(place) for axis in self.axes},
            },
            "overlay": base64.b64encode(self.overlay).decode(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Occlusion:
    """What hiding each part of an item took from one label.

    Attributes:
        label, index: which one.
        log_odds: of it, with nothing hidden: log(p / (1 - p)).
        masks: rows that were run with something hidden.
        map: what the log odds lost in the mean of the masks over a cell.
    """

    label: str
    index: int
    log_odds: float
    masks: int
    map: Map

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "method": OCCLUSION,
            "label": self.label,
            "index": self.index,
            "log_odds": round(self.log_odds, DIGITS),
            "masks": self.masks,
            **self.map.document(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """How much of each patch attention carried into what the answer is read from.

    Attributes:
        share: of the patches together, 0 to 1, of clips in the mean over the views; the rest came
            from tokens that are no part of the file.
        map: multiples of an even share of all patches; 1 in the mean where the patches have all.
    """

    share: float
    map: Map

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        return {"method": ATTENTION, "share": round(self.share, DIGITS), **self.map.document()}


Explanation = Occlusion | Attention
