"""What the engine is asked and what it answers: a job is one file, or its pixels; so is an outcome.

Server, command line and programs make jobs and give them to ``Engine.submit``.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from service.engine.decode.evidence import Evidence
from service.engine.decode.task import Encoded
from service.engine.device.queues import Row
from service.engine.explain.explanation import Explain, Explanation
from service.engine.failures import BadParameter, UnknownBundle
from service.engine.model import Choice, Target
from service.engine.schedule import BATCH

JobClass = Literal["interactive", "batch"]
Want = Literal["labels", "probabilities", "logits", "embedding", "rows", "pixels"]
#: How an array is told: a list of numbers, or base64 of little-endian float32 in C order.
EncodingFormat = Literal["float", "base64"]
DEFAULT_TOP_K = 5


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One file or prepared array, who may answer it, and what is wanted of it.

    Attributes:
        media: the encoded file; or pixels, ``[views, *pixels per axis, channels]`` of the graph's
            dtype, in any memory layout. May not change before the job is done.
        choice: who answers; of several grids the file's own size takes one.
        want: ``labels``, the ``top_k`` most probable; ``probabilities``, of all labels;
            ``logits``, of views their mean; ``embedding``, the features before the head, of views
            their mean too; ``rows``, the logits of every view; ``pixels``, as the graph would get
            them.
        deadline: of the answer, seconds, monotonic.
        job_class: ``batch`` works when interactive work leaves room, and without a deadline it is
            never refused: it waits.
        explain: which answer shall be explained; all of such a job is batch work.

    Raises:
        UnknownBundle: nobody is named to answer.
        BadParameter: something else cannot be meant; it says what was expected and what came.
    """

    media: Encoded | np.ndarray
    choice: Choice
    want: Want = "labels"
    top_k: int = DEFAULT_TOP_K
    deadline: float = math.inf
    job_class: JobClass = "interactive"
    explain: Explain | None = None

    def __post_init__(self) -> None:
        if not self.choice.targets:
            raise UnknownBundle("the job names no bundle")
        for name, known in (("want", Want), ("job_class", JobClass)):
            if (given := getattr(self, name)) not in get_args(known):
                expected = ", ".join(get_args(known))
                raise BadParameter(f"{name}: expected one of {expected}; got {given!r:.20}")
        if self.top_k < 1:
            raise BadParameter(f"top_k: expected at least 1, got {self.top_k}")
        if math.isnan(self.deadline):
            raise BadParameter("deadline: expected seconds, got no number")
        if self.explain is not None:
            self.explain.check(self.want, len(self.choice.manifest.labels))
        if isinstance(self.media, np.ndarray):
            self._check_pixels(self.media)

    def _check_pixels(self, pixels: np.ndarray) -> None:
        """BadParameter unless they are what the graph of the only grid takes."""
        if len(self.choice.targets) > 1:
            grids = ", ".join(self.choice.targets)
            raise BadParameter(f"grid: expected one for prepared pixels, got {grids}")
        (target,) = self.choice.targets.values()
        dtype = target.preparation.dtype
        if pixels.shape != target.shape or pixels.dtype != dtype:
            expected = f"{dtype} {list(target.shape)} for grid {target.grid}"
            raise BadParameter(
                f"pixels: expected {expected}, got {pixels.dtype} {list(pixels.shape)}"
            )

    @property
    def kind(self) -> str:
        """Under which it is counted and takes turns."""
        batch = self.job_class == "batch" or self.explain is not None
        return BATCH if batch else self.choice.manifest.modality


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one item went, in milliseconds."""

    decode: float = 0.0  # from the upload to its pixels, the wait for a worker included
    queue: float = 0.0  # from the pixels to the start of the batch; of views the last one's
    inference: float = 0.0  # of that whole batch

    @classmethod
    def of(cls, *seconds: float) -> Timing:
        """Of as many stages as there were."""
        return cls(*(round(1000 * one, 3) for one in seconds))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The answer to one job; of the six from predictions on what was wanted, the others empty.

    Attributes:
        evidence: which part of the file the network saw; nothing of pixels that came prepared.
        predictions: label, index, probability; descending.
        probabilities: float64 ``[classes]``, in the order of the bundle's labels; their sum is 1.
        logits: float ``[classes]``.
        embedding: float ``[width]``.
        rows: float32 ``[views, classes]``.
        pixels: ``[views, *pixels per axis, channels]`` of the graph's dtype.
        explanation: of the answer, where it was asked for.
    """

    target: Target
    evidence: Evidence
    timing: Timing
    predictions: list[dict[str, Any]] = field(default_factory=list)
    probabilities: np.ndarray | None = None
    logits: np.ndarray | None = None
    embedding: np.ndarray | None = None
    rows: np.ndarray | None = None
    pixels: np.ndarray | None = None
    explanation: Explanation | None = None

    def document(self, encoding_format: EncodingFormat = "float") -> dict[str, Any]:
        """What was wanted, as clients see it: ranked labels, or an array of float32."""
        wanted = {
            name: told(array, encoding_format)
            for name in ("probabilities", "logits", "embedding")
            if (array := getattr(self, name)) is not None
        }
        return {
            "bundle": self.target.bundle,
            "version": self.target.manifest.version,
            "grid": self.target.grid,
            **({"seen": self.evidence} if self.evidence else {}),
            **(wanted or {"predictions": self.predictions}),
            **({"explanation": self.explanation.document()} if self.explanation else {}),
            "timing_ms": {
                "decode": self.timing.decode,
                "queue": self.timing.queue,
                "inference": self.timing.inference,
            },
        }


def wanted(job: Job, target: Target, row: Row) -> dict[str, Any]:
    """The field of an ``Outcome`` that a run gives."""
    if job.want == "labels":
        return {"predictions": rank(row.logits, target.labels, job.top_k)}
    if job.want == "probabilities":
        return {"probabilities": softmax(row.logits)}
    return {job.want: getattr(row, job.want)}


def told(array: np.ndarray, encoding_format: EncodingFormat) -> list[float] | str:
    """An array of numbers as clients see it, rounded to float32; see ``EncodingFormat``."""
    narrow = array.astype("<f4")
    if encoding_format == "base64":
        return base64.b64encode(narrow.tobytes()).decode()
    return [float(one) for one in narrow]


def softmax(logits: np.ndarray) -> np.ndarray:
    """float ``[classes]`` -> float64 probabilities ``[classes]``; no overflow at any magnitude."""
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max())
    return exponentials / exponentials.sum()


def rank(logits: np.ndarray, labels: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    """The ``top_k`` most probable labels, descending; the lower index wins a tie."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        {"label": labels[index], "index": index, "probability": round(probability, 6)}
        for index, probability in zip(order.tolist(), probabilities[order].tolist(), strict=True)
    ]
