"""What the server answers, as frozen dataclasses with the members of its JSON.

Members that a newer server adds are passed over here and kept in ``document``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from client.figures import Calibration, Coverage, Figures


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


class Nested(tuple[Any, ...]):
    """An array of numbers as tuples of tuples, one level for each axis."""


@dataclass(frozen=True, slots=True)
class ExplanationAxis:
    """Where the cells of a map lie in the file, along one axis."""

    name: str  # time or depth, height, width
    unit: str  # px, s, mm, voxel or input px
    cells: Nested  # [cells, from and to]; of time [views, cells, from and to]


@dataclass(frozen=True, slots=True)
class Peak:
    """The cell that was worth most."""

    value: float
    index: tuple[int, ...]  # its place in the values
    where: dict[str, tuple[float, ...]]  # of each axis: from and to


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the model looked.

    Attributes:
        method: occlusion or attention.
        values: ``[height, width]``, of a scan ``[depth, height, width]``, of a clip ``[views, time,
            height, width]``: what the log odds lost where a cell was hidden, or how many times an
            even share attention carried from a patch.
        overlay: a PNG, what the model saw under the values.
        label, index: of occlusion, what is explained, and its place in the bundle's list.
        log_odds: of occlusion, those of the label with nothing hidden.
        masks: of occlusion, rows that were run with something hidden.
        share: of attention, what came from the patches, 0 to 1; the rest is no part of the file.
    """

    method: str
    axes: tuple[ExplanationAxis, ...]
    values: Nested
    peak: Peak
    overlay: bytes = field(repr=False)
    label: str | None = None
    index: int | None = None
    log_odds: float | None = None
    masks: int | None = None
    share: float | None = None


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
        explanation: where the model looked; None where that was not asked for.
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
    explanation: Explanation | None = None
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
class PreparedTiming:
    """Milliseconds that the server took."""

    decode: float  # upload to pixels


@dataclass(frozen=True, slots=True)
class Pixels:
    """An array; ``numpy.frombuffer(data, dtype).reshape(shape)`` is it."""

    axes: tuple[str, ...]  # like view, height, width, channel
    shape: tuple[int, ...]  # size of each
    dtype: str  # uint8 or float32, little endian; values from 0 to 255
    data: bytes = field(repr=False)  # in C order


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file as the network would get it."""

    bundle: str
    version: str
    grid: str
    timing_ms: PreparedTiming
    pixels: Pixels
    seen: Seen | None = None
    document: dict[str, Any] = whole()


@dataclass(frozen=True, slots=True)
class BundleGrid:
    """A grid that a bundle can be asked for, and how good its answers are.

    Attributes:
        pixels: per axis.
        top1: accuracy on the measured split, 0 to 1; None where the bundle has no labels.
        figures: None in bundles from before there were any.
        abstain: threshold of a request that says no other; None is no threshold.
        explain: what it can be asked with to tell where it looked; none of older servers.
    """

    grid: str
    pixels: tuple[int, ...]
    top1: float | None
    split: str | None = None  # that was measured
    items: int | None = None  # of it
    figures: Figures | None = None
    calibration: Calibration | None = None
    abstain: float | None = None
    explain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle of the server; what a refused one does not tell is None or empty.

    One that is ready and has no labels answers ``want="embedding"`` alone.
    """

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
