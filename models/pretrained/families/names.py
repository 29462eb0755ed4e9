"""Names that several families have in common."""

from __future__ import annotations

from models.pretrained.layout import both

#: Of timm and of the repositories that began from it: outside of layers, and in one.
ENDS = {
    "cls_token": "class_token",
    "patch_embed.proj.*": "patch.*",
    "norm.*": "norm.*",
}
LAYER = {
    "blocks.{n}.norm1.*": "attention_norm.*",
    "blocks.{n}.attn.proj.*": "attention.out.*",
    "blocks.{n}.norm2.*": "mlp_norm.*",
    "blocks.{n}.mlp.fc1.*": "mlp.first.*",
    "blocks.{n}.mlp.fc2.*": "mlp.last.*",
}
FUSED = {"blocks.{n}.attn.qkv.*": "attention.query_key_value.*"}
#: Of timm's class with rotations: the key has no bias, and the others may lack theirs.
FUSED_WITHOUT_KEY_BIAS = {
    "blocks.{n}.attn.qkv.weight": "attention.query_key_value.weight",
    "blocks.{n}.attn.q_bias": "attention.query.bias",
    "blocks.{n}.attn.v_bias": "attention.value.bias",
}
HEAD = {"head.*": "head.*"}
TABLE = {"pos_embed": "table"}
#: timm's last norm where it is taken of what was pooled.
POOLED_NORM = {"fc_norm.*": "pooled_norm.*"}
GAMMA = {"blocks.{n}.gamma_1": "attention_scale", "blocks.{n}.gamma_2": "mlp_scale"}
LS_GAMMA = {"blocks.{n}.ls1.gamma": "attention_scale", "blocks.{n}.ls2.gamma": "mlp_scale"}
#: A head may be left off, and is where weights are a feature's.
HEADLESS = both("head.*")
#: One of the two norms there must be: whoever builds the model says so.
EITHER_NORM = both("norm.*", "pooled_norm.*")
