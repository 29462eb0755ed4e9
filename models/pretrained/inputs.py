"""How pictures are prepared: as the file says, or as the library does where it says nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from media.spec import InputSpec, SpecError
from models.checkpoint import CheckpointError
from models.pretrained.describe import sides
from models.pretrained.family import TIMM, TRANSFORMERS, Family, Preparation
from models.pretrained.source import PREPROCESSOR, Source

#: Pillow's numbers of its filters.
FILTERS: dict[Any, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}
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
    """

    spec: InputSpec
    size: tuple[int, ...]
    notes: tuple[str, ...]


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
    factor = said.get("rescale_factor", 1 / 255)
    if not said.get("do_rescale", True) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise CheckpointError(
            f"{PREPROCESSOR}: expected values divided by 255, got rescale_factor {factor}"
        )
    if said.get("resample", 2) not in FILTERS:
        raise CheckpointError(
            f"{PREPROCESSOR}: expected resample 2 (bilinear) or 3 (bicubic), got "
            f"{said['resample']!r}"
        )
    size, cut = said.get("size"), said.get("crop_size")
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    stretched = _both(size)
    target = _both(cut) if said.get("do_center_crop") else stretched or _both(short)
    if not said.get("do_resize", True) or not target or not (stretched or isinstance(short, int)):
        raise CheckpointError(
            f"{PREPROCESSOR}: expected a size of height and width, or a shortest_edge and a "
            f"crop_size, got size {size!r} and crop_size {cut!r}"
        )
    fit: Literal["crop", "stretch"] = "stretch" if stretched else "crop"
    pairs = zip(target, stretched or (short,) * 2, strict=True)
    ratio = max(one / whole for one, whole in pairs) if stretched else min(target) / short
    kind = str(said.get("image_processor_type", ""))
    notes = [FLOATS_NOTE] * kind.startswith(FLOATS_FIRST) + [CENTRE_NOTE] * (fit == "crop")
    if not said.get("do_normalize", True):
        said = said | {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    mean, std = said.get("image_mean", (0.5,) * 3), said.get("image_std", (0.5,) * 3)
    spec = _spec(fit, FILTERS[said.get("resample", 2)], ratio, mean, std)
    return Prepared(spec, target, tuple(notes))


def _of_timm(said: dict[str, Any], usual: Preparation) -> Prepared:
    mode, how = said.get("crop_mode") or "center", said.get("interpolation") or "bicubic"
    if mode not in ("center", "squash") or how not in FILTERS.values():
        raise CheckpointError(
            "config.json: expected crop_mode center or squash and interpolation bicubic or "
            f"bilinear, got {mode!r} and {how!r}"
        )
    shape = said.get("input_size")
    size = sides(shape[1:]) if isinstance(shape, list) else ()
    ratio = said.get("crop_pct") or usual.size / usual.resized
    spec = _spec(
        "crop" if mode == "center" else "stretch",
        how,
        ratio,
        said.get("mean") or usual.mean,
        said.get("std") or usual.std,
    )
    return Prepared(spec, size, ())


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
        crop_ratio=float(ratio),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _both(size: Any) -> tuple[int, ...]:
    """Height and width as transformers writes them, or one number for both; else ()."""
    if isinstance(size, dict):
        return sides([size.get("height"), size.get("width")])
    return sides(size)
