"""The plain ViT (arXiv 2010.11929): AugReg (arXiv 2106.10270), DeiT (arXiv 2012.12877), DINO."""

from __future__ import annotations

from models.pretrained.families import names
from models.pretrained.family import HALF, TIMM, TRANSFORMERS, Family, Found, Licence, Preparation
from models.pretrained.layout import Layout, names_of
from models.spec import EncodingSpec

QUERY_KEY_VALUE = ("query", "key", "value")

#: Layers as the published files call them; as transformers calls its own modules since its 5.
NUMBERED = ("encoder.layer.{n}", "layers.{n}")

LAYOUTS = (
    Layout(
        TRANSFORMERS,
        names_of(
            {
                "embeddings.cls_token": "class_token",
                "embeddings.position_embeddings": "table",
                "embeddings.patch_embeddings.projection.*": "patch.*",
                "layernorm.*": "norm.*",
                "classifier.*": "head.*",
            },
            *(
                {
                    f"{layer}.layernorm_before.*": "attention_norm.*",
                    **{
                        f"{layer}.attention.{theirs}.*": f"attention.{ours}.*"
                        for one in QUERY_KEY_VALUE
                        for theirs, ours in ((f"attention.{one}", one), (f"{one[0]}_proj", one))
                    },
                    f"{layer}.attention.output.dense.*": "attention.out.*",
                    f"{layer}.attention.o_proj.*": "attention.out.*",
                    f"{layer}.layernorm_after.*": "mlp_norm.*",
                    f"{layer}.intermediate.dense.*": "mlp.first.*",
                    f"{layer}.mlp.fc1.*": "mlp.first.*",
                    f"{layer}.output.dense.*": "mlp.last.*",
                    f"{layer}.mlp.fc2.*": "mlp.last.*",
                }
                for layer in NUMBERED
            ),
        ),
        optional=names.HEADLESS
        | {f"layers.{{n}}.attention.{part}.bias" for part in QUERY_KEY_VALUE},
        left_out=("pooler.dense.", "embeddings.mask_token"),
        prefixes=("vit.",),
    ),
    Layout(
        TIMM,
        names_of(
            names.ENDS | names.TABLE | names.HEAD | names.POOLED_NORM, names.LAYER, names.FUSED
        ),
        optional=names.HEADLESS | names.EITHER_NORM
        | {"layers.{n}.attention.query_key_value.bias"},
    ),
)  # fmt: skip


def encoding(found: Found) -> EncodingSpec:
    """The table alone."""
    return EncodingSpec("absolute", resize=FAMILY.table_rule[found.library])


PREPARATION = {
    TRANSFORMERS: Preparation(224, 224, "stretch", "bilinear", *HALF),
    TIMM: Preparation(224, 248, mean=HALF[0], std=HALF[1]),
}


def _timm(preparation: Preparation) -> dict[str, dict[str, Preparation]]:
    return {"preparation": PREPARATION | {TIMM: preparation}}


FAMILY = Family(
    name="vit",
    about="ViT (AugReg, DeiT, DINO)",
    licence=Licence("Apache-2.0"),
    layouts=LAYOUTS,
    heads={192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16},
    epsilon={TRANSFORMERS: 1e-12, TIMM: 1e-6},
    preparation=PREPARATION,
    published={
        r"deit_\w+_384": _timm(Preparation(384, 384)),
        r"deit_|\.dino$|dino_": _timm(Preparation(224, 248)),
        r"vit_\w+_384": _timm(Preparation(384, 384, mean=HALF[0], std=HALF[1])),
    },
    tags="augreg|orig_|dino$|fb_",
    encoding=encoding,
    model_types=("vit",),
    architectures=r"vit_(tiny|small|base|large|huge)_patch\d+_\d+|deit_(tiny|small|base)_patch\d+_\d+",
    class_row=lambda matched: True,
    table_rule={TRANSFORMERS: "bicubic", TIMM: "bicubic-antialias"},
)
