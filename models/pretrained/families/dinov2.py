"""DINOv2 (Oquab et al., arXiv 2304.07193), with or without registers (arXiv 2309.16588)."""

from __future__ import annotations

from models.checkpoint import CheckpointError
from models.pretrained.families import names
from models.pretrained.family import TIMM, TRANSFORMERS, Family, Found, Licence, Preparation
from models.pretrained.layout import Layout, Matched, both, names_of
from models.spec import EncodingSpec, TableRule

ORIGINAL = "facebookresearch/dinov2"
QUERY_KEY_VALUE = ("query", "key", "value")
#: Of its own code: whether there is an antialiasing filter, and what is added to a side.
RULES: dict[tuple[bool, float], TableRule] = {
    (False, 0.1): "scale-factor", (False, 0.0): "bicubic", (True, 0.0): "bicubic-antialias",
}  # fmt: skip

LAYOUTS = (
    Layout(
        TRANSFORMERS,
        names_of(
            {
                "embeddings.cls_token": "class_token",
                "embeddings.position_embeddings": "table",
                "embeddings.register_tokens": "registers",
                "embeddings.patch_embeddings.projection.*": "patch.*",
                "layernorm.*": "norm.*",
                "classifier.*": "head.*",
            },
            {
                "encoder.layer.{n}.norm1.*": "attention_norm.*",
                **{
                    f"encoder.layer.{{n}}.attention.{theirs}.*": f"attention.{ours}.*"
                    for one in QUERY_KEY_VALUE
                    for theirs, ours in ((f"attention.{one}", one), (f"{one[0]}_proj", one))
                },
                "encoder.layer.{n}.attention.output.dense.*": "attention.out.*",
                "encoder.layer.{n}.attention.o_proj.*": "attention.out.*",
                "encoder.layer.{n}.layer_scale1.lambda1": "attention_scale",
                "encoder.layer.{n}.norm2.*": "mlp_norm.*",
                "encoder.layer.{n}.mlp.fc1.*": "mlp.first.*",
                "encoder.layer.{n}.mlp.weights_in.*": "mlp.first.*",
                "encoder.layer.{n}.mlp.up_proj.*": "mlp.first.*",
                "encoder.layer.{n}.mlp.gate_proj.*": "mlp.gate.*",
                "encoder.layer.{n}.mlp.fc2.*": "mlp.last.*",
                "encoder.layer.{n}.mlp.weights_out.*": "mlp.last.*",
                "encoder.layer.{n}.mlp.down_proj.*": "mlp.last.*",
                "encoder.layer.{n}.layer_scale2.lambda1": "mlp_scale",
            },
        ),
        optional=names.HEADLESS | both("layers.{n}.mlp.gate.*") | {"registers"}
        | {f"layers.{{n}}.attention.{part}.bias" for part in QUERY_KEY_VALUE},
        left_out=("embeddings.mask_token",),
        prefixes=("dinov2.", "dinov2_with_registers."),
    ),
    Layout(
        TIMM,
        names_of(
            names.ENDS | names.TABLE | names.HEAD | names.POOLED_NORM
            | {"reg_token": "registers"},
            names.LAYER,
            names.FUSED,
            names.LS_GAMMA,
        ),
        optional=names.HEADLESS | names.EITHER_NORM | {"registers"},
    ),
    Layout(
        ORIGINAL,
        names_of(
            names.ENDS | names.TABLE | {"register_tokens": "registers"},
            names.LAYER,
            names.FUSED,
            names.LS_GAMMA,
            {
                "blocks.{n}.mlp.w12.*": "mlp.first.*",
                "blocks.{n}.mlp.w3.*": "mlp.last.*",
            },
        ),
        optional=frozenset({"registers"}),
        left_out=("mask_token",),
    ),
)  # fmt: skip


def class_row(matched: Matched) -> bool:
    """timm has added it to the class token where there are registers; nobody else has."""
    return matched.layout.library != TIMM or "registers" not in matched.theirs


def encoding(found: Found) -> EncodingSpec:
    """The table, and its rule: with registers another one, unless the file says it.

    Raises:
        CheckpointError: a rule that is not here.
    """
    rule = FAMILY.table_rule[found.library]
    if "registers" in found.matched.theirs:
        rule = "bicubic-antialias"
    antialias, offset = map(found.said, ("interpolate_antialias", "interpolate_offset"))
    if found.library == ORIGINAL and (antialias, offset) != (None, None):
        said = bool(antialias), 0.1 if offset is None else float(offset)
        if said not in RULES:
            raise CheckpointError(
                "config.json: expected interpolate_antialias and interpolate_offset of "
                f"{', '.join(map(str, RULES))}, got {said}"
            )
        rule = RULES[said]
    return EncodingSpec("absolute", resize=rule)


FAMILY = Family(
    name="dinov2",
    about="DINOv2",
    licence=Licence("Apache-2.0"),
    layouts=LAYOUTS,
    heads={384: 6, 768: 12, 1024: 16, 1536: 24},
    epsilon={TRANSFORMERS: 1e-6, TIMM: 1e-6, ORIGINAL: 1e-6},
    preparation={
        TRANSFORMERS: Preparation(224, 256),
        TIMM: Preparation(518, 518),
        ORIGINAL: Preparation(224, 256),
    },
    tags="lvd142m",
    encoding=encoding,
    model_types=("dinov2", "dinov2_with_registers"),
    architectures=r"vit_\w+_patch14(_reg4)?_dinov2",
    repository=ORIGINAL,
    class_row=class_row,
    table_rule={TRANSFORMERS: "bicubic", TIMM: "bicubic-antialias", ORIGINAL: "scale-factor"},
)
