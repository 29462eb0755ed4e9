"""Which family a file belongs to, and whose names its tensors have."""

from __future__ import annotations

import math
from collections.abc import Iterable

from media.spec import SpecError
from models.checkpoint import CheckpointError
from models.pretrained.families import FAMILIES
from models.pretrained.family import TIMM, TRANSFORMERS, Family
from models.pretrained.layout import Matched, match
from models.pretrained.source import SAFE, Source
from models.pretrained.words import switched_off

#: In the names of the second class token and the second head of a distilled DeiT.
DISTILLED = ("dist_token", "head_dist", "distillation_")


def recognise(source: Source, told: str = "") -> tuple[Family, Matched]:
    """The family and its tensors, all of which are there.

    What config.json says is kept to; else the names of the tensors decide, or ``told``.

    Args:
        told: a family's name, or one of timm's names of models.

    Raises:
        SpecError: ``told`` is not known or contradicts the file, or the file fits several.
        CheckpointError: no family has such tensors, or the one that it says has others.
    """
    _refuse_distilled(source)
    allowed, library = _said(source)
    if told:
        named, library_told = _told(told)
        if named not in allowed:
            known = ", ".join(family.name for family in allowed)
            raise SpecError(f"--family: config.json is of {known}, got {told}")
        allowed, library = [named], library or library_told
    absent = switched_off(source.config)
    fits = [
        (family, match(source.tensors, layout, absent))
        for family in allowed
        for layout in family.layouts
        if library in ("", layout.library)
    ]
    if not fits:
        raise SpecError(f"{told}: expected files of {library}, which has none of that family")
    right = [(family, matched) for family, matched in fits if not matched.wrong]
    if not right:
        family, nearest = max(fits, key=lambda one: (len(one[1].theirs), -one[1].wrong))
        if not nearest.theirs:
            held = sorted(source.tensors)
            more = f" and {len(held) - 3} more" if len(held) > 3 else ""
            raise CheckpointError(
                f"expected the tensors of one of {', '.join(FAMILIES)}, got none of theirs but "
                f"{', '.join(held[:3]) or 'nothing'}{more}"
            )
        nearest.check(family.name)
    if len({family.name for family, _ in right}) > 1:
        right = [one for one in right if _square(source, *one)] or right
    if len(names := {family.name: None for family, _ in right}) > 1:
        raise SpecError(
            f"the tensors alone do not tell: they fit {' and '.join(names)}; pass --family with "
            "one of them, or with timm's name of the model"
        )
    return min(right, key=lambda one: _unlikely(source, one[1]))


def _refuse_distilled(source: Source) -> None:
    for name in source.tensors:
        if any(part in name for part in DISTILLED):
            raise CheckpointError(
                f"expected a model with one class token and one head, got a distilled DeiT: {name}"
            )


def _said(source: Source) -> tuple[list[Family], str]:
    """The families that config.json leaves, and the library that it belongs to."""
    everyone = list(FAMILIES.values())
    kind, architecture, repository = map(
        source.config.get, ("model_type", "architecture", "repository")
    )
    if architecture is not None:  # timm's, which may have transformers' keys beside
        left = [family for family in everyone if family.has_architecture(str(architecture))]
        known: Iterable[str] = FAMILIES
        said, library = f"architecture {architecture!r}", TIMM
    elif kind is not None:
        left = [family for family in everyone if kind in family.model_types]
        known = (name for family in everyone for name in family.model_types)
        said, library = f"model_type {kind!r}", TRANSFORMERS
    elif repository is not None:
        left = [family for family in everyone if repository == family.repository]
        known = sorted({family.repository for family in everyone} - {""})
        said, library = f"repository {repository!r}", str(repository)
    else:
        return everyone, ""
    if not left:
        raise CheckpointError(f"config.json: expected one of {', '.join(known)}, got {said}")
    return left, library


def _told(told: str) -> tuple[Family, str]:
    """A family by its name, or by timm's name of a model, whose files are timm's."""
    if told in FAMILIES:
        return FAMILIES[told], ""
    named = next((one for one in FAMILIES.values() if one.has_architecture(told)), None)
    if named is None:
        raise SpecError(
            f"--family: expected one of {', '.join(FAMILIES)}, or timm's name of such a model, "
            f"got {told!r}"
        )
    return named, TIMM


def _square(source: Source, family: Family, matched: Matched) -> bool:
    """Whether the table's rows are those of a square grid, as all published ones."""
    table = matched.theirs.get("table")
    if table is None or source.tensors[table].ndim != 3:
        return False
    rows = source.tensors[table].shape[1] - family.class_row(matched)
    return math.isqrt(max(rows, 0)) ** 2 == rows


def _unlikely(source: Source, matched: Matched) -> bool:
    """Of two libraries with the same names: timm writes safetensors, the authors pickles."""
    safe = all(name.endswith(SAFE) for name in source.files)
    return safe != (matched.layout.library in (TIMM, TRANSFORMERS))
