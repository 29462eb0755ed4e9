"""What an imported model is: from its tensors as far as they tell it, else from config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from media.spec import Grid, SpecError
from models.checkpoint import CheckpointError
from models.pretrained.family import TIMM, TRANSFORMERS, Family, Found
from models.pretrained.layout import Matched
from models.pretrained.source import Source
from models.spec import ModelSpec

#: Of an input: attention of more (a side of 4,096 pixels in patches of 16) fits no machine.
MOST_TOKENS = 2**16
#: Of layer scale that is trained anew; imported gains take its place.
FIRST_SCALE = 1e-5
POOLS: dict[str, Literal["class", "mean"]] = {"token": "class", "avg": "mean"}
#: What a file's words must agree with, where they say it.
SAID = {
    "depth": ("num_hidden_layers", "depth"),
    "width": ("hidden_size", "embed_dim"),
    "patch": ("patch_size",),
    "registers": ("num_register_tokens", "n_storage_tokens"),
    "classes": ("num_classes",),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers that shapes tell."""

    width: int
    depth: int
    patch: int
    registers: int
    classes: int
    hidden: int  # of the MLP
    packed: bool  # whether gate and up come as one matrix


def read_sizes(source: Source, matched: Matched, words: Mapping[str, Any]) -> Sizes:
    """From the shapes; CheckpointError where one has another number of axes than it should."""

    def shape(ours: str, axes: str) -> tuple[int, ...]:
        theirs = matched.theirs[ours]
        found = tuple(source.tensors[theirs].shape)
        none = 0 in found and ours != "registers"  # of which a model may have none
        if len(found) != len(axes.split(",")) or none:
            raise CheckpointError(f"{theirs}: expected shape [{axes}], got {list(found)}")
        return found

    width, _, patch, _ = shape("patch.weight", "W, C, p, p")
    rows, _ = shape("layers.0.mlp.first.weight", "M, W")
    _, hidden = shape("layers.0.mlp.last.weight", "W, M")
    has = matched.theirs
    sizes = Sizes(
        width=width,
        depth=matched.depth,
        patch=patch,
        registers=shape("registers", "1, R, W")[1] if "registers" in has else 0,
        classes=shape("head.weight", "classes, F")[0] if "head.weight" in has else 0,
        hidden=hidden,
        packed=rows == 2 * hidden,
    )
    for name, keys in SAID.items():
        for key in keys:
            if isinstance(words.get(key), int) and words[key] != getattr(sizes, name):
                raise CheckpointError(
                    f"config.json: {key} {words[key]}, but the tensors have {getattr(sizes, name)}"
                )
    return sizes


def heads_of(
    family: Family,
    source: Source,
    matched: Matched,
    words: Mapping[str, Any],
    width: int,
    asked: int,
) -> int:
    """How many heads, which no matrix tells.

    Raises:
        SpecError: nobody says it, two say otherwise, or the width is no multiple of it.
    """
    told = {"--heads": asked} if asked else {}
    for key in ("num_attention_heads", "num_heads"):
        if isinstance(words.get(key), int):
            told[f"config.json: {key}"] = words[key]
    frequencies = matched.theirs.get("frequencies")
    if frequencies and source.tensors[frequencies].ndim == 4:
        told[frequencies] = source.tensors[frequencies].shape[2]
    if not told and width in family.heads:
        told[f"{family.about} of width {width}"] = family.heads[width]
    if not told:
        known = ", ".join(f"{wide}: {heads}" for wide, heads in family.heads.items())
        raise SpecError(
            f"the tensors do not tell the heads, and {family.about} is not published with width "
            f"{width} (width: heads are {known}); pass --heads"
        )
    if len(set(told.values())) > 1:
        said = ", ".join(f"{heads} ({where})" for where, heads in told.items())
        raise SpecError(f"heads: expected one number, got {said}")
    heads = next(iter(told.values()))
    if heads < 1 or width % heads:
        raise SpecError(f"heads: expected a divisor of width {width}, got {heads}")
    return heads


