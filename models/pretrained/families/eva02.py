"""EVA-02 (Fang et al., arXiv 2303.11331): a table and axial RoPE on a reference grid."""

from __future__ import annotations

from models.checkpoint import CheckpointError
from models.pretrained.describe import sides
from models.pretrained.families import names
from models.pretrained.family import TIMM, Family, Found, Licence, Preparation
from models.pretrained.layout import Layout, both, names_of
from models.spec import EncodingSpec

BASE = 10000.0
REFERENCE = 16  # tokens of each side of the grid that it was pretrained at
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)

PARTS = {
    f"blocks.{{n}}.attn.{part[0]}_proj.{end}": f"attention.{part}.{end}"
    for part in ("query", "key", "value")
    for end in ("weight", "bias")
}
LAYOUT = Layout(
    TIMM,
    names_of(
        names.ENDS | names.TABLE | names.HEAD | names.POOLED_NORM,
        names.LAYER,
        names.FUSED_WITHOUT_KEY_BIAS,
        PARTS,
        {
            "blocks.{n}.mlp.fc1_g.*": "mlp.gate.*",
            "blocks.{n}.mlp.fc1_x.*": "mlp.first.*",
            "blocks.{n}.mlp.norm.*": "mlp.norm.*",
        },
    ),
    optional=names.HEADLESS | names.EITHER_NORM | both(
        "layers.{n}.mlp.gate.*",
        "layers.{n}.mlp.norm.*",
        "layers.{n}.attention.query_key_value.*",
        "layers.{n}.attention.query.*",
        "layers.{n}.attention.key.*",
        "layers.{n}.attention.value.*",
    ),
)  # fmt: skip


def encoding(found: Found) -> EncodingSpec:
    """Indices that are squeezed to the reference grid at every size.

    Raises:
        CheckpointError: that grid is not square.
    """
    said = found.said("ref_feat_shape", default=REFERENCE)
    height, width = sides(said) or (0, 1)
    if height != width:
        raise CheckpointError(f"config.json: expected a square ref_feat_shape, got {said}")
    base = found.number("rope_temperature", default=BASE)
    return EncodingSpec("axial_rope", base=base, reference=height)


FAMILY = Family(
    name="eva02",
    about="EVA-02",
    licence=Licence("MIT"),
    layouts=(LAYOUT,),
    heads={192: 3, 384: 6, 768: 12, 1024: 16},
    epsilon={TIMM: 1e-6},
    preparation={TIMM: Preparation(224, 248, mean=MEAN, std=STD)},
    tags="mim_",
    encoding=encoding,
    architectures=r"eva02_(tiny|small|base|large)_patch14_\d+",
    class_row=lambda matched: True,
    table_rule={TIMM: "bicubic-antialias"},
    pool={TIMM: "mean"},
    built={
        "rope_type": "cat",
        "rope_grid_indexing": "ij",
        "use_rot_pos_emb": True,
        "ref_feat_shape": ...,
    },
)
