"""The schemas of answers and problems, for the OpenAPI page."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from service.http.explain_documents import Explanation


class Document(BaseModel):
    """Base of the documents below; they describe answers and are not on their way."""

    model_config = ConfigDict(extra="forbid")


class Prediction(Document):
    label: str
    index: int = Field(description="of the label in the bundle's list", ge=0)
    probability: float = Field(description="softmax over all labels", ge=0, le=1)


class TimingMs(Document):
    decode: float = Field(description="upload to pixels, the wait for a worker included")
    queue: float = Field(description="pixels to the start of the batch")
    inference: float = Field(description="of the whole batch")


class SeenImage(Document):
    size: list[int] = Field(description="height and width of the upright original, pixels")
    turn: int = Field(description="EXIF orientation that made it upright", ge=1, le=8)
    box: list[list[float]] = Field(
        description="what the network saw of it: top and bottom, left and right, pixels"
    )


class Result(Document):
    filename: str | None = Field(
        default=None,
        description="as the form called the file, without folders, controls and what is beyond "
        "255 characters; not there where it has no name",
    )
    bundle: str
    version: str
    grid: str = Field(description="tokens per axis, like 8x8; with auto the one taken")
    predictions: list[Prediction] = Field(
        default=[], description="with want=labels: the most probable labels, descending"
    )
    probabilities: list[float] | str | None = Field(
        default=None,
        description="with want=probabilities: [labels], softmax, in the order of the bundle's "
        "labels; float32, with encoding_format=base64 its little-endian bytes as base64",
    )
    logits: list[float] | str | None = Field(
        default=None,
        description="with want=logits: [labels], of a clip the mean over its views; float32 as "
        "probabilities",
    )
    embedding: list[float] | str | None = Field(
        default=None,
        description="with want=embedding: [width], the features before the head, of a clip the "
        "mean over its views; float32 as probabilities",
    )
    explanation: Explanation | None = Field(default=None, description="with explain")
    timing_ms: TimingMs


class SeenClip(Document):
    seconds: list[list[float]] = Field(
        description="for every view, when each of its frames is shown, from the start of the clip"
    )
    size: list[int] | None = Field(
        description="height and width of its frames, upright, of square pixels; null where frames "
        "have different ones"
    )
    box: list[list[float]] | None = Field(
        description="what the network saw of a frame: top and bottom, left and right, pixels"
    )


class SeenScan(Document):
    orientation: str = Field(
        description="where depth, height and width run to: S superior, P posterior, L left"
    )
    spacing_mm: list[float] | None = Field(
        description="between two voxels of depth, height and width as the network saw them; null "
        "where the file does not say"
    )
    size: list[int] = Field(description="voxels of the scan per axis, before resampling")
    box: list[list[float]] = Field(
        description="from where to where the network saw along each axis, in those voxels; what "
        "lies beyond the scan was filled"
    )


class ImageResult(Result):
    seen: SeenImage = Field(description="which part of the picture the network saw")


class ClipResult(Result):
    seen: SeenClip = Field(description="which frames the network saw")


class ScanResult(Result):
    seen: SeenScan = Field(description="how the network saw the scan")


class FileProblem(Document):
    """As the members of a problem document."""

    type: str = Field(description="stable, a relative URI reference")
    title: str
    status: int = Field(description="that a request of this file alone would have had")
    detail: str


class FailedFile(Document):
    filename: str | None = Field(default=None, description="as in results")
    error: FileProblem


class Answer(Document):
    id: str = Field(description="of the request, as in the header X-Request-ID")
    results: list[Result | FailedFile] = Field(
        description="one per file, in the order sent; at least one is answered"
    )


class ImageAnswer(Answer):
    results: list[ImageResult | FailedFile]  # type: ignore[assignment]


class ClipAnswer(Answer):
    results: list[ClipResult | FailedFile]  # type: ignore[assignment]


class ScanAnswer(Answer):
    results: list[ScanResult | FailedFile]  # type: ignore[assignment]


class GridDocument(Document):
    grid: str
    pixels: list[int] = Field(
        description="after preparation, per axis: height and width, after frames or depth"
    )
    top1: float = Field(description="accuracy of the exported graph, 0 to 1")


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
    labels: list[str] = []


class BundleList(Document):
    ready: bool
    default: dict[str, str | None] = Field(
        description="modality to the bundle that requests get which name none, ready or refused"
    )
    bundles: list[BundleDocument]


class AdminBundle(Document):
    name: str
    state: str | None = Field(description="ready or refused; null where it was not loaded yet")
    loaded: str | None = Field(description="the version that answers in this process")
    draining: list[str] = Field(
        description="versions that answered before and have requests inside, or are loaded just now"
    )
    versions: list[str] = Field(description="in the folder, oldest first")
    answering: str | None = Field(
        description="the version that answers by the folder: after SIGHUP or the next start"
    )
    previous: str | None = Field(description="the version that a rollback promotes")
    writable: bool = Field(description="whether promote, rollback and retire can change the folder")
    refused: str | None = Field(description="why the newest candidate was, or the bundle itself")


class AdminBundles(Document):
    bundles: list[AdminBundle]


class Status(Document):
    status: str


class Readiness(Status):
    refused: list[str] = Field(
        default=[],
        description="modalities whose default bundle is refused: their requests must name another; "
        "GET /v1/bundles says why",
    )


class ProblemDocument(BaseModel):
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
