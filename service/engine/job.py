"""What the engine is asked and what it answers: a job is one file, or its pixels; so is an outcome.

Server, command line and programs make jobs and give them to ``Engine.submit``.
"""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from models.figures import Coverage
from service.engine.decode.evidence import Evidence
from service.engine.decode.task import Encoded
from service.engine.device.queues import Key, Row
from service.engine.explain.explanation import Explain, Explanation, check_attention
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
        raw: whether probabilities are the network's own, and not calibrated.
        abstain: calibrated probability of the first label, in [0, 1], under which the answer is
            that the model does not know; 0 is never. None is what the bundle says.
        explain: which answer shall be explained; by occlusion, all of such a job is batch work.
        embed: whether the embedding is told too, beside what is wanted.

    Raises:
        UnknownBundle: nobody is named to answer.
        BadParameter: something else cannot be meant; it says what was expected and what came.
        NoAttention: of a bundle that cannot tell where it looked.
    """

    media: Encoded | np.ndarray
    choice: Choice
    want: Want = "labels"
    top_k: int = DEFAULT_TOP_K
    deadline: float = math.inf
    job_class: JobClass = "interactive"
    raw: bool = False
    abstain: float | None = None
    explain: Explain | None = None
    embed: bool = False

    def __post_init__(self) -> None:
        if not self.choice.targets:
            raise UnknownBundle("the job names no bundle")
        for name, known in (("want", Want), ("job_class", JobClass)):
            if (given := getattr(self, name)) not in get_args(known):
                expected = ", ".join(get_args(known))
                raise BadParameter(f"{name}: expected one of {expected}; got {given!r:.20}")
        if self.top_k < 1:
            raise BadParameter(f"top_k: expected at least 1, got {self.top_k}")
        if self.abstain is not None and not 0 <= self.abstain <= 1:
            raise BadParameter(f"abstain: expected a number from 0 to 1, got {self.abstain}")
        if math.isnan(self.deadline):
            raise BadParameter("deadline: expected seconds, got no number")
        if self.explain is not None:
            self.explain.check(self.want, len(self.choice.manifest.labels))
            if not self.explain.hides:
                check_attention(self.choice)
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
    def embeds(self) -> bool:
        """Whether the features before the head are wanted, alone or beside others."""
        return self.embed or self.want == "embedding"

    @property
    def hides(self) -> bool:
        """Whether parts of it are hidden, one after another, to explain its answer."""
        return self.explain is not None and self.explain.hides

    def key(self, target: Target) -> Key:
        """Of the queue that answers it."""
        looks = self.explain is not None and not self.explain.hides
        return target.attention_key if looks else target.key

    @property
    def kind(self) -> str:
        """Under which it is counted and takes turns."""
        batch = self.job_class == "batch" or self.hides
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


@dataclass(frozen=True, slots=True)
class Sureness:
    """How far the probabilities of an outcome can be believed.

    Attributes:
        calibrated: whether a temperature is in them that was fitted to as many views of a clip.
        abstained: whether the answer is that the model does not know; None where nobody asks.
        coverage: what was left of the measured split at that threshold, where that was measured.
    """

    calibrated: bool
    abstained: bool | None = None
    coverage: Coverage | None = None

    @classmethod
    def of(cls, job: Job, target: Target, highest: float) -> Sureness:
        """``highest``: calibrated probability of the first label, which decides, also of raw ones.

        What was fitted and measured holds for as many views as the bundle takes by itself.
        """
        entry, as_measured = target.entry, target.is_as_measured
        calibrated = entry.calibration.calibrated and as_measured and not job.raw
        threshold = entry.abstain if job.abstain is None else job.abstain
        if not threshold:
            return cls(calibrated)
        rows = entry.figures.coverage if entry.figures and as_measured else ()
        known = (row for row in rows if row.threshold == threshold)
        return cls(calibrated, highest < threshold, next(known, None))

    def document(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "calibrated": self.calibrated,
            **({} if self.abstained is None else {"abstained": self.abstained}),
            **({"coverage": asdict(self.coverage)} if self.coverage else {}),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The answer to one job; of the six from predictions on what was wanted, the others empty.

    Attributes:
        evidence: which part of the file the network saw; nothing of pixels that came prepared.
        sureness: where there are probabilities, what they are worth.
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
    sureness: Sureness | None = None
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
            **wanted,
            **({} if wanted and not self.predictions else {"predictions": self.predictions}),
            **(self.sureness.document() if self.sureness else {}),
            **({"explanation": self.explanation.document()} if self.explanation else {}),
            "timing_ms": {
                "decode": self.timing.decode,
                "queue": self.timing.queue,
                "inference": self.timing.inference,
            },
        }


def wanted(job: Job, target: Target, row: Row, calibrated: np.ndarray) -> dict[str, Any]:
    """The fields of an ``Outcome`` that a run gives.

    Args:
        calibrated: probabilities, float64 ``[classes]``.
    """
    features = {"embedding": row.embedding} if job.embeds else {}
    if job.want not in ("labels", "probabilities"):
        return features | {job.want: getattr(row, job.want)}
    sureness = Sureness.of(job, target, float(calibrated.max()))
    probabilities = softmax(row.logits) if job.raw else calibrated
    if job.want == "probabilities":
        return features | {"sureness": sureness, "probabilities": probabilities}
    ranked = rank(probabilities, target.labels, job.top_k)
    return features | {"sureness": sureness, "predictions": ranked}


def told(array: np.ndarray, encoding_format: EncodingFormat) -> list[float] | str:
    """An array of numbers as clients see it, rounded to float32; see ``EncodingFormat``."""
    narrow = array.astype("<f4")
    if encoding_format == "base64":
        return base64.b64encode(narrow.tobytes()).decode()
    return [float(one) for one in narrow]


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities at a temperature, float64 ``[classes]``; no overflow at any magnitude.

    Args:
        logits: float ``[classes]``, which are divided by the temperature.
    """
    wide = logits.astype(np.float64) / temperature
    exponentials = np.exp(wide - wide.max())
    return exponentials / exponentials.sum()


def rank(probabilities: np.ndarray, labels: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    """The ``top_k`` most probable labels, descending; the lower index wins a tie."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        {"label": labels[index], "index": index, "probability": round(probability, 6)}
        for index, probability in zip(order.tolist(), probabilities[order].tolist(), strict=True)
    ]
