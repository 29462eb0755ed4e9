"""What is known of a published family beside its tensors; a file of ``families`` holds each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from media.spec import Grid
from models.checkpoint import CheckpointError
from models.pretrained.layout import Layout, Matched
from models.pretrained.source import Source
from models.spec import EncodingSpec, TableRule

#: The names of libraries that write files of more than one family.
TRANSFORMERS, TIMM = "transformers", "timm"
#: Begins the name of a licence that nobody tells.
NOT_STATED = "not stated"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Licence:
    """Under which weights are published.

    Attributes:
        terms: what it asks of whoever passes on the weights or what was made of them.
    """

    name: str
    terms: str = ""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a library prepares a picture where no file says it.

    Attributes:
        size: pixels of each side.
        resized: of the short side before the centre is cut, with ``size`` as the reference.
        note: where the library does what an InputSpec cannot say, what differs.
    """

    size: int
    resized: int
    fit: Literal["crop", "stretch"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A file in which a family was recognised.

    Attributes:
        grid: tokens per axis that its positions were made for, or that were asked for.
        words: what the model was made with, by ``words.arguments``.
    """

    source: Source
    matched: Matched
    heads: int
    head_dim: int
    grid: Grid
    words: Mapping[str, Any]

    @property
    def library(self) -> str:
        return self.matched.layout.library

    def tensor(self, ours: str) -> Tensor | None:
        """As stored, or None where the file has none."""
        theirs = self.matched.theirs.get(ours)
        return None if theirs is None else self.source.tensors[theirs]

    def number(self, *keys: str, default: float) -> float:
        """What config.json says under one of ``keys``; CheckpointError unless it is a number."""
        return number(self.said(*keys, default=default), f"config.json: {keys[0]}")

    def said(self, *keys: str, default: Any = None) -> Any:
        """What the model was made with under the first of ``keys`` that says anything."""
        told = (self.words[key] for key in keys if self.words.get(key) is not None)
        return next(told, default)


def number(said: Any, where: str) -> float:
    """What a file says as a number; CheckpointError for anything else."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise CheckpointError(f"{where}: expected a number, got {said!r:.60}")
    return float(said)


@dataclasses.dataclass(frozen=True)
class Family:
    """One row of ``FAMILIES``.

    Attributes:
        about: what it is called, for people.
        layouts: the names that its files have.
        model_types: transformers' names of it.
        architectures: of timm's names, the pattern of those that belong to it.
        repository: of its own code, as config.json of such a file may say.
        heads: width -> heads, of the published sizes.
        epsilon: of every LayerNorm, by library.
        encoding: what turns or is added, apart from a table beside it.
        channels: how theirs lie in a head where ours are pairs 2 t, 2 t + 1, rows before columns:
            ``halves`` turn t with t + D / 2, ``columns-first`` has the axes the other way round.
        class_row: whether the table's first row belongs to the class token.
        table_rule: how the table is resized, by library.
        pool: what is read of the tokens where no file says it; by library, ``class`` of others.
        preparation: by library.
        built: what words that no tensor shows must say, where it is not as ``words.DECIDING`` has
            it; ``...`` where the family reads them.
        norm_layers: what config.json may call the norms -> their epsilon.
        published: patterns of names -> what is otherwise of models that go by them; names are
            timm's with their tag, those of files and of the hub. The first that fits counts.
        tags: of timm's names, what stands behind the point where the weights are the family's own,
            and so under its licence.
    """

    name: str
    about: str
    licence: Licence
    layouts: tuple[Layout, ...]
    heads: Mapping[int, int]
    epsilon: Mapping[str, float]
    preparation: Mapping[str, Preparation]
    encoding: Callable[[Found], EncodingSpec]
    model_types: tuple[str, ...] = ()
    architectures: str = r"(?!)"
    repository: str = ""
    channels: Literal["as ours", "halves", "columns-first"] = "as ours"
    class_row: Callable[[Matched], bool] = lambda matched: False
    table_rule: Mapping[str, TableRule] = dataclasses.field(default_factory=dict)
    pool: Mapping[str, Literal["class", "mean"]] = dataclasses.field(default_factory=dict)
    built: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    norm_layers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    published: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tags: str = ""

    def as_named(self, *names: str) -> Family:
        """The family as a model of those names is published, as far as no file says it.

        Weights that go by a tag which is not the family's own are under nobody knows which licence.
        """
        fits = (
            pattern
            for pattern in self.published
            if any(re.search(pattern, name) for name in names)
        )
        known = dict(self.published.get(next(fits, ""), {}))
        for name in filter(self.has_architecture, names):
            tag = name.partition(".")[2]
            if tag and not re.match(self.tags, tag):
                other = f"{NOT_STATED} ({self.about} itself: {self.licence.name}), look at the card"
                known.setdefault("licence", Licence(f"{other} of {name}"))
        return dataclasses.replace(self, **known)

    def has_architecture(self, name: str) -> bool:
        """Whether one of timm's names, with or without its tag, is of this family."""
        return re.fullmatch(self.architectures, name.split(".", maxsplit=1)[0]) is not None
