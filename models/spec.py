"""What a model is, as plain data: its encoding and its architecture; free of torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

from media.spec import Grid, SpecError


@dataclasses.dataclass(frozen=True)
class EncodingSpec:
    """Which member of the encoding family a model uses, and its options.

    An option that is None has the encoding's own default; one that the encoding does not know must
    be None. ``models.encodings`` says which encoding takes which.

    Attributes:
        name: a key of ``models.encodings.ENCODINGS``.
        block: side of one rotation; must divide head_dim.
        per_layer, per_head: whether every layer / head learns its own.
        position_rule: ``constant-step`` keeps the training grid's spacing at every grid;
            ``published`` is the spacing of the published LieRE code, for imported checkpoints.
        base: of the geometric series of frequencies: from 1 down to nearly 1 / base.
        basis: how a learned orthogonal basis is parameterised.
        factors: Givens rotations or Householder reflections of such a basis.
        normalise: by which side of the grid positions become [-1, 1]: each its own, the longest,
            the shortest.
        shift, jitter, rescale: how far positions are moved in training only; units per encoding.
        learned: whether frequencies are parameters.
    """

    name: str = "liere"
    block: int | None = None
    per_layer: bool = True
    per_head: bool = True
    position_rule: Literal["constant-step", "published"] = "constant-step"
    base: float | None = None
    basis: Literal["cayley", "givens", "householder", "exponential"] | None = None
    factors: int | None = None
    normalise: Literal["separate", "max", "min"] | None = None
    shift: float | None = None
    jitter: float | None = None
    rescale: float | None = None
    learned: bool | None = None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Architecture of one vision transformer, for any number of axes.

    Attributes:
        patch: pixels per axis covered by one token.
        grid: the training grid, tokens per axis.
        classes: outputs of the head; 0 in a recipe whose data are not known yet.
        pool: ``class`` reads a class token, ``mean`` averages the patch tokens.
        dropout: probability, on the residual branches, in training only.
        drop_path: probability that the last layer's branches leave an item out, in training only;
            grows linearly from 0 at the first layer (stochastic depth, arXiv 1603.09382).
        query_key_norm: whether a LayerNorm over head_dim, with gains of its own, stands between
            the projections and the rotations (arXiv 2302.05442, section 2).
    """

    patch: tuple[int, ...] = (4, 4)
    grid: tuple[int, ...] = (8, 8)
    channels: int = 3
    classes: int = 10
    width: int = 192
    depth: int = 6
    heads: int = 3
    mlp_dim: int = 384
    pool: Literal["class", "mean"] = "mean"
    dropout: float = 0.0
    drop_path: float = 0.0
    query_key_norm: bool = False
    encoding: EncodingSpec = dataclasses.field(default_factory=EncodingSpec)

    def __post_init__(self) -> None:
        if len(self.patch) != len(self.grid):
            raise SpecError(f"patch {self.patch} and grid {self.grid} must have the same axes")
        Grid(self.grid)
        if self.classes < 0:
            raise SpecError(f"classes must not be negative, got {self.classes}")
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
        self.check_block(self.encoding.block)

    def check_block(self, block: int | None) -> None:
        """SpecError where blocks of that side do not fill a head."""
        if block is not None and (block < 2 or self.head_dim % block):
            raise SpecError(
                f"block must be at least 2 and divide head_dim {self.head_dim}, got {block}"
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens without a position, before the patch tokens."""
        return 1 if self.pool == "class" else 0

    @property
    def training_grid(self) -> Grid:
        return Grid(self.grid)
