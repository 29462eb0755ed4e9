"""What a model is, as plain data: its encoding and its architecture; free of torch."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, PlainValidator
from pydantic_core import PydanticCustomError, PydanticKnownError

from media.spec import Grid, SpecError


def _scalar(value: Any) -> Any:
    """One option, as it came."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticKnownError("finite_number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PydanticCustomError("scalar_type", "a bool, a number, a str or null")


Scalar = Annotated[bool | int | float | str | None, PlainValidator(_scalar)]


class EncodingSpec(BaseModel, frozen=True, extra="allow", strict=True):
    """Which member of the encoding family a model uses, and what it is told: one flat object.

    ``EncodingSpec("liere", block=8)`` is ``{"name": "liere", "block": 8}``. Which options there
    are, and what they may be, stands beside the encoding's class: ``models.encodings`` checks them,
    and who has no torch keeps them as they are. None leaves an option to the encoding, as if it
    were not named.

    Attributes:
        name: a key of ``models.encodings.ENCODINGS``.
    """

    __pydantic_extra__: dict[str, Scalar]
    name: str = "liere"

    def __init__(self, /, name: str = "liere", **options: bool | int | float | str | None) -> None:
        named = {key: value for key, value in options.items() if value is not None}
        super().__init__(name=name, **named)

    @property
    def options(self) -> dict[str, Any]:
        """What is not left to the encoding."""
        return dict(self.__pydantic_extra__)


def of_known_schema(document: Any, known: int, where: str) -> dict[str, Any]:
    """The document, if it is an object whose schema this code reads: 1 to ``known``."""
    if not isinstance(document, dict):
        raise SpecError(f"{where}: expected an object, got {type(document).__name__}")
    schema = document.get("schema")
    if type(schema) is int and schema > known:
        raise SpecError(
            f"{where}.schema: this code reads 1 to {known}, got {schema}, which newer code wrote: "
            "update this one, or make it again with this one"
        )
    if type(schema) is not int or schema < 1:
        raise SpecError(f"{where}.schema: expected 1 to {known}, got {reprlib.repr(schema)}")
    return document


#: Every option of schema 1, and what it wrote besides null where it was left to the encoding.
_LEFT_IN_SCHEMA_1 = {
    "per_layer": True, "per_head": True, "position_rule": "constant-step",
    **dict.fromkeys((
        "block", "base", "basis", "factors", "normalise", "shift", "jitter", "rescale", "learned",
    )),
}  # fmt: skip


def encoding_from_schema_1(document: Any, *path: str) -> Any:
    """A document of schema 1 whose encoding, at ``path``, names its own options alone.

    In schema 1 every encoding wrote the options of all. What is not there, of another type, or
    called otherwise stays as it is, for the reader to refuse.
    """
    if not isinstance(document, dict) or (path and path[0] not in document):
        return document
    if path:
        key, *below = path
        return document | {key: encoding_from_schema_1(document[key], *below)}
    return {key: value for key, value in document.items() if not _is_left(key, value)}


def _is_left(option: str, value: Any) -> bool:
    """Whether schema 1 left an option to the encoding; 1 is not True."""
    if option not in _LEFT_IN_SCHEMA_1:
        return False
    left = _LEFT_IN_SCHEMA_1[option]
    return value is None or (type(value) is type(left) and value == left)


