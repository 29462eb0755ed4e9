"""Answers and problems: each class is what is sent, what checks it and what OpenAPI shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from media.spec import Grid
from models.figures import Calibration, Figures
from models.manifest import GridEntry, Manifest
from service.engine.explain.explanation import explains
from service.engine.status import BundleStatus
from service.http.explain_documents import Explanation
from service.http.seen_documents import OfClip, OfImage, OfScan


class Document(BaseModel):
    """Base of all that is answered in JSON. Parts of what is answered often are dicts: for speed.

    What is not in its schema cannot be sent: it would be a mistake of ours, and is answered as one.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def encode(cls, members: Mapping[str, Any]) -> bytes:
        """These members as JSON, and none that is not there; ValueError unless they fit."""
        # Not through pydantic's methods, which cost a fifth more.
        checked = cls.__pydantic_validator__.validate_python(members)
        return cls.__pydantic_serializer__.to_json(checked, exclude_unset=True)


_PROBABILITY = "softmax over all labels, at the grid's temperature or, raw, at 1"


class Prediction(TypedDict):
    label: str
    index: Annotated[int, Field(description="of the label in the bundle's list", ge=0)]
    probability: Annotated[float, Field(description=_PROBABILITY, ge=0, le=1)]


class TimingMs(TypedDict):
    decode: Annotated[float, Field(description="upload to pixels, the wait for a worker included")]
    queue: Annotated[float, Field(description="pixels to the start of the batch")]
    inference: Annotated[float, Field(description="of the whole batch")]


_NAME = "as the form called the file, without folders, controls and what is beyond 255 characters"
_RANKED = "with want=labels: the most probable labels, descending"
_FLOAT32 = "; float32, with encoding_format=base64 its little-endian bytes as base64"
_PROBABILITIES = "with want=probabilities: [labels], softmax, as the bundle orders them" + _FLOAT32
_LOGITS = "with want=logits: [labels], of a clip the mean over its views" + _FLOAT32
_EMBEDDING = "with want=embedding: [width], before the head, of a clip the mean too" + _FLOAT32
_CALIBRATED = "with want=labels and want=probabilities: whether probabilities are calibrated; "
_CALIBRATED += "false with raw=true, where no temperature was fitted, and with "
_CALIBRATED += "other views of a clip than the bundle's own"
_ABSTAINED = "where there is a threshold: whether the calibrated probability of the first label "
_ABSTAINED += "is under it, so that the answer is that the model does not know"
_COVERAGE = "beside abstained: what is left of the measured split at this threshold; not there "
_COVERAGE += "where that was not measured"
Filename = Annotated[str, Field(description=_NAME + "; not there where it has no name")]
Array = list[float] | str


class CoverageAt(TypedDict):
    threshold: float
    share: Annotated[float, Field(description="of the measured items that is answered")]
    accuracy: Annotated[float | None, Field(description="of those; null where there are none")]


# A result is put together from these, in the order in which it is sent.


class Named(TypedDict):
    filename: NotRequired[Filename]


class Answerer(TypedDict):
    bundle: str
    version: str
    grid: Annotated[str, Field(description="tokens per axis, like 8x8; with auto the one taken")]


class Wanted(TypedDict):
    predictions: NotRequired[Annotated[list[Prediction], Field(description=_RANKED)]]
    probabilities: NotRequired[Annotated[Array, Field(description=_PROBABILITIES)]]
    logits: NotRequired[Annotated[Array, Field(description=_LOGITS)]]
    embedding: NotRequired[Annotated[Array, Field(description=_EMBEDDING)]]
    calibrated: NotRequired[Annotated[bool, Field(description=_CALIBRATED)]]
    abstained: NotRequired[Annotated[bool, Field(description=_ABSTAINED)]]
    coverage: NotRequired[Annotated[CoverageAt, Field(description=_COVERAGE)]]
    explanation: NotRequired[Explanation]
    timing_ms: TimingMs


class ImageResult(Named, Answerer, OfImage, Wanted):
    pass


class ClipResult(Named, Answerer, OfClip, Wanted):
    pass


class ScanResult(Named, Answerer, OfScan, Wanted):
    pass