def grid_of(side: tuple[int, ...], patch: int, where: str) -> Grid:
    """The grid of pixels (height, width); SpecError unless the patch divides both."""
    if any(one % patch for one in side):
        raise SpecError(
            f"{where}: expected multiples of the patch's {patch} pixels, got "
            f"{'x'.join(map(str, side))}"
        )
    grid = Grid(tuple(one // patch for one in side))
    if grid.tokens > MOST_TOKENS:
        raise SpecError(
            f"{where}: expected at most {MOST_TOKENS} patches, got {'x'.join(map(str, side))} "
            f"pixels, which are {grid.tokens}"
        )
    return grid


def table_grid(
    family: Family,
    source: Source,
    matched: Matched,
    words: Mapping[str, Any],
    patch: int,
    asked: tuple[int, ...],
) -> Grid | None:
    """The grid that a table of positions has rows for; None where there is no table.

    Raises:
        SpecError: its rows are no square, and neither the file nor ``asked`` tells the sides.
        CheckpointError: the file says another number of rows.
    """
    if "table" not in matched.theirs:
        return None
    theirs = matched.theirs["table"]
    shape = source.tensors[theirs].shape
    rows = (shape[1] if len(shape) == 3 else 0) - family.class_row(matched)
    if said := sides(words.get("image_size") or words.get("img_size")):
        grid = grid_of(said, patch, "config.json: image size")
        if grid.tokens != rows:
            raise CheckpointError(
                f"{theirs}: expected {grid.tokens} rows of patches, of grid {grid}, got {rows}"
            )
        return grid
    usual = source.config.get("pretrained_cfg") or {}
    told = usual.get("input_size") if isinstance(usual, dict) else None
    input_size = sides(told[1:]) if isinstance(told, list) else ()
    for where, size in (("--size", asked), ("input_size", input_size)):
        if size and (grid := grid_of(size, patch, where)).tokens == rows:
            return grid
    side = math.isqrt(max(rows, 0))
    if side < 1 or side**2 != rows:
        raise SpecError(
            f"{theirs} has {rows} rows of patches, which are no square, and the file does not "
            "tell the grid: pass --size with the pixels that it was made for"
        )
    return Grid((side, side))


def sides(said: Any) -> tuple[int, ...]:
    """A number for both sides, or height and width; () for anything else."""
    if isinstance(said, int) and not isinstance(said, bool) and said > 0:
        return said, said
    if isinstance(said, list) and len(said) == 2 and all(type(one) is int for one in said):
        return tuple(said)
    return ()


def model_spec(family: Family, found: Found, sizes: Sizes) -> ModelSpec:
    """The architecture.

    Raises:
        CheckpointError: an activation or a pooling that is not here, or no last norm.
        SpecError: parts that do not fit together.
    """
    has = found.matched.theirs
    gated = sizes.packed or "layers.0.mlp.gate.weight" in has
    _check_activation(family, found, gated)
    pool = pool_of(family, found)
    rule = family.table_rule.get(found.library)
    encoding = family.encoding(found)
    usual = family.norm_layers.get(
        found.said("norm_layer", default=""), family.epsilon[found.library]
    )
    return ModelSpec(
        patch=(sizes.patch, sizes.patch),
        grid=found.grid.size,
        channels=3,
        classes=sizes.classes,
        width=sizes.width,
        depth=sizes.depth,
        heads=found.heads,
        mlp_dim=sizes.hidden,
        pool=pool,
        class_token=pool == "mean",
        registers=sizes.registers,
        **{f"{part}_bias": has_bias(found, part) for part in ("query", "key", "value")},
        layer_scale=FIRST_SCALE if "layers.0.attention_scale" in has else None,
        mlp="gated-norm" if "layers.0.mlp.norm.weight" in has else "gated" if gated else "gelu",
        norm_epsilon=found.number("layer_norm_eps", "norm_eps", default=usual),
        norm_before_pool=_norm_before(found),
        position_table=rule if "table" in has and encoding.name != "absolute" else None,
        encoding=encoding,
    )


def has_bias(found: Found, part: str) -> bool:
    """Whether queries, keys or values get a bias: one that a mask takes away is none."""
    if f"layers.0.attention.{part}.bias" in found.matched.theirs:
        return True
    fused = "layers.0.attention.query_key_value.bias" in found.matched.theirs
    return fused and not (part == "key" and "layers.0.attention.key_mask" in found.matched.theirs)


def pool_of(family: Family, found: Found) -> Literal["class", "mean", "both"]:
    """What the head reads, as the library has it."""
    if found.library == TRANSFORMERS:
        with_head = "head.weight" in found.matched.theirs
        return "both" if family.name == "dinov2" and with_head else "class"
    usual = family.pool.get(found.library, "class")
    said = found.said("global_pool") if found.library == TIMM else None
    if said is not None and not (isinstance(said, str) and said in POOLS):
        raise CheckpointError(
            f"config.json: expected global_pool {' or '.join(POOLS)}, got {said!r}"
        )
    return usual if said is None else POOLS[said]


def _norm_before(found: Found) -> bool:
    """Whether the last norm is taken of the tokens; by its name in timm it is of what is pooled."""
    has = found.matched.theirs
    norms = [name for name in ("norm.weight", "pooled_norm.weight") if name in has]
    if len(norms) != 1:
        names = ", ".join(has[name] for name in norms) or "none"
        raise CheckpointError(f"expected one last norm, norm or fc_norm, got {names}")
    return norms[0] == "norm.weight"


def _check_activation(family: Family, found: Found, gated: bool) -> None:
    """CheckpointError unless it is the exact GELU, or SiLU of a gate."""
    said = found.said("hidden_act")
    silent = said is None or (gated and family.name == "dinov2")  # whose gate ignores it
    wanted = "silu" if gated else "gelu"
    if not silent and said != wanted:
        raise CheckpointError(f"config.json: expected hidden_act {wanted!r}, got {said!r}")
