"""A public file -> a checkpoint folder, in order: read, recognised, described, checked, written."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from media.files import atomic_directory, check_new
from media.spec import Grid, InputSpec, SpecError
from models.checkpoint import CheckpointError, save_checkpoint
from models.encodings.resize import table_at
from models.pretrained.buffers import check_buffers
from models.pretrained.convert import converted, shapes
from models.pretrained.describe import (
    Sizes,
    grid_of,
    heads_of,
    model_spec,
    read_sizes,
    sides,
    table_grid,
)
from models.pretrained.family import NOT_STATED, Family, Found, Licence
from models.pretrained.hub import SCHEME, fetch
from models.pretrained.inputs import Prepared, input_spec
from models.pretrained.recognise import recognise
from models.pretrained.source import CONFIG, Source, open_source
from models.pretrained.words import arguments, not_used
from models.spec import ModelSpec
from models.vit import VisionTransformer

CHANNELS = {
    "halves": "t and t + D / 2 become a pair",
    "columns-first": "the pairs of rows before those of columns",
}
#: What of a layer has a bias here in any case, besides norms.
BIASED = ("attention.out", "mlp.first", "mlp.gate", "mlp.last")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the file cannot tell, or shall not decide. None or empty: what it says.

    Attributes:
        family: a key of ``FAMILIES``, or timm's name of the model.
        labels: names of the classes, () of a model without a head.
        size: pixels (height, width) that the checkpoint is made for; empty: ``_size``.
    """

    family: str = ""
    labels: tuple[str, ...] | None = None
    size: tuple[int, ...] = ()
    heads: int = 0


@dataclasses.dataclass(frozen=True)
class Imported:
    """What was written, for people: a line of each kind."""

    spec: ModelSpec
    input: InputSpec
    licence: Licence
    found: str
    size: str
    converted: list[str]
    folded: list[str]
    left_out: list[str]
    not_used: list[str]
    notes: list[str]


