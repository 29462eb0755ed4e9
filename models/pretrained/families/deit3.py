"""DeiT III (Touvron et al., arXiv 2204.07118): layer scale, no row for the class token."""

from __future__ import annotations

from models.pretrained.families import names
from models.pretrained.family import TIMM, Family, Found, Licence, Preparation
from models.pretrained.layout import Layout, names_of
from models.spec import EncodingSpec

ORIGINAL = "facebookresearch/deit"


def _layout(library: str, scale: dict[str, str]) -> Layout:
    table = names.ENDS | names.TABLE | names.HEAD | names.POOLED_NORM
    return Layout(
        library,
        names_of(table, names.LAYER, names.FUSED, scale),
        optional=names.HEADLESS | names.EITHER_NORM,
    )


def encoding(found: Found) -> EncodingSpec:
    """The table alone."""
    return EncodingSpec("absolute", resize=FAMILY.table_rule[found.library])


PREPARATION = {TIMM: Preparation(224, 248), ORIGINAL: Preparation(224, 224)}

FAMILY = Family(
    name="deit3",
    about="DeiT III",
    licence=Licence("Apache-2.0"),
    layouts=(_layout(TIMM, names.LS_GAMMA), _layout(ORIGINAL, names.GAMMA)),
    heads={384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16},
    epsilon={TIMM: 1e-6, ORIGINAL: 1e-6},
    preparation=PREPARATION,
    published={
        r"deit3_\w+_384": {"preparation": PREPARATION | {TIMM: Preparation(384, 384)}},
        r"in22k": {"preparation": PREPARATION | {TIMM: Preparation(224, 224)}},
    },
    tags="fb_",
    encoding=encoding,
    architectures=r"deit3_\w+_patch\d+_\d+",
    repository=ORIGINAL,
    table_rule={TIMM: "bicubic-antialias", ORIGINAL: "bicubic"},
)
