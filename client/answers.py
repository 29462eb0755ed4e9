"""What the server answers, as frozen dataclasses with the members of its JSON.

Members that a newer server adds are passed over here and kept in ``document``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def whole() -> Any:
    """A field that holds the JSON object itself, as it came."""
    return field(default_factory=dict, repr=False, compare=False, metadata={"whole": True})


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of the ranking; ``index`` is its place in the bundle's list."""

    label: str
    index: int
    probability: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class TimingMs:
    """Milliseconds that the server took."""

    decode: float  # upload to pixels
    queue: float  # pixels to the start of the batch
    inference: float  # of the whole batch


@dataclass(frozen=True, slots=True)
class Seen:
    """Which part of a file the network saw; members of another kind of files are None."""

    seconds: tuple[tuple[float, ...], ...] | None = None  # of a clip: [views, frames]
    orientation: str | None = None  # of a scan: where depth, height and width run to
    spacing_mm: tuple[float, ...] | None = None  # None too where the file does not say
    size: tuple[int, ...] | None = None  # pixels or voxels per axis, upright, before resampling
    box: tuple[tuple[float, ...], ...] | None = None  # [from, to] per axis of size
    turn: int | None = None  # of an image: the EXIF orientation that was undone


class Floats(tuple[float, ...]):
    """An array of float32, which comes as a list of numbers or as base64 of its bytes."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is left of the split that a bundle was measured on, at a threshold."""

    threshold: float  # of the first label's calibrated probability
    share: float  # of the items that reach it, 0 to 1
    accuracy: float | None  # share of those that are right; None where none reaches it


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one file: what was wanted of it.

    Attributes:
        predictions: descending.
        probabilities, logits: ``[labels]``, in the order of the bundle's labels.
        embedding: ``[width]``.
        calibrated: whether the probabilities are, which they are not in other views of a clip than
            the bundle's own; None where there are none.
        abstained: whether the answer is that the model does not know; None where there is no
            threshold.
        coverage: what was measured at that threshold.
    """

    bundle: str
    version: str
    grid: str
    timing_ms: TimingMs
    predictions: tuple[Prediction, ...] = ()
    probabilities: Floats | None = None
    logits: Floats | None = None
    embedding: Floats | None = None
    calibrated: bool | None = None
    abstained: bool | None = None
    coverage: Coverage | None = None
    seen: Seen | None = None
    document: dict[str, Any] = whole()


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why a file of a request was not answered."""

    type: str
    title: str
    status: int  # that a request of this file alone would have had
    detail: str


@dataclass(frozen=True, slots=True)
class FailedFile:
    """In the place of a result."""

    error: FileProblem


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: what became of every file in it."""

    id: str
    results: tuple[FailedFile | Result, ...]


@dataclass(frozen=True, slots=True)
class BundleGrid:
    """A grid that a bundle can be asked for; ``pixels`` per axis, ``top1`` from 0 to 1."""

    grid: str
    pixels: tuple[int, ...]
    top1: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle of the server; what a refused one does not tell is None or empty."""

    name: str
    state: str  # ready or refused
    reason: str | None = None  # of the refusal
    version: str | None = None  # the one that answers
    versions: tuple[str, ...] = ()  # oldest first
    modality: str | None = None
    views: int | None = None
    stride_seconds: float | None = None
    spacing_mm: tuple[float, ...] | None = None
    device: str | None = None
    encoding: str | None = None
    precision: str | None = None
    grids: tuple[BundleGrid, ...] = ()  # the first is the default
    labels: tuple[str, ...] = ()
    document: dict[str, Any] = whole()


@dataclass(frozen=True, slots=True)
class Bundles:
    """What is served; ``default`` says by modality who answers requests that name nobody."""

    ready: bool
    default: dict[str, str | None]
    bundles: tuple[Bundle, ...]


@dataclass(frozen=True, slots=True)
class ProblemDocument:
    """The members of a problem, of which RFC 9457 demands none."""

    type: str = "about:blank"
    title: str = ""
    detail: str = ""
    id: str = ""