#: How a learned table of positions becomes that of another grid: ``models.encodings.resize``.
TableRule = Literal["plain", "bicubic", "bicubic-antialias", "scale-factor"]


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Architecture of one vision transformer, for any number of axes.

    The defaults of what follows ``query_key_norm`` are the plain transformer; the others are what
    public pretrained families have.

    Attributes:
        patch: pixels per axis covered by one token.
        grid: the training grid, tokens per axis.
        classes: outputs of the head; 0 is a model without one, whose answer is what a head would
            read, and in a recipe also one whose data are not known yet.
        pool: ``class`` reads a class token, ``mean`` averages the patch tokens and none else,
            ``both`` has them side by side, the class token first.
        dropout: probability, on the residual branches, in training only.
        drop_path: probability that the last layer's branches leave an item out, in training only;
            grows linearly from 0 at the first layer (stochastic depth, arXiv 1603.09382).
        query_key_norm: whether a LayerNorm over head_dim, with gains of its own, stands between
            the projections and the rotations (arXiv 2302.05442, section 2).
        query_bias: whether the projection of the queries has a bias.
        key_bias: of the keys.
        value_bias: of the values.
        layer_scale: what the learned gains of both branches of a layer begin as (arXiv 2103.17239,
            section 2); null has none.
        class_token: whether there is a class token though ``pool`` is ``mean``; for the others
            there is one anyway.
        registers: tokens without a position between the class token and the patches, which no
            pooling reads (arXiv 2309.16588).
        mlp: ``gelu`` is two matrices; ``gated`` is down(silu(gate(x)) * up(x)) (SwiGLU, arXiv
            2002.05202), all with biases; ``gated-norm`` has a LayerNorm before ``down``.
        norm_epsilon: of every LayerNorm.
        norm_before_pool: whether the last LayerNorm is taken of the tokens, and not of what was
            pooled; of a class token alone that is the same.
        position_table: how a learned table of positions, added to the patch tokens beside what
            the encoding does, is resized to other grids (``models.encodings.resize``); null has
            none. The encoding ``absolute`` brings its own.
        balance_prefix: whether log T is added to every score towards a prefix token, T the tokens
            of the first axis at hand (time or depth). T equal pictures have T times the patches
            and one prefix: so the prefix weighs in attention what it does for the picture alone.
    """

    patch: tuple[int, ...] = (4, 4)
    grid: tuple[int, ...] = (8, 8)
    channels: int = 3
    classes: int = 10
    width: int = 192
    depth: int = 6
    heads: int = 3
    mlp_dim: int = 384
    pool: Literal["class", "mean", "both"] = "mean"
    dropout: float = 0.0
    drop_path: float = 0.0
    query_key_norm: bool = False
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    layer_scale: float | None = None
    class_token: bool = False
    registers: int = 0
    mlp: Literal["gelu", "gated", "gated-norm"] = "gelu"
    norm_epsilon: float = 1e-5
    norm_before_pool: bool = False
    position_table: TableRule | None = None
    balance_prefix: bool = False
    encoding: EncodingSpec = dataclasses.field(default_factory=EncodingSpec)

    def __post_init__(self) -> None:
        if len(self.patch) != len(self.grid):
            raise SpecError(f"patch {self.patch} and grid {self.grid} must have the same axes")
        Grid(self.grid)
        for name in ("classes", "registers"):
            if getattr(self, name) < 0:
                raise SpecError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("channels", "width", "depth", "heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, got {getattr(self, name)}")
        if any(side < 1 for side in self.patch):
            raise SpecError(f"patch needs at least one pixel per axis, got {self.patch}")
        if self.width % self.heads:
            raise SpecError(f"width {self.width} is not divisible by heads {self.heads}")
        for name in ("dropout", "drop_path"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SpecError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("layer_scale", "norm_epsilon"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise SpecError(f"{name} must be above 0, got {value}")
        if self.balance_prefix and len(self.grid) < 3:
            raise SpecError(
                "balance_prefix is for clips and scans, expected a grid of 3 axes, "
                f"got {self.training_grid}"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def has_class_token(self) -> bool:
        return self.class_token or self.pool != "mean"

    @property
    def prefix_tokens(self) -> int:
        """Tokens without a position, before the patch tokens: class token, then registers."""
        return self.has_class_token + self.registers

    @property
    def features(self) -> int:
        """How many numbers of an item the head reads."""
        return 2 * self.width if self.pool == "both" else self.width

    @property
    def training_grid(self) -> Grid:
        return Grid(self.grid)