def import_pretrained(address: str, out: Path, options: Options) -> Imported:
    """Write the checkpoint folder ``out``, whole or not at all.

    Args:
        address: a file, a folder, or ``hf://OWNER/NAME``.

    Raises:
        CheckpointError: the file is none, or its tensors are not those of its family.
        SpecError: something is not told, or contradicts the file.
        FileNotFoundError, FileExistsError: there is no file, or ``out`` is there already.
    """
    check_new(out)
    hub = address.startswith(SCHEME)
    source = open_source(fetch(address) if hub else Path(address), address if hub else "")
    family, matched = recognise(source, options.family)
    family = family.as_named(*_names(source, options.family))
    words = arguments(source, matched.layout.library)
    unused = not_used(family, source, matched.layout.library)
    sizes = read_sizes(source, matched, words)
    prepared = input_spec(family, source, matched.layout.library)
    heads = heads_of(family, source, matched, words, sizes.width, options.heads)
    table = table_grid(family, source, matched, words, sizes.patch, options.size)
    size = _size(words, prepared, sizes, table, options.size)
    grid = table or size.grid
    found = Found(source, matched, heads, sizes.width // heads, grid, words)
    matched.check_shapes(source.tensors, shapes(found, sizes))
    check_buffers(found)
    try:
        spec = model_spec(family, found, sizes)
        labels = _labels(options.labels, source, spec.classes)
        state = converted(family, found, spec)
        if size.grid != grid:
            spec = _resize(state, spec, size.grid)
        model = _assembled(spec, prepared.spec, state)
    except SpecError as error:
        raise SpecError(f"{source.name}: {error}") from error
    told = _told(family, found, prepared, model.spec, size, unused)
    with atomic_directory(out) as folder:
        save_checkpoint(folder, model, prepared.spec, labels, _notes(family, found, told))
    return told


@dataclasses.dataclass(frozen=True)
class Size:
    """What the checkpoint is made for, and who says so."""

    grid: Grid
    told: str


def _size(
    words: Mapping[str, Any],
    prepared: Prepared,
    sizes: Sizes,
    table: Grid | None,
    asked: tuple[int, ...],
) -> Size:
    """The first that is said of: asked for, as built, pictures prepared, table, as published.

    transformers resizes a table to whatever comes, so its config.json says nothing of a build.

    Raises:
        SpecError: the patch does not divide it, or nobody tells it.
    """
    if asked:
        grid = grid_of(asked, sizes.patch, "--size")
        return Size(grid, f"{_by(asked)} pixels, as --size says")
    for where, size in (
        (f"{CONFIG}: img_size", sides(words.get("img_size"))),
        (prepared.where, prepared.size if prepared.where else ()),
        ("the table of positions", table.pixels((sizes.patch, sizes.patch)) if table else ()),
        ("what is published", prepared.size),
    ):
        if size:
            told = f"{_by(size)} pixels, from {where}"
            if not prepared.where and table and prepared.size != size:
                told += f"; published for pictures of {_by(prepared.size)}, which --size gives"
            return Size(grid_of(size, sizes.patch, f"{where} (or pass --size)"), told)
    raise SpecError("expected a size in the file, which tells none: pass --size")


def _names(source: Source, told: str) -> list[str]:
    """What the model goes by: as told, as timm's file or transformers' has it, and the file's."""
    config, usual = source.config, source.config.get("pretrained_cfg")
    tag = usual.get("tag") if isinstance(usual, dict) else None
    architecture = ".".join(str(one) for one in (config.get("architecture"), tag) if one)
    return [told, architecture, str(config.get("_name_or_path", "")), source.name]


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _resize(state: dict[str, torch.Tensor], spec: ModelSpec, grid: Grid) -> ModelSpec:
    """The spec for another grid, and its table in ``state`` with it."""
    name = "encoding.table" if spec.position_table is None else "position_table"
    rule = spec.position_table or spec.encoding.options.get("resize")
    if rule is not None:  # a table of positions, and not one of frequencies
        state[name] = table_at(state[name], spec.training_grid, grid, rule).contiguous()
    return dataclasses.replace(spec, grid=grid.size)


def _assembled(
    spec: ModelSpec, described: InputSpec, state: dict[str, torch.Tensor]
) -> VisionTransformer:
    """The model with these very tensors: none is drawn, and none copied."""
    with torch.device("meta"):
        model = VisionTransformer(spec, described)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the tensors do not make the model: {error}") from error
    return model


def _labels(given: tuple[str, ...] | None, source: Source, classes: int) -> tuple[str, ...]:
    """A name for each class: those given, else the file's (of timm a list), else numbers.

    Of the file's, such as come more than once get the class's number.

    Raises:
        SpecError: they are not as many, or not different.
    """
    if given is None:
        named = source.config.get("id2label") or source.config.get("label_names")
        if isinstance(named, list):
            named = {str(number): word for number, word in enumerate(named)}
        numbered = [str(number) for number in range(classes)]
        if isinstance(named, dict) and classes and len(named) != classes:
            raise SpecError(
                f"{CONFIG}: the head has {classes} classes; expected a name for each, got "
                f"{len(named)} (or pass --labels)"
            )
        given = ()
        if isinstance(named, dict) and set(named) == set(numbered):
            words = [str(named[number]) for number in numbered]
            times = collections.Counter(words)
            given = tuple(  # ImageNet has two cranes
                f"{word} ({number})" if times[word] > 1 else word
                for word, number in zip(words, numbered, strict=True)
            )
        if len(set(given)) != classes:
            return tuple(f"class {number}" for number in numbered)
    different = len(set(given) - {""})
    if (len(given), different) != (classes, classes):
        raise SpecError(
            f"--labels: the head has {classes} classes; expected as many different names, one a "
            f"line, got {len(given)} lines with {different}"
        )
    return given


def licence_of(family: Family, source: Source) -> Licence:
    """The family's, and what the file says of itself where that is something else."""
    told = source.config.get("pretrained_cfg")
    said = told.get("license") if isinstance(told, dict) else None
    plain = str(said or "").lower().replace("-license", "")
    usual = family.licence.name
    if not plain or (plain in usual.lower() and not usual.startswith(NOT_STATED)):
        return family.licence
    return dataclasses.replace(
        family.licence, name=f"{said} (as the file says; {family.about}: {usual})"
    )


def _told(
    family: Family,
    found: Found,
    prepared: Prepared,
    spec: ModelSpec,
    size: Size,
    unused: list[str],
) -> Imported:
    """What was done with the tensors, and what differs from the library."""
    has, library = found.matched.theirs, found.library
    converted = [f"{spec.depth} layers of {spec.heads} heads from the names of {library}"]
    if family.channels != "as ours":
        converted.append(f"channels of queries and keys reordered: {CHANNELS[family.channels]}")
    if "frequencies" in has:
        converted.append(f"{has['frequencies']}: rows before columns")
    if "periods" in has:
        converted.append(f"{has['periods']}: kept as stored, which may be rounded")
    if stored := {str(one.dtype).split(".")[-1] for one in found.source.tensors.values()} - {
        "float32"
    }:
        converted.append(f"{', '.join(sorted(stored))} to float32, the values as stored")
    layer = "layers.0.{}.{}".format
    zeros = [
        one for one in BIASED if layer(one, "weight") in has and layer(one, "bias") not in has
    ]
    if zeros:
        converted.append(f"biases of {', '.join(zeros)}: zeros, as config.json says")
    if size.grid != found.grid:
        moved = f"from grid {found.grid} to {size.grid}"
        converted.append(f"table of positions resized {moved}, as {library} does")
    row = "table" in has and family.class_row(found.matched)
    masked = sorted(name for name in has if name.endswith("key_mask"))
    checked = [has[name] for name in ("token_rows", "token_columns") if name in has]
    return Imported(
        spec=spec,
        input=prepared.spec,
        licence=licence_of(family, found.source),
        found=f"{family.about} ({library}), {len(found.source.tensors)} tensors",
        size=size.told,
        converted=converted,
        folded=[f"{has['table']}: its first row into {has['class_token']}"] if row else [],
        left_out=[
            *found.matched.left_out,
            *checked,
            *[f"the bias of keys, by {has[name]}" for name in masked],
        ],
        not_used=unused,
        notes=list(prepared.notes),
    )


def _notes(family: Family, found: Found, told: Imported) -> dict[str, Any]:
    """What the checkpoint remembers; which items it was trained on is not known."""
    unknown = {"items": None, "sha256": None}
    config, name = found.source.config, found.source.name
    return {
        "step": None,
        "imported": {
            "family": family.name,
            "library": found.library,
            "source": name,
            "model": config.get("architecture") or config.get("model_type"),
            "files": found.source.files,
            "licence": dataclasses.asdict(told.licence),
            "size": told.size,
            "converted": told.converted,
            "folded": told.folded,
            "left_out": told.left_out,
            "not_used": told.not_used,
            "differs": told.notes,
        },
        "data": {"name": f"what {name} learned from", "train": unknown, "val": unknown},
    }
