"""What a bundle says of itself: manifest.json, field by field, and what older ones mean."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from media.spec import AXES, Grid, InputSpec, SpecError
from media.strict_json import from_json
from models.figures import Calibration, Figures, check_range
from models.spec import EncodingSpec, encoding_from_schema_1, of_known_schema

SCHEMA = 2
MANIFEST = "manifest.json"
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"

#: Of the weights and of most of the arithmetic.
Precision = Literal["fp32", "fp16"]


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Allowed difference between a replayed and a stored logit: atol + rtol * |stored|."""

    device: str  # "cpu" or "cuda"
    precision: str
    atol: float
    rtol: float


@dataclasses.dataclass(frozen=True)
class Parity:
    """Exported graph against the fp32 checkpoint in torch, on real inputs.

    Of a bundle without labels logits are its features, and the first class is the largest one.

    Every logit lies within the bound, so a first class can differ only where torch's own two
    first logits lie within twice the bound of each other.
    """

    items: int  # inputs of the graph: every view of a clip is one
    max_abs: float  # largest |graph - torch| over all logits
    worst_ratio: float  # largest |graph - torch| / (atol + rtol * |torch|); at most 1
    top1_equal: int  # of those the ones with the same first class
    # The bound; bundles that do not state one were held to this.
    atol: float = 1e-5
    rtol: float = 1e-4
    largest: float = 0.0  # |torch| of all logits, which the bound goes with; 0 where not stated


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Measured with the exported graph, through the real decode path."""

    split: str
    items: int  # a clip is one, its views' logits averaged
    top1: float  # fraction in [0, 1]
    split_sha256: str  # of ids, labels and contents, in order

    def __post_init__(self) -> None:
        check_range("top1", self.top1)


@dataclasses.dataclass(frozen=True)
class AttentionGraph:
    """A second graph of a grid: it gives the same, and the rollout of attention beside it.

    Attributes:
        graph: path in the bundle.
        parity: of its logits.
        rollout: of the rollout as multiples of an even share, one per patch, in the logits' place;
            the first class is the patch that has most.
    """

    graph: str
    parity: Parity
    rollout: Parity


@dataclasses.dataclass(frozen=True)
class GridEntry:
    """One grid that the bundle answers for.

    Attributes:
        graph: path in the bundle.
        accuracy: None, and no figures, in a bundle without labels.
        rounded: of fp16 only, torch with every result rounded to fp16, as on a GPU, in the graph's
            place: on a CPU runtimes compute much of an fp16 graph in fp32.
        figures, calibration: None, and nothing fitted, in bundles that are older than they are.
        abstain: probability below which the answer is that the model does not know; one of the
            thresholds of the figures' coverage, which says what is left. None gives every answer.
        attention: None where the bundle was not exported to tell where it looked.
    """

    grid: str  # "12x8"
    graph: str
    parity: Parity
    accuracy: Accuracy | None
    rounded: Parity | None = None
    figures: Figures | None = None
    calibration: Calibration = Calibration()
    abstain: float | None = None
    attention: AttentionGraph | None = None

    @property
    def graphs(self) -> tuple[str, ...]:
        """Paths of all that answer at this grid, the plain one first."""
        return (self.graph,) if self.attention is None else (self.graph, self.attention.graph)


@dataclasses.dataclass(frozen=True)
class Golden:
    """One encoded input and torch's logits for it, per grid; of a clip the mean over its views.

    In a bundle without labels what stands in the place of logits are the features.
    """

    file: str  # path in the bundle
    logits: dict[str, tuple[float, ...]]  # grid -> one value per label, or feature


@dataclasses.dataclass(frozen=True)
class RotationForm:
    """How the graphs turn queries and keys.

    Attributes:
        form: ``planes`` turn pairs of channels by tables of cosines and sines; ``blocks`` multiply
            by tables of small matrices; ``none`` do neither.
        folded: whether a basis that the generators share went into the projections.
        reason: why it is so, in a sentence.
        block: side of the matrices, of ``blocks`` alone.
    """

    form: Literal["none", "planes", "blocks"]
    folded: bool
    reason: str
    block: int | None = None

    def __post_init__(self) -> None:
        if (self.form == "blocks") != (self.block is not None) or (self.block or 2) < 2:
            raise SpecError(f"rotations: form {self.form} cannot have block {self.block}")
        if self.folded and self.form != "planes":
            raise SpecError(f"rotations: form {self.form} cannot be folded")

    def __str__(self) -> str:
        form = self.form if self.block is None else f"{self.form} of {self.block}"
        return f"{form}, {'folded' if self.folded else 'not folded'}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """manifest.json, field by field. ``files`` maps every other file to its SHA-256.

    Attributes:
        patch: pixels per axis of one token, so that input pixels = grid * patch.
        labels: none where the model has no head: such a bundle gives features alone.
        grids: the first is the default answer.
        source: where the bundle came from: checkpoint hash, commit, date, data (no paths).
        rotations: None in bundles that are older than folding, see ``turning``.
    """

    schema: int
    name: str
    version: str
    modality: str
    input: InputSpec
    patch: tuple[int, ...]
    encoding: EncodingSpec
    labels: tuple[str, ...]
    precision: Precision
    opset: int
    grids: tuple[GridEntry, ...]
    goldens: tuple[Golden, ...]
    tolerances: tuple[Tolerance, ...]
    source: dict[str, Any]
    files: dict[str, str]
    rotations: RotationForm | None = None

    @property
    def features(self) -> int | None:
        """How many numbers the features of a bundle without labels are; None of all others."""
        return None if self.labels else len(self.goldens[0].logits[self.grids[0].grid])

    @property
    def turning(self) -> RotationForm:
        """``rotations``, or what bundles have that do not state it: blocks, whatever their side."""
        if self.rotations is not None:
            return self.rotations
        said = self.encoding.options.get("block")
        block = said if isinstance(said, int) else None
        reason = "not stated; exported before rotations were folded"
        return RotationForm("blocks" if block else "none", False, reason, block)

    def tolerance(self, device: str) -> Tolerance:
        """What a replay on ``device`` may differ by; KeyError if none was stated."""
        return {
            tolerance.device: tolerance
            for tolerance in self.tolerances
            if tolerance.precision == self.precision
        }[device]


def parse_manifest(document: Any) -> Manifest:
    """The manifest that was read from a file, of this schema or an older one.

    Raises:
        SpecError: a newer schema, unknown, missing or mistyped keys, fields that contradict.
    """
    document = upgrade(of_known_schema(document, SCHEMA, MANIFEST))
    manifest = from_json(Manifest, document, MANIFEST)
    check_manifest(manifest)
    return manifest


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an older schema as one of this; what is wrong with it stays so.

    Every later schema adds its step here, from the one before it.

    2: an encoding names its own options alone.
    """
    if document["schema"] == 1:
        document = encoding_from_schema_1(document, "encoding") | {"schema": 2}
    return document


