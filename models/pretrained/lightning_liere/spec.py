"""What a published model is: from its tensors as far as they tell it, else from settings."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

from torch import Tensor

from media.spec import Grid, InputSpec, SpecError, VideoSpec, VolumeSpec
from models.checkpoint import CheckpointError
from models.encodings.base import check_block
from models.pretrained.lightning_liere.file import Published
from models.pretrained.lightning_liere.weights import ENDS, GENERATORS, TABLE, check_names
from models.spec import EncodingSpec, ModelSpec

Mode = Literal["published", "intended"]
Modality = Literal["image", "video", "volume"]
Rule = Literal["constant-step", "published"]

#: The only head_dim that the published attention accepts.
HEAD_DIM = 64
#: Mean and deviation in the published data modules: of CIFAR-10 for every picture.
NORMS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "image": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "video": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
#: Every fourth frame of UCF101's 25 a second.
STRIDE_SECONDS = 0.16
FIRST_MLP = "transformer.layers.0.1.fn.net.0.weight"


@dataclasses.dataclass(frozen=True)
class Options:
    """What the weights cannot tell. None or empty: what the file says, or the published default.

    Attributes:
        labels: names of the classes.
        mode: ``published`` turns every layer by layer 0's generators, as that code runs;
            ``intended`` gives every layer its own.
        size, patch: pixels per axis, of the inputs trained on and of one token.
        axial_per_head: the axial baseline was built with rotary_embedding_per_head.
        trained_on: name of the data.
    """

    labels: tuple[str, ...]
    mode: Mode = "published"
    size: tuple[int, ...] = ()
    patch: tuple[int, ...] = ()
    heads: int | None = None
    modality: Modality | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    position_rule: Rule = "published"
    axial_per_head: bool = False
    trained_on: str = "not said"


def model_spec(published: Published, options: Options) -> ModelSpec:
    """The architecture.

    Raises:
        CheckpointError: keys are missing or extra, or a tensor's shape is no published one.
        SpecError: something is not told, or cannot be met.
    """
    weights, settings = published.weights, published.settings
    layers = [re.match(r"transformer\.layers\.(\d{1,4})\.", name) for name in weights]
    depth = 1 + max((int(found[1]) for found in layers if found), default=0)
    check_names(weights, depth)
    width, values = _shape(weights, ENDS["patch_embedding.weight"], "W, values per patch")
    axes = _axes(published, options)
    patch = _sides("patch", options.patch or settings.get("patch_size"), axes)
    size = _sides("size", options.size or settings.get("imsize"), axes)
    spec = ModelSpec(
        patch=patch,
        grid=_grid(weights, size, patch),
        channels=_channels(values, patch),
        classes=_shape(weights, ENDS["head.weight"], "classes, W")[0],
        width=width,
        depth=depth,
        heads=_heads(width) if options.heads is None else options.heads,
        mlp_dim=_shape(weights, FIRST_MLP, "MLP, W")[0],
        pool="class",
    )
    return dataclasses.replace(spec, encoding=encoding_spec(weights, spec, options))


def _shape(weights: dict[str, Tensor], name: str, axes: str) -> tuple[int, ...]:
    shape = tuple(weights[name].shape)
    if len(shape) != len(axes.split(",")) or 0 in shape:
        raise CheckpointError(f"{name}: expected shape [{axes}], got {list(shape)}")
    return shape


def _heads(width: int) -> int:
    if width % HEAD_DIM:
        raise SpecError(
            f"the weights do not tell the heads: expected a width that head_dim {HEAD_DIM} "
            f"divides, got {width}; pass --heads"
        )
    return width // HEAD_DIM


def _axes(published: Published, options: Options) -> int:
    """How many axes: what the generators say, or else the sizes."""
    axes = _told_axes(published, options)
    if axes not in (2, 3):
        raise SpecError(
            f"expected a model of 2 or 3 axes, got {axes}; where the weights do not tell: pass "
            "--size, like 32x32 or 8x224x224"
        )
    return axes


def _told_axes(published: Published, options: Options) -> Any:
    if GENERATORS in published.weights:
        return _shape(published.weights, GENERATORS, "A, L or 1, N or H N, K, K")[0]
    settings = published.settings
    for sides in (options.size, options.patch, settings.get("imsize"), settings.get("patch_size")):
        if isinstance(sides, tuple | list) and sides:
            return len(sides)
    return settings.get("input_dimensionality")


def _sides(option: str, sides: Any, axes: int) -> tuple[int, ...]:
    """Pixels per axis; one number stands for every axis."""
    if sides is None:
        example = "x".join(["4" if option == "patch" else "32"] * axes)
        raise SpecError(f"the weights do not tell the {option}: pass --{option}, like {example}")
    if isinstance(sides, int):
        sides = (sides,) * axes
    if (
        not isinstance(sides, tuple | list)
        or len(sides) != axes
        or not all(type(side) is int and side > 0 for side in sides)
    ):
        raise SpecError(f"--{option}: expected pixels for each of {axes} axes, got {sides!r}")
    return tuple(sides)


def _channels(values: int, patch: tuple[int, ...]) -> int:
    if values % math.prod(patch):
        raise SpecError(
            f"--patch: expected sides whose product divides the {values} values of a patch, "
            f"got {patch}"
        )
    return values // math.prod(patch)


def _grid(
    weights: dict[str, Tensor], size: tuple[int, ...], patch: tuple[int, ...]
) -> tuple[int, ...]:
    """Tokens per axis at the trained size; the table says how many they are together."""
    pairs = list(zip(size, patch, strict=True))
    if any(side % step for side, step in pairs):
        raise SpecError(f"--size: expected multiples of patch {patch}, got {size}")
    grid = Grid(tuple(side // step for side, step in pairs))
    tokens = _shape(weights, TABLE, "1, 1 + T, W")[1] - 1
    if grid.tokens != tokens:
        raise SpecError(
            f"--size: expected one of {tokens} tokens, for which {TABLE} has rows, "
            f"got {grid.tokens} (grid {grid} of patch {patch})"
        )
    return grid.size


def encoding_spec(weights: dict[str, Tensor], spec: ModelSpec, options: Options) -> EncodingSpec:
    """LieRE where there are generators; the axial baseline where all is zero; else the table.

    Raises:
        CheckpointError: the generators' shape is not that of a published model.
        SpecError: their block does not divide head_dim.
    """
    largest = weights[TABLE].abs().max().item()
    if GENERATORS not in weights:
        if largest:
            return EncodingSpec("absolute")
        return EncodingSpec("published_axial", per_head=options.axial_per_head)
    if largest:
        raise CheckpointError(
            f"{TABLE}: expected zeros beside {GENERATORS}, as the published code keeps it, "
            f"got values up to {largest:.3g}"
        )
    shape = tuple(weights[GENERATORS].shape)
    _, layers, rows, block, columns = shape
    if block != columns:
        raise CheckpointError(f"{GENERATORS}: expected square matrices, got {block} by {columns}")
    check_block(block, spec.head_dim)
    blocks = spec.head_dim // block
    if layers not in (1, spec.depth) or rows not in (blocks, spec.heads * blocks):
        raise CheckpointError(
            f"{GENERATORS}: expected 1 or {spec.depth} layers of {blocks} or "
            f"{spec.heads * blocks} blocks, got shape {list(shape)}"
        )
    per_layer = options.mode == "intended" and layers > 1
    return EncodingSpec(
        "liere",
        block=block,
        per_layer=per_layer,
        per_head=rows > blocks,
        position_rule=options.position_rule,
    )


def input_spec(spec: ModelSpec, options: Options) -> InputSpec:
    """How items are prepared: as in the published data modules, as far as that can be said."""
    scan = len(spec.patch) == 3 and spec.channels == 1
    usual: Modality = "image" if len(spec.patch) == 2 else "volume" if scan else "video"
    modality = options.modality or usual
    if (modality == "image") != (len(spec.patch) == 2):
        raise SpecError(f"--modality: expected one of {len(spec.patch)} axes, got {modality}")
    norms = NORMS.get(modality) if spec.channels == 3 else None
    mean, std = options.mean or (norms or ((), ()))[0], options.std or (norms or ((), ()))[1]
    if not mean or not std:
        raise SpecError(
            f"no published {modality} model has {spec.channels} channels: pass --mean and --std, "
            f"{spec.channels} numbers each"
        )
    return InputSpec(
        modality=modality,
        channels=spec.channels,
        fit="stretch" if modality == "volume" else "crop",
        interpolation="bilinear",
        mean=mean,
        std=std,
        video=VideoSpec(STRIDE_SECONDS) if modality == "video" else None,
        volume=VolumeSpec() if modality == "volume" else None,
    )
