"""How pictures are prepared: as the file says, or as the library does where it says nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from media.spec import InputSpec, SpecError
from models.checkpoint import CheckpointError
from models.pretrained.describe import sides
from models.pretrained.family import HALF, TIMM, TRANSFORMERS, Family, Preparation, number
from models.pretrained.source import CONFIG, PREPROCESSOR, Source

#: Filters by Pillow's numbers, which transformers writes, and by timm's names.
FILTERS: dict[Any, Literal["bicubic", "bilinear"]] = {
    2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic",
}  # fmt: skip
#: Of transformers' image processors the ones that divide by 255 before they resize.
FLOATS_FIRST = ("DINOv3ViTImageProcessor",)
FLOATS_NOTE = (
    "the library resizes floating point values; here they are rounded to whole grey levels, so "
    "each differs by up to half a level where a picture is resized"
)
CENTRE_NOTE = (
    "transformers cuts at the pixel below the middle, here it is the nearest, halves to even: up "
    "to a pixel of the resized picture where a side that is cut is odd"
)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The input, and the size that it was published with.

    Attributes:
        size: height and width in pixels; () where nobody says.
        notes: what differs from the library.
        where: which file says it; "" where none does and it is as published.
    """

    spec: InputSpec
    size: tuple[int, ...]
    notes: tuple[str, ...]
    where: str = ""


def input_spec(family: Family, source: Source, library: str) -> Prepared:
    """The input.

    Raises:
        CheckpointError: the file asks for something that an InputSpec cannot say.
    """
    usual = family.preparation[library]
    try:
        if library == TRANSFORMERS and source.preprocessor:
            return _of_transformers(source.preprocessor)
        told = source.config.get("pretrained_cfg")
        if library == TIMM and isinstance(told, dict):
            return _of_timm(told, usual)
    except SpecError as error:
        raise CheckpointError(f"{PREPROCESSOR}, or config.json: {error}") from error
    spec = _spec(usual.fit, usual.interpolation, usual.size / usual.resized, usual.mean, usual.std)
    notes = (FLOATS_NOTE,) if family.name == "dinov3" and library == TRANSFORMERS else ()
    return Prepared(spec, (usual.size, usual.size), (*notes, "not said by the file: as published"))


def _of_transformers(said: dict[str, Any]) -> Prepared:
    factor, filtered = said.get("rescale_factor", 1 / 255), said.get("resample", 2)
    scaled = isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-6)
    if not said.get("do_rescale", True) or not scaled:
        raise CheckpointError(
            f"{PREPROCESSOR}: expected values divided by 255, got rescale_factor {factor!r:.60}"
        )
    if not isinstance(filtered, int | str) or filtered not in FILTERS:
        raise CheckpointError(
            f"{PREPROCESSOR}: expected resample 2 (bilinear) or 3 (bicubic), got {filtered!r}"
        )
    fit, resized, target = _geometry(said)
    kind = str(said.get("image_processor_type", ""))
    notes = [FLOATS_NOTE] * kind.startswith(FLOATS_FIRST) + [CENTRE_NOTE] * (target != resized)
    mean, std = said.get("image_mean", HALF[0]), said.get("image_std", HALF[1])
    if not said.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    ratio = min(one / whole for one, whole in zip(target, resized, strict=True))
    spec = _spec(fit, FILTERS[filtered], ratio, mean, std)
    return Prepared(spec, target, tuple(notes), PREPROCESSOR)


def _geometry(
    said: dict[str, Any],
) -> tuple[Literal["crop", "stretch"], tuple[int, ...], tuple[int, ...]]:
    """How it is fitted; sides before the cut, of ``crop`` the short one for both; the target."""
    size, cut = said.get("size"), said.get("crop_size")
    if isinstance(size, int) and said.get("default_to_square") is False:
        size = {"shortest_edge": size}
    stretched = _both(size)
    resized = stretched or _both(size.get("shortest_edge") if isinstance(size, dict) else None)
    target = _both(cut) if said.get("do_center_crop") else resized
    fits = bool(resized) and all(a <= b for a, b in zip(target, resized, strict=False))
    even = not stretched or target[0] * resized[1] == target[1] * resized[0] if fits else False
    if not (said.get("do_resize", True) and target and fits and even):
        raise CheckpointError(
            f"{PREPROCESSOR}: expected a size of height and width, or a shortest_edge, and a "
            f"crop_size of the same shape within it, got size {size!r} and crop_size {cut!r}"
        )
    return "stretch" if stretched else "crop", resized, target


def _of_timm(said: dict[str, Any], usual: Preparation) -> Prepared:
    mode, how = said.get("crop_mode") or "center", said.get("interpolation") or "bicubic"
    known = isinstance(how, str) and how in FILTERS
    if mode not in ("center", "squash") or not known:
        raise CheckpointError(
            "config.json: expected crop_mode center or squash and interpolation bicubic or "
            f"bilinear, got {mode!r} and {how!r}"
        )
    shape = said.get("input_size")
    size = sides(shape[1:]) if isinstance(shape, list) else ()
    ratio = said.get("crop_pct") or usual.size / usual.resized
    spec = _spec(
        "crop" if mode == "center" else "stretch",
        FILTERS[how],
        ratio,
        said.get("mean") or usual.mean,
        said.get("std") or usual.std,
    )
    return Prepared(spec, size, (), f"{CONFIG}: pretrained_cfg")


def _spec(
    fit: Literal["crop", "stretch"],
    interpolation: Literal["bicubic", "bilinear"],
    ratio: float,
    mean: Any,
    std: Any,
) -> InputSpec:
    return InputSpec(
        fit=fit,
        interpolation=interpolation,
        crop_ratio=number(ratio, "crop_pct"),
        mean=_colours(mean, "mean"),
        std=_colours(std, "std"),
    )


def _colours(said: Any, name: str) -> tuple[float, ...]:
    """A number for each of three colours; CheckpointError for anything else."""
    if not isinstance(said, list | tuple) or len(said) != 3:
        raise CheckpointError(f"{name}: expected a number for each of 3 colours, got {said!r:.60}")
    return tuple(number(one, name) for one in said)


def _both(size: Any) -> tuple[int, ...]:
    """Height and width as transformers writes them, or one number for both; else ()."""
    if isinstance(size, dict):
        return sides([size.get("height"), size.get("width")])
    return sides(size)