class FileProblem(TypedDict):
    """As the members of a problem document."""

    type: Annotated[str, Field(description="stable, a relative URI reference")]
    title: str
    status: Annotated[int, Field(description="that a request of this file alone would have had")]
    detail: str


class FailedFile(Named):
    error: FileProblem


#: How a place of ``results`` is read: nearly all were answered.
_IN_ORDER = Field(union_mode="left_to_right")
_RESULTS: Any = Field(description="one per file, in the order sent; at least one is answered")


class Answer(Document):
    id: str = Field(description="of the request, as in the header X-Request-ID")


class ImageAnswer(Answer):
    results: list[Annotated[ImageResult | FailedFile, _IN_ORDER]] = _RESULTS


class ClipAnswer(Answer):
    results: list[Annotated[ClipResult | FailedFile, _IN_ORDER]] = _RESULTS


class ScanAnswer(Answer):
    results: list[Annotated[ScanResult | FailedFile, _IN_ORDER]] = _RESULTS


#: Of each modality.
ANSWERS: dict[str, type[Answer]] = {
    "image": ImageAnswer,
    "video": ClipAnswer,
    "volume": ScanAnswer,
}


class GridDocument(Document):
    grid: str
    pixels: list[int] = Field(
        description="after preparation, per axis: height and width, after frames or depth"
    )
    top1: float | None = Field(
        description="accuracy of the exported graph, 0 to 1; null where the bundle has no labels"
    )
    split: str | None = Field(description="that was measured; null without labels")
    items: int | None = Field(description="of it; null without labels")
    figures: Figures | None = Field(
        description="of the measured split; null in bundles from before there were any"
    )
    calibration: Calibration
    explain: list[str] = Field(description="what it can be asked with to tell where it looked")
    abstain: float | None = Field(
        description="calibrated probability of the first label under which the answer is that the "
        "model does not know, unless a request says another; null: every answer is given"
    )

    @classmethod
    def of(cls, manifest: Manifest, entry: GridEntry) -> GridDocument:
        """What a manifest says of one of its grids."""
        measured = entry.accuracy
        return cls(
            grid=entry.grid,
            pixels=list(Grid.parse(entry.grid).pixels(manifest.patch)),
            top1=measured.top1 if measured else None,
            split=measured.split if measured else None,
            items=measured.items if measured else None,
            figures=entry.figures,
            calibration=entry.calibration,
            explain=explains(manifest, entry),
            abstain=entry.abstain,
        )


class BundleDocument(Document):
    name: str
    state: str = Field(description="ready or refused")
    reason: str | None = Field(description="why it is refused")
    version: str | None = Field(default=None, description="the one that answers")
    versions: list[str] = Field(
        default=[], description="that were in the bundle's folder at start, oldest first"
    )
    modality: str | None = Field(default=None, description="image, video or volume")
    views: int | None = Field(
        default=None, description="of clips: how often one is sampled by default"
    )
    stride_seconds: float | None = Field(
        default=None, description="of clips: between two frames; 0 spreads them over the whole clip"
    )
    spacing_mm: list[float] | None = Field(
        default=None,
        description="of scans: between two voxels per axis; null where the whole scan is stretched",
    )
    device: str | None = None
    encoding: str | None = None
    precision: str | None = None
    grids: list[GridDocument] = Field(default=[], description="the first one is the default")
    labels: list[str] = Field(
        default=[],
        description="of a ready bundle none where it has no head: it answers want=embedding alone",
    )


class BundleList(Document):
    ready: bool
    default: dict[str, str | None] = Field(
        description="modality to the bundle that requests get which name none, ready or refused"
    )
    bundles: list[BundleDocument]


class AdminBundles(Document):
    bundles: list[BundleStatus]


class Status(Document):
    status: str


class Readiness(Status):
    refused: list[str] = Field(
        default=[],
        description="modalities whose default bundle is refused: their requests must name another; "
        "GET /v1/bundles says why",
    )


class ProblemDocument(Document):
    """RFC 9457, with the id of the request."""

    type: str = Field(description="stable, a relative URI reference")
    title: str
    status: int
    detail: str
    id: str
    results: list[FailedFile] | None = Field(
        default=None,
        description="of a form with several files none of which was answered: the problem of each, "
        "in the order sent; the first one's is that of the request",
    )