def check_manifest(manifest: Manifest) -> None:
    """What the types cannot say."""
    for field in ("name", "version"):
        if not re.fullmatch(NAME_PATTERN, getattr(manifest, field)):
            raise SpecError(f"{field}: expected {NAME_PATTERN}, got {getattr(manifest, field)!r}")
    if manifest.modality not in AXES or manifest.modality != manifest.input.modality:
        raise SpecError(f"modality: {manifest.modality!r} is unknown or not that of the input")
    if len(manifest.patch) != len(AXES[manifest.modality]) or min(manifest.patch) < 1:
        raise SpecError(f"patch: {manifest.patch} is not pixels per axis of {manifest.modality}")
    if not manifest.grids or len({entry.grid for entry in manifest.grids}) != len(manifest.grids):
        raise SpecError("grids: expected at least one, each once")
    for entry in manifest.grids:
        if Grid.parse(entry.grid).axes != len(AXES[manifest.modality]):
            raise SpecError(f"grids: {entry.grid} has the wrong number of axes")
        if missing := [path for path in entry.graphs if path not in manifest.files]:
            raise SpecError(f"grids: {missing[0]} is not among the files")
        if entry.attention is not None and not manifest.labels:
            raise SpecError(f"grids: {entry.grid} has no labels, and a graph that explains them")
        if (entry.rounded is not None) != (manifest.precision == "fp16"):
            raise SpecError(f"grids: {entry.grid} must state rounded if, and only if, it is fp16")
    if len(manifest.labels) == 1 or len(set(manifest.labels)) != len(manifest.labels):
        raise SpecError("labels: expected at least two, each once, or none")
    if not manifest.goldens:
        raise SpecError("goldens: expected at least one")
    grids = {entry.grid for entry in manifest.grids}
    for golden in manifest.goldens:
        if golden.file not in manifest.files or set(golden.logits) != grids:
            raise SpecError(f"goldens: {golden.file} is not listed, or lacks logits for a grid")
        wanted = len(manifest.labels) or manifest.features
        if not wanted or any(len(row) != wanted for row in golden.logits.values()):
            what = f"{wanted} logits" if manifest.labels else "equally many features"
            raise SpecError(f"goldens: {golden.file} needs {what} a grid")
    for entry in manifest.grids:
        _check_figures(entry, len(manifest.labels))


def _check_figures(entry: GridEntry, labels: int) -> None:
    """Figures and calibration come together, and what is said of each label is said of all."""
    figures = entry.figures
    if (entry.accuracy is None) != (labels == 0):
        raise SpecError(f"grids: {entry.grid} must state accuracy if, and only if, it has labels")
    if not labels and (figures or entry.calibration.calibrated or entry.abstain is not None):
        raise SpecError(f"grids: {entry.grid} has no labels, and states figures of them")
    if (figures is None) != (entry.calibration.before is None):
        raise SpecError(f"grids: {entry.grid} must state figures if, and only if, calibration")
    if figures and len(figures.mix) != labels:
        raise SpecError(f"grids: {entry.grid} needs a share of answers for each of {labels} labels")
    told = [row.threshold for row in figures.coverage] if figures else []
    if entry.abstain is not None and entry.abstain not in told:
        raise SpecError(f"grids: {entry.grid} does not say what is left above {entry.abstain:g}")
