"""DINOv3 (Simeoni et al., arXiv 2508.10104): axial RoPE on coordinates in [-1, 1]."""

from __future__ import annotations

import dataclasses

from models.checkpoint import CheckpointError
from models.pretrained.buffers import check_periods
from models.pretrained.families import names
from models.pretrained.family import TIMM, TRANSFORMERS, Family, Found, Licence, Preparation
from models.pretrained.layout import Layout, both, names_of
from models.spec import EncodingSpec

ORIGINAL = "facebookresearch/dinov3"
BASE = 100.0
#: Its own names of norms, and their epsilon; published models have the second.
NORMS = {"layernorm": 1e-6, "layernormbf16": 1e-5}

LICENCE = Licence(
    "DINOv3 License (19 August 2025)",
    "Not an open-source licence. Whoever passes on these weights, or anything derived from them, "
    "as this is, does so under the same licence and adds a copy of it (LICENSE.md of "
    "facebookresearch/dinov3). Publications acknowledge DINOv3. No military, nuclear, espionage "
    "or weapons use.",
)

#: Others' weights of this architecture, which DINOv3's licence says nothing of.
EUPE = Licence(
    "EUPE's own, non-commercial (its card has the text)",
    "Not an open-source licence: for non-commercial use alone. Its terms are those of the card of "
    "the weights and are not repeated here.",
)

LAYOUTS = (
    Layout(
        TRANSFORMERS,
        names_of(
            {
                "embeddings.cls_token": "class_token",
                "embeddings.register_tokens": "registers",
                "embeddings.patch_embeddings.*": "patch.*",
                "norm.*": "norm.*",
            },
            {
                "layer.{n}.norm1.*": "attention_norm.*",
                "layer.{n}.attention.q_proj.*": "attention.query.*",
                "layer.{n}.attention.k_proj.*": "attention.key.*",
                "layer.{n}.attention.v_proj.*": "attention.value.*",
                "layer.{n}.attention.o_proj.*": "attention.out.*",
                "layer.{n}.layer_scale1.lambda1": "attention_scale",
                "layer.{n}.norm2.*": "mlp_norm.*",
                "layer.{n}.mlp.gate_proj.*": "mlp.gate.*",
                "layer.{n}.mlp.up_proj.*": "mlp.first.*",
                "layer.{n}.mlp.down_proj.*": "mlp.last.*",
                "layer.{n}.layer_scale2.lambda1": "mlp_scale",
            },
        ),
        optional=both("layers.{n}.mlp.gate.*")
        | {f"layers.{{n}}.attention.{part}.bias" for part in ("query", "key", "value")},
        left_out=("embeddings.mask_token",),
        prefixes=("model.",),
    ),
    Layout(
        TIMM,
        names_of(
            names.ENDS | names.HEAD | names.POOLED_NORM | {"reg_token": "registers"},
            names.LAYER,
            names.FUSED_WITHOUT_KEY_BIAS,
            names.GAMMA,
            {
                "blocks.{n}.mlp.fc1_g.*": "mlp.gate.*",
                "blocks.{n}.mlp.fc1_x.*": "mlp.first.*",
            },
        ),
        optional=both("layers.{n}.mlp.gate.*") | names.HEADLESS | names.EITHER_NORM
        | {"registers"}
        | {f"layers.{{n}}.attention.{part}.bias" for part in ("query", "value")},
    ),
    Layout(
        ORIGINAL,
        names_of(
            names.ENDS | {"storage_tokens": "registers", "rope_embed.periods": "periods"},
            names.LAYER,
            names.FUSED,
            names.LS_GAMMA,
            {
                "blocks.{n}.attn.qkv.bias_mask": "attention.key_mask",
                "blocks.{n}.mlp.w1.*": "mlp.gate.*",
                "blocks.{n}.mlp.w2.*": "mlp.first.*",
                "blocks.{n}.mlp.w3.*": "mlp.last.*",
            },
        ),
        optional=both("layers.{n}.mlp.gate.*")
        | {
            "registers",
            "layers.{n}.attention.key_mask",
            "layers.{n}.attention.query_key_value.bias",
        },
        left_out=("mask_token", "local_cls_norm."),
    ),
)  # fmt: skip


def encoding(found: Found) -> EncodingSpec:
    """The base that is said, or the periods that the file holds, if they are those of the base.

    Raises:
        CheckpointError: they are not, or norms are of another kind.
    """
    if (norm := found.said("norm_layer", default="layernorm")) not in NORMS:
        raise CheckpointError(
            f"config.json: expected norm_layer {' or '.join(NORMS)}, got {norm!r:.60}"
        )
    base = found.number("rope_theta", "pos_embed_rope_base", "rope_temperature", default=BASE)
    moved = {
        name: found.number(f"pos_embed_{name}", f"pos_embed_rope_{name}_coords", default=off)
        for name, off in (("shift", 0.0), ("jitter", 1.0), ("rescale", 1.0))
    }
    periods = found.tensor("periods")
    if periods is not None:
        check_periods(found.matched.theirs["periods"], periods, base)
    return EncodingSpec(
        "dinov3_rope",
        base=base,
        normalise=found.said("pos_embed_rope_normalize_coords", default="separate"),
        periods="base" if periods is None else "stored",
        **moved,
    )


HEADS = {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32}
PREPARATION = {
    TRANSFORMERS: Preparation(224, 224, "stretch", "bilinear"),
    TIMM: Preparation(256, 256),
    ORIGINAL: Preparation(256, 256, "stretch", "bilinear"),
}
SATELLITE_MEAN, SATELLITE_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)

FAMILY = Family(
    name="dinov3",
    about="DINOv3",
    licence=LICENCE,
    layouts=LAYOUTS,
    heads=HEADS,
    epsilon={TRANSFORMERS: 1e-5, TIMM: 1e-5, ORIGINAL: 1e-5},
    preparation=PREPARATION,
    published={
        "sat493m": {
            "preparation": {
                library: dataclasses.replace(usual, mean=SATELLITE_MEAN, std=SATELLITE_STD)
                for library, usual in PREPARATION.items()
            }
        },
        "(?i)eupe": {"about": "EUPE, built as DINOv3", "licence": EUPE, "heads": HEADS | {192: 3}},
        "(?i)lingbot": {
            "about": "LingBot-Vision, built as DINOv3",
            "pool": {},
            "licence": Licence("Apache-2.0"),
        },
    },
    tags="lvd1689m|sat493m",
    encoding=encoding,
    model_types=("dinov3_vit",),
    architectures=r"vit_\w+_patch16_(dinov3(_qkvb)?|lingbot)",
    repository=ORIGINAL,
    channels="halves",
    pool={TIMM: "mean"},
    built={
        "rope_type": "dinov3",
        "rope_rotate_half": True,
        "rope_grid_indexing": "ij",
        "use_rot_pos_emb": True,
        "norm_layer": ...,
    },
    norm_layers=NORMS,
)
